"""What miners refuse, and in which words."""

import math
import subprocess
import sys

import pytest
import torch
from test_miners_global import MINERS, make_bank, rows_of

from legolas_metric import EmbeddingBank, ExactIndex, HardMiner, SemiHardMiner


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
    done = subprocess.run([sys.executable, "-c", WORDS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "index must be 'auto' or an index such as ExactIndex(), got 'flat'",
        "on_empty must be one of 'skip', 'hardest', 'raise', got 'ignore'",
        "positive must be one of 'random', 'nearest', 'farthest', 'all', got 'any'",
    ]


def test_repr_names_the_settings():
    assert repr(SemiHardMiner(margin=0.3, seed=2)) == "SemiHardMiner(margin=0.3, seed=2)"
    assert repr(HardMiner()) == "HardMiner()"
