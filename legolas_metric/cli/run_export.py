"""`export`, `identify` and `compare --same-space`: a run into production, and what is asked of it there."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from legolas_metric.cli.options import Form, Format, Json
from legolas_metric.cli.run_commands import Run

if TYPE_CHECKING:
    from legolas_metric.decisions.templates import Identification


class BackEndName(StrEnum):
    """The back ends."""

    whitening = "whitening"
    lda = "lda"
    wccn = "wccn"
    plda = "plda"


class NormName(StrEnum):
    """The score normalisations."""

    as_norm = "as"
    s_norm = "s"


class CalibrationName(StrEnum):
    """The calibrations."""

    logistic = "logistic"
    isotonic = "isotonic"


class EngineName(StrEnum):
    """What computes."""

    torch = "torch"
    onnx = "onnx"


def export(
    run: Run,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="A new folder.")],
    fold: Annotated[int | None, typer.Option(min=0, help="Whose encoder, of a run of `kfold`; from 0.")] = None,
    back_end: Annotated[BackEndName | None, typer.Option(help="Fitted on the classes that the run trained on.")] = None,
    score_norm: Annotated[
        NormName | None, typer.Option(help="Normalise scores by what rows that the run trained on get.")
    ] = None,
    calibration: Annotated[
        CalibrationName | None, typer.Option(help="Scores as log-likelihood ratios too, by the validation classes.")
    ] = None,
    threshold_far: Annotated[
        float, typer.Option(metavar="RATE", help="Choose the threshold of this rate on the run's validation classes.")
    ] = 0.01,
    gallery: Annotated[
        str | None, typer.Option(metavar="PATH", help="Enrol these people, named as `data` of the settings is.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="As ONNX too, where it says the same; extra `onnx`.")] = False,
    tolerance: Annotated[
        float, typer.Option(help="What ONNX may differ from torch, of an embedding by its length.")
    ] = 1e-4,
) -> None:
    """Write a run's best weights, what comes after them, threshold and gallery as a folder that a service loads.

    The folder is whole or absent; `load_export(FOLDER)` in Python and `legolas-metric identify FOLDER DATA` take it up.
    """
    from legolas_metric.cli import printing
    from legolas_metric.cli.waiting import waiting
    from legolas_metric.export.from_run import export_run

    with waiting(f"exporting {run}"):
        made = export_run(
            run,
            out,
            fold=fold,
            back_end=None if back_end is None else back_end.value,
            score_norm=None if score_norm is None else score_norm.value,
            calibration=None if calibration is None else calibration.value,
            far=threshold_far,
            gallery=gallery,
            onnx=onnx,
            tolerance=tolerance,
        )
    assert made.rule is not None
    guess = " (a guess: it stands for fewer than 30 impostor pairs)" if made.rule.flagged else ""
    printing.say(f"Space {made.space}; threshold {made.rule.threshold:.4f} at FAR {threshold_far:g}{guess}.")
    if made.calibration is not None:
        printing.say(f"Calibrated: Cllr {made.calibration.cllr:.4f} on the validation classes.")
    known = 0 if made.gallery is None else len(made.gallery.names)
    printing.say(f"Wrote {', '.join(sorted(path.name for path in out.iterdir()))}: {known} templates, in {out}.")


def identify(
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", help="Folder of an export.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="New inputs: .npz with `x`, or a folder of pictures.")],
    gallery: Annotated[
        Path | None, typer.Option(metavar="FILE", help="gallery-<space>.npz (default: the export's own).")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Names to give.")] = 1,
    engine: Annotated[EngineName, typer.Option(help="What computes.")] = EngineName.torch,
    form: Format = Form.table,
    as_json: Json = False,
) -> None:
    """Who new inputs are, or nobody, by an exported encoder, what comes after it, gallery and threshold.

    Where the export is calibrated, llr is the natural logarithm of the likelihood ratio: how much likelier the score
    is if the first name is right.
    """
    from legolas_metric.cli import printing
    from legolas_metric.cli.waiting import waiting
    from legolas_metric.export.gallery import read_gallery
    from legolas_metric.export.loading import load_export
    from legolas_metric.runs.run_data import read_inputs
    from legolas_metric.runs.run_settings import RunSettings
    from legolas_metric.tables import Table

    with waiting(f"identifying {data}"):
        held = load_export(folder, engine=engine.value)
        people = None if gallery is None else read_gallery(gallery)
        settings = {name: value for name, value in held.settings.items() if name in RunSettings.__dataclass_fields__}
        found = held.identify(read_inputs(data, RunSettings.of(settings | {"data": data})), gallery=people, k=k)
    if as_json or form is Form.json:
        print(json.dumps(printing.plain(_said(found)), indent=2, allow_nan=False))
        return
    llr = [] if found.llr is None else ["llr"]
    heads = ["row", "who", "score", *llr, *(f"{place}." for place in range(2, k + 1))]
    rows = []
    for one in _said(found):
        first, *others = (None if name is None else str(name) for name in one["names"])
        who = "nobody" if one["who"] is None else first
        rows.append((one["row"], who, one["scores"][0], *map(one.get, llr), *others))
    printing.show(Table(heads, rows, formats=dict.fromkeys(["score", *llr], ".4f")), form)


def _said(found: "Identification") -> list[dict[str, Any]]:
    """An object for each input."""
    ratios = [None] * len(found.who) if found.llr is None else found.llr.tolist()
    columns = zip(found.who, found.names, found.scores.tolist(), ratios)
    names = ("who", "names", "scores", "llr")
    return [{"row": row, **dict(zip(names, values))} for row, values in enumerate(columns)]


def same_space(a: Path, b: Path, form: Form) -> int:
    """Print whether two exports, or an export and a file, share a space; the exit status."""
    from legolas_metric.cli import printing
    from legolas_metric.cli.waiting import waiting
    from legolas_metric.export.same_space import compare_spaces
    from legolas_metric.tables import Table

    with waiting(str(b)):
        found = compare_spaces(a, b)
    if form is Form.json:
        print(json.dumps(found.scalars(), indent=2))
    elif form is Form.table:
        printing.say(f"{found.sentence[0].upper()}{found.sentence[1:]} (at most {found.tolerance:g} is arithmetic).")
        if found.mean is not None:
            printing.say(f"Mean change {found.mean:.2g}; of similarities at most {found.similarities:.2g}.")
        if found.remedy:
            printing.say(f"What to do: {found.remedy}.")
    else:
        values = found.scalars()
        printing.show(Table(list(values), [tuple(values.values())]), form)
    return 0 if found.same else 1
