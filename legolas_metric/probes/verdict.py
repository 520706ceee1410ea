"""From measures to a verdict, with its evidence and a remedy.

No universal threshold is published. These compare with iid rows at the same n and d, and leave room for what supervised
training does to a healthy embedding.
"""

from legolas_metric.probes.report import CollapseReport

HEALTHY = "healthy"
POINT = "point collapse"
DIMENSIONAL = "dimensional collapse"

_POINT_LENGTH = 0.99
_RANK_SHARE = 0.25


def judge(report: CollapseReport) -> tuple[str, tuple[str, ...], str]:
    """The verdict on a report, the figures that it rests on, and what to do."""
    assert report.baseline is not None
    if report.n > 1 and report.resultant_length >= _POINT_LENGTH:
        return (
            POINT,
            (
                f"resultant length R = {report.resultant_length:.4f} (limit {_POINT_LENGTH}; iid rows "
                f"{report.baseline.resultant_length:.4f}): all rows point the same way",
                f"mean cosine over all pairs {report.mean_cosine:.4f} (iid rows 0)",
            ),
            "lower the learning rate or the margin, and mine easier negatives (semi-hard, or random) until R falls",
        )
    floor = _RANK_SHARE * report.baseline.effective_rank
    if report.effective_rank < floor:
        return (
            DIMENSIONAL,
            (
                f"effective rank {report.effective_rank:.1f} of {report.d} dimensions (limit {floor:.1f}; iid rows "
                f"{report.baseline.effective_rank:.1f})",
                f"the main direction holds {report.top1_variance:.0%} of the variance (iid rows "
                f"{report.baseline.top1_variance:.1%})",
            ),
            "use a smaller embedding, a weaker projection head, or a term that spreads the rows (uniformity)",
        )
    evidence = (
        f"effective rank {report.effective_rank:.1f} (iid rows {report.baseline.effective_rank:.1f})",
        f"resultant length R = {report.resultant_length:.4f} (iid rows {report.baseline.resultant_length:.4f})",
    )
    return HEALTHY, evidence, ""
