"""Writing an encoder, its back end, threshold and gallery as one folder, whole or not at all."""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from legolas_metric.checks import ArrayLike, as_integers, as_tensor, check_number, check_whole
from legolas_metric.datasets.embedding import evaluating
from legolas_metric.decisions.projections import Projection
from legolas_metric.encoders.input_normalisation import InputNormalisation
from legolas_metric.evaluation.decision import DecisionRule
from legolas_metric.export.deployed import Deployed, back_end_digest, embedded, file_hashes, hash_of, metric_of
from legolas_metric.export.loading import (
    ABOUT,
    BACK_END,
    EXAMPLES,
    FORM,
    ONNX,
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

        encoder.safetensors, back_end.safetensors, examples.safetensors, encoder.onnx, gallery-<space>.npz and .faiss;
        export.json: space, digest, settings, threshold, and the SHA-256 of each other file

    The space is the hash of weights, back end and settings: rows of one space may be compared, and no others.

    Args:
        encoder: a module from one tensor [b, ...] to [b, d], with its input normalisation in it.
        folder: a new one, or an empty one.
        inputs: [m, ...] real inputs, two at least, as the encoder is given them: for the examples and for the parity.
        ids: [m] what they are called in the data (default: row numbers).
        back_end: a fitted Whitening, LDA, WCCN or PLDA.
        rule: the threshold, chosen on rows of this encoder and back end.
        gallery: inputs [n, ...] of known people and their names [n].
        settings: plain values that make embeddings what they are beside the weights, such as the preprocessing.
        label_names: what the classes that it was trained on are called.
        onnx: write `encoder.onnx` too, which maps inputs to rows, back end included; extra `onnx`.
        tolerance: the largest |onnx - torch| / |torch| of a row that is let pass.
        examples: inputs that are kept with their rows, for `check` and `compare_spaces`.
        built_by: settings of `RunSettings` that build the encoder; without them `load_export` is given a module.

    Returns:
        What `load_export` makes of the folder.

    Raises:
        FileExistsError: a folder that holds something.
        TypeError: settings that JSON can't hold.
        ValueError: a rule of another metric, a back end that is not fitted; ONNX that differs; then nothing is written.

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
    deployed = Deployed(encoder, back_end)
    metric = metric_of(back_end)
    _check_parts(back_end, rule, metric)
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
        "metric": metric,
        "settings": plain,
        "back_end": None if back_end is None else back_end.kind,
        "rule": rule_as_plain(rule),
        "label_names": None if label_names is None else [str(name) for name in label_names],
        "normalisation": _normalisation(encoder),
        "versions": versions(),
    }
    about["space"] = hash_of([about["weights"], shape, metric, plain, back_end_digest(back_end)])[:16]
    with evaluating(deployed), whole_folder(folder) as place:
        few = given[chosen]
        files = _write_parts(place, weights, back_end, {"inputs": few, "ids": called[chosen]}, deployed)
        if onnx:
            about["onnx_difference"] = _write_onnx(deployed, place / ONNX, given[:64], float(tolerance), about)
            files.append(ONNX)
        about["files"] = file_hashes(place, files)
        write_json(place / ABOUT, about | {"digest": hash_of(about)})
        if gallery is not None:
            known = as_tensor(gallery[0], name="the gallery's inputs")
            enrolled(deployed, known, gallery[1], back_end, metric, about["space"]).save(place)
    return load_export(folder, encoder=None if built_by is not None else deepcopy(encoder))  # theirs may train on


def _check_parts(back_end: Projection | None, rule: DecisionRule | None, metric: str) -> None:
    if back_end is not None and not len(back_end.map):
        raise ValueError(f"back_end, {back_end.kind}, is not fitted yet: call fit(embeddings, labels) first")
    if rule is not None and rule.metric not in (None, metric):
        raise ValueError(
            f"the rule's threshold is of metric {rule.metric!r}, deployed rows are compared by {metric!r}: choose it "
            "on rows of this encoder and back end"
        )


def _write_parts(
    place: Path, weights: Mapping[str, Tensor], back_end: Projection | None, few: dict[str, Tensor], deployed: Deployed
) -> list[str]:
    """The parts but ONNX; their names."""
    write_tensors(place / WEIGHTS, weights)
    if back_end is not None:
        back_end.save(place / BACK_END)
    rows = embedded(deployed, few["inputs"], len(few["inputs"]))
    write_tensors(place / EXAMPLES, few | {"embeddings": rows})
    return [WEIGHTS, EXAMPLES, *([] if back_end is None else [BACK_END])]


def _write_onnx(deployed: Deployed, path: Path, inputs: Tensor, tolerance: float, about: Mapping[str, Any]) -> float:
    from legolas_metric.export.onnx_file import write_onnx

    told = {name: about[name] for name in ("space", "metric", "settings", "rule", "label_names")}
    return write_onnx(deployed, path, inputs, tolerance=tolerance, about=told)


def _normalisation(encoder: nn.Module) -> dict[str, Any] | None:
    fitted = [part for part in encoder.modules() if isinstance(part, InputNormalisation) and bool(part.fitted)]
    return fitted[0].figures() if fitted else None
