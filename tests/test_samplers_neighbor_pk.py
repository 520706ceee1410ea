"""NeighborPKSampler: every class a seed, neighbours really near, exact after a resume and over ranks."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from legolas_metric import EmbeddingBank, NeighborPKSampler, PKSampler


def bank_of(classes=12, size=7, d=6, seed=0, metric="cosine", groups=None):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(classes).repeat(size)) * 5
    rows = rng.normal(size=(classes, d))[labels // 5] + 0.3 * rng.normal(size=(len(labels), d))
    return EmbeddingBank(rows.astype(np.float32), labels, metric=metric, groups=groups)


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


def classes_of(bank, batch, p, k):
    drawn = bank.labels[torch.tensor(batch)].view(p, k)
    assert (drawn == drawn[:, :1]).all()
    assert len(set(batch)) == p * k
    assert len(set(drawn[:, 0].tolist())) == p
    return drawn[:, 0].tolist()


def nearest_by_hand(bank, label):
    """The other classes, nearest first, one pair at a time."""
    x, y = bank.embeddings.double().numpy(), bank.labels.numpy()
    means = {own: x[y == own].mean(0) for own in sorted(set(y.tolist()) - {-1})}

    def similarity(a, b):
        if bank.metric == "euclidean":
            return -np.sqrt(((a - b) ** 2).sum())
        length = np.linalg.norm(a) * np.linalg.norm(b) if bank.metric == "cosine" else 1.0
        return a @ b / length

    return sorted(set(means) - {label}, key=lambda other: -similarity(means[label], means[other]))


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("pool", [3, 5])
def test_a_batch_is_a_seed_and_classes_among_its_nearest(metric, pool):
    bank = bank_of(metric=metric)
    sampler = NeighborPKSampler(bank, 4, 2, pool=pool)
    assert len(sampler) == 12
    met = {}
    for epoch in range(4):
        seeds = []
        for batch in epoch_of(sampler, epoch):
            seed, *others = classes_of(bank, batch, 4, 2)
            assert set(others) <= set(nearest_by_hand(bank, seed)[:pool])
            met.setdefault(seed, set()).update(others)
            seeds.append(seed)
        assert sorted(seeds) == sorted(set(bank.labels.tolist()))
    assert max(len(others) for others in met.values()) == pool  # drawn anew, not the same three each time


@settings(deadline=None, max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=3, max_size=9),
    p=st.integers(2, 4),
    k=st.integers(2, 3),
    world_size=st.integers(1, 3),
    short=st.sampled_from(["skip", "repeat"]),
    seed=st.integers(0, 999),
)
def test_every_class_seeds_and_over_time_every_row_comes(sizes, p, k, world_size, short, seed):
    labels = np.random.default_rng(seed).permutation(np.arange(len(sizes)).repeat(sizes))
    bank = EmbeddingBank(np.random.default_rng(1).normal(size=(len(labels), 3)), labels)
    eligible = [c for c, size in enumerate(sizes) if size >= k or short == "repeat"]
    arguments = {"short": short, "seed": seed, "world_size": world_size}
    if len(eligible) < max(p, world_size):
        with pytest.raises(ValueError, match=r"needs? .*(classes|seeds)"):
            NeighborPKSampler(bank, p, k, **arguments)
        return
    ranks = [NeighborPKSampler(bank, p, k, **arguments, rank=rank) for rank in range(world_size)]
    assert ranks[0].left_out.tolist() == [c for c in range(len(sizes)) if c not in eligible]
    shown = Counter()
    for epoch in range(max(-(-sizes[c] // k) for c in eligible)):
        steps = list(zip(*(epoch_of(rank, epoch) for rank in ranks), strict=True))
        seeds = [labels[batch[0]] for step in steps for batch in step]
        assert len(steps) == -(-len(eligible) // world_size)
        assert set(seeds) == set(eligible)
        for step in steps:
            assert len({labels[batch[0]] for batch in step}) == world_size
            for batch in step:
                drawn = labels[np.array(batch)].reshape(p, k)
                assert (drawn == drawn[:, :1]).all()
                assert len(set(drawn[:, 0])) == p
                assert len(set(batch)) == p * k or short == "repeat"
                shown.update(batch[:k])
    assert set(shown) == {row for row, label in enumerate(labels) if label in eligible}


def test_ranks_take_turns_with_one_process():
    bank = bank_of()
    one = NeighborPKSampler(bank, 3, 2, seed=4)
    ranks = [NeighborPKSampler(bank, 3, 2, seed=4, rank=rank, world_size=3) for rank in range(3)]
    for epoch in range(2):
        steps = zip(*(epoch_of(rank, epoch) for rank in ranks), strict=True)
        assert [batch for step in steps for batch in step] == epoch_of(one, epoch)


def test_shorter_epochs_go_on_with_the_next_seeds():
    bank = bank_of()
    sampler = NeighborPKSampler(bank, 3, 2, batches_per_epoch=4)
    seeds = [int(bank.labels[batch[0]]) for epoch in range(3) for batch in epoch_of(sampler, epoch)]
    assert sorted(seeds) == sorted(set(bank.labels.tolist()))


def test_batches_are_harder_than_random_ones():
    bank = bank_of(classes=60, size=5)

    def hardest(batches):
        found = []
        for batch in batches:
            rows, labels = bank.embeddings[batch], bank.labels[batch]
            found.append((rows @ rows.T).masked_fill(labels[:, None] == labels, -1).amax(1).mean())
        return torch.stack(found).mean()

    assert hardest(NeighborPKSampler(bank, 6, 3)) > hardest(PKSampler(bank.labels, 6, 3)) + 0.1


def test_an_updated_bank_changes_the_next_epoch_and_refresh_this_one():
    bank = bank_of()
    sampler = NeighborPKSampler(bank, 4, 2, pool=3)
    zero, one = epoch_of(sampler, 0), epoch_of(sampler, 1)
    epoch_of(sampler, 0)
    bank.update(bank.ids, bank_of(seed=9).embeddings, step=1)
    assert list(sampler) == zero
    sampler.set_epoch(1)
    assert [classes_of(bank, b, 4, 2) for b in sampler] != [classes_of(bank, b, 4, 2) for b in one]
    before = epoch_of(sampler, 0)
    assert before != zero
    other = bank_of(seed=3)
    other = EmbeddingBank(other.embeddings, bank.labels)
    sampler.refresh(other)
    assert list(sampler) == epoch_of(NeighborPKSampler(other, 4, 2, pool=3), 0) != before
    with pytest.raises(ValueError, match="the bank has other labels than the one the sampler was made with"):
        sampler.refresh(EmbeddingBank(other.embeddings, bank.labels.flip(0)))
    with pytest.raises(ValueError, match="the bank has other ids than the one"):
        sampler.refresh(EmbeddingBank(other.embeddings, bank.labels, ids=bank.ids.flip(0)))


def test_refresh_keeps_the_groups():
    groups = torch.arange(84) % 4
    bank = bank_of(groups=groups)
    sampler = NeighborPKSampler(bank, 4, 2, distinct_groups=True)
    for other in (torch.zeros(84, dtype=torch.int64), None):
        with pytest.raises(ValueError, match="the bank has other groups than the one"):
            sampler.refresh(EmbeddingBank(bank.embeddings, bank.labels, groups=other))
    NeighborPKSampler(bank, 4, 2).refresh(EmbeddingBank(bank.embeddings, bank.labels))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_epoch_is_exact_though_the_bank_moved_on(num_workers):
    bank = bank_of()
    sampler = NeighborPKSampler(bank, 4, 2, seed=1)
    sampler.set_epoch(2)
    data = TensorDataset(torch.arange(len(bank)))
    batches = iter(DataLoader(data, batch_sampler=sampler, num_workers=num_workers))
    for _ in range(5):
        next(batches)
    state = copy.deepcopy(sampler.state_dict(consumed=5))
    rest = [rows.tolist() for (rows,) in batches]

    bank.update(bank.ids, bank_of(seed=9).embeddings, step=1)
    resumed = NeighborPKSampler(bank, 4, 2, seed=1)
    resumed.load_state_dict(state)
    resumed.set_epoch(2)
    assert [rows.tolist() for (rows,) in DataLoader(data, batch_sampler=resumed, num_workers=num_workers)] == rest
    assert epoch_of(resumed, 3) == epoch_of(NeighborPKSampler(bank, 4, 2, seed=1), 3)


def test_the_state_of_a_finished_epoch_leaves_the_next_to_the_bank():
    bank = bank_of()
    sampler = NeighborPKSampler(bank, 4, 2)
    list(sampler)
    state = sampler.state_dict()
    bank.update(bank.ids, bank_of(seed=9).embeddings, step=1)
    resumed = NeighborPKSampler(bank, 4, 2)
    resumed.load_state_dict(state)
    assert resumed.epoch == 1
    assert list(resumed) == epoch_of(NeighborPKSampler(bank, 4, 2), 1)


def test_groups_of_the_bank():
    groups = np.random.default_rng(2).integers(0, 4, 84)
    bank = bank_of(groups=groups)
    sampler = NeighborPKSampler(bank, 4, 3, distinct_groups=True)
    own = {label: len(set(groups[bank.labels.numpy() == label].tolist())) for label in set(bank.labels.tolist())}
    assert sampler.few_groups.tolist() == sorted(label for label, count in own.items() if count < 3)
    for batch in sampler:
        for label, block in zip(classes_of(bank, batch, 4, 3), torch.tensor(batch).view(4, 3)):
            assert len(set(groups[block].tolist())) == min(3, own[label])


def test_unlabelled_rows_and_classes_that_cancel_out():
    # Class 0 is a pair of opposite rows: its centroid has no direction, and it is no nearer to one class than another.
    rows = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, 1], [1, 1], [1, 1], [0, -1]])
    bank = EmbeddingBank(rows, [0, 0, 1, 1, 2, 2, -1])
    for batch in NeighborPKSampler(bank, 2, 2):
        assert 6 not in batch
        classes_of(bank, batch, 2, 2)


def test_no_global_random_state_is_read_or_changed():
    state = torch.get_rng_state()
    first = list(NeighborPKSampler(bank_of(), 3, 2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert list(NeighborPKSampler(bank_of(), 3, 2)) == first
    assert list(NeighborPKSampler(bank_of(), 3, 2, seed=1)) != first


def test_lengths_follow_the_ranks():
    sampler = NeighborPKSampler(bank_of(), 3, 2, world_size=5, rank=4)
    assert len(sampler) == 3
    assert "12 classes, p=3, k=2, pool=4, 3 batches an epoch, 0 classes left out, rank 4 of 5" in repr(sampler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1}, "p must be at least 2, got 1: a batch of one class"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 1}, "k must be at least 2, got 1"),
        ({"p": 13}, r"p=13 needs 13 classes of at least k=2 examples, got 12: lower p$"),
        ({"k": 8}, r"p=3 needs 3 classes of at least k=8 examples, got 0; 12 classes have fewer"),
        ({"pool": 1}, r"pool must lie in 2..11: p - 1 to the number of other classes, got 1"),
        ({"pool": 12}, "pool must lie in 2..11"),
        ({"batches_per_epoch": 0}, "batches_per_epoch must be at least 1"),
        ({"distinct_groups": True}, "distinct_groups=True compares groups: make the bank with groups"),
        ({"world_size": 13}, "world_size=13 ranks need as many seeds, got 12 classes: use fewer ranks"),
        ({"rank": 1}, r"rank must lie in 0..0 for world_size=1, got 1"),
    ],
)
def test_bad_input(arguments, message):
    settings = {"p": 3, "k": 2} | arguments
    with pytest.raises(ValueError, match=message):
        NeighborPKSampler(bank_of(), settings.pop("p"), settings.pop("k"), **settings)


def test_only_a_bank_is_taken():
    with pytest.raises(TypeError, match="bank must be an EmbeddingBank, got Tensor"):
        NeighborPKSampler.__init__.__wrapped__(
            NeighborPKSampler.__new__(NeighborPKSampler), torch.randn(24, 3), p=3, k=2
        )


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
@pytest.mark.parametrize("size", [1e18, 3e-25])  # a bank refuses what would overflow
def test_rows_of_any_finite_size_are_planned_as_those_of_usual_size(metric, size):
    usual = bank_of(metric=metric)
    scale = 2.0 ** round(np.log2(size))
    other = EmbeddingBank(usual.embeddings * scale, usual.labels, metric=metric)
    assert list(NeighborPKSampler(other, 3, 2)) == list(NeighborPKSampler(usual, 3, 2))
