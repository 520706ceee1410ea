"""What the commands do: train, cross-validate, embed, join encoders; each ends with a table and a page."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.datasets.folds import KFold
from legolas_metric.datasets.leakage import find_leakage
from legolas_metric.datasets.source import Inputs
from legolas_metric.datasets.splits import class_disjoint_split, group_disjoint_split
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.verification import evaluate_verification
from legolas_metric.files import check_output, write_named
from legolas_metric.runs.one_run import Judged, best_path, embed, judge, read_encoder, train_one, untrained_as
from legolas_metric.runs.run_data import RunData, load_data, load_official_split
from legolas_metric.runs.run_folder import claim, command_of, settings_of, tell
from legolas_metric.runs.run_log import log, run_log
from legolas_metric.runs.run_page import figures_table, folds_table, write_folds_page, write_run_page
from legolas_metric.runs.run_parts import build_encoder, build_protocols
from legolas_metric.runs.run_settings import FREE, EnsembleHow, RunSettings, resolved
from legolas_metric.runs.steps import augmentation
from legolas_metric.tables import Table
from legolas_metric.training.ensemble import EncoderEnsemble
from legolas_metric.training.fold_runs import FoldsResult, FoldTask, run_folds


def train(settings: RunSettings, folder: Path | None) -> Judged:
    """Train on some classes, judge on the others; run again, it goes on, or tells again how it ended.

    Args:
        settings: of the run.
        folder: of the run: settings, history, log, checkpoints, report; None for a new one, `runs/` and the day.

    Raises:
        ValueError: settings that contradict the data, or a folder of another run.
    """
    data, settings, folder = _begin(settings, folder, "train")
    with run_log(folder):
        tell(settings, folder)
        rows, validation = split_rows(data, settings)
        for said in find_leakage({"train": rows, "validation": validation}, labels=data.labels).sentences():
            log.warning("Leakage: %s.", said)
        log.info(
            "%d rows of %d classes to train on, %d rows of %d others to judge on.",
            *(count for part in (rows, validation) for count in (len(part), len(data.labels[part].unique()))),
        )
        found = train_one(data, rows, validation, settings, folder)
        if settings.query is not None:
            test, protocol = load_official_split(settings)
            official = judge(test, settings, best_path(folder, None), [protocol])
            named = {f"{settings.layout}, query in gallery": official.first}
            found = replace(found, rankings={**found.rankings, **named})
        table = figures_table(_rows(found.rankings))
        _show(table, f"Kept: epoch {found.kept.epoch + 1}, {found.kept.monitor} {found.kept.value:.4f}.")
        before = found.first.baseline
        if before is not None and found.first.rank[1] <= before.rank[1]:
            log.warning("No epoch ranks better than the untrained encoder: train longer, or ask `doctor`.")
        write_run_page(folder, settings, found, table, data.labels[validation])
        log.info("Wrote %s.", folder / "report.html")
    return found


def kfold(settings: RunSettings, folder: Path | None) -> FoldsResult:
    """Train and judge fold after fold by identity; a fold that is done is not done again.

    At the end the folds' encoders, joined, and each alone rank the test set that was held out of all (`join`).

    Args, Raises: as `train`.
    """
    data, settings, folder = _begin(settings, folder, "kfold")
    folds = folds_of(data, settings)
    with run_log(folder):
        tell(settings, folder)
        for said in folds.leakage().sentences():
            log.info("Shared between the parts: %s.", said)

        def run(task: FoldTask) -> tuple[RankingReport, dict[str, float]]:
            log.info("Fold %d of %d: %d rows to train on.", task.number + 1, len(folds), len(task.train))
            found = train_one(data, task.train, task.validation, settings, task.folder, fold=task.number)
            return found.first, _pairs(found, data.take(task.validation))

        told = {name: value for name, value in settings.plain().items() if name not in FREE}
        result = run_folds(folds, run, folder=folder, settings=told)
        test = _join(folder, settings, data.take(folds.test)) if len(folds.test) else {}
        table = folds_table(result, test)
        _show(table, "The interval is of the pooled queries, by the bootstrap over identities.")
        write_folds_page(folder, settings, result, table)
        log.info("Wrote %s.", folder / "report.html")
    return result


def join(run: Path, *, how: EnsembleHow | None = None, data: str | None = None) -> dict[str, RankingReport]:
    """Join the encoders of a finished `kfold`, rank the held-out test rows by all together and by each, and save them.

    Args:
        run: folder of the run; the ensemble goes into its `ensemble`.
        how: "mean", "concat" or "score" (default: as the settings say).
        data: other data to rank, by path; default the run's own test rows.

    Raises:
        FileNotFoundError: no such run, or folds that are not done.
        ValueError: a run without a test set, and no other data.
    """
    if command_of(run) != "kfold":
        raise ValueError(f"{run} is a run of `{command_of(run)}`: an ensemble joins the folds of `kfold`")
    settings = settings_of(run)
    settings = resolved(settings, ensemble=how or settings.ensemble)
    paths = [best_path(run / f"fold_{number}", number) for number in range(settings.folds)]
    missing = [number for number, path in enumerate(paths) if not (path.parents[1] / "result.safetensors").is_file()]
    if missing:
        raise FileNotFoundError(f"{run}: fold {missing[0]} is not done: run `kfold` again with --out {run}")
    with run_log(run):
        part = _test_rows(settings) if data is None else load_data(resolved(settings, data=data, layout="auto"))[0]
        return _join(run, settings, part)


def _pairs(found: Judged, part: RunData) -> dict[str, float]:
    """Figures of all pairs of a fold's rows: a threshold that moves between folds serves none of them."""
    try:
        report = evaluate_verification(found.embeddings, part.labels, groups=part.groups)
    except ValueError:  # no pair of one sort
        return {}
    return {"auc": report.auc, "eer": report.eer, "eer_threshold": report.eer_threshold}


