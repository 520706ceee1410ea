"""NeighborPKSampler(hard=): a class shows what lies nearest to the batch's others, also after a resume."""

import copy
from collections import defaultdict

import numpy as np
import pytest
import torch

from legolas_metric import EmbeddingBank, NeighborPKSampler


def bank_of(metric="cosine", groups=None, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(9).repeat([4, 5, 6, 7, 8, 9, 10, 11, 12])) * 3
    rows = rng.normal(size=(9, 4))[labels // 3] + 0.6 * rng.normal(size=(len(labels), 4))
    return EmbeddingBank((scale * rows).astype(np.float32), labels, metric=metric, groups=groups)


def similarity(x, y, metric):
    if metric == "euclidean":
        return -np.sqrt(((x - y) ** 2).sum())
    return x @ y / (np.linalg.norm(x) * np.linalg.norm(y) if metric == "cosine" else 1.0)


def hardest_by_hand(bank, classes, own, share, k):
    """The rows of a class that may stand beside these classes: one row and one class at a time."""
    x, y = bank.embeddings.double().numpy(), bank.labels.numpy()
    means = {c: x[y == c].mean(0) for c in classes}
    groups = np.zeros(len(y), int) if bank.groups is None else bank.groups.numpy()
    kept = []
    for group in sorted(set(groups[y == own].tolist())):
        gaps = []
        for row in np.flatnonzero((y == own) & (groups == group)):
            others = [similarity(x[row], means[c], bank.metric) for c in classes if c != own]
            gaps.append((max(others) - similarity(x[row], means[own], bank.metric), row))
        least = -(-k // len(set(groups[y == own].tolist())))
        count = max(int(np.ceil(share * len(gaps))), least)
        kept += [int(row) for _, row in sorted(gaps, reverse=True)[:count]]
    return kept


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("grouped", [False, True])
def test_rows_are_among_the_hardest_of_their_class(metric, grouped):
    groups = np.random.default_rng(5).integers(0, 3, 72) if grouped else None
    bank = bank_of(metric, groups)
    sampler = NeighborPKSampler(bank, 4, 3, pool=5, hard=0.4, distinct_groups=grouped, seed=2)
    came, could = defaultdict(set), defaultdict(set)
    for epoch in range(12):
        sampler.set_epoch(epoch)
        for batch in sampler:
            blocks = torch.tensor(batch).view(4, 3)
            classes = bank.labels[blocks[:, 0]].tolist()
            for own, block in zip(classes, blocks.tolist()):
                allowed = hardest_by_hand(bank, classes, own, 0.4, 3)
                assert len(set(block)) == 3
                assert set(block) <= set(allowed)
                place = (own, *sorted(classes))
                came[place] |= set(block)
                could[place] |= set(allowed)
                if groups is not None:
                    several = len(set(groups[bank.labels.numpy() == own].tolist()))
                    assert len(set(groups[block].tolist())) == min(3, several)
    assert sum(came[place] == could[place] for place in came) > len(came) / 4


def test_classes_are_those_of_the_sampler_without():
    bank = bank_of()
    plain, hard = NeighborPKSampler(bank, 4, 3, seed=1), NeighborPKSampler(bank, 4, 3, hard=0.5, seed=1)
    assert [bank.labels[b].tolist() for b in plain] == [bank.labels[b].tolist() for b in hard]


def test_all_rows_come_with_a_share_of_one_and_hard_ones_alone_with_less():
    bank = bank_of()

    def rows_seen(share):
        sampler = NeighborPKSampler(bank, 3, 2, hard=share, seed=1)
        found = set()
        for epoch in range(40):
            sampler.set_epoch(epoch)
            found.update(row for batch in sampler for row in batch)
        return found

    assert len(rows_seen(1)) == 72
    assert len(rows_seen(0.2)) < 60


def test_ranks_take_turns_and_a_resume_is_exact_though_the_bank_moved_on():
    bank = bank_of()
    one = NeighborPKSampler(bank, 3, 3, hard=0.5, seed=4)
    ranks = [NeighborPKSampler(bank, 3, 3, hard=0.5, seed=4, rank=rank, world_size=3) for rank in range(3)]
    whole = list(one)
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == whole
    state = copy.deepcopy(one.state_dict(consumed=5))
    bank.update(bank.ids, bank_of(seed=9).embeddings, step=1)
    resumed = NeighborPKSampler(bank, 3, 3, hard=0.5, seed=4)
    resumed.load_state_dict(state)
    assert list(resumed) == whole[5:]
    assert list(NeighborPKSampler(bank, 3, 3, hard=0.5, seed=4)) != whole
    with pytest.raises(ValueError, match=r"of another sampler: .*hard \(saved 0.5, here 0.25\)"):
        NeighborPKSampler(bank, 3, 3, hard=0.25, seed=4).load_state_dict(state)


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
@pytest.mark.parametrize("exponent", [60, -80])
def test_rows_of_any_size_are_as_hard(metric, exponent):
    plans = [list(NeighborPKSampler(bank_of(metric, scale=scale), 3, 3, hard=0.5)) for scale in (1.0, 2.0**exponent)]
    assert plans[0] == plans[1]


def test_small_classes_repeat_their_rows():
    bank = EmbeddingBank(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), [0, 0, 1, 1, 2, 3, 3, 3])
    for batch in NeighborPKSampler(bank, 3, 4, hard=0.5, short="repeat"):
        for block in torch.tensor(batch).view(3, 4):
            own = bank.labels[block].unique()
            assert len(own) == 1
            assert len(block.unique()) == min(4, int((bank.labels == own).sum()))


@pytest.mark.parametrize("share", [0, 1.5, -0.1])
def test_a_share_out_of_bounds_is_refused(share):
    with pytest.raises(ValueError, match=r"hard must lie in \(0, 1\], the share of a class's examples"):
        NeighborPKSampler(bank_of(), 3, 2, hard=share)
