"""What the choices among the options stand for: protocols, miners, indexes."""

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.cli.inputs import about, called, labels_of
from legolas_metric.cli.options import MetricName, MinerName
from legolas_metric.evaluation.decision import Decision, DecisionRule
from legolas_metric.evaluation.identity_pairs import PairsOfRows
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.files import EmbeddingFile, read_arrays
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.faiss import FaissIndex
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.miners.false_negatives import FalseNegativeGuard
from legolas_metric.miners.miner import Miner
from legolas_metric.miners.triplets import FullHardMiner, HardMiner, RandomMiner, SemiHardMiner
from legolas_metric.rows import as_ids


def bank_of(held: EmbeddingFile, metric: MetricName) -> EmbeddingBank:
    """The bank of a file."""
    return EmbeddingBank(held.embeddings, labels_of(held), ids=held.ids, groups=held.groups, metric=metric.value)


def index_of(name: str, metric: MetricName) -> NeighborIndex:
    """The index of a name: "auto" and "exact" are one, others are FAISS factories."""
    return ExactIndex(metric=metric.value) if name in ("auto", "exact") else FaissIndex(name, metric=metric.value)


def miner_of(
    name: MinerName,
    index: NeighborIndex,
    margin: float,
    per_anchor: int,
    seed: int,
    *,
    ranks: tuple[int, int] | None = None,
    guard: bool = False,
) -> Miner:
    """The miner of a name; ranks and a guard choose among near rows, which random negatives are not."""
    if name is MinerName.random:
        if ranks is not None or guard:
            raise ValueError("--ranks and --guard choose among near rows: not with --miner random")
        return RandomMiner(index=index, per_anchor=per_anchor, seed=seed)
    votes = FalseNegativeGuard() if guard else None
    if name is MinerName.semi_hard:
        return SemiHardMiner(margin=margin, index=index, per_anchor=per_anchor, seed=seed, ranks=ranks, guard=votes)
    kind = HardMiner if name is MinerName.hard else FullHardMiner
    return kind(index=index, per_anchor=per_anchor, seed=seed, ranks=ranks, guard=votes)


def check_applied(files: list[Path], threshold_far: float | None, apply: Path | None, told: Path | None = None) -> None:
    """Refuse, before the work, a threshold that is tried on nothing, or one of several files."""
    if (threshold_far is None) != (apply is None):
        raise ValueError("--threshold-far and --apply go together: a rate, and the file that its threshold is tried on")
    if apply is not None and len(files) > 1:
        raise ValueError(f"--apply takes the threshold of one FILE, got {len(files)}")
    if apply is None and told is not None:
        raise ValueError("--apply-labels and --apply-groups are of the file that --apply names: name that, too")


def applied(
    report: VerificationReport, far: float | None, path: Path | None, read: Callable[[Path], EmbeddingFile]
) -> Decision | None:
    """What the threshold of a report does to another file, where one is named."""
    if path is None or far is None:
        return None
    rule, other = DecisionRule.fit(report, far=far), about(path, lambda: read(path))
    assert isinstance(report.pairs, PairsOfRows)
    rows = report.pairs.rows
    own, theirs = rows.embeddings.shape[1], other.embeddings.shape[-1:]
    if tuple(theirs) != (own,):
        raise ValueError(
            f"{path} has embeddings of shape {list(other.embeddings.shape)}, where FILE has {own} dimensions: a "
            "threshold is of one encoder"
        )
    if other.labels is None:
        raise ValueError(f"{path} has no labels: save them there as `labels`, or pass --apply-labels FILE")
    if rows.groups is not None and other.groups is None:
        raise ValueError(
            f"{path} has no groups, and pairs of one group count for nothing in FILE: save them there as `groups`, or "
            "pass --apply-groups FILE"
        )
    return about(path, lambda: rule.apply(other.embeddings, called(other), groups=other.groups))


def rates_of(fars: list[float] | None, also: float | None = None) -> tuple[float, ...]:
    """False accept rates, and one more, refused before the work."""
    if also is not None:
        if not 0 < also <= 1:
            raise ValueError(f"--threshold-far must lie in (0, 1], got {also}")
        fars = list(dict.fromkeys([*(fars or (1e-2, 1e-3, 1e-4)), also]))
    for far in fars or ():
        if not 0 < far <= 1:
            raise ValueError(f"--far must lie in (0, 1], got {far}")
    return tuple(fars or (1e-2, 1e-3, 1e-4))


def protocol_of(
    name: str,
    queries: Path | None = None,
    gallery: Path | None = None,
    episodes: int | None = None,
    within_group: bool = False,
    prototypes: bool = False,
    seed: int = 0,
) -> RetrievalProtocol:
    """The protocol of a name; options of another protocol are refused."""
    asked, searched = (None if path is None else ids_of(path) for path in (queries, gallery))
    shape = re.fullmatch(r"(\d+)-way-(\d+)-shot", name)
    if shape is None and (episodes is not None or within_group or prototypes):
        raise ValueError(
            "--episodes, --within-group and --prototypes belong to episodes: pass --protocol 20-way-1-shot"
        )
    if name not in ("re-identification", "fixed") and not (asked is None and searched is None):
        raise ValueError(f"--queries and --gallery belong to --protocol fixed or re-identification, got {name!r}")
    if shape is not None:
        return RetrievalProtocol.few_shot(
            ways=int(shape[1]),
            shots=int(shape[2]),
            episodes=1000 if episodes is None else episodes,
            within_group=within_group,
            prototypes=prototypes,
            seed=seed,
        )
    if name == "re-identification":
        return RetrievalProtocol.re_identification(queries=asked, gallery=searched)
    if name == "fixed":
        if asked is None or searched is None:
            raise ValueError("--protocol fixed needs both lists: pass --queries FILE and --gallery FILE")
        return RetrievalProtocol.fixed(asked, searched)
    if name == "single-gallery-shot":
        return RetrievalProtocol.single_gallery_shot(seed=seed)
    presets = {
        "leave-one-out": RetrievalProtocol.leave_one_out,
        "cross-session": RetrievalProtocol.cross_session,
        "cross-day": RetrievalProtocol.cross_day,
    }
    if name not in presets:
        known = ", ".join((*presets, "re-identification", "single-gallery-shot", "fixed"))
        raise ValueError(f"--protocol must be one of {known} or N-way-K-shot (20-way-1-shot), got {name!r}")
    return presets[name]()


def ids_of(path: Path) -> Tensor:
    """The ids that a file lists."""
    ids = read_arrays(path, ("ids",))["ids"]
    return about(path, lambda: as_ids(ids, ids.numel(), of="the file"))
