"""Sections from records, with the words that say how to read them."""

from collections.abc import Callable, Mapping, Sequence

from legolas_metric.checks import ArrayLike
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.query_measures import WrongNeighbours
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.measures import collapse_figures, one_a_row, ranking_figures, side_by_side, verification_figures
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.probes.plane import Plane
from legolas_metric.report.figures import (
    cmc,
    det,
    projection,
    rank1_against_gallery,
    roc,
    similarity_histogram,
    spectra,
)
from legolas_metric.report.page import Section
from legolas_metric.report.pictures import Card, Gallery
from legolas_metric.rows import as_labels

Example = Callable[[int], ArrayLike]
"""Image (uint8) or signal (floating point) of an id."""

_DEEPEST = 100
_SIZES = tuple(step * 10**power for power in range(1, 8) for step in (1, 2, 5))


def collapse_sections(reports: Mapping[str, CollapseReport]) -> list[Section]:
    """What probes found: the measures beside those of iid rows, the verdicts, and the singular spectra.

    Args:
        reports: name of a run -> its report; all runs are compared with the iid rows of the last.

    Example:
        >>> import torch
        >>> from legolas_metric import probe_embeddings
        >>> from legolas_metric.report import collapse_sections
        >>> [part.title for part in collapse_sections({"ours": probe_embeddings(torch.eye(4))})]
        ['Collapse', 'Singular spectrum']

    Source: ours.
    """
    last = list(reports.values())[-1]
    assert last.baseline is not None
    verdicts = "\n\n".join(
        f"{name}: {report.verdict or 'no verdict'}. {'; '.join(report.evidence)}."
        + (f" Remedy: {report.remedy}." if report.remedy else "")
        for name, report in reports.items()
    )
    columns = {name: collapse_figures(report) for name, report in reports.items()}
    beside = side_by_side({**columns, "iid rows": collapse_figures(last.baseline)})
    return [
        Section("Collapse", verdicts, beside),
        Section(
            "Singular spectrum",
            _SPECTRUM,
            spectra({name: r.spectrum for name, r in reports.items()}, baseline=last.baseline.spectrum),
        ),
    ]


def ranking_sections(reports: Mapping[str, RankingReport], example: Example | None = None) -> list[Section]:
    """What rankings found: the measures, CMC, Rank@1 against the gallery (where ranked in full), the worst queries.

    Args:
        reports: name of a run -> its report.
        example: gives the pictures for the worst queries of the last run; without it they are left out.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_ranking
        >>> from legolas_metric.report import ranking_sections
        >>> report = evaluate_ranking(torch.eye(6), [0, 0, 1, 1, 2, 2], full=True)
        >>> [part.title for part in ranking_sections({"ours": report})]
        ['Ranking', 'Rank@k', 'Rank@1 and the gallery']

    Source: ours.
    """
    last = list(reports.values())[-1]
    figures = {name: ranking_figures(report) for name, report in reports.items()}
    if last.baseline is not None:
        figures["untrained"] = ranking_figures(last.baseline)
    text = f"{_asked(last.protocol)} {_RANKING}"
    sections = [Section("Ranking", _with_warnings(text, reports), one_a_row(figures, first="run"))]
    deepest = min(min(report.depth or _DEEPEST, report.gallery - 1, _DEEPEST) for report in reports.values())
    if deepest > 1:
        sections.append(Section("Rank@k", _CMC, cmc({name: r.cmc(deepest) for name, r in reports.items()})))
    if all(report.depth is None for report in reports.values()):
        sizes = [size for size in _SIZES if size < last.gallery] or [1]
        curves = {name: report.rank1_at(sizes) for name, report in reports.items()}
        sections.append(Section("Rank@1 and the gallery", _GALLERY, rank1_against_gallery(curves)))
    if example is not None and last.worst:
        sections.append(Section("Worst queries", _WORST, worst_gallery(last.worst, example)))
    return sections


def verification_sections(reports: Mapping[str, VerificationReport]) -> list[Section]:
    """What verification found: the measures, the similarity histogram of the last run, ROC and DET.

    Args:
        reports: name of a run -> its report.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_verification
        >>> from legolas_metric.report import verification_sections
        >>> report = evaluate_verification(torch.randn(8, 4), [0, 0, 1, 1, 2, 2, 3, 3])
        >>> [part.title for part in verification_sections({"ours": report})]
        ['Verification', 'Similarity of pairs', 'ROC', 'DET']

    Source: ours.
    """
    last = list(reports.values())[-1]
    figures = {name: verification_figures(report) for name, report in reports.items()}
    if last.baseline is not None:
        figures["untrained"] = verification_figures(last.baseline)
    rates = {name: (report.far, report.tar) for name, report in reports.items()}
    heaps = similarity_histogram(last.edges, last.genuine_histogram, last.impostor_histogram)
    return [
        Section("Verification", _with_warnings(_VERIFICATION, reports), one_a_row(figures, first="run")),
        Section("Similarity of pairs", _HISTOGRAM, heaps),
        Section("ROC", _ROC, roc(rates)),
        Section("DET", _DET, det(rates)),
    ]


