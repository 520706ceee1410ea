"""One gallery row an identity: against every draw, and against code in use, which repeats the draw."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from legolas_metric import evaluate_single_shot


def table(seed, n=14, levels=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, levels, (n, 2), generator=generator).float() + 1  # many ties
    y = torch.randint(0, 4, (n,), generator=generator)
    return x, y, torch.randint(0, 2, (n,), generator=generator)


def by_all_draws(x, y, groups, ks):
    """Every draw of one row an identity, every order of what is tied."""
    values = []
    for i in range(len(y)):
        kept = [j for j in range(len(y)) if j != i and not (y[j] == y[i] and groups[j] == groups[i])]
        score = {j: round(-float((x[i] - x[j]).norm()), 6) for j in kept}
        members = [[j for j in kept if y[j] == label] for label in y.unique()]
        if not any(y[j] == y[i] for j in kept):
            continue
        hits = []
        for drawn in product(*[some for some in members if some]):
            own = next(j for j in drawn if y[j] == y[i])
            ahead = sum(score[j] > score[own] for j in drawn)
            tied = sum(score[j] == score[own] for j in drawn) - 1
            places = [order.index(0) for order in permutations(range(tied + 1))]
            hits.append([np.mean([ahead + place < k for place in places]) for k in ks])
        values.append(np.mean(hits, 0))
    return np.mean(values, 0), len(values)


@pytest.mark.parametrize("seed", range(5))
def test_equals_every_draw(seed):
    x, y, groups = table(seed)
    expected, queries = by_all_draws(x, y, groups, (1, 2, 3))
    found = evaluate_single_shot(x, y, groups=groups, metric="euclidean", ks=(1, 2, 3))
    assert list(found.rank.values()) == pytest.approx(expected, abs=1e-9)
    assert (found.queries, found.unanswerable) == (queries, len(y) - queries)


def cuhk03(distance, q_ids, g_ids, q_cameras, g_cameras, ks, repeats, rng):
    """torchreid's `eval_cuhk03`, its CMC alone."""
    total, valid = np.zeros(max(ks)), 0
    for i in range(len(q_ids)):
        order = np.argsort(distance[i])
        order = order[~((g_ids[order] == q_ids[i]) & (g_cameras[order] == q_cameras[i]))]
        if not (g_ids[order] == q_ids[i]).any():
            continue
        places = {one: np.flatnonzero(g_ids[order] == one) for one in np.unique(g_ids[order])}
        for _ in range(repeats):
            mask = np.zeros(len(order), dtype=bool)
            for places_of_one in places.values():
                mask[rng.choice(places_of_one)] = True
            cmc = (g_ids[order][mask] == q_ids[i]).cumsum()
            total += np.pad(cmc, (0, max(0, max(ks) - len(cmc))), constant_values=1)[: max(ks)] / repeats
        valid += 1
    return [total[k - 1] / valid for k in ks]


def test_code_in_use_scatters_around_it():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) // 6
    x = torch.randn(10, 4, generator=generator)[y] + torch.randn(60, 4, generator=generator)
    cameras = torch.arange(60) % 2
    asking, there = torch.arange(0, 60, 3), torch.tensor([i for i in range(60) if i % 3])
    distance = torch.cdist(x[asking], x[there]).numpy()
    drawn = cuhk03(
        distance,
        *(t.numpy() for t in (y[asking], y[there], cameras[asking], cameras[there])),
        (1, 3, 5),
        800,
        np.random.default_rng(0),
    )
    found = evaluate_single_shot(x, y, groups=cameras, queries=asking, gallery=there, metric="euclidean", ks=(1, 3, 5))
    assert list(found.rank.values()) == pytest.approx(drawn, abs=0.01)
    assert found.identities == 10
    interval = found.interval(3)
    assert interval.value == pytest.approx(found.rank[3])
    assert interval.low < found.rank[3] < interval.high
    with pytest.raises(KeyError, match="ks were 1, 3, 5"):
        found.interval(2)


def test_a_collapsed_encoder_is_at_chance():
    found = evaluate_single_shot(torch.ones(40, 3), torch.arange(40) // 4, ks=(1, 5))
    assert found.rank == pytest.approx({1: 0.1, 5: 0.5})


def test_what_cannot_be_asked_is_refused():
    x, y, _ = table(0)
    with pytest.raises(ValueError, match="no query has a positive"):
        evaluate_single_shot(x, torch.arange(len(y)))
    with pytest.raises(ValueError, match="1 identities: two are needed"):
        evaluate_single_shot(x, torch.zeros_like(y))
    with pytest.raises(ValueError, match="1 of the queries are no ids"):
        evaluate_single_shot(x, y, queries=[0, 99])
