"""Re-ranking from the graph of nearest neighbours: k-reciprocal encoding, and query expansion. O(n k) memory.

Letters: n rows, k neighbours, q and g the sides of a comparison.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import ArrayLike, check_choice, check_number, check_whole
from legolas_metric.geometry import chunks, normalise
from legolas_metric.index.exact import ExactIndex
from legolas_metric.lookup import lookup
from legolas_metric.names import Names
from legolas_metric.records import Neighbors, SearchStats
from legolas_metric.rows import as_ids, as_prepared


class KReciprocal:
    """k-reciprocal re-ranking (Zhong et al. 2017) among all rows of a table, queries and gallery alike.

        N(i, k)   the k nearest rows of i, and i itself
        R(i, k)   those j of N(i, k) with i in N(j, k)
        R*(i)     R(i, k1) with R(j, k1 / 2) for each j of it of which two thirds and more lie in R(i, k1)
        V(i)      exp(-|x_i - x_j|^2) for j in R*(i), as shares of their sum; then the mean of V over N(i, k2 - 1)
        J(i, j)   1 - sum min(V_i, V_j) / sum max(V_i, V_j)
        s(i, j)   -(weight |x_i - x_j|^2 / 4 + (1 - weight) J(i, j))

    |x - y|^2 / 4 lies in [0, 1]; the published script divides by the greatest distance of each row instead, which takes
    all n^2. V is kept as the few entries that are not 0.

    Args:
        embeddings: [n, d], all that take part: it looks at no label, but at the test rows themselves.
        ids: [n], their names (default: row numbers).
        k1, k2: neighbours of the graph, and of the mean.
        weight: of the plain distance, in [0, 1].

    Raises:
        ValueError: fewer than three rows, a setting out of range, or what `evaluate_ranking` refuses of rows.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_ranking
        >>> generator = torch.Generator().manual_seed(0)
        >>> y = torch.arange(80) // 8
        >>> x = torch.randn(10, 8, generator=generator)[y] + torch.randn(80, 8, generator=generator)
        >>> plain = evaluate_ranking(x, y)
        >>> evaluate_ranking(x, y, scorer=KReciprocal(x, k1=10, k2=4)).map_at_r > plain.map_at_r
        True

    Source: Zhong et al. (2017), Re-ranking Person Re-identification with k-reciprocal Encoding, arXiv:1701.08398.
    """

    def __init__(
        self,
        embeddings: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        k1: int = 20,
        k2: int = 6,
        weight: float | int = 0.3,
    ) -> None:
        check_number("weight", weight, least=0.0, most=1.0)
        self.weight = float(weight)
        rows = as_prepared(embeddings, "cosine")
        if len(rows) < 3:
            raise ValueError(f"{len(rows)} rows have no graph of neighbours: three at least are needed")
        self._rows, self._ids = rows.cpu().double(), as_ids(ids, len(rows))
        near = _neighbours(rows, min(check_whole("k1", k1, 1), len(rows) - 1))
        self._encoded = _encoded(self._rows.numpy(), near, min(check_whole("k2", k2, 1), near.shape[1]))
        self._by_column = self._encoded.T.tocsr()

    def transform(self, rows: Float[Tensor, "n d"], ids: Int64[Tensor, " n"] | None = None) -> Float64[Tensor, "n e"]:
        """Unit rows with their place in the table as one more column.

        Args:
            rows: [n, d] of the table.
            ids: [n], whose they are; None for all rows in the table's order.

        Raises:
            ValueError: an id that the table lacks, or rows without ids that are not all of it.
        """
        place, known = lookup(self._ids if ids is None else ids.cpu(), self._ids)
        if len(place) != len(rows) or not bool(known.all()):
            raise ValueError(
                f"{int((~known).sum())} ids that the table lacks, for {len(rows)} rows: re-ranking compares rows of "
                f"the table of {len(self._ids)} that it was made of; pass it the same ids"
            )
        return torch.cat([normalise(rows.detach().cpu().float()).double(), place[:, None].double()], 1)

    def compare(self, x: Float64[Tensor, "q e"], y: Float64[Tensor, "g e"]) -> Float64[Tensor, "q g"]:
        """-(weight |x - y|^2 / 4 + (1 - weight) J) of transformed rows."""
        # Which gallery column a row of the table is; one may be there once only.
        asked, found = x[:, -1].long().numpy(), y[:, -1].long().numpy()
        least = np.empty((len(asked), len(found)))
        for i, row in enumerate(asked.tolist()):
            least[i] = self._overlap(row)[found]
        jaccard = 1 - torch.from_numpy(least / (2 - least))  # sums of V are 1: max = 2 - min
        squared = (2 - 2 * (x[:, :-1] @ y[:, :-1].T)).clamp_min(0)
        return -(self.weight * squared / 4 + (1 - self.weight) * jaccard)

    def check(self, labels: Int64[Tensor, " n"], names: Names | None = None) -> None:
        """Nothing to refuse: it knows no people."""
        del labels, names

    def _overlap(self, row: int) -> np.ndarray:
        """sum min(V_row, V_j) for every row j of the table."""
        mine, columns = self._encoded, self._by_column
        span = slice(mine.indptr[row], mine.indptr[row + 1])
        part = columns[mine.indices[span]]
        own = np.repeat(mine.data[span], np.diff(part.indptr))
        return np.bincount(part.indices, np.minimum(part.data, own), minlength=mine.shape[0])


def _neighbours(rows: Float32[Tensor, "n d"], k: int) -> np.ndarray:
    """[n, k + 1]: each row, and its k nearest."""
    near = ExactIndex().fit(rows).self_join(k, want="any").ids.cpu().numpy()
    return np.concatenate([np.arange(len(rows))[:, None], near], 1)


def _graph(near: np.ndarray, k: int):
    """[n, n] sparse: 1 where a row names another among its first k + 1, and the other way round."""
    from scipy.sparse import csr_matrix

    n = len(near)
    columns = near[:, : k + 1].ravel()
    named = csr_matrix((np.ones(len(columns)), columns, np.arange(0, len(columns) + 1, k + 1)), shape=(n, n))
    return named.multiply(named.T).tocsr()


def _encoded(rows: np.ndarray, near: np.ndarray, k2: int):
    """V, [n, n] sparse."""
    from scipy.sparse import csr_matrix

    n, k1 = len(near), near.shape[1] - 1
    wide, narrow = _graph(near, k1), _graph(near, max(1, round(k1 / 2)))
    size = np.asarray(narrow.sum(1)).ravel()
    shared = (wide @ narrow.T).multiply(wide).tocoo()  # of each member's narrow set, how many lie in the wide one
    enough = shared.data > 2 / 3 * size[shared.col]
    joined = csr_matrix((np.ones(int(enough.sum())), (shared.row[enough], shared.col[enough])), shape=(n, n))
    members = (wide + joined @ narrow).tocsr()
    source = np.repeat(np.arange(n), np.diff(members.indptr))
    parts = chunks(len(source), rows_for(BLOCK, 24 * rows.shape[1]))
    squared = [((rows[source[part]] - rows[members.indices[part]]) ** 2).sum(1) for part in parts]
    members.data = np.exp(-np.concatenate(squared))
    members.data /= np.repeat(np.asarray(members.sum(1)).ravel(), np.diff(members.indptr))
    if k2 == 1:
        return members
    columns = near[:, :k2].ravel()
    mean = csr_matrix((np.full(len(columns), 1 / k2), columns, np.arange(0, len(columns) + 1, k2)), shape=(n, n))
    return (mean @ members).tocsr()


def expand(embeddings: ArrayLike, *, k: int = 5, alpha: float | int = 3) -> Float32[Tensor, "n d"]:
    """Alpha query expansion (Radenovic et al. 2019): each row is drawn towards its nearest.

        x' = x + sum over the k nearest of max(s, 0)^alpha x_j, scaled to unit length

    Args:
        embeddings: [n, d]: all rows, of queries and gallery; no label is looked at.
        k: neighbours that are added.
        alpha: how quickly their weight falls with the similarity s; 0 is the plain mean.

    Raises:
        ValueError: one row; k below 1; what `evaluate_ranking` refuses.

    Example:
        >>> import torch
        >>> expand(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), k=1, alpha=1).round(decimals=3).tolist()[0]
        [0.9430000185966492, 0.3330000042915344]

    Source: Radenovic et al. (2019), Fine-tuning CNN Image Retrieval with No Human Annotation, arXiv:1711.02512.
    """
    check_number("alpha", alpha, least=0.0)
    rows = as_prepared(embeddings, "cosine")
    if len(rows) < 2:
        raise ValueError("one row has no neighbours to be drawn to")
    found = ExactIndex().fit(rows).self_join(min(check_whole("k", k, 1), len(rows) - 1), want="any")
    weight = found.similarities.double().clamp_min(0) ** alpha
    out = torch.empty_like(rows)
    for part in chunks(len(rows), rows_for(BLOCK, 24 * weight.shape[1] * rows.shape[1])):
        near = rows[found.ids[part]].double()
        out[part] = (rows[part].double() + (weight[part, :, None] * near).sum(1)).float()
    return normalise(out)


def rerank(
    queries: ArrayLike,
    gallery: ArrayLike | None = None,
    *,
    k: int = 50,
    how: Literal["k-reciprocal", "expansion"] = "k-reciprocal",
    k1: int = 20,
    k2: int = 6,
    weight: float | int = 0.3,
    alpha: float | int = 3,
) -> Neighbors:
    """The k best gallery rows of each query after re-ranking.

    Args:
        queries: [q, d].
        gallery: [g, d]; None to search the queries among themselves, each without itself.
        k: rows to give.
        how: "k-reciprocal" (`KReciprocal`), or "expansion" (`expand`, with k1 neighbours).
        k1, k2, weight, alpha: as there.

    Returns:
        ids: row numbers of the gallery; similarities: of `KReciprocal.compare` (at most 0), or cosines.

    Raises:
        ValueError: an unknown `how`, a setting out of range, or what `evaluate_ranking` refuses of rows.

    Example:
        >>> import torch
        >>> rerank(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), k=1, k1=1).ids.tolist()[0]
        [1]

    Source: see `KReciprocal` and `expand`.
    """
    check_choice("how", how, ("k-reciprocal", "expansion"))
    asking = as_prepared(queries, "cosine", name="queries")
    among = asking if gallery is None else as_prepared(gallery, "cosine", name="gallery")
    rows = asking if gallery is None else torch.cat([asking, among])
    first = 0 if gallery is None else len(asking)
    count = min(check_whole("k", k, 1), len(among) - (gallery is None))
    if how == "expansion":
        drawn = expand(rows, k=k1, alpha=alpha)
        index = ExactIndex().fit(drawn[first:])
        return index.self_join(count, want="any") if gallery is None else index.search(drawn[:first], count)
    scorer = KReciprocal(rows, k1=k1, k2=k2, weight=weight)
    table = scorer.transform(rows)
    ids, values = [], []
    for part in chunks(len(asking), rows_for(BLOCK, 32 * len(among))):
        scores = scorer.compare(table[part], table[first:])
        if gallery is None:
            scores[torch.arange(len(scores)), torch.arange(part.start, part.stop)] = -torch.inf
        # Ties go to the smaller id, as everywhere.
        best = scores.sort(dim=1, descending=True, stable=True)
        ids.append(best.indices[:, :count])
        values.append(best.values[:, :count].float())
    stats = SearchStats(engine="k-reciprocal")
    return Neighbors(torch.cat(ids).to(asking.device), torch.cat(values).to(asking.device), stats)