def plane_section(plane: Plane, labels: ArrayLike) -> Section:
    """Rows on their two main directions.

    Args:
        plane: of `principal_plane`.
        labels: [n], of all rows that the plane was made from.

    Raises:
        TypeError: labels that are not integers.

    Example:
        >>> import torch
        >>> from legolas_metric.probes.plane import principal_plane
        >>> from legolas_metric.report import plane_section
        >>> plane_section(principal_plane(torch.eye(4)), torch.tensor([0, 0, 1, 1])).title
        'The main plane'

    Source: ours.
    """
    first, second = plane.shares
    own = as_labels(labels, None)[plane.rows.cpu()].tolist()
    text = (
        f"{len(own):,} rows on the two directions of most variance, which hold {first + second:.0%} of it.\n\n{_PLANE}"
    )
    axes = {"x": f"first direction, {first:.0%}", "y": f"second direction, {second:.0%}"}
    return Section("The main plane", text, projection(plane.points, own, **axes))


def worst_gallery(worst: Sequence[WrongNeighbours], example: Example, *, wrong: int = 2) -> Gallery:
    """Queries that went wrong: the query, its best positive, and what was found before it.

    Args:
        worst: of a `RankingReport`.
        example: image or signal of an id.
        wrong: wrong neighbours to show of each.

    Example:
        >>> import numpy as np, torch
        >>> from legolas_metric import evaluate_ranking
        >>> from legolas_metric.report import worst_gallery
        >>> report = evaluate_ranking(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]]), [0, 0, 1, 1])
        >>> gallery = worst_gallery(report.worst, lambda id: np.zeros((8, 8), np.uint8))
        >>> len(gallery.cards), gallery.cards[0].pictures[0][0]
        (4, 'query, class 0')

    Source: ours.
    """
    cards = []
    for query in worst:
        pictures = [
            (f"query, class {query.label if query.label_name is None else query.label_name}", example(query.id)),
            (f"its best match, {query.positive_similarity:.2f}", example(query.positive)),
        ]
        labels = query.wrong_labels if query.wrong_names is None else query.wrong_names
        for id, label, s in list(zip(query.wrong, labels, query.wrong_similarities))[:wrong]:
            pictures.append((f"wrong: class {label}, {s:.2f}", example(id)))
        cards.append(Card(pictures, f"first match at place {query.place:.0f}"))
    return Gallery(cards)


def _with_warnings(text: str, reports: Mapping[str, RankingReport] | Mapping[str, VerificationReport]) -> str:
    said = {name: report.warnings() for name, report in reports.items()}
    return "\n\n".join([text, *(f"{name}: {'; '.join(warnings)}." for name, warnings in said.items() if warnings)])


def _asked(protocol: RetrievalProtocol) -> str:
    """What the queries were, and where they had to find their class."""
    if protocol.episodes is not None:
        return f"Asked in {protocol.episodes.count:,} episodes ({protocol.name})."
    if protocol.repeats is not None:
        return f"Asked {protocol.repeats} times, of one row of each class, drawn anew ({protocol.name})."
    who = "Every labelled row asks" if protocol.queries is None else "Given queries ask"
    whom = "all the others" if protocol.gallery is None else "a given gallery"
    except_for = "" if protocol.exclude == "self" else ", less what the protocol takes out"
    if protocol.exclude == "same_group":
        except_for = ", less those of its own class and group: it must find its class in another group"
    return f"{who} {whom}{except_for} ({protocol.name})."


_SPECTRUM = (
    "Strength of each direction of the embedding, strongest first. A line that falls off a cliff has collapsed into "
    "few directions; the grey line is what random (iid) rows give at the same size."
)
_RANKING = (
    "Rank@k: share of queries with a match among the first k. R-precision and "
    "MAP@R: how good the first R places are, R being the number of matches there are. Queries without any match are "
    "counted as unanswerable and left out. intra and inter: mean squared distance of all pairs of one class, of two."
)
_CMC = "Share of the queries that have a match among their first k places: how far down one has to look."
_GALLERY = (
    "Rank@1 if the gallery held only so many rows of other classes, drawn at random. It falls as the gallery grows: a "
    "figure without its gallery says little."
)
_WORST = (
    "Queries whose wrong neighbours beat their best match by the widest margin. Look for wrong labels and for pictures "
    "that you can't tell apart either, before blaming the encoder."
)
_VERIFICATION = (
    "One threshold for all pairs. AUC: a pair of one class is more similar than a pair of two. EER: where false "
    "accepts and false rejects are equally frequent. TAR@FAR: share of genuine pairs accepted when so many impostors "
    "are; a rate with a question mark stands for too few impostor pairs to be quoted."
)
_HISTOGRAM = (
    "All pairs, by similarity, each kind as shares of its own. The less the two heaps overlap the better; what decides "
    "Rank@1 is the right end of the negative pairs."
)
_ROC = "Genuine pairs accepted against impostors accepted, as the threshold moves. Higher and further left is better."
_DET = "The two errors against each other on logarithmic axes. Lower and further left is better."
_PLANE = "Each point is a row, each look a class. What lies on other directions is not to be seen here."
