"""Compiled passes, calls of torch, and exact similarities of everything choose the same tuples."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from legolas_metric import (
    EasyPositiveMiner,
    EmbeddingBank,
    ExactIndex,
    FalseNegativeGuard,
    FullHardMiner,
    HardMiner,
    LabelRelation,
    MultiSimilarityMiner,
    RandomMiner,
    SemiHardMiner,
)
from legolas_metric.geometry import normalise
from legolas_metric.index.exact.precision import has_int16
from legolas_metric.miners.dense import DensePool
from legolas_metric.miners.fused import FusedPool
from legolas_metric.miners.screened import ScreenedPool, screening_error
from legolas_metric.miners.sources import Batch, batch_source

MINERS = {
    "random": lambda **kw: RandomMiner(per_anchor=2, **kw),
    "semi-hard": lambda **kw: SemiHardMiner(margin=0.4, **kw),
    "semi-hard all": lambda **kw: SemiHardMiner(positive="all", **kw),
    "semi-hard to the nearest": lambda **kw: SemiHardMiner(reference="nearest", on_empty="hardest", **kw),
    "easy semi-hard": lambda **kw: SemiHardMiner(positive="nearest", margin=math.inf, **kw),
    "hard": lambda **kw: HardMiner(**kw),
    "hard x3": lambda **kw: HardMiner(positive="all", per_anchor=3, **kw),
    "hard mixed": lambda **kw: HardMiner(ranks=(2, 4), mix=0.3, **kw),
    "full-hard": lambda **kw: FullHardMiner(**kw),
    "easy semi-hard 0.3": lambda **kw: EasyPositiveMiner(margin=0.3, **kw),
    "easy positive": lambda **kw: EasyPositiveMiner(negative="hard", **kw),
    "multi-similarity": lambda **kw: MultiSimilarityMiner(epsilon=0.1, **kw),
    "every pair": lambda **kw: MultiSimilarityMiner(epsilon=math.inf, **kw),
    "multi-similarity 0": lambda **kw: MultiSimilarityMiner(epsilon=0.0, **kw),
}
RELATIONS = {
    "label": None,
    "other group": LabelRelation(positive_group="other"),
    "same group": LabelRelation(positive_group="other", negative_group="same"),
}


@contextmanager
def patched(target, value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, value)
        yield


def a_batch(n, m, d, pool, jitter, classes, scale, seed, least=-1):
    """Rows of which many are equal, or differ in the last places, labels, and m reference rows like them."""
    g = torch.Generator().manual_seed(seed)

    def rows(count):
        base = torch.randn(pool, d, generator=g)[torch.randint(0, pool, (count,), generator=g)]
        x = scale * base * (1 + jitter * torch.randn(count, d, generator=g))
        labels = torch.randint(least, classes, (count,), generator=g)
        return x, labels, torch.randint(0, 3, (count,), generator=g)

    x, y, groups = rows(n)
    if m is None:
        return (x, y), {"groups": groups}
    r, ref_labels, ref_groups = rows(m)
    shared = min(n, m) // 2
    return (x, y, torch.cat([x[:shared], r[shared:]]), ref_labels), {"groups": groups, "ref_groups": ref_groups}


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("name", MINERS)
@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(2, 90),
    m=st.none() | st.integers(1, 150),
    d=st.integers(1, 19),
    pool=st.integers(1, 200),
    jitter=st.sampled_from([0.0, 1e-7, 3e-7, 1e-3, 1.0]),
    classes=st.integers(1, 40),
    least=st.sampled_from([-1, 0]),
    scale=st.sampled_from([1e-15, 1.0, 3.0, 1e15]),
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    seed=st.integers(0, 10_000),
)
def test_the_ways_of_mining_a_batch_agree(name, relation, n, m, d, pool, jitter, classes, least, scale, metric, seed):
    batch, of = a_batch(n, m, d, pool, jitter, classes, scale, seed, least)

    def mined():
        return MINERS[name](index=ExactIndex(metric=metric), relation=RELATIONS[relation])(*batch, **of)

    found = mined()
    with patched("legolas_metric.compiled.jit.has_numba", lambda: False):
        by_torch = mined()
    with patched("legolas_metric.miners.sources.FusedPool", lambda exact, error: exact):
        exact = mined()
    with patched("legolas_metric.miners.fused.has_int16", lambda device: False):
        in_float32 = mined()
    with patched("legolas_metric.miners.miner.fits_gram", lambda rows, metric: False):
        rule_by_rule = mined()
    for part, *others in zip(found, by_torch, exact, in_float32, rule_by_rule, strict=True):
        assert all(torch.equal(part, other) for other in others)


@pytest.mark.skipif(not has_int16(torch.device("cpu")), reason="needs numba and AVX2")
@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 110),
    d=st.integers(1, 300),
    pool=st.integers(1, 200),
    sharpness=st.sampled_from([1, 5, 31]),
    shift=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_products_in_int16_lie_within_their_error(n, d, pool, sharpness, shift, seed):
    from legolas_metric.miners.gram import gram

    g = torch.Generator().manual_seed(seed)
    base = torch.randn(pool, d, generator=g)[torch.randint(0, pool, (n,), generator=g)]
    sharp = (base + 0.1 * torch.randn(n, d, generator=g)).double() ** sharpness + shift
    x = normalise(torch.nn.functional.normalize(sharp, eps=0).float())
    side = 16 * (-(-n // 16) + 1)
    score = np.full((side, side), np.nan, np.float32)
    error = gram(x.numpy(), score)
    length = float(x.double().mean(0).square().sum())
    assert (error == math.inf) == (length > 0.3) or abs(length - 0.3) < 1e-6
    if error < math.inf:
        exact = (x.double() @ x.double().T).numpy()
        assert np.abs(score[:n, :n] - exact).max() <= error < 2e-4 + 3e-5 * math.sqrt(d)
        assert (score[:n, n:] == -math.inf).all()
    else:
        assert np.isnan(score).all()


@pytest.mark.skipif(not has_int16(torch.device("cpu")), reason="needs numba and AVX2")
@pytest.mark.parametrize(
    ("name", "settings", "unlabelled", "shift", "plain"),
    [
        ("full-hard", {}, False, 0.0, True),
        ("easy semi-hard", {}, False, 0.0, True),
        ("full-hard", {"relation": LabelRelation()}, False, 0.0, False),
        ("full-hard", {"index": ExactIndex(metric="dot")}, False, 0.0, False),
        ("full-hard", {"guard": FalseNegativeGuard()}, False, 0.0, False),
        ("full-hard", {"per_anchor": 2}, False, 0.0, False),
        ("full-hard", {"mix": 0.5}, False, 0.0, False),
        ("full-hard", {"on_empty": "raise"}, False, 0.0, False),
        ("hard", {}, False, 0.0, False),
        ("semi-hard all", {}, False, 0.0, False),
        ("semi-hard to the nearest", {}, False, 0.0, False),
        ("full-hard", {}, True, 0.0, False),
        ("full-hard", {}, False, 3.0, False),
    ],
)
def test_which_batches_are_mined_in_one_call(monkeypatch, name, settings, unlabelled, shift, plain):
    from legolas_metric.miners import miner

    done, whole = [], miner.plain_triplets

    def counted(*args, **kwargs):
        done.append(whole(*args, **kwargs))
        return done[-1]

    monkeypatch.setattr(miner, "plain_triplets", counted)
    x, y, *_ = a_batch(60, None, 40, 60, 1.0, 8, 1.0, 1, least=0)[0]
    y[0] = -1 if unlabelled else y[0]
    own = MINERS[name](**settings)
    a, p, n = own(x + shift, y)
    assert any(found is not None for found in done) == plain
    assert own.calls == 1
    assert len(a) > 0
    assert (y[a] == y[p]).all()
    assert (y[a] != y[n]).all()


@pytest.mark.skipif(not has_int16(torch.device("cpu")), reason="needs numba and AVX2")
@pytest.mark.parametrize(
    ("shift", "unlabelled", "reference", "metric", "used"),
    [
        (0.0, False, False, "cosine", True),
        (3.0, False, False, "cosine", False),
        (0.0, True, False, "cosine", False),
        (0.0, False, True, "cosine", False),
        (0.0, False, False, "dot", False),
    ],
)
def test_when_products_are_in_int16(shift, unlabelled, reference, metric, used):
    x, y, *_ = a_batch(60, None, 40, 60, 1.0, 8, 1.0, 1, least=0)[0]
    y[0] = -1 if unlabelled else y[0]
    batch = Batch.of(x + shift, y, *((x + shift, y) if reference else (None, None)), None, None, metric)
    pool = next(batch_source(batch, metric, None, screened=True).blocks).pool
    asked, before = pool.negatives(None, 1, None), screening_error(pool.anchors, pool.rows, metric)
    assert torch.equal(asked[0], pool.exact.negatives(None, 1, None)[0])
    assert (pool.error > 10 * before) == used


@pytest.mark.parametrize(
    ("metric", "scale", "numba", "kind"),
    [
        ("cosine", 1.0, True, FusedPool),
        ("dot", 1.0, True, FusedPool),
        ("cosine", 1.0, False, ScreenedPool),
        ("euclidean", 1.0, True, DensePool),
    ],
)
def test_which_way_a_batch_goes(metric, scale, numba, kind):
    x, y, *_ = a_batch(30, None, 4, 30, 1.0, 5, scale, 0)[0]
    with patched("legolas_metric.compiled.jit.has_numba", lambda: numba):
        batch = Batch.of(x, y, None, None, None, None, metric)
        block = next(batch_source(batch, metric, None, screened=True).blocks)
    assert type(block.pool) is kind


@pytest.mark.parametrize("numba", [True, False])
def test_a_batch_beyond_the_reach_of_screening_is_compared_exactly(numba):
    """Squares of the reference overflow float32, products with the batch don't."""
    x, y, *_ = a_batch(30, None, 4, 30, 1.0, 5, 1.0, 0)[0]
    with patched("legolas_metric.compiled.jit.has_numba", lambda: numba):
        batch = Batch.of(x * 1e-10, y, x * 1e25, y, None, None, "dot")
        block = next(batch_source(batch, "dot", None, screened=True).blocks)
    assert type(block.pool) is DensePool


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("name", MINERS)
def test_a_batch_without_any_label_has_no_tuples(name, metric):
    x, y, *_ = a_batch(30, None, 4, 30, 1.0, 5, 1.0, 0)[0]
    found = MINERS[name](index=ExactIndex(metric=metric))(x, torch.full_like(y, -1))
    assert [part.tolist() for part in found] == [[]] * (4 if "pair" in name or "multi" in name else 3)


