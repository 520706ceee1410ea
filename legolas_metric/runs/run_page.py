"""Tables and pages of runs."""

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.measures import measure
from legolas_metric.probes.collapse import probe_embeddings
from legolas_metric.recipes import Recipe
from legolas_metric.runs.one_run import Judged
from legolas_metric.runs.run_settings import RunSettings
from legolas_metric.tables import Better, Table, Value
from legolas_metric.training.fold_runs import FoldsResult
from legolas_metric.training.history import RunHistory

_SHOWN = ("rank_at_1", "map_at_r")
_CURVES = ("train_loss", "rank_at_1", "map_at_r", "effective_rank", "mean_cosine")


def figures_table(reports: Mapping[str, RankingReport]) -> Table:
    """Rank@1 and MAP@R with 95 % intervals over identities, and the difference to the untrained encoder."""
    rows: list[tuple[Value, ...]] = []
    for name, report in reports.items():
        intervals = report.intervals()
        cells = [cell for key in _SHOWN for cell in (report.scalars()[key], _interval(intervals[key]))]
        gain = None if report.baseline is None else report.difference()
        told = None if gain is None else f"{gain.value:+.3f} {_interval((gain.low, gain.high))}"
        rows.append((name, *cells, told, report.queries, len(report.per_query.labels.unique())))
    titles = [title for key in _SHOWN for title in (measure(key).title, f"95 % of {measure(key).title}")]
    better: dict[str, Better] = {measure(key).title: "max" for key in _SHOWN}
    return Table(["encoder", *titles, "Rank@1 over untrained", "queries", "identities"], rows, better=better)


def folds_table(result: FoldsResult, test: Mapping[str, RankingReport]) -> Table:
    """A row for each fold, then mean, spread, pooled figures with intervals over identities, and those of the test set.

    Args:
        result: of the folds.
        test: of the rows that were held out of all folds, the untrained encoder's first and the ensemble's last.
    """
    names = result.names
    rows: list[tuple[Value, ...]] = [
        (f"fold {fold.number}", *(f"{fold.values[name]:.4f}" for name in names)) for fold in result.folds
    ]
    rows.append(("mean", *(f"{result.mean(name):.4f}" for name in names)))
    rows.append(("spread", *(f"{result.spread(name):.4f}" for name in names)))
    pooled = [name for name in names if all(name in fold.per_query for fold in result.folds)]
    told = {name: f"{result.pooled(name):.4f} {_interval(result.interval(name))}" for name in pooled}
    rows.append(("pooled", *(told.get(name) for name in names)))
    for name in [list(test)[place] for place in (0, -1) if test]:
        values, intervals = test[name].scalars(), test[name].intervals()
        told = {key: f"{values[key]:.4f} {_interval(intervals[key])}" for key in names if key in intervals}
        rows.append((f"test, {name}", *(told.get(key) for key in names)))
    return Table(["fold", *(measure(name).title for name in names)], rows)


def write_run_page(
    folder: Path, settings: RunSettings, found: Judged, table: Table, labels: Int64[Tensor, " n"]
) -> None:
    """The page of one training run."""
    from legolas_metric import report

    history = RunHistory(folder)
    sections = [report.Section("The figures", _FIGURES, table)]
    for name in _CURVES:
        series = history.series(name)
        if series:
            chart = report.curves({"this run": list(series.values())}, y=measure(name).title, start=min(series))
            way = {"max": " Higher is better.", "min": " Lower is better."}.get(measure(name).better or "", "")
            sections.append(report.Section(measure(name).title, f"After each epoch.{way}", chart))
    sections += report.ranking_sections({"trained": found.first})
    sections += report.collapse_sections({"trained": probe_embeddings(found.embeddings, labels)})
    sections.append(report.Section("Settings", "As resolved.", _settings_table(settings)))
    lead = f"{settings.data}, {_trained_by(settings, found.recipe)}; kept is epoch {found.kept.epoch + 1}."
    report.write_page(folder / "report.html", "A training run", lead, sections)


def write_folds_page(folder: Path, settings: RunSettings, result: FoldsResult | None, table: Table) -> None:
    """The page of a cross-validation, or of an ensemble (without a result)."""
    from legolas_metric import report

    title = "An ensemble" if result is None else "Cross-validation"
    text = _ENSEMBLE if result is None else _FOLDS
    sections = [report.Section("The figures", text, table)]
    if result is not None:
        bars = {f"fold {fold.number}": fold.values["rank_at_1"] for fold in result.folds}
        sections.append(report.Section("Rank@1 by fold", "Each fold's own identities.", report.bars(bars, x="Rank@1")))
    sections.append(report.Section("Settings", "As resolved.", _settings_table(settings)))
    report.write_page(folder / "report.html", title, f"{settings.data}, {settings.folds} folds.", sections)


def _trained_by(settings: RunSettings, recipe: Recipe | None) -> str:
    if recipe is None:
        return f"{settings.loss}, mining {settings.mining}"
    return f"recipe {recipe.name}" + (f" ({recipe.why})" if recipe.why else "")


def _settings_table(settings: RunSettings) -> Table:
    return Table(["key", "value"], [(key, str(value)) for key, value in settings.plain().items()])


def _interval(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


_FIGURES = (
    "On classes that training never saw: the untrained encoder, and the weights of the best epoch. Intervals are by "
    "the bootstrap over identities; the difference is paired, query by query. The epoch was chosen on these same "
    "classes, which flatters a little: `kfold` holds a test set out."
)
_FOLDS = (
    "Each fold's encoder on the identities that it never saw. The spread over folds is no standard error, since folds "
    "share most of their training rows; the interval is of the pooled queries, by the bootstrap over identities. The "
    "test rows are of identities that no fold saw, nor any choice of an epoch: theirs is the figure to report."
)
_ENSEMBLE = "On the rows that no fold saw: each fold's encoder alone, and all together."
