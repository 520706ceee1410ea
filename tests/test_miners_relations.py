"""What is positive and what is negative: relations of labels, groups, hierarchies and several labels at once."""

import pickle

import pytest
import torch
from test_miners_global import Oracle, answerable, make_bank, rows_of
from test_miners_options import GROUPED

from legolas_metric import (
    EmbeddingBank,
    ExactIndex,
    FullHardMiner,
    HardMiner,
    LabelRelation,
    RandomMiner,
    SemiHardMiner,
)


@pytest.mark.parametrize("scope", ["bank", "batch"])
@pytest.mark.parametrize("positive", ["random", "nearest", "farthest", "all"])
def test_positives_from_other_groups_only(scope, positive):
    bank = make_bank(n=70)
    oracle = Oracle(bank)
    miner = HardMiner(positive=positive, relation=GROUPED, index=ExactIndex())
    if scope == "bank":
        triplets = miner.mine(bank)
        found = rows_of(triplets)
        lacking = [
            a
            for a in bank.ids.tolist()
            if oracle.label[a] != -1 and all(oracle.group[p] == oracle.group[a] for p in oracle.positives(a))
        ]
        assert triplets.stats.no_positive == len(lacking) > 0
    else:
        names = bank.ids[torch.stack(miner(bank.embeddings, bank.labels, groups=bank.groups))]
        found = list(zip(*names.tolist()))
    chosen = {}
    for a, p, n in found:
        chosen.setdefault(a, []).append(p)
        assert n == oracle.negatives(a)[0]
    for a, got in chosen.items():
        across = [p for p in oracle.positives(a) if oracle.group[p] != oracle.group[a]]
        expected = {
            "random": got if set(got) <= set(across) else [],
            "nearest": [min(across, key=lambda p, a=a: (-oracle.s[a, p], p))],
            "farthest": [min(across, key=lambda p, a=a: (oracle.s[a, p], p))],
            "all": across,
        }[positive]
        assert sorted(got) == sorted(expected)


def test_negatives_of_the_same_group_only():
    bank = make_bank(n=70)
    oracle = Oracle(bank)
    relation = LabelRelation(negative_group="same")
    triplets = FullHardMiner(relation=relation).mine(bank)
    expected = []
    for a in answerable(bank, oracle):
        near = [n for n in oracle.negatives(a) if oracle.group[n] == oracle.group[a]]
        expected += [(a, oracle.farthest_positive(a), near[0])] if near else []
    assert rows_of(triplets) == expected
    assert triplets.stats.engine == "dense"


def test_a_relation_that_is_label_equality_changes_nothing():
    bank = make_bank()
    equal = LabelRelation(lambda a, b: 2 * (a[:, None] == b).to(torch.int8) - 1)
    for make in (FullHardMiner, SemiHardMiner, RandomMiner):
        plain, related = make(index=ExactIndex()).mine(bank), make(relation=equal).mine(bank)
        if make is not RandomMiner:
            assert rows_of(plain) == rows_of(related) or make is SemiHardMiner
        assert related.stats.no_positive == plain.stats.no_positive
    every = [SemiHardMiner(positive="all", **kw).mine(bank) for kw in ({"index": ExactIndex()}, {"relation": equal})]
    assert sorted(rows_of(every[0])) == sorted(rows_of(every[1]))


@pytest.mark.parametrize(
    "relation",
    [
        LabelRelation.hierarchy([[0, 10], [1, 10], [2, 11]]),
        LabelRelation.multi_label([[1, 1, 0], [1, 0, 0], [0, 0, 1]]),
        LabelRelation(positive_group="other", negative_group="same"),
    ],
)
def test_relations_can_be_sent_to_workers(relation):
    bank = EmbeddingBank(torch.eye(6), [0, 1, 2, 0, 1, 2], groups=[0, 0, 0, 1, 1, 0])
    sent = pickle.loads(pickle.dumps(relation))
    expected = rows_of(FullHardMiner(relation=relation).mine(bank))
    assert rows_of(FullHardMiner(relation=sent).mine(bank)) == expected != []


def test_a_hierarchy_ignores_siblings():
    # Species 0, 1 of genus 10; species 2, 3 of genus 11.
    relation = LabelRelation.hierarchy([[0, 10], [1, 10], [2, 11], [3, 11]])
    bank = make_bank(n=60, classes=4)
    bank = EmbeddingBank(bank.embeddings, torch.arange(60) % 4, ids=bank.ids)
    oracle = Oracle(bank)
    for a, p, n in rows_of(FullHardMiner(relation=relation).mine(bank)):
        assert oracle.label[p] == oracle.label[a]
        other_genus = [j for j in oracle.negatives(a) if oracle.label[j] // 2 != oracle.label[a] // 2]
        assert n == other_genus[0]


def test_several_labels_at_once():
    tags = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    relation = LabelRelation.multi_label(tags, positive=0.5, negative=0.0)
    overlap = {(0, 1): 2 / 3, (0, 2): 0, (0, 3): 0, (1, 2): 1 / 3, (1, 3): 1 / 4, (2, 3): 1 / 2}
    bank = EmbeddingBank(torch.randn(5, 3), [0, 1, 2, 3, 4])
    code = relation.compare(bank.labels, bank.labels)
    for (i, j), value in overlap.items():
        assert code[i, j] == code[j, i] == (1 if value >= 0.5 else -1 if value == 0 else 0)
    triplets = HardMiner(positive="all", relation=relation, per_anchor=5).mine(bank)
    assert {(a, p) for a, p, _ in rows_of(triplets)} == {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert {(a, n) for a, _, n in rows_of(triplets)} == {(0, 2), (0, 3), (0, 4), (1, 4), (2, 0), (2, 4), (3, 0), (3, 4)}
    assert triplets.stats.no_positive == 1
