"""The path on a pretended card (`pretended_card`): every case of `device_cases`, in one process of its own."""

import json
import math
from pathlib import Path

import pytest
import torch
from card_program import compared
from device_cases import CASES, COUNTED, REFUSED
from processes import python


@pytest.fixture(scope="module")
def told():
    lines = python(Path(__file__).with_name("card_program.py"), check=True).stdout.splitlines()
    return {line["name"]: line for line in map(json.loads, lines)}


@pytest.mark.parametrize("name", CASES)
def test_a_card_gives_what_the_host_gives(told, name):
    assert told[name]["error"] is None
    assert told[name]["difference"] <= 1e-6


@pytest.mark.parametrize("there", [math.nan, math.inf, -math.inf, 1.1])
def test_what_a_card_gives_otherwise_is_told(there):
    same = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    assert compared([same], [same]) == 0
    assert compared([torch.ones(1)], [torch.tensor([there])]) > 0.09
    assert compared([torch.tensor([there])], [torch.ones(1)]) > 0.09


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_card_refuses_is_refused(told, name):
    assert told[name]["error"] is not None


@pytest.mark.parametrize("name", COUNTED)
def test_what_a_card_waits_for_is_counted(told, name):
    assert waits(told[name]) == 1


def waits(line):
    return line["crossed"].get("read", 0) + line["crossed"].get("long as its values say", 0)


WAITS = {  # of a call on 240 rows: numbers that are read, and results as long as their values say
    "SupConLoss": 5,
    "MultiSimilarityLoss": 5,
    "TripletLoss": 4,
    "HardMiner()": 11,
    "SemiHardMiner()": 14,
    "join cosine negative": 10,
    "search of several blocks": 6 * 48 + 26,  # blocks of 30 of 1,440 rows
}


@pytest.mark.parametrize("name", WAITS)
def test_a_card_seldom_waits(told, name):
    assert waits(told[name]) <= WAITS[name]


def test_a_loss_sends_nothing_but_its_arguments(told):
    assert [told[f"{loss}Loss"]["crossed"]["sent"] for loss in ("SupCon", "MultiSimilarity", "Triplet")] == [2, 2, 2]
