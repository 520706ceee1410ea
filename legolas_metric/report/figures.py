"""Charts from the values of records; nothing is computed here but the height of a histogram's bars."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TypeVar

from legolas_metric.checks import ArrayLike
from legolas_metric.report.theme import BASELINE, chart, colour, decades, go, line, numbers

Runs = Mapping[str, ArrayLike]
T = TypeVar("T")


def curves(
    runs: Runs, *, y: str, x: str = "epoch", start: int = 0, references: Mapping[str, float] | None = None
) -> go.Figure:
    """A value over epochs, one line for each run.

    Args:
        runs: name -> one value for each epoch (NaN = not measured).
        y, x: names of the axes, with units.
        start: number of the first epoch.
        references: name -> a level to compare with, drawn as a grey line; for example the untrained encoder's.

    Example:
        >>> from legolas_metric.report import curves
        >>> figure = curves({"ours": [0.2, 0.6, 0.7]}, y="Rank@1", references={"untrained": 0.15})
        >>> [trace.name for trace in figure.data]
        ['ours', 'untrained']
    """
    figure = chart(x=x, y=y)
    last = start
    for number, (name, given) in enumerate(_some(runs).items()):
        values = numbers(given, name=name)
        last = max(last, start + len(values) - 1)
        epochs = list(range(start, start + len(values)))
        figure.add_scatter(x=epochs, y=values, name=name, hovertemplate="%{y:.4g}", **line(number, markers=True))
    for number, (name, level) in enumerate((references or {}).items()):
        style = {"color": BASELINE, "width": 1.8, "dash": ("dash", "dot", "dashdot")[number % 3]}
        ends = [start, last] if last > start else [start - 0.5, start + 0.5]
        figure.add_scatter(x=ends, y=[level, level], name=name, mode="lines", line=style, hovertemplate="%{y:.4g}")
    figure.update_layout(xaxis_tickformat="d")
    return figure


def spectra(runs: Runs, *, baseline: ArrayLike | None = None) -> go.Figure:
    """Singular values in descending order, one line for each run, on a logarithmic axis.

    Args:
        runs: name -> singular values, largest first.
        baseline: those of iid rows of the same n and d.

    Example:
        >>> from legolas_metric.report import spectra
        >>> figure = spectra({"collapsed": [9.0, 0.1, 0.01]}, baseline=[3.0, 2.9, 2.8])
        >>> [trace.name for trace in figure.data]
        ['collapsed', 'iid rows']
    """
    figure = chart(x="direction, strongest first", y="singular value (log scale)", log_y=True)
    drawn = {
        name: (numbers(given, name=name), line(number)) for number, (name, given) in enumerate(_some(runs).items())
    }
    if baseline is not None:
        style = {"mode": "lines", "line": {"color": BASELINE, "width": 1.8, "dash": "dash"}}
        drawn["iid rows"] = (numbers(baseline, name="baseline"), style)
    for name, (values, style) in drawn.items():
        directions = list(range(1, len(values) + 1))
        figure.add_scatter(x=directions, y=_positive(values), name=name, hovertemplate="%{y:.4g}", **style)
    decades(figure, [value for values, _ in drawn.values() for value in _positive(values)])
    return figure


def similarity_histogram(edges: ArrayLike, genuine: ArrayLike, impostor: ArrayLike) -> go.Figure:
    """Similarities of positive pairs against those of negative pairs, each as shares of its own kind.

    Args:
        edges: [b + 1], borders of the bins, ascending.
        genuine: [b], positive pairs in each bin.
        impostor: [b], negative pairs in each bin.

    Raises:
        ValueError: counts that don't fit the edges.

    Example:
        >>> from legolas_metric.report import similarity_histogram
        >>> figure = similarity_histogram([-1.0, 0.0, 1.0], genuine=[1, 3], impostor=[8, 2])
        >>> [list(trace.y) for trace in figure.data]
        [[0.8, 0.2], [0.25, 0.75]]
    """
    borders = numbers(edges, name="edges")
    figure = chart(x="similarity", y="share of the pairs")
    middles = [(low + high) / 2 for low, high in pairwise(borders)]
    widths = [high - low for low, high in pairwise(borders)]
    for number, (name, given) in enumerate({"negative pairs": impostor, "positive pairs": genuine}.items()):
        counts = numbers(given, name=name)
        if len(counts) != len(middles):
            raise ValueError(f"{name}: {len(counts)} counts for {len(borders)} edges, expected {len(middles)}")
        total = sum(counts) or 1.0
        figure.add_bar(
            x=middles,
            y=[count / total for count in counts],
            width=widths,
            name=f"{name} ({int(sum(counts)):,})",
            marker={"color": colour(1 - number), "opacity": 0.6, "line": {"width": 0}},
            hovertemplate="%{y:.3%}",
        )
    figure.update_layout(barmode="overlay", bargap=0, xaxis_hoverformat=".3f")
    return figure


def bars(values: Mapping[str, float], *, x: str) -> go.Figure:
    """One horizontal bar for each name, with its value written at its end; for example mining times.

    Args:
        values: name -> value, drawn from top to bottom.
        x: name of the axis, with its unit.

    Example:
        >>> from legolas_metric.report import bars
        >>> figure = bars({"exact": 0.4, "faiss:Flat": 1.3}, x="seconds for one pass")
        >>> list(figure.data[0].x)
        [0.4, 1.3]
    """
    names, amounts = list(_some(values)), numbers(list(values.values()), name="values")
    figure = chart(x=x, y="", height=110 + 44 * len(names))
    figure.add_bar(
        x=amounts,
        y=names,
        orientation="h",
        marker={"color": [colour(number) for number in range(len(names))]},
        text=[f"{amount:.3g}" for amount in amounts],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
    )
    figure.update_layout(showlegend=False, hovermode="y", yaxis_type="category", yaxis_autorange="reversed")
    figure.update_xaxes(range=[0, 1.15 * max(amounts) or 1])
    return figure


def _some(runs: Mapping[str, T]) -> Mapping[str, T]:
    if not runs:
        raise ValueError("nothing to draw: pass at least one run")
    return runs


def _positive(values: list[float]) -> list[float | None]:
    # A logarithmic axis has no place for zero: leave a gap there.
    return [value if value > 0 else None for value in values]
