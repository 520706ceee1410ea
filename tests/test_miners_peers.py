"""Defects that other libraries' miners had or have, each held to be absent here."""

import pytest
import torch
from test_miners_global import Oracle, make_bank, rows_of

from legolas_metric import (
    EmbeddingBank,
    ExactIndex,
    FullHardMiner,
    HardMiner,
    MultiSimilarityMiner,
    RandomMiner,
    SemiHardMiner,
)

EVERY = [
    RandomMiner(),
    SemiHardMiner(),
    SemiHardMiner(positive="all"),
    HardMiner(per_anchor=2),
    FullHardMiner(),
]


@pytest.mark.parametrize("miner", EVERY, ids=repr)
def test_labels_above_two_to_the_24_do_not_collide(miner):
    # pytorch-metric-learning's memory queue keeps labels in float32, where these two are one.
    labels = torch.tensor([2**24, 2**24, 2**24 + 1, 2**24 + 1, 2**62, 2**62])
    embeddings = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    a, p, n = miner(embeddings, labels)
    assert (labels[a] == labels[p]).all()
    assert (labels[a] != labels[n]).all()
    for a, p, n in rows_of(miner.mine(EmbeddingBank(embeddings, labels))):
        assert labels[a] == labels[p] != labels[n]


def test_pairs_of_labels_above_two_to_the_24_do_not_collide():
    labels = torch.tensor([2**24, 2**24, 2**24 + 1, 2**24 + 1])
    a1, p, a2, n = MultiSimilarityMiner(epsilon=2.0)(torch.randn(4, 3), labels)
    assert list(zip(a1.tolist(), p.tolist())) == [(0, 1), (1, 0), (2, 3), (3, 2)]
    assert list(zip(a2.tolist(), n.tolist())) == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 0), (2, 1), (3, 0), (3, 1)]


@pytest.mark.parametrize("miner", EVERY, ids=repr)
def test_positive_and_negative_belong_to_the_same_anchor(miner):
    # Quaterion's semi-hard selection paired distances of different anchors; PML#476 returned positives of other labels.
    bank = make_bank(n=80)
    oracle = Oracle(bank)
    triplets = miner.mine(bank)
    s_ap = oracle.reported([(a, p) for a, p, _ in rows_of(triplets)])
    s_an = oracle.reported([(a, n) for a, _, n in rows_of(triplets)])
    assert triplets.s_ap.tolist() == s_ap
    assert triplets.s_an.tolist() == s_an
    assert all(oracle.label[a] == oracle.label[p] != oracle.label[n] for a, p, n in rows_of(triplets))
    if isinstance(miner, SemiHardMiner):
        assert all(ap > an for ap, an in zip(s_ap, s_an))


def test_thresholds_stay_with_their_pair_when_positives_vary():
    # sentence-transformers' margin was misaligned where queries have different numbers of positives.
    bank = make_bank(n=60, classes=5)
    oracle = Oracle(bank)
    sizes = {len(oracle.positives(a)) for a in oracle.label if oracle.label[a] != -1}
    assert len(sizes) > 3
    triplets = SemiHardMiner(positive="all", margin=0.1, index=ExactIndex()).mine(bank)
    assert all(n == oracle.inside(a, p, 0.1)[0] for a, p, n in rows_of(triplets))


def test_duplicates_of_an_anchor_stay_positives():
    # The official multi-similarity code drops positives with s >= 1 - 1e-5, and itself by the same rule.
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1], [1.0, 0.01]])
    labels = torch.tensor([0, 0, 0, 1])
    a1, p, _, _ = MultiSimilarityMiner()(embeddings, labels)
    assert (0, 1) in set(zip(a1.tolist(), p.tolist()))
    assert (a1 != p).all()
    a, p, _ = FullHardMiner()(embeddings[[0, 1, 3]], labels[[0, 1, 3]])
    assert list(zip(a.tolist(), p.tolist())) == [(0, 1), (1, 0)]


def test_an_anchor_in_a_shuffled_bank_is_never_its_own_positive():
    # Self by object identity or by column fails as soon as anchors are searched in a bank in another order.
    bank = make_bank()
    shuffled = torch.randperm(len(bank))
    other = EmbeddingBank(bank.embeddings[shuffled], bank.labels[shuffled], ids=bank.ids[shuffled])
    names = bank.ids[bank.labels != -1]
    for miner in EVERY:
        triplets = miner.mine(other, anchors=names)
        assert (triplets.anchor != triplets.positive).all()
    assert set(rows_of(FullHardMiner().mine(other))) == set(rows_of(FullHardMiner().mine(bank)))


def test_two_large_classes_do_not_enumerate_triplets():
    # PML#688, #645: all triplets of two classes of 1,500 would be 6.7e9.
    g = torch.Generator().manual_seed(0)
    embeddings, labels = torch.randn(3000, 4, generator=g), torch.arange(3000) % 2
    for miner in (FullHardMiner(), SemiHardMiner(), HardMiner(positive="nearest")):
        assert len(miner(embeddings, labels)[0]) <= 3000
