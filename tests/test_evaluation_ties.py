"""What decides a ranking and a verification: float64 similarities, and ties where only rounding tells rows apart."""

import numpy as np
import pytest
import torch
from evaluation_oracle import evaluate, pair_scores
from sklearn.metrics import roc_auc_score
from test_evaluation_ranking import as_rows

from legolas_metric import EmbeddingBank, ExactIndex, RetrievalProtocol, evaluate_ranking, evaluate_verification
from legolas_metric.geometry import normalise


def cone(width, n=60, per_class=6, d=8, seed=0):
    """Classes around one direction, all rows within about `width` of it."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) // per_class
    centres = torch.randn(n // per_class, d, generator=generator, dtype=torch.float64)
    own = centres[y] + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    axis = torch.zeros(d, dtype=torch.float64)
    axis[0] = 1
    return (axis + width * own).float(), y


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("width", [1e-1, 1e-3, 1e-4, 1e-5])
def test_a_narrow_cone_is_ranked_as_its_unit_rows_are_by_distance(width):
    x, y = cone(width)
    unit = normalise(x)
    cosine, euclidean = (evaluate_ranking(unit, y, metric=m, full=True) for m in ("cosine", "euclidean"))
    assert cosine.shares() == pytest.approx(euclidean.shares(), abs=1e-12)
    assert cosine.rank[1] > 0.9
    by_cosine, by_distance = (evaluate_verification(unit, y, metric=m) for m in ("cosine", "euclidean"))
    assert by_cosine.auc == pytest.approx(by_distance.auc, abs=1e-9)
    assert by_cosine.eer == pytest.approx(by_distance.eer, abs=1e-9)
    grid = evaluate_verification(unit, y, exact=False)
    assert abs(grid.auc - by_cosine.auc) <= grid.auc_error < 1e-3


def test_a_narrow_cone_equals_the_oracle():
    x, y = cone(1e-4, n=12, per_class=3, d=3)
    rows = as_rows(x.numpy(), y, torch.arange(12), y)
    want, *_ = evaluate(rows, "cosine")
    report = evaluate_ranking(x, y, full=True)
    assert (report.rank[1], report.map_at_r, report.ndcg) == pytest.approx(
        (want["rank1"], want["map_at_r"], want["ndcg"])
    )
    genuine, impostor = pair_scores(rows, "cosine")
    truth = np.repeat([1, 0], [len(genuine), len(impostor)])
    assert evaluate_verification(x, y).auc == roc_auc_score(truth, np.concatenate([genuine, impostor]))


def test_the_first_places_are_refined_in_a_narrow_cone(monkeypatch):
    """The index reports float32; what comes first among what it found is worked out anew."""
    x, y = cone(3e-3, n=120)
    whole = evaluate_ranking(x, y)
    monkeypatch.setattr("legolas_metric.evaluation.placing._LEAST_GALLERY", 1)
    assert evaluate_ranking(x, y).shares() == pytest.approx(whole.shares(), abs=1e-12)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("seed", range(4))
def test_rows_of_one_direction_tie_whatever_their_lengths(seed):
    generator = torch.Generator().manual_seed(seed)
    length = 10 ** torch.randn(8, 1, generator=generator)
    x = length * torch.randn(1, 7, generator=generator)
    y = torch.arange(8) % 2
    assert len(normalise(x).unique(dim=0)) > 1
    report = evaluate_ranking(x, y, full=True)
    assert report.rank[1] == pytest.approx(3 / 7)
    assert report.worst == ()
    for exact in (True, False):
        assert evaluate_verification(x, y, exact=exact).auc == 0.5


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lengths", ["whole", "any", "wide"])
def test_rows_of_several_directions_tie_whatever_their_lengths_and_order(seed, lengths):
    """What one row for each direction, repeated as it is, would give."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((4, 5)).astype("f4")
    which, y = rng.integers(0, 4, 21), rng.integers(0, 3, 21)
    same = directions[which]
    length = rng.integers(1, 60, (21, 1)) if lengths == "whole" else 10 ** rng.standard_normal((21, 1))
    x = same.astype("f8") * length if lengths == "wide" else same * length.astype("f4")
    wanted, auc = evaluate_ranking(same, y, full=True).shares(), evaluate_verification(same, y).auc
    for order in (np.arange(21), rng.permutation(21)):
        assert evaluate_ranking(x[order], y[order], full=True).shares() == pytest.approx(wanted, abs=1e-12)
        assert evaluate_verification(x[order], y[order]).auc == pytest.approx(auc, abs=1e-12)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("seed", range(6))
