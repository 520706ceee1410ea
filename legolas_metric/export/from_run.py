"""An export of a run of `train` or `kfold`: best weights, back end and threshold from the run's own data."""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from legolas_metric.checks import UNLABELLED, check_choice, check_number
from legolas_metric.datasets.source import Inputs
from legolas_metric.decisions.calibration import Calibration
from legolas_metric.decisions.projections import LDA, PLDA, WCCN, Projection, Whitening
from legolas_metric.decisions.score_norm import ScoreNorm
from legolas_metric.decisions.scored import verify_by
from legolas_metric.evaluation.decision import DecisionRule
from legolas_metric.evaluation.verification import evaluate_verification
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.export.deployed import After
from legolas_metric.export.loading import Exported
from legolas_metric.export.writing import export_encoder
from legolas_metric.outputs import check_new_folder
from legolas_metric.runs.commands import folds_of, split_rows
from legolas_metric.runs.one_run import best_path, embed, read_encoder
from legolas_metric.runs.run_data import RunData, load_data
from legolas_metric.runs.run_folder import command_of, settings_of
from legolas_metric.runs.run_settings import RunSettings, resolved

BackEnd = Literal["whitening", "lda", "wccn", "plda"]
_MADE: dict[str, type[Whitening | LDA | WCCN | PLDA]] = {"whitening": Whitening, "lda": LDA, "wccn": WCCN, "plda": PLDA}
_SPACE = ("layout", "image_size", "channels", "encoder", "width")  # what makes inputs and encoder what they are


def export_run(
    run: Path,
    folder: Path,
    *,
    fold: int | None = None,
    back_end: BackEnd | None = None,
    score_norm: Literal["as", "s"] | None = None,
    calibration: Literal["logistic", "isotonic"] | None = None,
    far: float | None = 0.01,
    gallery: str | None = None,
    onnx: bool = False,
    tolerance: float = 1e-4,
) -> Exported:
    """Export the best weights of a run; `load_export(folder)` takes them up without more.

    Args:
        run: folder of a run of `train`, or of `kfold` with `fold`.
        folder: a new one.
        fold: number of the fold, from 0.
        back_end: fitted on the classes that the run trained on.
        score_norm: "as" or "s", with the rows that the run trained on as its cohort; not with "plda".
        calibration: "logistic" or "isotonic", fitted on the run's validation classes.
        far: chooses the threshold, on the run's validation classes, of which the encoder knows only which of its epochs
            ranks them best; None for none.
        gallery: data of the people to enrol, as `data` of settings; None for none.
        onnx, tolerance: as `export_encoder`.

    Raises:
        FileNotFoundError: no such run, fold or data.
        ValueError: what `export_encoder` refuses.

    Example:
        >>> from pathlib import Path
        >>> export_run(Path("runs/none"), Path("deployed"))
        Traceback (most recent call last):
        FileNotFoundError: runs/none holds no run: there is no settings.toml

    Source: ours.
    """
    check_new_folder(folder)
    for name, value, known in (
        ("back_end", back_end, get_args(BackEnd)),
        ("score_norm", score_norm, ("as", "s")),
        ("calibration", calibration, ("logistic", "isotonic")),
    ):
        if value is not None:
            check_choice(name, value, known)
    if far is not None:
        check_number("far", far, above=0.0, most=1.0)
    folds = command_of(run) == "kfold"
    if folds != (fold is not None):
        raise ValueError(f"{run} has folds: pass --fold 0" if folds else f"{run} has no folds: leave --fold out")
    settings = settings_of(run)
    encoder, held = read_encoder(best_path(run / f"fold_{fold}" if folds else run, fold), settings)
    data, _ = load_data(settings)
    people = None if gallery is None else load_data(resolved(settings, data=gallery, layout="auto", group=None))[0]
    train, validation = _parts(data, settings, fold)
    seen, others = data.take(train), data.take(validation)
    after = _after(encoder, settings, seen, back_end, score_norm)
    report = None
    if far is not None or calibration is not None:
        report = _report(embed(encoder, others, settings), others, after)
    few = torch.linspace(0, len(validation) - 1, min(64, len(validation))).long()
    known = {name: value for name, value in held.settings.items() if name != "input_shape"}
    return export_encoder(
        encoder,
        folder,
        inputs=_stacked(others, few),
        ids=validation[few],
        back_end=after.back_end,
        score_norm=after.score_norm,
        calibration=None if report is None or calibration is None else Calibration.fit(report, how=calibration),
        rule=None if report is None or far is None else DecisionRule.fit(report, far=far, trained_on=_called(seen)),
        gallery=None if people is None else (_stacked(people), _called(people)),
        settings={name: known[name] for name in _SPACE if name in known},
        label_names=None if held.label_names is None else list(held.label_names),
        onnx=onnx,
        tolerance=tolerance,
        built_by=known,
    )


def _parts(data: RunData, settings: RunSettings, fold: int | None) -> tuple[Int64[Tensor, " a"], Int64[Tensor, " b"]]:
    if fold is None:
        return split_rows(data, settings)
    part = folds_of(data, settings)[fold]
    return part.train, part.validation


def _after(
    encoder: nn.Module,
    settings: RunSettings,
    seen: RunData,
    back_end: BackEnd | None,
    score_norm: Literal["as", "s"] | None,
) -> After:
    """What comes after the encoder, of the rows that it was trained on."""
    if back_end is None and score_norm is None:
        return After()
    rows = embed(encoder, seen, settings)
    first = After(None if back_end is None else _fitted(_MADE[back_end](), rows, seen))
    norm = None if score_norm is None else ScoreNorm(first.directions(rows), how=score_norm, labels=_called(seen))
    return After(first.back_end, norm)


def _fitted(back_end: Whitening | LDA | WCCN | PLDA, rows: Tensor, part: RunData) -> Projection:
    labels = _called(part)
    if isinstance(back_end, WCCN):
        return back_end.fit(rows, labels, groups=part.groups)
    return back_end.fit(rows, labels)


def _report(rows: Tensor, part: RunData, after: After) -> VerificationReport:
    """Verification of rows as they are compared after the export."""
    labels = _called(part)
    scorer = after.back_end if isinstance(after.back_end, PLDA) else after.score_norm
    if scorer is not None:
        return verify_by(scorer, after.directions(rows), labels, groups=part.groups)
    return evaluate_verification(after.directions(rows), labels, groups=part.groups)


def _called(part: RunData) -> Any:
    """Labels, by name where they have names."""
    if part.label_names is None:
        return part.labels
    return [None if code == UNLABELLED else part.label_names[code] for code in part.labels.tolist()]


def _stacked(part: RunData, rows: Tensor | None = None) -> Tensor:
    inputs = Inputs(part.dataset)
    chosen = range(len(inputs)) if rows is None else rows.tolist()
    return torch.stack([torch.as_tensor(inputs[row]) for row in chosen])
