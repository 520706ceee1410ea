"""What the embeddings of both parts of a split tell of the split itself."""

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED, ArrayLike
from legolas_metric.doctor.thresholds import Limits
from legolas_metric.index.exact.engine import ExactIndex


def as_bank(rows: EmbeddingBank | tuple[ArrayLike, ArrayLike]) -> EmbeddingBank:
    """A bank, of one or of embeddings and labels."""
    return rows if isinstance(rows, EmbeddingBank) else EmbeddingBank(*rows)


def overlap(training: EmbeddingBank, validation: EmbeddingBank, limits: Limits) -> dict[str, float]:
    """Identities that both parts have, and validation rows that lie on a training row.

    Equal inputs have equal embeddings, so a row whose nearest training row is far nearer than usual is a near
    duplicate; ours. Nothing is said where most rows are so near: then it is the embedding that draws them together.
    """
    shared = set(training.labels.tolist()) & set(validation.labels.tolist()) - {UNLABELLED}
    index = ExactIndex(metric="cosine").fit(training.embeddings)
    nearest = index.search(validation.embeddings, 1).similarities[:, 0].double()
    distance = (2 - 2 * nearest).clamp_min(0).sqrt()
    near = distance <= limits["same_row"] * distance.median()
    told = {"shared_identities": float(len(shared)), "validation_rows": float(len(near))}
    return (
        told
        if float(near.float().mean()) > limits["drawn_together"]
        else {**told, "near_duplicates": float(near.sum())}
    )
