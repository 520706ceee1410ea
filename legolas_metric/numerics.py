"""The geometry that every layer shares: normalising, similarity, distance, chunking.

Larger similarity is always closer. For "cosine" the rows are unit vectors and d = sqrt(2 - 2 s), the Euclidean
distance of unit vectors; for "euclidean" s = -d; for "dot" margins are in s itself, so d = -s.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, Metric, as_embeddings, as_float_rows, check_norms
from legolas_metric.compiled import arrays, runs_compiled

_UNIT_TOLERANCE = 2.0**-22
_CHUNK_ELEMENTS = 1 << 20


def chunks(n: int, size: int) -> Iterator[slice]:
    """Slices that cover 0..n in order, each of at most `size` rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def normalise(rows: Float32[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
    """Unit rows, x / |x|, with the norm taken in float64; rows that are unit to 2^-22 stay bit for bit as they are.

    So normalising twice changes nothing, and ids mined from a bank do not depend on who normalised it.
    """
    out = torch.empty_like(rows)
    if runs_compiled(rows.device):
        from legolas_metric.kernels import unit_rows

        unit_rows(*arrays(rows), _UNIT_TOLERANCE, out.numpy())
        return out
    for part in chunks(len(rows), max(1, _CHUNK_ELEMENTS // rows.shape[1])):
        own = rows[part]
        norm = torch.linalg.vector_norm(own, dim=1, keepdim=True, dtype=torch.float64)
        norm.masked_fill_((norm - 1).abs_() <= _UNIT_TOLERANCE, 1.0)
        out[part] = own.double().div_(norm)  # a division of mixed widths takes 15 times as long
    return out


def prepare(rows: Float32[Tensor, "n d"], metric: Metric) -> Float32[Tensor, "n d"]:
    """The rows on which a metric's similarity is computed: unit rows for "cosine", the rows themselves otherwise."""
    return normalise(rows) if metric == "cosine" else rows


def as_prepared(
    embeddings: ArrayLike, metric: Metric, *, name: str = "embeddings", ids: Int64[Tensor, " n"] | None = None
) -> Float32[Tensor, "n d"]:
    """What a user has, checked by `as_embeddings` and prepared; under "cosine" nothing of it shares its memory."""
    rows = as_float_rows(embeddings, name=name)
    if metric != "cosine" or not runs_compiled(rows.device):
        return prepare(as_embeddings(rows, name=name, metric=metric, ids=ids), metric)
    from legolas_metric.kernels import unit_rows

    out = torch.empty_like(rows)
    norms = unit_rows(rows.numpy(), _UNIT_TOLERANCE, out.numpy())
    check_norms(rows, *norms, name=name, metric=metric, ids=ids)
    return out


def similarity_matrix(x: Float[Tensor, "q d"], y: Float[Tensor, "n d"], metric: Metric) -> Float[Tensor, "q n"]:
    """All similarities of prepared rows, in the dtype of the input: a block of the screening kind, not yet exact."""
    if metric == "euclidean":
        return -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return x @ y.T


def pair_similarity(x: Float32[Tensor, "*b d"], y: Float32[Tensor, "*b d"], metric: Metric) -> Float32[Tensor, "*b"]:
    """The similarity that is reported: of each pair of prepared float32 rows, in float64, rounded to float32."""
    if metric == "euclidean":
        return -torch.linalg.vector_norm(x.double() - y.double(), dim=-1).float()
    return (x.double() * y.double()).sum(-1).float()


def distance(similarity: Float[Tensor, "*b"], metric: Metric) -> Float[Tensor, "*b"]:
    """d of a similarity, in which margins are given: sqrt(2 - 2 s), or -s for "euclidean" and "dot"."""
    return (2 - 2 * similarity).clamp_min(0).sqrt() if metric == "cosine" else -similarity


def similarity(distance: Float[Tensor, "*b"], metric: Metric) -> Float[Tensor, "*b"]:
    """s of a distance: the inverse of `distance` (for d >= 0 under "cosine")."""
    return 1 - distance.square() / 2 if metric == "cosine" else -distance


def masked_logsumexp(values: Float[Tensor, "n m"], mask: Bool[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """log sum exp over the masked entries of each row; -inf, with a gradient of zero, where a row has none."""
    some = mask.any(1)
    filled = values.masked_fill(~mask, -torch.inf).masked_fill(~some[:, None], 0.0)
    return torch.logsumexp(filled, 1).masked_fill(~some, -torch.inf)
