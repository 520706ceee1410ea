"""The curves of a run, with what was found marked where it lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from legolas_metric.measures import measure
from legolas_metric.report.page import Section
from legolas_metric.report.theme import BASELINE, COLOURS, chart, go, line

_SEVERE = {"fault": COLOURS[1], "warning": COLOURS[4], "note": BASELINE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something said of a value in an epoch.

    Attributes:
        number: of the finding on the page, from 1.
        severity: "fault", "warning" or "note".
        sentence: what is the matter.
        value, epoch: where it lies.

    Example:
        >>> from legolas_metric.report import Remark
        >>> Remark(number=1, severity="note", sentence="It rose.", value="rank_at_1", epoch=3).epoch
        3

    Source: ours.
    """

    number: int
    severity: str
    sentence: str
    value: str
    epoch: float | int


def run_sections(
    curves: Mapping[str, tuple[Sequence[float | int], Sequence[float | int]]],
    remarks: Sequence[Remark],
    trends: Mapping[str, str] | None = None,
) -> list[Section]:
    """A chart for each value, those with remarks first; a remark is a vertical line with the finding's number.

    Args:
        curves: name -> (epochs, values).
        remarks: what was found.
        trends: name -> how it went, in words.

    Example:
        >>> from legolas_metric.report.run_sections import Remark, run_sections
        >>> said = Remark(number=1, severity="fault", sentence="it falls", value="rank_at_1", epoch=2)
        >>> [section.title for section in run_sections({"rank_at_1": ([1, 2], [0.5, 0.4])}, [said])]
        ['Rank@1']

    Source: ours.
    """
    marked = list(dict.fromkeys(remark.value for remark in remarks if remark.value in curves))
    ordered = [*marked, *(name for name in curves if name not in marked)]
    sections = []
    for name in ordered:
        own = [remark for remark in remarks if remark.value == name]
        said = "\n\n".join(dict.fromkeys(f"{each.number} ({each.severity}): {each.sentence}." for each in own))
        trend = (trends or {}).get(name, "")
        text = "\n\n".join(part for part in (trend, said) if part) or "As it was logged."
        sections.append(Section(measure(name).title, text, annotated(name, *curves[name], own)))
    return sections


def annotated(
    name: str, epochs: Sequence[float | int], values: Sequence[float | int], remarks: Sequence[Remark]
) -> go.Figure:
    """A value over epochs, with a numbered line where each remark lies.

    Example:
        >>> from legolas_metric.report.run_sections import Remark, annotated
        >>> said = Remark(number=1, severity="fault", sentence="it falls", value="x", epoch=2)
        >>> len(annotated("x", [1, 2], [0.5, 0.4], [said]).layout.annotations)
        1
    """
    unit = measure(name).unit
    figure = chart(x="epoch", y=f"{measure(name).title}, {unit}" if unit else measure(name).title, height=280)
    figure.add_scatter(
        x=list(epochs), y=list(values), name=measure(name).title, hovertemplate="%{y:.4g}", **line(0, markers=True)
    )
    by_epoch: dict[float | int, list[Remark]] = {}
    for remark in remarks:
        by_epoch.setdefault(remark.epoch, []).append(remark)
    for epoch, here in by_epoch.items():
        numbers = ", ".join(str(number) for number in dict.fromkeys(remark.number for remark in here))
        worst = min(here, key=lambda remark: list(_SEVERE).index(remark.severity))
        colour = _SEVERE[worst.severity]
        figure.add_vline(x=epoch, line={"color": colour, "width": 1.6, "dash": "dot"})
        figure.add_annotation(
            x=epoch,
            y=1,
            yref="paper",
            text=numbers,
            showarrow=False,
            yanchor="bottom",
            font={"color": colour, "size": 13},
        )
    figure.update_layout(showlegend=False, margin={"t": 24})
    return figure
