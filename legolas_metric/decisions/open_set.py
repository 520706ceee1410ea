"""Open-set identification: is this probe somebody on the watch list, and who? Letters: q probes, c enrolled people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, as_integers, check_number, check_whole
from legolas_metric.datasets.labels import class_sizes
from legolas_metric.evaluation.arguments import Asked, as_fars, as_table
from legolas_metric.evaluation.bootstrap import draws
from legolas_metric.evaluation.identity_pairs import enough_identities, percentiles
from legolas_metric.evaluation.roc import SLACK, too_few_errors
from legolas_metric.evaluation.scores import score_block, turned, widened
from legolas_metric.geometry import chunks
from legolas_metric.lookup import lookup
from legolas_metric.rows import Rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenSetReport:
    """Rates of a watch list; a person's score is the best of their enrolled rows'.

        FPIR(t) = share of non-mated probes whose best person scores >= t
        TPIR(t) = share of mated probes whose own person scores >= t and is among the first `rank`

    Attributes:
        tpir_at_fpir: FPIR -> the TPIR of the least threshold with at most this FPIR.
        threshold_at_fpir: FPIR -> that threshold; accepted is s >= threshold.
        flagged: the FPIRs that stand for fewer than 30 non-mated probes.
        mated, non_mated: probes with and without an enrolled row of their own.
        unanswerable: probes whose own enrolled rows are all of their own group; counted here and left out.
        enrolled: people.
        rank: up to which the own person counts as found.
        own, best: [mated] score of the own person, [non_mated] of the best person.
        found: [mated] probability that the own person is among the first `rank`: ties are in random order.
        mated_labels, non_mated_labels: whose probes they are, -1 where unlabelled.

    Example:
        >>> import torch
        >>> report = evaluate_open_set(torch.eye(3)[[0, 1, 0, 2]], [0, 1, 0, 2], enrolled=[0, 1], fpirs=0.5)
        >>> report.scalars()["tpir_at_fpir_0.5"]
        1.0

    Source: ISO/IEC 19795-1, Biometric performance testing and reporting.
    """

    tpir_at_fpir: Mapping[float, float]
    threshold_at_fpir: Mapping[float, float]
    flagged: tuple[float, ...]
    mated: int
    non_mated: int
    unanswerable: int
    enrolled: int
    rank: int
    own: Float64[Tensor, " m"] = field(repr=False)
    found: Float64[Tensor, " m"] = field(repr=False)
    best: Float64[Tensor, " o"] = field(repr=False)
    mated_labels: Int64[Tensor, " m"] = field(repr=False)
    non_mated_labels: Int64[Tensor, " o"] = field(repr=False)

    def scalars(self) -> dict[str, int | float]:
        """All that are single numbers, by name, for tables and JSON."""
        rates = {f"tpir_at_fpir_{rate:g}": tpir for rate, tpir in self.tpir_at_fpir.items()}
        counts = {"mated": self.mated, "non_mated": self.non_mated, "unanswerable": self.unanswerable}
        return {**rates, **counts, "enrolled": self.enrolled}

    def curve(self) -> tuple[Float64[Tensor, " v"], Float64[Tensor, " v"]]:
        """FPIR and TPIR at each threshold that changes one of them, from (0, ...) to (1, ...)."""
        levels = torch.cat([self.best, self.own, self.own.new_tensor([torch.inf, -torch.inf])]).unique().flip(0)
        fpir = (self.best[None] >= levels[:, None]).double().mean(1)
        return fpir, ((self.own[None] >= levels[:, None]) * self.found).mean(1)

    def intervals(self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Intervals of TPIR at each FPIR, by the bootstrap over the probes' identities; each draw has its threshold.

        Args:
            level: share of the resampled values inside.
            resamples: how many times the identities are drawn, with replacement.
            seed: of the draw.

        Returns:
            "tpir_at_fpir_0.01", ... -> (low, high); NaN where there is one identity only.

        Warns:
            UserWarning: fewer than ten identities.

        Raises:
            ValueError: no whole number of resamples of at least 1.
        """
        order = self.best.argsort(descending=True, stable=True)
        labels = torch.cat([self.mated_labels, self.non_mated_labels[order]])
        # An unlabelled probe is somebody of their own.
        nobody = labels == UNLABELLED
        labels = torch.where(nobody, -2 - torch.arange(len(labels)), labels)
        people, place = labels.unique(return_inverse=True)
        names = [f"tpir_at_fpir_{rate:g}" for rate in self.tpir_at_fpir]
        if not enough_identities(len(people)):
            return dict.fromkeys(names, (torch.nan, torch.nan))
        best = torch.cat([self.best[order], self.best.new_tensor([-torch.inf])])
        generator, values = torch.Generator().manual_seed(seed), []
        for part in chunks(check_whole("resamples", resamples, 1), rows_for(BLOCK, 24 * len(labels))):
            weight = draws(part.stop - part.start, len(people), generator)[:, place]
            mated, others = weight[:, : self.mated], weight[:, self.mated :]
            total, false = others.sum(1, keepdim=True), others.cumsum(1).contiguous()
            rates = []
            for rate in self.tpir_at_fpir:
                first = torch.searchsorted(false, rate * total * (1 + SLACK), right=True)[:, 0]
                hit = (self.own[None] > best[first][:, None]) * self.found
                rates.append((mated * hit).sum(1) / mated.sum(1))
            values.append(torch.stack(rates, 1))
        columns = torch.cat(values).unbind(1)
        return {name: percentiles(column, level) for name, column in zip(names, columns)}


