"""The published formulas, by hand and by slow loops over every anchor."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_ways import WAYS

from legolas_metric.losses import MultiSimilarityLoss, SupConLoss, TripletLoss


def unit(x):
    return x / np.sqrt((x**2).sum(1, keepdims=True))


def related(y, z, ids, ref_ids):
    """Positives and negatives of each labelled anchor, as lists of columns."""
    for i, label in enumerate(y):
        if label != -1:
            others = [j for j in range(len(z)) if ref_ids[j] != ids[i]]
            yield i, [j for j in others if z[j] == label], [j for j in others if z[j] != label]


def supcon(s, y, z, w, ids, ref_ids, *, form, temperature=0.1):
    total = count = 0.0
    for i, pos, neg in related(y, z, ids, ref_ids):
        if pos:
            whole = sum(math.exp(s[i, a] / temperature) for a in pos + neg)
            shares = [math.exp(s[i, p] / temperature) / whole for p in pos]
            mean = sum(math.log(q) for q in shares) / len(pos) if form == "out" else math.log(sum(shares) / len(pos))
            total, count = total - w[i] * mean, count + w[i]
    return total / count if count else 0.0


def multi_similarity(s, y, z, w, ids, ref_ids, *, mining, alpha=2, beta=50, base=0.5):
    total = count = 0.0
    for i, pos, neg in related(y, z, ids, ref_ids):
        if mining is not None:
            least, most = min((s[i, p] for p in pos), default=math.inf), max((s[i, n] for n in neg), default=-math.inf)
            pos = [p for p in pos if s[i, p] - mining < most]
            neg = [n for n in neg if s[i, n] + mining > least]
        value = math.log(1 + sum(math.exp(-alpha * (s[i, p] - base)) for p in pos)) / alpha
        value += math.log(1 + sum(math.exp(beta * (s[i, n] - base)) for n in neg)) / beta
        total, count = total + w[i] * value, count + w[i]
    return total / count if count else 0.0


def triplet(s, y, z, w, ids, ref_ids, *, selection, soft, margin=0.5):
    d = np.sqrt(np.maximum(2 - 2 * s, 0))
    total = count = 0.0
    for i, pos, neg in related(y, z, ids, ref_ids):
        if selection == "all":
            chosen = [(p, n) for p in pos for n in neg]
        elif selection == "hard":
            chosen = [(max(pos, key=lambda p: d[i, p]), min(neg, key=lambda n: d[i, n]))] if pos and neg else []
        else:
            inside = [(p, [n for n in neg if d[i, p] < d[i, n] < d[i, p] + margin]) for p in pos]
            chosen = [(p, min(window, key=lambda n: d[i, n])) for p, window in inside if window]
        for p, n in chosen:
            u = d[i, p] - d[i, n]
            value = math.log1p(math.exp(u)) if soft else max(0.0, u + margin)
            total, count = total + w[i] * value, count + w[i] * (value > 0)
    return total / count if count else 0.0


CASES = {
    "out": (SupConLoss, {"form": "out"}, supcon, {"form": "out"}),
    "in": (SupConLoss, {"form": "in"}, supcon, {"form": "in"}),
    "in, cold": (SupConLoss, {"temperature": 0.02, "form": "in"}, supcon, {"form": "in", "temperature": 0.02}),
    "multi-similarity": (MultiSimilarityLoss, {}, multi_similarity, {"mining": None}),
    "mining": (MultiSimilarityLoss, {"mining": 0.1}, multi_similarity, {"mining": 0.1}),
} | {
    f"{selection}{', soft' * soft}": (
        TripletLoss,
        {"margin": 0.5, "selection": selection, "soft": soft},
        triplet,
        {"selection": selection, "soft": soft},
    )
    for selection in ("all", "hard", "semihard")
    for soft in (False, True)
}


@pytest.mark.parametrize("name", CASES)
@given(
    labels=st.lists(st.integers(-1, 4), min_size=1, max_size=16),
    ref_labels=st.lists(st.integers(-1, 4), min_size=1, max_size=20) | st.none(),
    with_ids=st.booleans(),
    way=st.sampled_from(tuple(WAYS)),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=40)
def test_against_loops(name, labels, ref_labels, with_ids, way, seed):
    """Label -1, weights, reference rows and ids, all at once."""
    kind, settings_, oracle, same = CASES[name]
    generator = np.random.default_rng(seed)
    n, m = len(labels), len(labels if ref_labels is None else ref_labels)
    x = generator.normal(size=(n, 4))
    r = x if ref_labels is None else generator.normal(size=(m, 4))
    w = generator.integers(0, 3, n).astype(float)
    apart = np.arange(m) if ref_labels is None else np.arange(m) + n
    ids, ref_ids = np.arange(n), apart
    if with_ids:
        ids = generator.integers(0, 12, n)
        ref_ids = ids if ref_labels is None else generator.integers(0, 12, m)
    expected = oracle(
        unit(x) @ unit(r).T, labels, labels if ref_labels is None else ref_labels, w, ids, ref_ids, **same
    )
    against = () if ref_labels is None else (None, r, np.array(ref_labels))
    named = {"ids": ids, "ref_ids": None if ref_labels is None else ref_ids} if with_ids else {}
    workspace = WAYS[way]
    got = kind(**settings_, workspace_mb=workspace)(x, np.array(labels), *against, weights=w, **named)
    assert got.item() == pytest.approx(expected, abs=1e-9)


def test_supcon_by_hand():
    """Two classes of two on a circle: right angles between all but opposite ones."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    y = torch.tensor([0, 0, 1, 1])
    e = math.e
    expected = math.log(e**0 + e**0 + e**-1)  # s = 0 to the positive, 0 and -1 to the others
    assert SupConLoss(1.0)(x, y).item() == pytest.approx(expected)
    assert SupConLoss(1.0, form="in")(x, y).item() == pytest.approx(expected)


