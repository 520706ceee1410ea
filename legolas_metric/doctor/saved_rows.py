"""What the embeddings of both parts of a split tell of the split itself."""

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED, ArrayLike
from legolas_metric.index.exact.engine import ExactIndex

_OF_THE_USUAL = 0.02  # of the median distance to the nearest row of the other part: what no two different rows have


def as_bank(rows: EmbeddingBank | tuple[ArrayLike, ArrayLike]) -> EmbeddingBank:
    """A bank, of one or of embeddings and labels."""
    return rows if isinstance(rows, EmbeddingBank) else EmbeddingBank(*rows)


def overlap(training: EmbeddingBank, validation: EmbeddingBank) -> dict[str, float]:
    """Identities that both parts have, and validation rows that lie on a training row.

    Equal inputs have equal embeddings, so a row whose nearest training row is far nearer than usual is a near
    duplicate; ours. Nothing is said where most rows are so near: then it is the embedding that draws them together.
    """
    shared = set(training.labels.tolist()) & set(validation.labels.tolist()) - {UNLABELLED}
    index = ExactIndex(metric="cosine").fit(training.embeddings)
    nearest = index.search(validation.embeddings, 1).similarities[:, 0].double()
    distance = (2 - 2 * nearest).clamp_min(0).sqrt()
    near = distance <= _OF_THE_USUAL * distance.median()
    told = {"shared_identities": float(len(shared)), "validation_rows": float(len(near))}
    return told if float(near.float().mean()) > 0.5 else {**told, "near_duplicates": float(near.sum())}
