"""An exported encoder, taken up again: embed, score, identify, and see whether it still says the same.

Letters: n and q inputs, g others, e dimensions.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float32, Float64
from torch import Tensor, nn

from legolas_metric.checks import ArrayLike, Metric, as_tensor, check_choice, check_whole
from legolas_metric.decisions.calibration import Calibration
from legolas_metric.decisions.projections import Projection
from legolas_metric.decisions.score_norm import ScoreNorm
from legolas_metric.decisions.templates import Fuse, How, Identification, enrol, identify
from legolas_metric.evaluation.decision import DecisionRule
from legolas_metric.evaluation.identities import as_text, from_text
from legolas_metric.evaluation.operating import Rates
from legolas_metric.export.deployed import After, Deployed, Engine, embedded, file_hashes, hash_of, read_back_end
from legolas_metric.export.gallery import Gallery, read_gallery
from legolas_metric.export.space_change import TOLERANCE, SpaceComparison, compare_rows
from legolas_metric.files import read_tensors
from legolas_metric.names import as_named
from legolas_metric.runs.run_parts import build_encoder
from legolas_metric.runs.run_settings import RunSettings
from legolas_metric.signatures import typed
from legolas_metric.training.best_weights import digest_of

ABOUT, WEIGHTS, EXAMPLES, ONNX = "export.json", "encoder.safetensors", "examples.safetensors", "encoder.onnx"
BACK_END, SCORE_NORM, CALIBRATION = "back_end.safetensors", "score_norm.safetensors", "calibration.safetensors"
FORM = 1
EngineName = Literal["torch", "onnx"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """An encoder as it is deployed, with what decides by it.

    Attributes:
        space: the hash of weights, back end and settings by which rows and galleries are named.
        digest: SHA-256 of all that was exported, threshold included.
        metric: by which rows are compared; "dot" after PLDA and ScoreNorm, whose scores are no cosines.
        input_shape: of one input.
        settings: of the encoder and of what makes its inputs, plain values.
        label_names: what the classes that it was trained on are called; None where nothing was given.
        normalisation: mean and std of the inputs, which lie within the encoder; None where it has none.
        back_end: the fitted projection after the encoder, or None.
        score_norm: by which the scores are normalised, or None.
        calibration: which makes a score a log-likelihood ratio, or None.
        rule: the threshold of scores, before the calibration; or None.
        gallery: who is known, or None.
        examples: a few inputs, their ids, and the rows that they had when they were exported.
        engine: what computes.

    Example:
        >>> import torch
        >>> from legolas_metric import export_encoder, load_export
        >>> x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
        >>> kept = export_encoder(torch.nn.Linear(3, 2), "kept", inputs=x)
        >>> again = load_export("kept", encoder=torch.nn.Linear(3, 2))
        >>> again.space == kept.space, again.input_shape
        (True, (3,))

    Source: ours.
    """

    space: str
    digest: str
    metric: Metric
    input_shape: tuple[int, ...]
    settings: Mapping[str, Any]
    label_names: tuple[str, ...] | None
    normalisation: Mapping[str, Any] | None
    back_end: Projection | None
    score_norm: ScoreNorm | None
    calibration: Calibration | None
    rule: DecisionRule | None
    gallery: Gallery | None
    examples: Mapping[str, Tensor]
    engine: EngineName
    encode: Engine = field(repr=False)

    def embed(self, inputs: ArrayLike, *, batch_size: int = 256) -> Float32[Tensor, "n e"]:
        """Rows of inputs, as they are compared: unit rows, after the back end; or its terms, under metric "dot".

        Args:
            inputs: [n, ...] of the shape and the preprocessing that it was exported for.
            batch_size: of a pass.

        Raises:
            ValueError: inputs of another shape, none, or rows that are not finite.
        """
        check_whole("batch_size", batch_size, 1)
        return embedded(self.encode, self._checked(inputs), batch_size)

    def score(self, probes: ArrayLike, others: ArrayLike) -> Float64[Tensor, "q g"]:
        """The score of each input of `probes` with each of `others`; from `rule.threshold` on: the same person."""
        rows, known = self.embed(probes).double(), self._after.gallery_side(self.embed(others)).double()
        return rows @ known.T

    @property
    def _after(self) -> After:
        return After(self.back_end, self.score_norm)

    def enrol(self, inputs: ArrayLike, names: ArrayLike, *, how: How = "mean") -> Gallery:
        """Make inputs of known people a gallery of this space.

        Args:
            inputs: [n, ...].
            names: [n] whose each input is.
            how: as `legolas_metric.enrol`.
        """
        return enrolled(self.encode, self._checked(inputs), names, self._after, self.space, how)

    def identify(
        self,
        inputs: ArrayLike,
        *,
        gallery: Gallery | None = None,
        rule: DecisionRule | None = None,
        k: int = 1,
        fuse: Fuse = "max",
    ) -> Identification:
        """Who new inputs are, or nobody: embed, back end, gallery, score normalisation, threshold, calibration.

        Args:
            inputs: [q, ...].
            gallery: who is known (default: the exported one).
            rule: the threshold (default: the exported one; without any the best name is always accepted).
            k, fuse: as `legolas_metric.identify`.

        Raises:
            ValueError: no gallery; a gallery of another space; what `embed` refuses.
        """
        known = gallery or self.gallery
        if known is None:
            raise ValueError("nobody is known: pass gallery=exported.enrol(inputs, names)")
        if known.space != self.space:
            raise ValueError(
                f"the gallery is of space {known.space}, this encoder's is {self.space}: enrol its people again with "
                "this encoder"
            )
        rows = self.embed(inputs)
        return identify(
            rows,
            known.templates,
            known.names,
            rule=rule or self.rule,
            k=k,
            fuse=fuse,
            calibration=self.calibration,
            metric=self.metric,
        )

    def check(self, inputs: ArrayLike | None = None, *, tolerance: float = TOLERANCE) -> SpaceComparison:
        """Whether it still gives the examples the rows that they had.

        Args:
            inputs: the same examples as today's preprocessing makes them, in their order (default: as exported).
            tolerance: of |now - then| / |then| of a row.

        Raises:
            ValueError: other inputs than as many of the exported shape.
        """
        given = self.examples["inputs"] if inputs is None else self._checked(inputs)
        if len(given) != len(self.examples["inputs"]):
            raise ValueError(f"inputs must be the {len(self.examples['inputs'])} examples in order, got {len(given)}")
        return compare_rows(self.examples["embeddings"], self.embed(given), tolerance=tolerance)

    def _checked(self, inputs: ArrayLike) -> Tensor:
        given = as_tensor(inputs, name="inputs")
        if tuple(given.shape[1:]) != self.input_shape or not len(given):
            raise ValueError(f"inputs must be [n, {', '.join(map(str, self.input_shape))}], got {list(given.shape)}")
        return given.to(self.examples["inputs"].dtype)


def enrolled(encode: Engine, inputs: Tensor, names: ArrayLike, after: After, space: str, how: How = "mean") -> Gallery:
    """A gallery: templates are means of directions, which are then finished as rows are."""
    named = as_named(names, len(inputs), name="names", of="inputs")
    directions, codes = enrol(embedded(encode.directions, inputs, 256), by=named.codes, how=how)
    templates = after.gallery_side(after.finished(directions))
    assert isinstance(codes, Tensor)
    called = codes if named.names is None else tuple(named.names[code] for code in codes.tolist())
    return Gallery(templates=templates.contiguous(), names=called, space=space)


@typed
def load_export(
    folder: str | os.PathLike[str], *, encoder: nn.Module | None = None, engine: EngineName = "torch"
) -> Exported:
    """Take up what `export_encoder` wrote; no code of the folder is run.

    Args:
        folder: of the export.
        encoder: a module of the kind that was exported, which is given the weights; not needed for encoders of `train`,
            nor for engine="onnx".
        engine: "torch", or "onnx" for the file that onnxruntime runs (extra `onnx`).

    Raises:
        FileNotFoundError: no export there, or none of its files.
        ValueError: files that were changed since; an encoder that is needed, or that the weights don't fit.

    Example:
        >>> import torch
        >>> from legolas_metric import export_encoder, load_export
        >>> x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
        >>> kept = export_encoder(torch.nn.Linear(3, 2), "in_use", inputs=x)
        >>> again = load_export("in_use", encoder=torch.nn.Linear(3, 2))
        >>> again.space == kept.space, again.input_shape
        (True, (3,))

    Source: ours.
    """
    check_choice("engine", engine, ("torch", "onnx"))
    place = Path(folder)
    about = read_about(place)
    parts = [name for name in about["files"] if name != ONNX or engine == "onnx"]
    missing = [name for name in (*parts, *([ONNX] if engine == "onnx" else [])) if not (place / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{place} holds no {missing[0]}: export it again{_hint(missing[0])}")
    for name, found in file_hashes(place, parts).items():
        if found != about["files"][name]:
            raise ValueError(f"{place / name} was changed since it was exported: export it again")
    back_end = read_back_end(place / BACK_END) if BACK_END in about["files"] else None
    norm = ScoreNorm.load(place / SCORE_NORM) if SCORE_NORM in about["files"] else None
    gallery = place / f"gallery-{about['space']}.npz"
    encode: Engine
    if engine == "onnx":
        from legolas_metric.export.onnx_file import OnnxEncoder

        encode = OnnxEncoder(place / ONNX)
    else:
        encode = Deployed(_built(place, about, encoder), After(back_end, norm)).eval()
    return Exported(
        **{name: about[name] for name in ("space", "digest", "metric", "settings", "normalisation")},
        input_shape=tuple(about["input_shape"]),
        label_names=None if about["label_names"] is None else tuple(about["label_names"]),
        back_end=back_end,
        score_norm=norm,
        calibration=Calibration.load(place / CALIBRATION) if CALIBRATION in about["files"] else None,
        rule=rule_from(about["rule"]),
        gallery=read_gallery(gallery) if gallery.is_file() else None,
        examples=read_tensors(place / EXAMPLES)[0],
        engine=engine,
        encode=encode,
    )


def read_about(folder: Path) -> dict[str, Any]:
    """The list of a folder's parts, found whole.

    Raises:
        FileNotFoundError: no export there.
        ValueError: a list that was changed, or that a newer version wrote.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no export: there is no {ABOUT}")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        digest = hash_of({name: value for name, value in about.items() if name != "digest"})
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no list of an export: export it again") from error
    if about.get("form") != FORM:
        raise ValueError(f"{path} has form {about.get('form')}, this version reads form {FORM}: export it again")
    if digest != about["digest"]:
        raise ValueError(f"{path} was changed since it was exported (its digest differs): export it again")
    return about


