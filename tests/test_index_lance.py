"""A vector database behind the protocol: the same answers, ids of its own, recall measured, refusals in a sentence."""

import pytest
import torch

from legolas_metric import ExactIndex, LanceIndex

METRICS = ("cosine", "dot", "euclidean")
WANTS = ("any", "negative", "positive", "cross_group_positive")


@pytest.fixture(scope="module")
def data():
    """200 rows with ties, names of classes that SQL must quote, unlabelled rows, and ids that are not 0..n-1."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(200, 6, generator=generator)
    rows[100:130] = rows[100:101]
    rows[150:] *= 3
    people = ["d'Arc", 'say "so"', "ann", "bob", None]
    labels = [people[i] for i in torch.randint(0, 5, (200,), generator=generator).tolist()]
    groups = torch.randint(0, 3, (200,), generator=generator)
    return rows, labels, torch.randperm(10**6, generator=generator)[:200] * 10**9, groups


@pytest.fixture(scope="module", params=METRICS)
def pair(request, data):
    rows, labels, ids, groups = data
    return tuple(
        index.fit(rows, labels, ids=ids, groups=groups)
        for index in (LanceIndex(metric=request.param), ExactIndex(metric=request.param))
    )


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("farthest", [False, True])
@pytest.mark.parametrize("want", WANTS)
def test_equals_the_exact_index(want, farthest, windowed, pair, data):
    lance, exact = pair
    if lance.metric == "euclidean" and farthest and want in ("any", "negative"):
        with pytest.raises(ValueError, match="no farthest rows under metric='euclidean': use ExactIndex"):
            lance.self_join(1, want=want, farthest=True)
        return
    low = torch.randn(200, generator=torch.Generator().manual_seed(4)) - 1
    low[::5] = torch.nan
    window = (low, low + 0.7) if windowed else None
    found, true = (index.self_join(3, want=want, farthest=farthest, window=window) for index in pair)
    assert torch.equal(found.ids, true.ids)
    assert torch.equal(found.similarities, true.similarities)
    assert found.stats.engine == "lance:flat"
    assert found.stats.recall is None
    rows, labels, ids, groups = data
    asked, truly = (
        index.search(
            rows[:50] + 0.1, 2, labels=[*labels[50:98], "new", None], ids=ids[:50], groups=groups[:50], want=want
        )
        for index in pair
    )
    assert torch.equal(asked.ids, truly.ids)
