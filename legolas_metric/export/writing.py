"""Writing an encoder, its back end, threshold and gallery as one folder, whole or not at all."""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from legolas_metric.checks import ArrayLike, as_integers, as_tensor, check_dimension, check_number, check_whole
from legolas_metric.datasets.embedding import evaluating
from legolas_metric.decisions.calibration import Calibration
from legolas_metric.decisions.projections import PLDA, Projection
from legolas_metric.decisions.score_norm import ScoreNorm
from legolas_metric.encoders.input_normalisation import InputNormalisation
from legolas_metric.evaluation.decision import DecisionRule
from legolas_metric.export.deployed import After, Deployed, embedded, file_hashes, hash_of
from legolas_metric.export.loading import (
    ABOUT,
    BACK_END,
    CALIBRATION,
    EXAMPLES,
    FORM,
    ONNX,
    SCORE_NORM,
    WEIGHTS,
    Exported,
    enrolled,
    load_export,
    rule_as_plain,
)
from legolas_metric.files import write_json, write_tensors
from legolas_metric.outputs import check_new_folder, whole_folder
from legolas_metric.signatures import typed
from legolas_metric.training.best_weights import digest_of
from legolas_metric.training.history import versions


@typed
def export_encoder(
    encoder: nn.Module,
    folder: str | os.PathLike[str],
    *,
    inputs: ArrayLike,
    ids: ArrayLike | None = None,
    back_end: Projection | None = None,
    score_norm: ScoreNorm | None = None,
    calibration: Calibration | None = None,
    rule: DecisionRule | None = None,
    gallery: tuple[ArrayLike, ArrayLike] | None = None,
    settings: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    onnx: bool = False,
    tolerance: float | int = 1e-4,
    examples: int = 8,
    built_by: Mapping[str, Any] | None = None,
) -> Exported:
    """Write what a service needs: a new folder of safetensors and JSON, and ONNX where it is asked for.

        encoder, back_end, score_norm, calibration and examples.safetensors, encoder.onnx, gallery-<space>.npz and
        .faiss; export.json: space, digest, settings, threshold, and the SHA-256 of each other file

    The space is the hash of weights, back end, cohort and settings: rows of one space may be compared, and no others.

    Args:
        encoder: a module from one tensor [b, ...] to [b, d], with its input normalisation in it.
        folder: a new one, or an empty one.
        inputs: [m, ...] real inputs, two at least, as the encoder is given them: for the examples and for the parity.
        ids: [m] what they are called in the data (default: row numbers).
        back_end: a fitted Whitening, LDA, WCCN or PLDA.
        score_norm: whose cohort are rows of this encoder, after the back end; not with PLDA.
        calibration: fitted on scores of this encoder, back end and normalisation.
        rule: the threshold, chosen on such scores, before the calibration.
        gallery: inputs [n, ...] of known people and their names [n].
        settings: plain values that make embeddings what they are beside the weights, such as the preprocessing.
        label_names: what the classes that it was trained on are called.
        onnx: write `encoder.onnx` too, which maps inputs to rows, all but the calibration included; extra
            `onnx`.
        tolerance: the largest |onnx - torch| / |torch| of a row that is let pass.
        examples: inputs that are kept with their rows, for `check` and `compare_spaces`.
        built_by: settings of `RunSettings` that build the encoder; without them `load_export` is given a module.

    Returns:
        What `load_export` makes of the folder.

    Raises:
        FileExistsError: a folder that holds something.
        TypeError: settings that JSON can't hold.
        ValueError: a rule of another metric, a back end that is not fitted, score normalisation that does not go with
            it; ONNX that differs; then nothing is written.

    Example:
        >>> import torch
        >>> from legolas_metric.export.loading import load_export
        >>> from legolas_metric.export.writing import export_encoder
        >>> x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
        >>> encoder = torch.nn.Linear(3, 2)
        >>> kept = export_encoder(encoder, "deployed", inputs=x, gallery=(x[:2], ["ann", "bob"]))
        >>> again = load_export("deployed", encoder=torch.nn.Linear(3, 2))
        >>> again.identify(x[:2]).who, torch.equal(again.embed(x), kept.embed(x))
        (('ann', 'bob'), True)

    Source: ours.
    """
    check_new_folder(folder)
    check_number("tolerance", tolerance, above=0.0)
    given = as_tensor(inputs, name="inputs")
    if given.ndim < 2 or len(given) < 2:
        raise ValueError(f"inputs must be two real inputs or more, [m, ...], got {list(given.shape)}")
    after = After(back_end, score_norm)
    deployed = Deployed(encoder, after)
    _check_parts(after, rule)
    plain = dict(settings or {})
    hash_of(plain)  # what JSON can't hold is told before the work
    chosen = torch.linspace(0, len(given) - 1, min(check_whole("examples", examples, 2), len(given))).long()
    called = torch.arange(len(given)) if ids is None else as_integers(ids, len(given), name="ids", of="inputs")
    weights = encoder.state_dict()
    if not weights:
        raise ValueError(f"the encoder, {type(encoder).__name__}, has no weights: there is nothing to export")
    shape = list(given.shape[1:])
    by = {"kind": "given", "class": f"{type(encoder).__module__}.{type(encoder).__qualname__}"}
    about: dict[str, Any] = {
        "form": FORM,
        "encoder": by if built_by is None else {"kind": "run", "settings": dict(built_by)},
        "weights": digest_of(weights),
        "input_shape": shape,
        "metric": after.metric,
        "settings": plain,
        "back_end": None if back_end is None else back_end.kind,
        "score_norm": None if score_norm is None else f"{score_norm.how}-norm",
        "calibration": None if calibration is None else calibration.how,
        "rule": rule_as_plain(rule),
        "label_names": None if label_names is None else [str(name) for name in label_names],
        "normalisation": _normalisation(encoder),
        "versions": versions(),
    }
    about["space"] = hash_of([about["weights"], shape, after.metric, plain, *after.digest()])[:16]
    with evaluating(deployed), whole_folder(folder) as place:
        few = {"inputs": given[chosen], "ids": called[chosen]}
        _check_cohort(score_norm, deployed.directions(given[:2]))
        files = _write_parts(place, weights, few, deployed, calibration)
        if onnx:
            about["onnx_difference"] = _write_onnx(deployed, place / ONNX, given[:64], float(tolerance), about)
            files.append(ONNX)
        about["files"] = file_hashes(place, files)
        write_json(place / ABOUT, about | {"digest": hash_of(about)})
        if gallery is not None:
            known = as_tensor(gallery[0], name="the gallery's inputs")
            enrolled(deployed, known, gallery[1], after, about["space"]).save(place)
    return load_export(folder, encoder=None if built_by is not None else deepcopy(encoder))  # theirs may train on


