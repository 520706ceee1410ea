from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from evaluation_oracle import evaluate
from test_evaluation_ranking import as_rows, table

from legolas_metric import RetrievalProtocol, evaluate_ranking


def clustered(n, per_class, noise=1.5, d=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) // per_class
    x = torch.randn(n // per_class + 1, d, generator=generator)[y] + noise * torch.randn(n, d, generator=generator)
    return x, y


@pytest.mark.parametrize("ties", [False, True])
def test_cmc_to_any_k(ties):
    x, y, ids, groups = table(4, n=10, ties=ties)
    want, *_ = evaluate(as_rows(x, y, ids, groups), "cosine")
    report = evaluate_ranking(x, y, ids=ids, full=True)
    assert report.cmc(9).tolist() == pytest.approx([want[f"rank{k}"] for k in range(1, 10)], abs=1e-12)
    assert evaluate_ranking(x, y, ids=ids, ks=(4,)).cmc(4).tolist() == pytest.approx(report.cmc(4).tolist())


@pytest.mark.parametrize("ties", [False, True])
def test_rank1_against_gallery_size_is_the_mean_over_all_galleries(ties):
    """All ways to draw `size` negatives, with all positives kept."""
    x, y, ids, _ = table(2, n=9, classes=2, ties=ties, distractors=False)
    report = evaluate_ranking(x, y, ids=ids, full=True)
    for size in (1, 2, 3):
        shares = []
        for i in range(9):
            negatives = [j for j in range(9) if y[j] != y[i]]
            same = [j for j in range(9) if y[j] == y[i]]
            drawn = []
            for chosen in combinations(negatives, min(size, len(negatives))):
                kept = same + list(chosen)
                one = RetrievalProtocol.fixed([ids[i]], ids[kept])
                drawn.append(evaluate_ranking(x, y, ids=ids, protocol=one).rank[1])
            shares.append(np.mean(drawn))
        assert report.rank1_at([size])[size] == pytest.approx(np.mean(shares), abs=1e-12)
    assert report.rank1_at([9])[9] == pytest.approx(report.rank[1])


def test_needs_the_whole_ranking_for_what_lies_deeper():
    x, y = clustered(30, 3)
    report = evaluate_ranking(x, y)
    assert report.mean_average_precision is report.minp is report.ndcg is None
    with pytest.raises(ValueError, match="Rank@11 needs more of the ranking than its first 10 places: pass full=True"):
        report.cmc(11)
    with pytest.raises(ValueError, match="pass full=True"):
        report.rank1_at([5])
    with pytest.raises(ValueError, match="k must be at least 1"):
        report.cmc(0)


def test_breakdowns_average_to_the_whole():
    x, y = clustered(60, 5)
    groups = torch.arange(60) % 4
    report = evaluate_ranking(x, y, groups=groups)
    for part in (report.by_class(), report.by_group()):
        assert int(part.queries.sum()) == report.queries == 60
        assert float((part.rank1 * part.queries).sum()) / 60 == pytest.approx(report.rank[1])
        assert float((part.map_at_r * part.queries).sum()) / 60 == pytest.approx(report.map_at_r)
        assert float((part.r_precision * part.queries).sum()) / 60 == pytest.approx(report.r_precision)
        assert part.rank1.tolist() == sorted(part.rank1.tolist())
    weakest = int(report.by_class().keys[0])
    own = report.per_query.labels == weakest
    assert float(report.per_query.map_at_r[own].mean()) == pytest.approx(float(report.by_class().map_at_r[0]))
    with pytest.raises(ValueError, match=r"by_group\(\) needs groups"):
        evaluate_ranking(x, y).by_group()


def test_intervals_resample_identities_not_queries():
    """100 copies of each row say no more than one: the interval stays as wide as the identities make it."""
    x, y = clustered(40, 4, noise=2.0)
    once = evaluate_ranking(x, y)
    low, high = once.intervals(seed=1)["rank_at_1"]
    assert low < once.rank[1] < high
    assert once.intervals(seed=1) == once.intervals(seed=1) != once.intervals(seed=2)
    at_k = {f"{name}_at_{k}" for name in ("rank", "recall", "precision", "map", "ndcg") for k in (1, 5, 10)}
    assert set(once.intervals()) == {"r_precision", "map_at_r"} | at_k
    assert {"ndcg", "minp", "mean_average_precision", "mrr"} < set(
        evaluate_ranking(x, y, full=True).intervals(resamples=10)
    )
    # Each class wholly right or wholly wrong: the share right is Binomial(10, 1/2) / 10.
    from legolas_metric.evaluation.bootstrap import intervals

    identities = torch.arange(10).repeat_interleave(100)
    value = {"right": (identities < 5).double()}
    low, high = intervals(value, (identities, None), level=0.9, resamples=4000, seed=0)["right"]
    assert (low, high) == pytest.approx((0.2, 0.8), abs=0.051)


def test_intervals_cover_the_truth():
    """Over tables of one kind, the mean of all tables lies in about 90 % of the intervals of level 0.9."""
    reports = [evaluate_ranking(*clustered(120, 4, noise=1.4, seed=seed), ks=(1,)) for seed in range(30)]
    truth = np.mean([report.rank[1] for report in reports])
    inside = 0
    for report in reports:
        low, high = report.intervals(level=0.9, resamples=200)["rank_at_1"]
        inside += low <= truth <= high
    assert 0.73 * 30 <= inside <= 30


def test_worst_queries_with_their_wrong_neighbours():
    # Class 1's row 3 lies among class 0; its own mate is far away.
    x = torch.tensor([[0.0], [1.0], [2.0], [1.1], [9.0], [8.0]])
    y, ids = [0, 0, 0, 1, 1, 2], [10, 11, 12, 13, 14, 15]
    report = evaluate_ranking(x, y, ids=ids, metric="euclidean", full=True)
    worst = report.worst[0]
    assert (worst.id, worst.label, worst.positive) == (13, 1, 14)
    assert worst.place == 5.0
    assert worst.wrong[:2] == (11, 12)
    assert worst.wrong_labels[:3] == (0, 0, 0)
    assert worst.wrong_similarities[:2] == pytest.approx((-0.1, -0.9))
    assert worst.positive_similarity == pytest.approx(-7.9)
    margins = [one.wrong_similarities[0] - one.positive_similarity for one in report.worst]
    assert margins == sorted(margins, reverse=True)
    assert min(margins) > 0


def test_says_what_is_worse_than_the_baseline():
    x, y = clustered(40, 4)
    report = evaluate_ranking(torch.randn(40, 16), y, baseline=x, full=True)
    assert any(line.startswith("rank_at_1 is worse than the baseline's: 0.") for line in report.warnings())
    assert any(line.startswith("mean_average_precision is worse than the baseline's") for line in report.warnings())
    assert evaluate_ranking(x, y, baseline=torch.randn(40, 16)).warnings() == ()


def test_a_fall_within_a_hundredth_is_not_worth_a_word():
    x, y = clustered(40, 4)
    before = evaluate_ranking(x, y)
    slight = replace(before, map_at_r=before.map_at_r + 0.009)
    clear = replace(before, map_at_r=before.map_at_r + 0.011)
    assert evaluate_ranking(x, y, baseline=slight).warnings() == ()
    assert len(evaluate_ranking(x, y, baseline=clear).warnings()) == 1


def test_says_when_many_queries_are_left_out():
    report = evaluate_ranking(torch.randn(8, 3), [0, 0, 0, 0, 1, 2, 3, 4])
    assert report.warnings() == ("4 of 8 queries have too few positives to find and are left out",)


def test_scalars_are_plain_numbers():
    x, y = clustered(30, 3)
    scalars = evaluate_ranking(x, y, full=True).scalars()
    assert {"rank_at_1", "rank_at_5", "map_at_r", "ndcg", "intra", "inter", "queries", "unanswerable"} <= set(scalars)
    assert all(type(value) in (int, float) for value in scalars.values())


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_the_first_places_say_what_the_whole_ranking_says(monkeypatch, metric):
    """The search of nearest negatives only, with its fallback for ties, against the whole gallery."""
    x, y = clustered(90, 5, d=21)
    x[:20] = x[0]  # ties at every depth: undecided queries
    x[40:44] = x[50:54]
    y[70:] = -1
    y[60:70] = 12
    for protocol in (
        RetrievalProtocol(),
        RetrievalProtocol(queries=range(0, 90, 2)),
        RetrievalProtocol.cross_session(),
    ):
        given = {"groups": torch.arange(90) % 3, "metric": metric, "protocol": protocol, "ks": (1, 3, 7)}
        whole = evaluate_ranking(x, y, **given)
        monkeypatch.setattr("legolas_metric.evaluation.placing._LEAST_GALLERY", 1)
        monkeypatch.setattr("legolas_metric.evaluation.placing._LARGEST_CLASS", 8)
        first = evaluate_ranking(x, y, **given)
        monkeypatch.undo()
        assert first.shares() == pytest.approx(whole.shares(), abs=1e-12)
        assert first.per_query.ids.equal(whole.per_query.ids)
        assert torch.allclose(first.per_query.negative, whole.per_query.negative)
