"""What helps to know persons by their heartbeats, beside training: templates, averaged probes, AS-norm, by person."""

import torch
from torch import Tensor

from legolas_metric import (
    RetrievalProtocol,
    ScoreNorm,
    enrol,
    evaluate_ranking,
    evaluate_verification,
    verification_from_scores,
)

COHORT = 100
"""Nearest training rows that AS-norm compares with."""

Shares = dict[str, dict[str, float]]


def by_person(rows: Tensor, labels: Tensor, sessions: dict[str, Tensor], norm: ScoreNorm) -> Shares:
    """Rank@1 of each person who has several sessions, against rows of other sessions: measure -> person -> share.

    Args:
        sessions: name -> [n], what a query must not find, such as its recording.
        norm: of a cohort of other persons.
    """
    found: Shares = {}
    for name, groups in sessions.items():
        for how, scorer in (("", None), (", AS-norm", norm)):
            report = evaluate_ranking(
                rows, labels, groups=groups, protocol=RetrievalProtocol.cross_session(), ks=1, scorer=scorer
            )
            per = report.per_query
            found[f"{name}{how}"] = _means(per.labels, per.rank_at(1))
        found |= {f"{name}, {how}": shares for how, shares in _templates(rows, labels, groups, norm).items()}
    return found


def error_rates(rows: Tensor, labels: Tensor, groups: Tensor, norm: ScoreNorm) -> dict[str, float]:
    """Equal error rates of pairs of different sessions, of plain and of normalised scores."""
    a, b = torch.triu_indices(len(rows), len(rows), 1)
    kept = (labels[a] != labels[b]) | (groups[a] != groups[b])
    same = (labels[a] == labels[b])[kept]
    normed = norm.score(rows, rows)[a[kept], b[kept]]
    plain = evaluate_verification(rows, labels, groups=groups)
    return {"eer": plain.eer, "eer_as_norm": verification_from_scores(normed, same).eer}


def _templates(rows: Tensor, labels: Tensor, groups: Tensor, norm: ScoreNorm) -> Shares:
    """Each session in turn against the means of all that persons have in their others: its beats, and its own mean."""
    who: list[Tensor] = []
    hits: dict[str, list[Tensor]] = {"templates": [], "templates, AS-norm": [], "averaged probe and templates": []}
    for person, session in torch.stack([labels, groups], 1).unique(dim=0):
        asked = (labels == person) & (groups == session)
        if not bool(((labels == person) & ~asked).any()):
            continue
        templates, names = enrol(rows[~asked], by=labels[~asked])
        assert isinstance(names, Tensor)
        probes = rows[asked]
        mean, _ = enrol(probes, by=torch.zeros(len(probes), dtype=torch.int64))
        unit = torch.nn.functional.normalize(probes)
        scores = (unit @ templates.T, norm.score(probes, templates), (mean @ templates.T).expand(len(probes), -1))
        who.append(labels[asked])
        for own, values in zip(hits.values(), scores):
            own.append((names[values.argmax(1)] == person).double())
    return {how: _means(torch.cat(who), torch.cat(own)) for how, own in hits.items()}


def _means(labels: Tensor, values: Tensor) -> dict[str, float]:
    return {str(person): float(values[labels == person].double().mean()) for person in labels.unique().tolist()}
