"""The numbers by which compiled loops know a metric."""

METRICS = ("cosine", "dot", "euclidean")
COSINE, DOT, EUCLIDEAN = range(3)
