"""What miners refuse, and in which words."""

import math

import pytest
import torch
from processes import python
from test_miners_global import MINERS, make_bank, rows_of

from legolas_metric import (
    DistanceWeightedMiner,
    EmbeddingBank,
    ExactIndex,
    FullHardMiner,
    HardMiner,
    MultiSimilarityMiner,
    RandomMiner,
    SemiHardMiner,
)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-1, -1, -1], r"all 3 rows are unlabelled \(-1\)"),
        ([5, 5, 5], "no negatives: all 3 rows have the label 5. Miners need two classes"),
        ([0, 1, 2], "no positives: each of 3 classes has one row. Miners need a class of two rows"),
        ([0, 1, -1], "no positives: each of 2 classes has one row"),
    ],
)
@pytest.mark.parametrize("name", MINERS)
def test_labels_without_any_triplet_are_refused(name, labels, message):
    with pytest.raises(ValueError, match=message):
        MINERS[name]().mine(EmbeddingBank(torch.eye(3), labels))


def test_a_single_class_with_distractors_can_be_mined():
    triplets = HardMiner().mine(EmbeddingBank(torch.eye(3), [5, 5, -1]))
    assert rows_of(triplets) == [(0, 1, 2), (1, 0, 2)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: SemiHardMiner(margin=-0.1), ValueError, "margin must be at least 0, got -0.1"),
        (lambda: SemiHardMiner(margin=math.nan), ValueError, "margin must be at least 0, got nan"),
        (lambda: HardMiner(per_anchor=0), ValueError, "per_anchor must be at least 1, got 0"),
        (lambda: HardMiner(seed=-1), ValueError, "seed must be at least 0, got -1"),
        (
            lambda: HardMiner(index=ExactIndex(metric="dot")).mine(make_bank()),
            ValueError,
            "the index has metric='dot', the bank 'cosine': give both the same metric",
        ),
        (
            lambda: HardMiner().mine(EmbeddingBank(torch.eye(3), [0, 0, -1]), anchors=[0, 2]),
            ValueError,
            r"1 of 2 anchors are unlabelled \(first: \[2\]\): rows with label -1 are never anchors",
        ),
        (
            lambda: HardMiner().mine(EmbeddingBank(torch.eye(3), [0, 0, 1]), anchors=[0, 7]),
            ValueError,
            r"1 ids are not in the bank \(first: \[7\]\)",
        ),
        (lambda: HardMiner().mine(make_bank(), anchors=[0.5]), TypeError, "anchors must be integers"),
    ],
)
def test_bad_settings_and_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


WORDS = """
from legolas_metric import HardMiner, SemiHardMiner
calls = lambda: HardMiner(index="flat"), lambda: HardMiner(on_empty="ignore"), lambda: SemiHardMiner(positive="any")
for call in calls:
    try:
        call()
    except ValueError as error:
        print(error)
"""


