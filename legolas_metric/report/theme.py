"""The look that all charts share, and the one place that imports plotly."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from legolas_metric.checks import ArrayLike

try:
    import plotly.graph_objects as go
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "legolas_metric.report needs plotly, which is not installed: pip install 'legolas-metric[report]'"
    ) from error

# Okabe and Ito's colours, told apart by colour-blind readers too; runs also differ by dash and marker.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00", "#56b4e9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
BASELINE = "#6b7280"
GRID = "#e5e7eb"
INK = "#1f2937"
AXIS = {"automargin": True, "gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "fixedrange": True}


def chart(*, x: str, y: str, height: int = 360, log_x: bool = False, log_y: bool = False) -> go.Figure:
    """An empty chart with named axes: legend above it, no toolbar, and no dragging, which would trap a thumb."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        margin={"l": 12, "r": 16, "t": 12, "b": 12},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"font_size": 13, "namelength": -1},
        dragmode=False,
        hovermode="x unified",
        hoverdistance=-1,
        xaxis={**AXIS, "title": {"text": x}, "type": "log" if log_x else "linear"},
        yaxis={**AXIS, "title": {"text": y}, "type": "log" if log_y else "linear"},
    )
    return figure


def decades(figure: go.Figure, values: Sequence[float | None], *, axis: Literal["x", "y"] = "y") -> None:
    """Tick a logarithmic axis at 1, 2 and 5 of each decade, or at powers of ten where that would be crowded."""
    positive = [value for value in values if value is not None and 0 < value < math.inf]
    if not positive:
        return
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    steps = (1, 2, 5) if high - low <= (3 if axis == "y" else 1) else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    figure.update_layout({f"{axis}axis": {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}})


def line(number: int, *, markers: bool = False) -> dict[str, object]:
    """How the number-th run is drawn."""
    style: dict[str, object] = {
        "mode": "lines+markers" if markers else "lines",
        "line": {"color": colour(number), "width": 2.2, "dash": DASHES[number % len(DASHES)]},
    }
    if markers:
        style["marker"] = {"symbol": MARKERS[number % len(MARKERS)], "size": 7}
    return style


def colour(number: int) -> str:
    """The number-th run's colour."""
    return COLOURS[number % len(COLOURS)]


def numbers(values: ArrayLike, *, name: str) -> list[float]:
    """A 1-D array as Python floats.

    Raises:
        ValueError: not 1-D, or empty.
    """
    array = _float64(values)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{name} must be 1-D and not empty, got shape {array.shape}")
    return array.tolist()


def numbers_of(values: ArrayLike, *, name: str, columns: int) -> list[list[float]]:
    """A table of some columns as Python floats, row by row.

    Raises:
        ValueError: another shape, or no rows.
    """
    array = _float64(values)
    if array.ndim != 2 or array.shape[1] != columns or len(array) == 0:
        raise ValueError(f"{name} must be [n, {columns}] with n >= 1, got shape {array.shape}")
    return array.tolist()


def _float64(values: ArrayLike) -> np.ndarray:
    return values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)