def test_several_directions_with_different_lengths_are_the_ties_of_equal_rows(seed):
    """Every measure is the one of the directions alone, in any order."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(5, 7, generator=generator)
    which = torch.arange(24) % 5
    y = torch.randint(0, 3, (24,), generator=generator)
    equal, counted = evaluate_ranking(directions[which], y, full=True), evaluate_verification(directions[which], y)
    for _ in range(5):
        order = torch.randperm(24, generator=generator)
        x = (10 ** torch.randn(24, 1, generator=generator) * directions[which])[order]
        assert evaluate_ranking(x, y[order], full=True).shares() == pytest.approx(equal.shares(), abs=1e-12)
        for exact in (True, False):
            assert evaluate_verification(x, y[order], exact=exact).auc == pytest.approx(counted.auc, abs=1e-12)
        bank = EmbeddingBank(x, y[order])
        assert torch.equal(bank.embeddings.unique(dim=0, return_counts=True)[1].sort()[0], which.bincount().sort()[0])
        found = ExactIndex().fit(x, y[order]).search(torch.ones(1, 7), 24)
        assert len(found.similarities.unique()) == 5


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_equal_rows_tie_wherever_they_stand(metric):
    """A product of two rows differs in its last digits by its place in a block: that is no difference."""
    generator = torch.Generator().manual_seed(1)
    some = torch.randn(10, 37, generator=generator)
    x, y = some.repeat(20, 1), torch.arange(200) % 7
    report = evaluate_ranking(x, y, metric=metric, full=True)
    order = torch.randperm(200, generator=generator)
    other = evaluate_ranking(x[order], y[order], metric=metric, full=True)
    assert other.shares() == pytest.approx(report.shares(), abs=1e-12)
    assert set((report.per_query.size % 20).tolist()) == {19}  # with the query itself left out, or twenty of another
    assert evaluate_verification(x, y, metric=metric).auc == pytest.approx(
        evaluate_verification(x[order], y[order], metric=metric).auc, abs=1e-15
    )


def test_rows_of_very_different_lengths_keep_their_order_under_dot():
    """A few huge rows don't make the rest tie."""
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(60) // 6
    x = torch.randn(10, 8, generator=generator)[y] + 0.3 * torch.randn(60, 8, generator=generator)
    alone = evaluate_verification(x[6:], y[6:], metric="dot")
    x[:2] *= 1e15
    rows = as_rows(x.numpy(), y, torch.arange(60), y)
    genuine, impostor = pair_scores(rows, "dot")
    truth = np.repeat([1, 0], [len(genuine), len(impostor)])
    found = evaluate_verification(x, y, metric="dot")
    assert found.auc == pytest.approx(roc_auc_score(truth, np.concatenate([genuine, impostor])), abs=1e-12)
    assert 0 < alone.auc < 1
    with pytest.raises(ValueError, match=r"norm of up to .* overflow float32 .* scale the embeddings down"):
        evaluate_verification(x * 1e6, y, metric="dot")


def test_similarities_are_reported_within_one():
    x, y = cone(1e-5, n=30)
    report = evaluate_ranking(x, torch.arange(30) % 3)
    reported = [s for one in report.worst for s in (one.positive_similarity, *one.wrong_similarities)]
    assert reported
    assert max(map(abs, reported)) <= 1
    assert float(report.per_query.positive.max()) <= 1
    assert evaluate_ranking(x, y, protocol=RetrievalProtocol()).per_query.negative.max() <= 1