def _join(run: Path, settings: RunSettings, part: RunData) -> dict[str, RankingReport]:
    members = [read_encoder(best_path(run / f"fold_{n}", n), settings)[0] for n in range(settings.folds)]
    ensemble = EncoderEnsemble(members, settings.ensemble)
    before = embed(untrained_as(members[0], settings, part), part, settings)
    ranking = ensemble.rank(
        Inputs(part.dataset),
        part.labels,
        groups=part.groups,
        protocol=build_protocols(settings)[0],
        baseline=before,
    )
    ensemble.save(run / "ensemble")
    assert ranking.ensemble.baseline is not None
    reports = {"untrained": ranking.ensemble.baseline}
    reports |= {f"fold {number}": report for number, report in enumerate(ranking.members)}
    reports[f"ensemble ({settings.ensemble})"] = ranking.ensemble
    table = figures_table(reports)
    _show(table, f"{ranking.ensemble.queries} queries of identities that no fold saw.")
    write_folds_page(run / "ensemble", settings, None, table)
    log.info("Wrote %s.", run / "ensemble" / "report.html")
    return reports


def embed_data(run: Path, out: Path, *, data: str | None = None, fold: int | None = None) -> int:
    """Write a data set's embeddings by a run's best weights, with labels, ids and groups; how many there are.

    Args:
        run: folder of a run of `train`, or of `kfold` with `fold`.
        out: `.npz` or `.safetensors`, which `rank`, `probe` and the others read.
        data: by path (default: all the data of the run, what it was trained on included).
        fold: number of the fold, from 0.

    Raises:
        FileNotFoundError: no such run, fold or data.
        ValueError: a fold of a run without folds, or none of one with folds.
    """
    check_output(out)
    folds = command_of(run) == "kfold"
    if folds != (fold is not None):
        raise ValueError(f"{run} has folds: pass --fold 0" if folds else f"{run} has no folds: leave --fold out")
    settings = settings_of(run)
    part, filled = load_data(settings if data is None else resolved(settings, data=data, layout="auto", group=None))
    own = run / f"fold_{fold}" if folds else run
    encoder, held = read_encoder(best_path(own, fold), settings)
    if list(part.input_shape) != held.settings["input_shape"]:
        raise ValueError(
            f"{filled.data} has inputs of shape {list(part.input_shape)}, the run's are {held.settings['input_shape']}"
        )
    rows = embed(encoder, part, settings)
    columns = {"embeddings": rows, "labels": part.labels, "ids": torch.arange(len(rows))}
    write_named(out, columns | ({} if part.groups is None else {"groups": part.groups}))
    return len(rows)


def _begin(settings: RunSettings, folder: Path | None, command: str) -> tuple[RunData, RunSettings, Path]:
    """Refuse what can be refused before long work, claim the folder, and load the data."""
    import legolas_metric.report  # noqa: F401  (what the page needs is missed now, and not after hours)

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    data, filled = load_data(settings)
    build_encoder(filled, data.input_shape)
    if command == "kfold" and filled.query is not None:
        raise ValueError("query and gallery are ranked by `train`: for `kfold` name the folder of training as data")
    if settings.augment != "none":
        augmentation(settings, len(data.input_shape))
    return data, filled, claim(folder, filled, command)


def split_rows(data: RunData, settings: RunSettings) -> tuple[Int64[Tensor, " a"], Int64[Tensor, " b"]]:
    """Rows that `train` trains on, and those of others that it judges on."""
    share, seed = settings.validation_share, settings.seed
    if settings.split_by is None:
        return class_disjoint_split(data.labels, test_size=share, seed=seed)
    return group_disjoint_split(data.attributes[settings.split_by], test_size=share, seed=seed)


def folds_of(data: RunData, settings: RunSettings) -> KFold:
    """The parts of `kfold`."""
    return KFold(data.labels, settings.folds, groups=data.groups, test_share=settings.test_share, seed=settings.seed)


def _test_rows(settings: RunSettings) -> RunData:
    data, settings = load_data(settings)
    folds = folds_of(data, settings)
    if not len(folds.test):
        raise ValueError("test_share=0 holds no test set out: name other data with --data")
    return data.take(folds.test)


def _rows(rankings: Mapping[str, RankingReport]) -> dict[str, RankingReport]:
    """The untrained encoder and the kept one, by each protocol."""
    rows: dict[str, RankingReport] = {}
    for name, report in rankings.items():
        ending = f", {name}" if len(rankings) > 1 else ""
        if report.baseline is not None:
            rows[f"untrained{ending}"] = report.baseline
        rows[f"trained{ending}"] = report
    return rows


def _show(table: Table, below: str) -> None:
    log.info("\n%s\n\n%s", table.markdown(), below, extra={"table": table})