def test_multi_similarity_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    pull = math.log(1 + math.exp(-2 * (0.6 - 0.5))) / 2
    push = [math.log(1 + math.exp(50 * (s - 0.5))) / 50 for s in (0.0, 0.8)]
    both = math.log(1 + math.exp(50 * (0.0 - 0.5)) + math.exp(50 * (0.8 - 0.5))) / 50
    expected = (pull + push[0] + pull + push[1] + both) / 3
    assert MultiSimilarityLoss()(x, [0, 0, 1]).item() == pytest.approx(expected, rel=1e-6)


def test_triplet_by_hand():
    """Angles 0, 60, 90 degrees: chords 1, sqrt 2, and 2 sin 15."""
    x = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)], [0.0, 1.0]])
    near = 2 * math.sin(math.radians(15))
    expected = [1 - math.sqrt(2) + 0.5, 1 - near + 0.5]
    assert TripletLoss(0.5)(x, [0, 0, 1]).item() == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert TripletLoss(0.5, "semihard")(x, [0, 0, 1]).item() == pytest.approx(expected[0], rel=1e-5)
    squares = [1 - 2 + 0.5, 1 - near**2 + 0.5]
    assert TripletLoss(0.5, squared=True)(x, [0, 0, 1]).item() == pytest.approx(squares[1], rel=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_collapsed_values(way):
    x, y = torch.ones(300, 8), torch.arange(300) // 3
    workspace = WAYS[way]
    mb = {"workspace_mb": workspace}
    assert SupConLoss(**mb)(x, y).item() == pytest.approx(math.log(299), rel=1e-5)
    assert TripletLoss(0.3, **mb)(x, y).item() == pytest.approx(0.3, rel=1e-5)
    assert TripletLoss(0.3, "all", **mb)(x[:60], y[:60]).item() == pytest.approx(0.3)
    assert TripletLoss(soft=True, **mb)(x, y).item() == pytest.approx(math.log(2), rel=1e-5)