def evaluate_open_set(
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None = None,
    *,
    enrolled: ArrayLike,
    fpirs: float | int | ArrayLike = (0.1, 0.01),
    ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    metric: Metric = "cosine",
    rank: int = 1,
) -> OpenSetReport:
    """Search every row that is not enrolled on the watch list of those that are. O(q g d) time, bounded memory.

    Args:
        embeddings: [n, d], or a bank.
        labels: [n] integers or names. A probe is non-mated where its label has no enrolled row, or is -1.
        enrolled: ids of the rows that are the gallery; labelled.
        fpirs: false positive identification rates, each in (0, 1].
        ids: [n] unique (default: row numbers).
        groups: [n] session or recording; where given, the own person's enrolled rows of the probe's group are left out.
        metric: "cosine", "dot" or "euclidean".
        rank: how far down the own person counts as found, beside the threshold.

    Raises:
        ValueError: an unknown id among `enrolled`, one without a label, no mated or no non-mated probe; else as
            `evaluate_verification`.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.6, 0.8], [0.7, 0.7]])
        >>> report = evaluate_open_set(rows, [0, 1, 0, 1, 2], enrolled=[0, 1], fpirs=0.5)
        >>> report.tpir_at_fpir, report.mated, report.non_mated
        ({0.5: 1.0}, 2, 1)

    Source: ISO/IEC 19795-1, Biometric performance testing and reporting.
    """
    rates = as_fars(fpirs)
    depth = check_whole("rank", rank, 1)
    rows, metric = as_table(embeddings, labels, ids=ids, groups=groups, metric=metric)
    gallery, probes = _sides(rows, enrolled)
    people, person = gallery.labels.unique(return_inverse=True)  # pyright: ignore[reportOptionalMemberAccess]
    assert probes.labels is not None
    home, mated = lookup(probes.labels, people)
    own, found, best, unanswerable = _search(probes, gallery, person, home, mated, len(people), metric, depth)
    answerable = mated & (own > -torch.inf)
    if not bool(answerable.any()) or bool(mated.all()):
        raise ValueError(
            f"{int(answerable.sum())} mated and {int((~mated).sum())} non-mated probes: an open set needs both; leave "
            "some people out of `enrolled`, and some rows of those in it"
        )
    own, found, others = own[answerable].cpu(), found[answerable].cpu(), best[~mated].cpu()
    thresholds = {rate: _threshold(others, rate) for rate in rates}
    tpir = {rate: float(((own >= threshold) * found).mean()) for rate, threshold in thresholds.items()}
    return OpenSetReport(
        tpir_at_fpir=Asked(tpir, name="tpir_at_fpir", argument="fpirs"),
        threshold_at_fpir=Asked(thresholds, name="threshold_at_fpir", argument="fpirs"),
        flagged=too_few_errors(rates, len(others)),
        mated=len(own),
        non_mated=len(others),
        unanswerable=unanswerable,
        enrolled=len(people),
        rank=depth,
        own=own,
        found=found,
        best=others,
        mated_labels=probes.labels[answerable].cpu(),
        non_mated_labels=probes.labels[~mated].cpu(),
    )


def _sides(rows: Rows, enrolled: ArrayLike) -> tuple[Rows, Rows]:
    """The gallery and the probes."""
    assert rows.labels is not None
    wanted = as_integers(enrolled, None, name="enrolled").to(rows.ids.device).unique()
    place, known = lookup(wanted, rows.ids)
    if not len(wanted) or not bool(known.all()):
        raise ValueError(
            f"enrolled names {int((~known).sum())} unknown ids: {wanted[~known][:5].tolist()}, of "
            f"{len(wanted)}; give ids of rows"
        )
    nobody = wanted[rows.labels[place] == UNLABELLED]
    if len(nobody):
        raise ValueError(f"enrolled names {len(nobody)} rows without a label: {nobody[:5].tolist()}")
    inside = torch.zeros(len(rows), dtype=torch.bool, device=rows.ids.device)
    inside[place] = True
    return rows[place], rows[(~inside).nonzero().flatten()]


