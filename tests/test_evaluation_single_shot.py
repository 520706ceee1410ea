"""Single-gallery-shot against its definition, by enumeration: one gallery row of each class, drawn evenly."""

import itertools

import pytest
import torch

from legolas_metric import RetrievalProtocol, evaluate_ranking
from legolas_metric.evaluation import single_shot
from legolas_metric.evaluation.trials import trials
from legolas_metric.rows import fitted_rows

Y = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, -1])
CAMERA = torch.tensor([0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0])  # 3 and 4 can't be found: unanswerable
X = torch.randn(13, 3, generator=torch.Generator().manual_seed(4))


def enumerated(k, queries, gallery):
    """Rank@k of each query, over all ways to draw one row of each class (what torchreid's `eval_cuhk03` samples)."""
    u = torch.nn.functional.normalize(X.double())
    score = (u @ u.T).tolist()
    found = {}
    for q in queries:
        if Y[q] == -1:
            continue
        pools = []
        for label in range(5):
            pool = [g for g in gallery if Y[g] == label and not (Y[q] == label and CAMERA[g] == CAMERA[q])]
            pools.append(pool)
        own = pools.pop(int(Y[q]))
        if not own:
            continue
        draws = list(itertools.product(own, *[pool for pool in pools if pool]))
        found[q] = sum(sum(score[q][g] > score[q][one] for g in others) < k for one, *others in draws) / len(draws)
    return found


@pytest.mark.parametrize(("shared", "lists"), [(16, False), (0, True)])
def test_rank_is_the_mean_over_all_draws(monkeypatch, shared, lists):
    monkeypatch.setattr(single_shot, "_SHARED_DRAWS", shared)
    queries = [0, 2, 3, 5, 8, 9] if lists else list(range(13))
    gallery = [1, 2, 3, 4, 6, 7, 10, 11] if lists else list(range(13))
    protocol = RetrievalProtocol.single_gallery_shot(
        repeats=250, queries=queries if lists else None, gallery=gallery if lists else None, seed=2
    )
    report = evaluate_ranking(X, Y, groups=CAMERA, protocol=protocol, ks=(1, 2))
    for k in (1, 2):
        want = enumerated(k, queries, gallery)
        found = report.per_query
        for query, value in want.items():
            mine = found.rank_at(k)[found.ids == query]
            assert len(mine) == 250
            assert float(mine.mean()) == pytest.approx(value, abs=0.13)  # four deviations of 250 draws
        assert float(found.rank_at(k).mean()) == pytest.approx(sum(want.values()) / len(want), abs=0.03)
        assert report.queries == 250 * len(want)
        assert set(found.ids.tolist()) == set(want)
    assert bool((report.per_query.positives == 1).all())


def test_a_gallery_holds_one_row_of_each_class_and_serves_each_query_once():
    protocol = RetrievalProtocol.single_gallery_shot(repeats=3)
    asked = []
    for trial in trials(fitted_rows(X, Y, ids=None, groups=CAMERA, metric="cosine"), protocol, "cosine"):
        assert trial.gallery.labels is not None
        assert trial.gallery.labels.sort().values.tolist() == [0, 1, 2, 3, 4]
        asked += trial.asker.tolist()
    assert sorted(asked) == sorted(3 * list(range(12)))


def test_a_paired_difference_is_of_the_same_draws():
    protocol = RetrievalProtocol.single_gallery_shot(repeats=4, seed=7)
    y = torch.arange(60) // 4
    x = torch.randn(15, 6, generator=torch.Generator().manual_seed(0))[y] + torch.randn(60, 6)
    report = evaluate_ranking(x, y, groups=torch.arange(60) % 2, protocol=protocol, baseline=3 * x)
    found = report.difference()
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert evaluate_ranking(x, y, groups=torch.arange(60) % 2, protocol="single-gallery-shot").queries == 600


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"repeats": 2, "min_positives": 2}, "single-gallery-shot has one positive"),
        ({"repeats": 2, "exclude": lambda q, g: q[:, None] == g}, "leave out the rule of your own"),
    ],
)
def test_settings_that_can_not_be(settings, text):
    with pytest.raises(ValueError, match=text):
        RetrievalProtocol(**settings)
    with pytest.raises(ValueError, match="repeats belong to single-gallery-shot"):
        RetrievalProtocol(repeats=2, episodes=RetrievalProtocol.few_shot(ways=2, shots=1).episodes)
    with pytest.raises(ValueError, match="compares groups"):
        evaluate_ranking(X, Y, protocol="single-gallery-shot")