def rule_as_plain(rule: DecisionRule | None) -> dict[str, Any] | None:
    """A rule as JSON has it."""
    if rule is None:
        return None
    plain = {name: getattr(rule, name) for name in ("threshold", "metric", "flagged")}
    return plain | {"identities": as_text(rule.identities), "far": rule.fitted.far, "frr": rule.fitted.frr}


def rule_from(plain: dict[str, Any] | None) -> DecisionRule | None:
    """The rule again."""
    if plain is None:
        return None
    return DecisionRule(
        threshold=plain["threshold"],
        metric=plain["metric"],
        fitted=Rates(far=plain["far"], frr=plain["frr"]),
        flagged=plain["flagged"],
        identities=from_text(plain["identities"]),
    )


def _built(folder: Path, about: Mapping[str, Any], encoder: nn.Module | None) -> nn.Module:
    """The encoder with its weights."""
    kind = about["encoder"]["kind"]
    weights = read_tensors(folder / WEIGHTS)[0]
    if encoder is None and kind != "run":
        raise ValueError(
            f"{folder} holds the weights of {about['encoder']['class']}, whose code it can't hold: pass "
            "encoder=..., a module of that kind, or engine='onnx' where it was exported as ONNX"
        )
    if encoder is None:
        encoder = build_encoder(RunSettings.of(about["encoder"]["settings"]), tuple(about["input_shape"]))
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {folder} don't fit {type(encoder).__name__}: {error}") from error
    assert digest_of(encoder.state_dict()) == about["weights"]
    return encoder


def _hint(name: str) -> str:
    return " with onnx=True (--onnx)" if name == ONNX else ""