def _search(
    probes: Rows,
    gallery: Rows,
    person: Int64[Tensor, " g"],
    home: Int64[Tensor, " q"],
    mated: Bool[Tensor, " q"],
    people: int,
    metric: Metric,
    rank: int,
) -> tuple[Float64[Tensor, " q"], Float64[Tensor, " q"], Float64[Tensor, " q"], int]:
    """Of each probe: the own person's score, the probability that they are found, and the best person's score."""
    wide = widened(gallery.embeddings, metric)
    own, found, best = [], [], []
    for part in chunks(len(probes), rows_for(BLOCK, 32 * len(gallery))):
        scores = score_block(turned(widened(probes.embeddings[part], metric), metric), wide, metric)
        if probes.groups is not None and gallery.groups is not None:
            same = (home[part, None] == person[None]) & mated[part, None]
            scores.masked_fill_(same & (probes.groups[part, None] == gallery.groups[None]), -torch.inf)
        each = scores.new_full((len(scores), people), -torch.inf)
        each.scatter_reduce_(1, person.expand(len(scores), -1), scores, "amax")
        mine = each.gather(1, home[part, None])
        ahead = (each > mine).sum(1)
        tied = (each == mine).sum(1)  # the own person among them
        own.append(torch.where(mated[part], mine[:, 0], -torch.inf))
        found.append(((rank - ahead) / tied).clamp(0, 1).double())
        best.append(each.amax(1))
    owned = torch.cat(own)
    return owned, torch.cat(found), torch.cat(best), int((mated & (owned == -torch.inf)).sum())


def _threshold(best: Float64[Tensor, " o"], rate: float) -> float:
    """The least threshold that at most this share of the non-mated probes reaches."""
    allowed = int(rate * len(best) * (1 + SLACK))
    if allowed >= len(best):
        return -torch.inf
    first_refused = best.sort(descending=True).values[allowed]
    return float(torch.nextafter(first_refused, first_refused.new_tensor(torch.inf)))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSetRepeats:
    """Open-set rates over several draws of who is enrolled.

    Attributes:
        reports: of each draw.
        tpir_at_fpir: FPIR -> mean over the draws.
        low, high: FPIR -> the least and the greatest of them.

    Example:
        >>> import torch
        >>> y = torch.arange(40) // 2
        >>> repeat_open_set(torch.eye(20)[y], y, repeats=2, fpirs=0.1).tpir_at_fpir
        {0.1: 1.0}

    Source: ISO/IEC 19795-1, Biometric performance testing and reporting.
    """

    reports: tuple[OpenSetReport, ...] = field(repr=False)
    tpir_at_fpir: Mapping[float, float]
    low: Mapping[float, float]
    high: Mapping[float, float]


def repeat_open_set(
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None = None,
    *,
    share: float | int = 0.5,
    rows_each: int = 1,
    repeats: int = 10,
    fpirs: float | int | ArrayLike = (0.1, 0.01),
    groups: ArrayLike | None = None,
    metric: Metric = "cosine",
    rank: int = 1,
    seed: int = 0,
) -> OpenSetRepeats:
    """`evaluate_open_set` over draws of who is enrolled: a share of the people, with some of their rows.

    Args:
        embeddings, labels, fpirs, groups, metric, rank: as in `evaluate_open_set`.
        share: of the people, in (0, 1).
        rows_each: enrolled of each; who has no more than these is no watch-list entry, only a probe.
        repeats: draws.
        seed: of the draws.

    Raises:
        ValueError: as `evaluate_open_set`; a share outside (0, 1); too few people to enrol one.

    Example:
        >>> import torch
        >>> y = torch.arange(40) // 2
        >>> len(repeat_open_set(torch.eye(20)[y], y, repeats=3).reports)
        3

    Source: ISO/IEC 19795-1, Biometric performance testing and reporting.
    """
    check_number("share", share, above=0.0)
    count, each = check_whole("repeats", repeats, 1), check_whole("rows_each", rows_each, 1)
    rows, metric = as_table(embeddings, labels, groups=groups, metric=metric)
    assert rows.labels is not None
    own, generator = rows.labels.cpu(), torch.Generator().manual_seed(seed)
    people, sizes = class_sizes(own)
    able = people[sizes > each]
    wanted = round(share * len(people))
    if not 1 <= wanted <= len(able) or wanted == len(people):
        raise ValueError(
            f"share={share} enrols {wanted} of {len(people)} people, of whom {len(able)} have more than "
            f"{each} rows: some must be enrolled, and some not"
        )
    reports = []
    for _ in range(count):
        chosen = able[torch.randperm(len(able), generator=generator)[:wanted]]
        listed = torch.cat([_some(own, int(one), each, generator) for one in chosen])
        reports.append(
            evaluate_open_set(
                rows.embeddings, rows.labels, enrolled=listed, fpirs=fpirs, groups=rows.groups, metric=metric, rank=rank
            )
        )
    return _summed(reports)


def _some(labels: Int64[Tensor, " n"], one: int, each: int, generator: torch.Generator) -> Int64[Tensor, " e"]:
    members = (labels == one).nonzero().flatten()
    return members[torch.randperm(len(members), generator=generator)[:each]]


def _summed(reports: Sequence[OpenSetReport]) -> OpenSetRepeats:
    rates = {rate: [one.tpir_at_fpir[rate] for one in reports] for rate in reports[0].tpir_at_fpir}
    return OpenSetRepeats(
        reports=tuple(reports),
        tpir_at_fpir={rate: sum(values) / len(values) for rate, values in rates.items()},
        low={rate: min(values) for rate, values in rates.items()},
        high={rate: max(values) for rate, values in rates.items()},
    )
