"""What measures are called, once: in records and logs, on screens and pages; their unit, and which way is better."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from legolas_metric.tables import Better, Doubtful, Sheet, Table, Value

Figures = Mapping[str, Value]

FORMAT = "#.4g"


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure.

    Attributes:
        name: in records, logs and histories: `rank_at_1`.
        title: on screens and pages: `Rank@1`.
        unit: of what it is a share, a mean or a count.
        better: the direction that is better; None where that depends on what it is compared with.
        short: the title where there is little room.
    """

    name: str
    title: str
    unit: str
    better: Better | None = None
    short: str = ""


# Families have one measure for each depth or rate, which ends its name: rank_at_5, tar_at_far_0.01.
_FAMILIES = {
    measure.name: measure
    for measure in (
        Measure("rank_at", "Rank@", "share of queries", "max"),
        Measure("recall_at", "Recall@", "share of positives", "max"),
        Measure("precision_at", "Precision@", "share of places", "max"),
        Measure("map_at", "mAP@", "mean over queries", "max"),
        Measure("ndcg_at", "nDCG@", "mean over queries", "max"),
        Measure("tar_at_far", "TAR@FAR ", "share of genuine pairs", "max"),
        Measure("threshold_at_far", "threshold@FAR ", "similarity"),
        Measure("tpir_at_fpir", "TPIR@FPIR ", "share of mated probes", "max"),
    )
}

_MEASURES = {
    measure.name: measure
    for measure in (
        Measure("map_at_r", "MAP@R", "mean over queries", "max"),
        Measure("r_precision", "R-precision", "share of positives", "max"),
        Measure("mean_average_precision", "mAP", "mean over queries", "max"),
        Measure("minp", "mINP", "mean over queries", "max"),
        Measure("ndcg", "nDCG", "mean over queries", "max"),
        Measure("mrr", "MRR", "mean over queries", "max"),
        Measure("nn_accuracy", "NN accuracy", "share of all queries", "max"),
        Measure("intra", "intra d²", "squared distance"),
        Measure("inter", "inter d²", "squared distance"),
        Measure("queries", "queries", "queries"),
        Measure("unanswerable", "unanswerable", "queries"),
        Measure("gallery", "gallery", "rows"),
        Measure("auc", "AUC", "share of pairs of pairs", "max"),
        Measure("eer", "EER", "share of pairs", "min"),
        Measure("eer_threshold", "threshold@EER", "similarity"),
        Measure("far", "FAR (FMR)", "share of impostor pairs", "min"),
        Measure("frr", "FRR (FNMR)", "share of genuine pairs", "min"),
        Measure("genuine", "genuine pairs", "pairs"),
        Measure("impostor", "impostor pairs", "pairs"),
        Measure("nmi", "NMI", "share of information", "max"),
        Measure("ami", "AMI", "share of information above chance", "max"),
        Measure("n", "rows", "rows"),
        Measure("effective_rank", "effective rank", "dimensions", short="eff. rank"),
        Measure("effective_rank_uncentred", "effective rank, uncentred", "dimensions"),
        Measure("participation_ratio", "participation ratio", "dimensions"),
        Measure("top1_variance", "top-1 variance", "share of variance", short="top-1"),
        Measure("mean_cosine", "mean cosine", "cosine", short="cosine"),
        Measure("resultant_length", "resultant length R", "length of a mean of unit rows"),
        Measure("verdict", "verdict", ""),
        Measure("train_loss", "training loss", "loss", "min"),
        Measure("val_loss", "validation loss", "loss", "min"),
        Measure("anchors", "anchors", "anchors"),
        Measure("no_positive", "without positive", "anchors"),
        Measure("no_negative", "without negative", "anchors"),
        Measure("outside_window", "outside the window", "anchors"),
        Measure("fallback", "served by fallback", "anchors"),
        Measure("widened", "searches widened", "queries"),
        Measure("engine", "engine", ""),
        Measure("recall", "recall", "share of true neighbours", "max"),
        Measure("seconds", "seconds", "seconds"),
        Measure("mining_seconds", "mining", "seconds", short="mining, s"),
    )
}

RANKING = (
    *("rank_at", "map_at_r", "r_precision", "mean_average_precision", "nn_accuracy"),
    *("intra", "inter", "queries", "unanswerable"),
)
VERIFICATION = ("auc", "eer", "tar_at_far", "eer_threshold", "threshold_at_far", "genuine", "impostor")
COLLAPSE = (
    *("n", "effective_rank", "effective_rank_uncentred", "participation_ratio", "top1_variance", "mean_cosine"),
    *("resultant_length", "verdict"),
)