@pytest.mark.parametrize("miner", [FullHardMiner, SemiHardMiner, MultiSimilarityMiner])
def test_similarities_that_float32_cannot_hold_are_refused(miner):
    x, y, *_ = a_batch(30, None, 4, 30, 1.0, 5, 1.0, 0)[0]
    own = miner(index=ExactIndex(metric="dot"))
    with pytest.raises(ValueError, match="would overflow float32 under metric='dot': scale the embeddings down"):
        own(x * 3e19, y)
    with pytest.raises(ValueError, match="would overflow float32"):
        own.mine(EmbeddingBank(x * 3e19, y, metric="dot"))


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("name", ["semi-hard", "full-hard", "multi-similarity", "hard mixed"])
def test_a_batch_leaves_the_callers_tensors_alone(name, numba):
    x, y, *_ = a_batch(60, None, 5, 60, 1.0, 8, 1.0, 1)[0]
    unit, before = torch.nn.functional.normalize(x), (x.clone(), y.clone())
    kept = unit.clone()
    with patched("legolas_metric.compiled.jit.has_numba", lambda: numba):
        MINERS[name]()(x, y)
        MINERS[name]()(unit, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert torch.equal(unit, kept)


@pytest.mark.parametrize("numba", [True, False])
def test_bounds_are_compared_in_float64_and_exclude_themselves(numba):
    dot = ExactIndex(metric="dot")
    with patched("legolas_metric.compiled.jit.has_numba", lambda: numba):
        # s_ap = 2, so the window is 1 < s < 2; of the negatives one lies on each bound, and one between.
        x, y = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0], [2.0, 1.0], [1.5, 9.0]]), torch.tensor([0, 0, 1, 1, 1])
        window = SemiHardMiner(positive="nearest", margin=1.0, index=dot)
        assert [part[0].item() for part in window(x, y)] == [0, 1, 4]
        assert 0 not in window(x[:4], y[:4])[0]
        # The float32 nearest to 0.8 is larger than 0.8 = s_ap - epsilon.
        pairs = MultiSimilarityMiner(epsilon=0.2, index=dot)
        _, _, a2, n = pairs(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.8, 0.0]]), torch.tensor([0, 0, 1]))
        assert list(zip(a2.tolist(), n.tolist())) == [(0, 2), (1, 2)]
