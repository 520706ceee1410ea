"""A missing value never stands for the best one: what was not measured, or could not be, is NaN, None, or refused."""

import math

import pytest
import torch

from legolas_metric import (
    CollapseProbe,
    ExactIndex,
    FaissIndex,
    RetrievalProtocol,
    class_distribution,
    evaluate_ranking,
    evaluate_verification,
    linear_probe,
    probe_embeddings,
)
from legolas_metric.probes.collapse_report import CollapseReport

LABELS = torch.arange(12) // 3


def rows(n=12, d=4, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_a_search_without_anything_to_find_has_no_recall():
    x = rows()
    nothing = (torch.full((12,), 0.9999), torch.full((12,), 0.99999))
    found = FaissIndex("HNSW8").fit(x, LABELS).self_join(2, want="negative", window=nothing)
    assert math.isnan(found.stats.recall)
    assert (found.ids == -1).all()


@pytest.mark.parametrize("n", [1, 2])
def test_the_baseline_of_too_few_rows_has_no_verdict_either(n):
    report = probe_embeddings(rows(n))
    assert (report.verdict, report.baseline.verdict) == (None, None)
    assert report.baseline.evidence


def test_measures_that_were_read_back_are_not_healthy_by_that():
    fallen = probe_embeddings(torch.ones(9, 4))
    assert fallen.verdict == "point collapse"
    again = CollapseReport.from_state_dict(fallen.state_dict())
    assert (again.verdict, again.evidence) == (None, ("these measures were not judged",))
    assert CollapseProbe().update(rows()).compute().verdict == "healthy"


def test_a_threshold_that_is_no_number_is_refused():
    report = evaluate_verification(rows(), LABELS)
    with pytest.raises(ValueError, match="threshold must be a similarity, got NaN"):
        report.rates_at(math.nan)
    with pytest.raises(ValueError, match="gallery must be at least 1, got 0"):
        report.mean_rank(0)


def test_one_identity_with_genuine_pairs_gives_no_interval():
    report = evaluate_verification(rows(5), [0, 0, 1, 2, 3])
    with pytest.warns(UserWarning, match="4 identities"):
        assert all(math.isnan(end) for ends in report.intervals().values() for end in ends)


@pytest.mark.parametrize(
    ("labels", "given"),
    [
        ([0, 0, 0, 1, 1], {"protocol": RetrievalProtocol.fixed([0], [1, 2])}),
        ([0, 0, 0, -1, -1], {"protocol": "re-identification", "groups": [0, 1, 2, 0, 1]}),
    ],
)
def test_a_gallery_in_which_nothing_could_be_wrong_is_refused(labels, given):
    with pytest.raises(ValueError, match="nothing could be wrong"):
        evaluate_ranking(rows(5), labels, **given)


def test_a_gallery_of_no_size_is_refused():
    report = evaluate_ranking(rows(), LABELS, full=True)
    with pytest.raises(ValueError, match="sizes must be at least 0, got -1"):
        report.rank1_at([-1])


def test_arguments_of_probes_and_distributions_are_refused_in_our_words():
    x, same = rows(), {"num_classes": 4}
    for strength in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="strength must be a finite number, above 0"):
            linear_probe(x, LABELS, x, LABELS, strength=strength, **same)
    with pytest.raises(ValueError, match="max_iter must be at least 1, got 0"):
        linear_probe(x, LABELS, x, LABELS, max_iter=0, **same)
    with pytest.raises(ValueError, match="test has 3 dimensions, train has 4"):
        linear_probe(x, LABELS, x[:, :3], LABELS, **same)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        class_distribution([0, 1], num_classes=0)


@pytest.mark.parametrize("farthest", [False, True])
@pytest.mark.parametrize(("size", "asked"), [(1e-30, 1e17), (1e-40, 1e18), (1e17, 1e-40), (1.0, 1e-44)])
def test_faiss_finds_under_dot_what_the_exact_index_finds_at_any_size(size, asked, farthest):
    """Queries were scaled as the rows, and left float32: 71 of 80 answers were wrong."""
    x, queries = rows(600, 6) * size, rows(20, 6, seed=1) * asked
    true, found = (
        index.fit(x).search(queries, 4, farthest=farthest)
        for index in (ExactIndex(metric="dot"), FaissIndex("Flat", metric="dot"))
    )
    assert found.ids.equal(true.ids)