def measure(name: str) -> Measure:
    """The measure of a name, also one of a family, and of one protocol of several (`rank_at_1/cross-day`).

    Args:
        name: as in records; an unknown one is its own title.

    Example:
        >>> from legolas_metric.measures import measure
        >>> measure("rank_at_5").title, measure("tar_at_far_0.01").title, measure("eer").better
        ('Rank@5', 'TAR@FAR 0.01', 'min')
    """
    plain, _, protocol = name.partition("/")
    family, _, depth = plain.rpartition("_")
    if plain in _MEASURES:
        found = _MEASURES[plain]
    elif family in _FAMILIES:
        kin = _FAMILIES[family]
        found = Measure(plain, f"{kin.title}{depth}", kin.unit, kin.better)
    else:
        found = Measure(plain, plain, "")
    if not protocol:
        return found
    return Measure(name, f"{found.title} ({protocol})", found.unit, found.better)


# Titles that sentences name.
RANK_1, MAP_R, AUC, EER, EFFECTIVE_RANK = (
    measure(name).title for name in ("rank_at_1", "map_at_r", "auc", "eer", "effective_rank")
)


def better_direction(title: str) -> Better | None:
    """The direction of a measure that is better, by its title; None where that depends on what it is compared with.

    Example:
        >>> from legolas_metric.measures import better_direction
        >>> better_direction("TAR@FAR 0.001"), better_direction("mean cosine")
        ('max', None)
    """
    for held in _MEASURES.values():
        if held.title == title:
            return held.better
    return next((kin.better for kin in _FAMILIES.values() if title.startswith(kin.title)), None)


def titled(values: Figures, names: Sequence[str], *, doubtful: Collection[str] = ()) -> dict[str, Value]:
    """Values by title, in the order of the names; a name may be a family's. What is not there is left out.

    Args:
        values: by name, as a record's `scalars()` gives them.
        names: such as `RANKING`.
        doubtful: names of values that rest on too little to be quoted.

    Example:
        >>> from legolas_metric.measures import RANKING, titled
        >>> titled({"map_at_r": 0.5, "rank_at_1": 0.7, "other": 1}, RANKING)
        {'Rank@1': 0.7, 'MAP@R': 0.5}
    """
    shown: dict[str, Value] = {}
    for wanted in names:
        for name, value in values.items():
            if name == wanted or (wanted in _FAMILIES and name not in _MEASURES and name.rpartition("_")[0] == wanted):
                if name in doubtful and isinstance(value, float):
                    value = Doubtful(value)
                shown[measure(name).title] = value
    return shown


@runtime_checkable
class _Ranked(Protocol):
    def scalars(self) -> dict[str, int | float]: ...


@runtime_checkable
class _Verified(Protocol):
    @property
    def flagged(self) -> tuple[float, ...]: ...

    def scalars(self) -> dict[str, int | float]: ...


@runtime_checkable
class _Probed(Protocol):
    @property
    def verdict(self) -> str | None: ...

    def scalars(self) -> dict[str, int | float | None]: ...


def ranking_figures(report: _Ranked) -> dict[str, Value]:
    """What is shown of a ranking; mAP only where the whole gallery was ranked."""
    return titled(report.scalars(), RANKING)


def verification_figures(report: _Verified) -> dict[str, Value]:
    """What is shown of a verification; a rate with too few impostors to be believed carries a question mark."""
    return titled(
        report.scalars(),
        VERIFICATION,
        doubtful={f"{name}_{far:g}" for far in report.flagged for name in ("tar_at_far", "threshold_at_far")},
    )


def collapse_figures(report: _Probed) -> dict[str, Value]:
    """What is shown of a probe."""
    return titled({**report.scalars(), "verdict": report.verdict}, COLLAPSE)


def side_by_side(columns: Mapping[str, Figures], *, first: str = "measure") -> Table:
    """Measures from top to bottom, a column for each name."""
    measures = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    rows = [(name, *(figures.get(name) for figures in columns.values())) for name in measures]
    return Table([first, *columns], rows, formats=dict.fromkeys(columns, FORMAT))


def figures_sheet(title: str, this: Figures, baseline: Figures | None) -> Sheet:
    """A report as it prints: its figures from top to bottom, those of its baseline beside them."""
    beside = {"this": this} | ({} if baseline is None else {"baseline": baseline})
    table = side_by_side(beside)
    return Sheet(title, table.columns, table.text())


def worse_than_baseline(name: str, value: float, before: float) -> str:
    """A warning; a baseline is the untrained encoder's report, or that of the same rows without a step or a scorer."""
    return f"{name} is worse than the baseline's: {value:.3f}, baseline {before:.3f}"


def one_a_row(rows: Mapping[str, Figures], *, first: str = "file") -> Table:
    """A row for each name, a column for each measure; the best ranking and verification figures are marked."""
    measures = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    values = [(name, *(figures.get(measure) for measure in measures)) for name, figures in rows.items()]
    better: dict[str, Better] = {name: way for name in measures if (way := better_direction(name)) is not None}
    return Table([first, *measures], values, better=better, formats=dict.fromkeys(measures, FORMAT))
