"""A deployed encoder as ONNX, written only where it says the same as torch; and as it is run. Needs the extra `onnx`.

Letters: b inputs, e dimensions.
"""

import json
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from legolas_metric.export.deployed import Deployed, Embed, embedded
from legolas_metric.export.space_change import relative_changes
from legolas_metric.outputs import whole_file

if TYPE_CHECKING:
    import onnxruntime

_ABOUT = "legolas_metric"  # the key of the file's metadata
_ROWS, _DIRECTIONS = "embeddings", "directions"  # what comes out
_BATCHES = (1, 3)  # beside all at once: the axis of the batch must be free


def write_onnx(
    deployed: Deployed, path: str | os.PathLike[str], inputs: Tensor, *, tolerance: float, about: Mapping[str, Any]
) -> float:
    """Write the file, unless its output differs from torch's; the largest difference, of a row by its length.

    Args:
        deployed: in evaluation mode. Where its rows are no directions, the file gives these beside them, for enrolling.
        path: of the file.
        inputs: real ones, two at least: by one alone an axis of any size can't be told from one of size 1.
        tolerance: the largest difference that is let pass.
        about: plain values for the file's metadata.

    Raises:
        ModuleNotFoundError: without the extra.
        ValueError: an encoder that ONNX can't hold, or that gives other rows there.
    """
    onnx = needed("onnx")
    needed("onnxscript")
    program = _exported(deployed, inputs)
    model: Any = program.model_proto
    onnx.helper.set_model_props(model, {_ABOUT: json.dumps(about, sort_keys=True)})
    session = _session(model.SerializeToString(), "the exported encoder")
    sides: list[tuple[Embed, Embed]] = [(session.run, deployed)]
    if deployed.after.metric == "dot":
        sides.append((session.directions, deployed.directions))
    worst = max(
        float(relative_changes(embedded(there, part, len(part)), embedded(here, part, len(part))).max())
        for part in (inputs, *(inputs[:size] for size in _BATCHES))
        for there, here in sides
    )
    if not worst <= tolerance:
        raise ValueError(
            f"ONNX gives other embeddings than torch: they differ by {worst:.2g} of their length, where "
            f"{tolerance:.2g} is let pass. Nothing was written: pass a larger tolerance if that is near "
            "enough, or leave ONNX out"
        )
    with whole_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return worst


class OnnxEncoder:
    """A file of `write_onnx`, run by onnxruntime on the processor.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._inside = _session(Path(path).read_bytes(), str(path))

    def __call__(self, inputs: Tensor) -> Float32[Tensor, "b e"]:
        """Embed a batch."""
        return self._inside.run(inputs)

    def directions(self, inputs: Tensor) -> Float32[Tensor, "b e"]:
        """Unit rows of which templates are means."""
        return self._inside.directions(inputs)

    def about(self) -> dict[str, Any]:
        """What the file says of itself: threshold, metric, space."""
        return json.loads(self._inside.session.get_modelmeta().custom_metadata_map.get(_ABOUT, "{}"))


class _Session:
    def __init__(self, session: "onnxruntime.InferenceSession") -> None:
        self.session = session

    def run(self, inputs: Tensor, output: str = _ROWS) -> Tensor:
        values: Any = self.session.run([output], {"inputs": np.ascontiguousarray(inputs.numpy())})[0]
        return torch.from_numpy(values)

    def directions(self, inputs: Tensor) -> Tensor:
        known = {output.name for output in self.session.get_outputs()}
        return self.run(inputs, _DIRECTIONS if _DIRECTIONS in known else _ROWS)


class _Both(nn.Module):
    """Finished rows and directions."""

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        directions = self.deployed.directions(inputs)
        return self.deployed.after.finished(directions), directions


def _session(model: bytes, what: str) -> _Session:
    runtime = needed("onnxruntime")
    try:
        return _Session(runtime.InferenceSession(model, providers=["CPUExecutionProvider"]))
    except Exception as error:  # onnxruntime has kinds of its own
        raise ValueError(f"onnxruntime can't run {what}: {' '.join(str(error).split())[:300]}") from error


def _exported(deployed: Deployed, inputs: Tensor) -> Any:
    if len(inputs) < 2:
        raise ValueError(f"ONNX needs two inputs or more to be compared by, got {len(inputs)}")
    both = deployed.after.metric == "dot"
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    try:
        quiet.setLevel(logging.ERROR)  # that torchvision isn't there concerns nobody
        with warnings.catch_warnings(action="ignore"):
            return torch.onnx.export(
                _Both(deployed) if both else deployed,
                (inputs,),
                dynamo=True,
                input_names=["inputs"],
                output_names=[_ROWS, _DIRECTIONS] if both else [_ROWS],
                dynamic_shapes={"inputs": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except Exception as error:  # torch has many kinds, with pages of text
        first = " ".join(str(error).strip().splitlines()[:1])
        raise ValueError(
            f"torch can't export this encoder as ONNX ({type(error).__name__}: {first}): leave ONNX out"
        ) from error
    finally:
        quiet.setLevel(level)


def needed(package: str) -> Any:
    """A package of the extra, or the error that names the extra."""
    import importlib

    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ONNX needs {package}: pip install 'legolas-metric[onnx]', or leave ONNX out", name=package
        ) from error
