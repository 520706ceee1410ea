"""How well classes stand apart as clusters: scikit-learn's measures, on the rows that a protocol searches."""

from dataclasses import dataclass

import torch

from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, check_metric
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking_report import WORSE
from legolas_metric.evaluation.trials import side
from legolas_metric.rows import fitted_rows

_SILHOUETTE_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteringReport:
    """Clusters found by k-means against the classes, and the classes themselves as clusters.

    Attributes:
        nmi, ami: normalised and adjusted mutual information of k-means' clusters and the classes.
        calinski_harabasz, davies_bouldin, silhouette: of the classes; the silhouette on at most 10,000 rows.
        classes: classes, and clusters asked of k-means.
        rows: labelled rows that were looked at.
        baseline: the report of the untrained encoder; None where none was given.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> report = evaluate_clustering(rows, [0, 0, 1, 1])
        >>> report.classes, report.silhouette > 0.8
        (2, True)
    """

    nmi: float
    ami: float
    calinski_harabasz: float
    davies_bouldin: float
    silhouette: float
    classes: int
    rows: int
    baseline: "ClusteringReport | None" = None

    def warnings(self) -> tuple[str, ...]:
        """What makes these figures weaker than they look, a sentence each."""
        if self.baseline is None:
            return ()
        figures = {"NMI": (self.nmi, self.baseline.nmi), "AMI": (self.ami, self.baseline.ami)}
        return tuple(
            f"training made {name} worse: {after:.3f}, untrained {before:.3f}"
            for name, (after, before) in figures.items()
            if after < before - WORSE
        )


def evaluate_clustering(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    ids: ArrayLike | None = None,
    metric: Metric = "cosine",
    protocol: RetrievalProtocol = RetrievalProtocol(),  # noqa: B008  (frozen)
    seed: int = 0,
    baseline: ArrayLike | ClusteringReport | None = None,
) -> ClusteringReport:
    """Cluster the labelled rows of the protocol's gallery into as many clusters as classes, and compare.

    Args:
        embeddings: [n, d], finite.
        labels: [n] integers; rows of -1 are left out.
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
    """
    from sklearn import cluster, metrics  # half a second, that only those who ask for it should pay

    check_metric(metric)
    reference = baseline
    if reference is not None and not isinstance(reference, ClusteringReport):
        reference = evaluate_clustering(reference, labels, ids=ids, metric=metric, protocol=protocol, seed=seed)
    table = fitted_rows(embeddings, labels, ids=ids, groups=None, metric=metric)
    assert table.labels is not None
    rows = table[side(table, protocol.gallery, "gallery")]
    assert rows.labels is not None
    known = rows.labels != UNLABELLED
    x, y = rows.embeddings[known].cpu().numpy(), rows.labels[known].cpu().numpy()
    classes = len(torch.from_numpy(y).unique())
    if not 2 <= classes < len(y):
        raise ValueError(
            f"clustering needs 2 or more classes and more rows than classes, got {classes} of {len(y)} rows"
        )
    means = cluster.KMeans(classes, n_init=1, random_state=seed)  # pyright: ignore[reportArgumentType]  (stub says str)
    clusters = means.fit_predict(x)
    sample = _SILHOUETTE_ROWS if len(y) > _SILHOUETTE_ROWS else None
    return ClusteringReport(
        nmi=float(metrics.normalized_mutual_info_score(y, clusters)),
        ami=float(metrics.adjusted_mutual_info_score(y, clusters)),
        calinski_harabasz=float(metrics.calinski_harabasz_score(x, y)),
        davies_bouldin=float(metrics.davies_bouldin_score(x, y)),
        silhouette=float(metrics.silhouette_score(x, y, sample_size=sample, random_state=seed)),
        classes=classes,
        rows=len(y),
        baseline=reference,
    )
