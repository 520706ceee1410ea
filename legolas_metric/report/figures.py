"""Charts from the values of records; nothing is computed here but the height of a histogram's bars."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TypeVar

from legolas_metric.checks import ArrayLike
from legolas_metric.report.theme import (
    AXIS,
    BASELINE,
    COLOURS,
    MARKERS,
    chart,
    colour,
    decades,
    go,
    line,
    numbers,
    numbers_of,
)

Runs = Mapping[str, ArrayLike]
T = TypeVar("T")


def curves(
    runs: Runs, *, y: str, x: str = "epoch", start: int = 0, references: Mapping[str, float] | None = None
) -> go.Figure:
    """A value over epochs, one line for each run.

    Args:
        runs: name -> [e], one value for each epoch (NaN = not measured).
        y, x: names of the axes, with units.
        start: number of the first epoch.
        references: name -> a level to compare with, drawn as a grey line; for example the untrained encoder's.

    Example:
        >>> from legolas_metric.report import curves
        >>> figure = curves({"ours": [0.2, 0.6, 0.7]}, y="Rank@1", references={"untrained": 0.15})
        >>> [trace.name for trace in figure.data]
        ['ours', 'untrained']

    Source: ours.
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
        runs: name -> [r] singular values, largest first.
        baseline: those of iid rows of the same n and d.

    Example:
        >>> from legolas_metric.report import spectra
        >>> figure = spectra({"collapsed": [9.0, 0.1, 0.01]}, baseline=[3.0, 2.9, 2.8])
        >>> [trace.name for trace in figure.data]
        ['collapsed', 'iid rows']

    Source: ours.
    """
    figure = chart(x="direction, strongest first", y="singular value (log)", log_y=True)
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

    Source: ours.
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

    Source: ours.
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


def cmc(runs: Runs) -> go.Figure:
    """Cumulative match characteristic: the share of queries with a positive among the first k, against k.

    Args:
        runs: name -> Rank@1, Rank@2, ..., as `RankingReport.cmc` gives it.

    Raises:
        ValueError: no run.

    Example:
        >>> from legolas_metric.report import cmc
        >>> list(cmc({"ours": [0.6, 0.8, 0.9]}).data[0].x)
        [1, 2, 3]

    Source: ours.
    """
    figure = chart(x="k, places looked at", y="share of queries answered")
    for number, (name, given) in enumerate(_some(runs).items()):
        values = numbers(given, name=name)
        places = list(range(1, len(values) + 1))
        figure.add_scatter(x=places, y=values, name=name, hovertemplate="%{y:.3f}", **line(number))
    return figure


def rank1_against_gallery(runs: Mapping[str, Mapping[int, float]]) -> go.Figure:
    """Rank@1 against the number of rows of other labels in the gallery, on a logarithmic axis.

    Args:
        runs: name -> (size -> Rank@1), as `RankingReport.rank1_at` gives it.

    Example:
        >>> from legolas_metric.report import rank1_against_gallery
        >>> list(rank1_against_gallery({"ours": {100: 0.9, 10: 0.99}}).data[0].y)
        [0.99, 0.9]

    Source: ours.
    """
    figure = chart(x="gallery size (log scale)", y="Rank@1", log_x=True)
    for number, (name, shares) in enumerate(_some(runs).items()):
        sizes = sorted(shares)
        values = [shares[size] for size in sizes]
        figure.add_scatter(x=sizes, y=values, name=name, hovertemplate="%{y:.3f}", **line(number, markers=True))
    decades(figure, [float(size) for shares in runs.values() for size in shares], axis="x")
    return figure


def roc(runs: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> go.Figure:
    """Share of genuine pairs accepted against share of impostors accepted, on a logarithmic axis.

    Args:
        runs: name -> (false accept rates, true accept rates), as `VerificationReport` holds them.

    Raises:
        ValueError: no run, or rates of different lengths.

    Example:
        >>> from legolas_metric.report import roc
        >>> list(roc({"ours": ([0.0, 0.01, 1.0], [0.2, 0.7, 1.0])}).data[0].x)
        [None, 0.01, 1.0]

    Source: ours.
    """
    figure = chart(x="false accept rate (log scale)", y="genuine pairs accepted", log_x=True)
    drawn = {name: _rates(far, tar, name) for name, (far, tar) in _some(runs).items()}
    for number, (name, (x, y)) in enumerate(drawn.items()):
        figure.add_scatter(x=x, y=y, name=name, hovertemplate="%{y:.4f}", **line(number))
    decades(figure, [rate for x, _ in drawn.values() for rate in x], axis="x")
    return figure


def det(runs: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> go.Figure:
    """Detection error trade-off: genuine pairs rejected against impostors accepted, both on logarithmic axes.

    Args:
        runs: name -> (false accept rates, true accept rates), as `VerificationReport` holds them.

    Raises:
        ValueError: no run, or rates of different lengths.

    Example:
        >>> from legolas_metric.report import det
        >>> list(det({"ours": ([0.0, 0.01, 1.0], [0.25, 0.75, 1.0])}).data[0].y)
        [0.75, 0.25, None]

    Source: Martin et al. (1997), The DET Curve in Assessment of Detection Task Performance.
    """
    figure = chart(x="false accept rate (log scale)", y="false reject rate (log)", log_x=True, log_y=True)
    drawn = {name: _rates(far, tar, name) for name, (far, tar) in _some(runs).items()}
    drawn = {name: (x, _positive([1 - rate for rate in y])) for name, (x, y) in drawn.items()}
    for number, (name, (x, y)) in enumerate(drawn.items()):
        figure.add_scatter(x=x, y=y, name=name, hovertemplate="%{y:.4f}", **line(number))
    decades(figure, [rate for x, _ in drawn.values() for rate in x], axis="x")
    decades(figure, [rate for _, y in drawn.values() for rate in y])
    return figure


def drift_and_age(drift: ArrayLike, age: ArrayLike, *, start: int = 0) -> go.Figure:
    """How far the encoder moved between refreshes of the bank (above), and how old its oldest row was (below).

    Args:
        drift: mean cosine between rows and their rewrites, one for each refresh (NaN before the first).
        age: encoder steps of the oldest row, one for each refresh.
        start: number of the first refresh.

    Raises:
        ValueError: lengths that differ.

    Example:
        >>> from legolas_metric.report import drift_and_age
        >>> figure = drift_and_age([float("nan"), 0.7, 0.9], [0, 115, 115])
        >>> [trace.name for trace in figure.data]
        ['drift', 'age']

    Source: ours.
    """
    cosines, steps = numbers(drift, name="drift"), numbers(age, name="age")
    if len(cosines) != len(steps):
        raise ValueError(f"drift has {len(cosines)} entries, age {len(steps)}: give one for each refresh")
    figure = chart(x="refresh of the bank", y="drift (cosine)", height=420)
    refreshes = list(range(start, start + len(steps)))
    figure.add_scatter(x=refreshes, y=cosines, name="drift", hovertemplate="%{y:.3f}", **line(0, markers=True))
    figure.add_bar(x=refreshes, y=steps, name="age", yaxis="y2", marker_color=colour(1), hovertemplate="%{y:,} steps")
    below = {**AXIS, "title": {"text": "age (steps)"}, "domain": [0, 0.4], "rangemode": "tozero"}
    figure.update_layout(yaxis_domain=[0.5, 1], yaxis2=below)
    figure.update_layout(xaxis_tickformat="d", xaxis_anchor="y2", showlegend=False)
    return figure


def projection(points: ArrayLike, labels: ArrayLike, *, x: str = "first axis", y: str = "second axis") -> go.Figure:
    """Rows as points in a plane, coloured by class; colours come round again after six classes.

    Args:
        points: [n, 2], coordinates, for example on the two main directions.
        labels: [n], shown when a point is pointed at.
        x, y: names of the axes, for example with the share of variance that each holds.

    Raises:
        ValueError: points that are not [n, 2], or as many labels.

    Example:
        >>> from legolas_metric.report import projection
        >>> len(projection([[0.0, 1.0], [1.0, 0.0]], [3, 4]).data[0].x)
        2

    Source: ours.
    """
    coordinates = numbers_of(points, name="points", columns=2)
    names = [int(label) for label in numbers(labels, name="labels")]
    if len(names) != len(coordinates):
        raise ValueError(f"labels has {len(names)} entries for {len(coordinates)} points: give one for each")
    place = {label: number for number, label in enumerate(sorted(set(names)))}
    figure = chart(x=x, y=y, height=460)
    figure.add_scatter(
        x=[point[0] for point in coordinates],
        y=[point[1] for point in coordinates],
        mode="markers",
        text=[f"class {name}" for name in names],
        marker={
            "color": [BASELINE if name < 0 else colour(place[name]) for name in names],
            "symbol": ["cross" if name < 0 else MARKERS[place[name] // len(COLOURS) % len(MARKERS)] for name in names],
            "size": 6,
            "opacity": 0.75,
        },
        hovertemplate="%{text}<extra></extra>",
    )
    figure.update_layout(hovermode="closest", hoverdistance=20, showlegend=False)
    figure.update_yaxes(scaleanchor="x", scaleratio=1)
    return figure


def _rates(far: ArrayLike, tar: ArrayLike, name: str) -> tuple[list[float | None], list[float]]:
    """Both rates; a false accept rate of zero has no place on a logarithmic axis and is left out."""
    x, y = numbers(far, name=f"{name}: false accept rates"), numbers(tar, name=f"{name}: true accept rates")
    if len(x) != len(y):
        raise ValueError(f"{name}: {len(x)} false accept rates for {len(y)} true accept rates")
    return _positive(x), y


def _some(runs: Mapping[str, T]) -> Mapping[str, T]:
    if not runs:
        raise ValueError("nothing to draw: pass at least one run")
    return runs


def _positive(values: list[float]) -> list[float | None]:
    # A logarithmic axis has no place for zero: leave a gap there.
    return [value if value > 0 else None for value in values]
