"""How well classes stand apart as clusters: scikit-learn's measures, on the rows that a protocol searches."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric
from legolas_metric.evaluation.arguments import as_table, rows_of_baseline
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking_report import WORSE
from legolas_metric.evaluation.trials import side
from legolas_metric.measures import measure, worse_than_baseline
from legolas_metric.signatures import typed

_SILHOUETTE_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteringReport:
    """Clusters found by k-means against the classes, and the classes themselves as clusters.

    Attributes:
        nmi, ami: normalised and adjusted mutual information of k-means' clusters and the classes.
        calinski_harabasz, davies_bouldin, silhouette: of the classes; the silhouette on at most 10,000 rows. All three
            are NaN where all rows are one point, the second also where two classes are. The first is infinite where
            each class is a point, the second where classes that are no points share their centre.
        classes: classes, and clusters asked of k-means.
        rows: labelled rows that were looked at.
        distinct: distinct rows among them.
        baseline: the report of the untrained encoder; None where none was given.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> report = evaluate_clustering(rows, [0, 0, 1, 1])
        >>> report.classes, report.silhouette > 0.8
        (2, True)

    Source: scikit-learn's measures.
    """

    nmi: float
    ami: float
    calinski_harabasz: float
    davies_bouldin: float
    silhouette: float
    classes: int
    rows: int
    distinct: int
    baseline: "ClusteringReport | None" = None

    def warnings(self) -> tuple[str, ...]:
        """What makes these figures weaker than they look, a sentence each."""
        said = []
        if self.baseline is not None:
            figures = {
                measure(name).title: (getattr(self, name), getattr(self.baseline, name)) for name in ("nmi", "ami")
            }
            said += [
                worse_than_baseline(name, after, before)
                for name, (after, before) in figures.items()
                if after < before - WORSE
            ]
        if self.distinct < self.classes:
            said.append(f"only {self.distinct} distinct rows for {self.classes} classes: k-means can't tell them apart")
        undefined = [
            name for name in ("calinski_harabasz", "davies_bouldin", "silhouette") if math.isnan(getattr(self, name))
        ]
        if undefined:
            why = "all rows are one point" if self.distinct == 1 else "classes are one point, or of one row"
            said.append(f"{', '.join(undefined)}: undefined, as {why}")
        return tuple(said)


@typed
def evaluate_clustering(
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None = None,
    *,
    ids: ArrayLike | None = None,
    metric: Metric = "cosine",
    protocol: RetrievalProtocol | str = RetrievalProtocol(),  # noqa: B008  (frozen)
    seed: int = 0,
    baseline: ArrayLike | EmbeddingBank | ClusteringReport | None = None,
) -> ClusteringReport:
    """Cluster the labelled rows of the protocol's gallery into as many clusters as classes, and compare.

    Peak memory, in bytes: 24 n d + 16 C^2 + 1 GB, of C classes (scikit-learn's).

    Args:
        embeddings: [n, d], finite; or a bank, whose labels, ids and metric are taken.
        labels: [n] integers or names; rows of -1 are left out.
        ids: [n], for a protocol with lists of ids.
        metric: under "cosine" the rows are normalised; distances are Euclidean.
        protocol: its gallery is the set looked at.
        seed: of k-means, and of the silhouette's sample.
        baseline: embeddings of the same rows by the untrained encoder, or their report.

    Raises:
        TypeError, ValueError: as `evaluate_ranking`; fewer than two classes, or as many classes as rows.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> evaluate_clustering(rows, [0, 0, 1, 1]).nmi
        1.0

    Source: scikit-learn's measures.
    """
    from sklearn import cluster, metrics  # half a second, that only those who ask for it should pay
    from sklearn.exceptions import ConvergenceWarning

    asked = RetrievalProtocol.named(protocol)
    table, metric = as_table(embeddings, labels, ids=ids, metric=metric)
    reference = baseline
    if reference is not None and not isinstance(reference, ClusteringReport):
        reference = evaluate_clustering(
            rows_of_baseline(reference, table), table.labels, ids=table.ids, metric=metric, protocol=asked, seed=seed
        )
    rows = table[side(table, asked.gallery, "gallery")]
    assert rows.labels is not None
    known = rows.labels != UNLABELLED
    x, y = _of_one_size(rows.embeddings[known].cpu().numpy()), rows.labels[known].cpu().numpy()
    classes, distinct = len(np.unique(y)), len(np.unique(x, axis=0))
    if not 2 <= classes < len(y):
        raise ValueError(
            f"clustering needs 2 or more classes and more rows than classes, got {classes} of {len(y)} rows"
        )
    means = cluster.KMeans(classes, n_init=1, random_state=seed % 2**32)  # pyright: ignore[reportArgumentType]  (stub says str)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of few distinct points, which the report tells
        clusters = means.fit_predict(x)
    spread, bouldin = _between_classes(x, y) if distinct > 1 else (math.nan, math.nan)
    return ClusteringReport(
        nmi=float(metrics.normalized_mutual_info_score(y, clusters)),
        ami=float(metrics.adjusted_mutual_info_score(y, clusters)),
        calinski_harabasz=spread,
        davies_bouldin=bouldin,
        silhouette=_silhouette(x, y, seed) if distinct > 1 else math.nan,
        classes=classes,
        rows=len(y),
        distinct=distinct,
        baseline=reference,
    )


def _of_one_size(x: np.ndarray) -> np.ndarray:
    """Rows about their mean, the farthest at distance 1 or so: no measure changes, and nothing over- or underflows."""
    wide = x - x.mean(0, dtype=np.float64)
    farthest = float(np.sqrt(np.square(wide).sum(1).max()))
    return (wide / farthest if farthest > 0 else wide).astype(x.dtype)


def _between_classes(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Calinski-Harabasz and Davies-Bouldin, where scikit-learn takes no account of points and of common centres.

    It calls classes that are points 1.0, the least, and classes of one centre 0.0, the best.
    """
    from sklearn import metrics

    place, counts = np.unique(y, return_inverse=True, return_counts=True)[1:]
    centres = np.zeros((len(counts), x.shape[1]))
    np.add.at(centres, place, x)
    centres /= counts[:, None]
    within = np.bincount(place, np.sqrt(np.square(x - centres[place]).sum(1))) / counts
    noise = 1e-7  # of centres of float32 rows of size 1
    points = within <= noise
    order = np.lexsort(centres.T)
    shared = np.abs(np.diff(centres[order], axis=0)).max(1) <= noise
    loose = ~points[order][1:] | ~points[order][:-1]
    spread = math.inf if points.all() else float(metrics.calinski_harabasz_score(x, y))
    if (shared & ~loose).any():  # 0 / 0: two classes that are the same point
        return spread, math.nan
    return spread, math.inf if (shared & loose).any() else float(metrics.davies_bouldin_score(x, y))


def _silhouette(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """On a sample of the rows; NaN where it holds one class, or as many as rows."""
    from sklearn import metrics

    if len(y) > _SILHOUETTE_ROWS:
        some = np.random.RandomState(seed % 2**32).permutation(len(y))[:_SILHOUETTE_ROWS]  # as scikit-learn draws it
        x, y = x[some], y[some]
    if not 2 <= len(np.unique(y)) < len(y):
        return math.nan
    return float(metrics.silhouette_score(x, y))