def _check_parts(after: After, rule: DecisionRule | None) -> None:
    end = after.back_end
    if end is not None and not len(end.map):
        raise ValueError(f"back_end, {end.kind}, is not fitted yet: call fit(embeddings, labels) first")
    if isinstance(end, PLDA) and after.score_norm is not None:
        raise ValueError("score_norm normalises cosines, and PLDA's scores are none: leave one of the two out")
    if rule is not None and rule.metric not in (None, after.metric):
        raise ValueError(
            f"the rule's threshold is of metric {rule.metric!r}, deployed rows are compared by {after.metric!r}: "
            "choose it on scores of this encoder, back end and normalisation"
        )


def _check_cohort(norm: ScoreNorm | None, rows: Tensor) -> None:
    if norm is not None:
        check_dimension(rows, norm.cohort, names=("the encoder's rows after the back end", "the cohort"))


def _write_parts(
    place: Path,
    weights: Mapping[str, Tensor],
    few: dict[str, Tensor],
    deployed: Deployed,
    calibration: Calibration | None,
) -> list[str]:
    """The parts but ONNX; their names."""
    write_tensors(place / WEIGHTS, weights)
    rows = embedded(deployed, few["inputs"], len(few["inputs"]))
    write_tensors(place / EXAMPLES, few | {"embeddings": rows})
    after = deployed.after
    more = {BACK_END: after.back_end, SCORE_NORM: after.score_norm, CALIBRATION: calibration}
    given = {name: part for name, part in more.items() if part is not None}
    for name, part in given.items():
        part.save(place / name)
    return [WEIGHTS, EXAMPLES, *given]


def _write_onnx(deployed: Deployed, path: Path, inputs: Tensor, tolerance: float, about: Mapping[str, Any]) -> float:
    from legolas_metric.export.onnx_file import write_onnx

    told = {name: about[name] for name in ("space", "metric", "settings", "rule", "label_names")}
    return write_onnx(deployed, path, inputs, tolerance=tolerance, about=told)


def _normalisation(encoder: nn.Module) -> dict[str, Any] | None:
    fitted = [part for part in encoder.modules() if isinstance(part, InputNormalisation) and bool(part.fitted)]
    return fitted[0].figures() if fitted else None