def test_unknown_words_are_refused():
    # In a process of its own: the type checks of the test session would refuse them first.
    done = python("-c", WORDS, check=True)
    assert done.stdout.splitlines() == [
        "index must be 'auto' or an index such as ExactIndex(), got 'flat'",
        "on_empty must be one of 'skip', 'hardest', 'raise', got 'ignore'",
        "positive must be one of 'random', 'nearest', 'farthest', 'all', got 'any'",
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SemiHardMiner(distance=1), "SemiHardMiner has no argument 'distance': the metric is the index's"),
        (lambda: HardMiner(type_of_triplets="all"), "no argument 'type_of_triplets': the class says it"),
        (lambda: HardMiner(margin=0.2), "HardMiner has no argument 'margin': nothing would read it"),
        (lambda: RandomMiner(margin=0.2), "RandomMiner has no argument 'margin'"),
        (lambda: FullHardMiner(margin=0.2), "FullHardMiner has no argument 'margin'"),
        (lambda: DistanceWeightedMiner(margin=0.2), "DistanceWeightedMiner has no argument 'margin'"),
        (lambda: MultiSimilarityMiner(distance=1), "MultiSimilarityMiner has no argument 'distance'"),
        (lambda: HardMiner(number=3), "HardMiner has no argument 'number': it has index, per_anchor"),
    ],
)
def test_arguments_of_other_libraries_are_answered(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_margin_and_epsilon_work_by_position():
    assert SemiHardMiner(0.35).strategy.margin == 0.35
    assert MultiSimilarityMiner(0.35).epsilon == 0.35
    assert SemiHardMiner(math.inf).strategy.margin == math.inf
    with pytest.raises(TypeError):
        HardMiner(0.2)


TYPES = """
import torch
from legolas_metric import *
x, y = torch.randn(20, 4), torch.arange(20) // 4
bank = EmbeddingBank(x, y)
plain = EmbeddingBank(x, y, metric="dot")
calls = (
    lambda: HardMiner(per_anchor=2.5), lambda: HardMiner(ranks=(1.5, 3)), lambda: HardMiner(ranks=3),
    lambda: HardMiner().mine(x, y), lambda: MultiSimilarityMiner().mine(x), lambda: MiningSchedule(3),
    lambda: MiningSchedule([HardMiner()]), lambda: HardMiner().mine(bank, y == 0), lambda: HardMiner(seed=0.5),
    lambda: HardMiner(guard=True), lambda: HardMiner(relation="label"), lambda: HardMiner(index=ExactIndex),
    lambda: SemiHardMiner("wide"), lambda: HardMiner(mix=float("nan")), lambda: MultiSimilarityMiner(float("nan")),
    lambda: DistanceWeightedMiner(cutoff=float("nan")), lambda: DistanceWeightedMiner().mine(plain),
    lambda: FalseNegativeGuard(absolute=float("inf")), lambda: FalseNegativeGuard(neighbours=2.5),
    lambda: HardMiner(max_staleness=1.5), lambda: HardMiner().mine(bank, step=0.5),
)
for call in calls:
    try:
        print("accepted", call())
    except (TypeError, ValueError) as error:
        print(type(error).__name__, error)
"""

SAID = [
    "TypeError per_anchor must be an integer, got 2.5", "TypeError ranks must be an integer, got 1.5",
    "TypeError ranks must be (first, last)",
    "TypeError mine() takes an EmbeddingBank or a StoredBank as bank, got Tensor",
    "TypeError mine() takes an EmbeddingBank or a StoredBank as bank, got Tensor",
    "TypeError schedule must be a sequence of",
    "TypeError a stage of a schedule is (first epoch, miner), got HardMiner()",
    "TypeError anchors must be integers, got a mask of booleans", "TypeError seed must be an integer, got 0.5",
    "TypeError guard must be a FalseNegativeGuard, got True",
    "TypeError relation must be a LabelRelation, got 'label'",
    "TypeError index must be 'auto' or an index such as ExactIndex(), got <class", "TypeError margin must be a number",
    "ValueError mix must be a finite number, at least 0 and at most 1, got nan",
    "ValueError epsilon must be at least 0, got nan", "ValueError cutoff must be a finite number, above 0, got nan",
    "ValueError distances are weighted on the sphere: the bank's metric must be 'cosine', got 'dot'",
    "ValueError absolute must be a finite number, got inf", "TypeError neighbours must be an integer, got 2.5",
    "TypeError max_staleness must be an integer, got 1.5", "TypeError step must be an integer, got 0.5",
]  # fmt: skip


def test_arguments_of_the_wrong_type_get_one_sentence():
    # In a process of its own: the type checks of the test session would refuse them first.
    done = python("-c", TYPES, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(SAID)
    for line, said in zip(lines, SAID):
        assert line.startswith(said)


def test_repr_names_the_settings():
    assert repr(SemiHardMiner(margin=0.3, seed=2)) == "SemiHardMiner(margin=0.3, seed=2)"
    assert repr(HardMiner()) == "HardMiner()"
