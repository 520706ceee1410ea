"""Values and gradients equal pytorch-metric-learning's, in float64 to 1e-9, wherever the definitions agree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_ways import WAYS
from pytorch_metric_learning import distances, losses, miners

from legolas_metric.losses import MultiSimilarityLoss, SupConLoss, TripletLoss


def mined(loss, miner):
    def mine_and_compare(x, y):
        # Twice each, which changes neither masks nor means: PML gives 0 for a single pair, a test of its own.
        return loss(x, y, tuple(part.repeat(2) for part in miner(x, y)))

    return mine_and_compare


BATCH = {
    "supcon": (lambda mb: SupConLoss(workspace_mb=mb), losses.SupConLoss()),
    "supcon, cold": (lambda mb: SupConLoss(0.07, workspace_mb=mb), losses.SupConLoss(0.07)),
    "multi-similarity": (lambda mb: MultiSimilarityLoss(workspace_mb=mb), losses.MultiSimilarityLoss()),
    "multi-similarity, other shape": (
        lambda mb: MultiSimilarityLoss(4.0, 100.0, 0.3, workspace_mb=mb),
        losses.MultiSimilarityLoss(4.0, 100.0, 0.3),
    ),
    "multi-similarity, mined": (
        lambda mb: MultiSimilarityLoss(mining=0.1, workspace_mb=mb),
        mined(losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner(epsilon=0.1)),
    ),
    "all": (lambda mb: TripletLoss(selection="all", workspace_mb=mb), losses.TripletMarginLoss(margin=0.2)),
    "all, squared": (
        lambda mb: TripletLoss(selection="all", squared=True, workspace_mb=mb),
        losses.TripletMarginLoss(margin=0.2, distance=distances.LpDistance(power=2)),
    ),
    "all, soft": (
        lambda mb: TripletLoss(selection="all", soft=True, workspace_mb=mb),
        losses.TripletMarginLoss(margin=0, smooth_loss=True),
    ),
    "hard": (
        lambda mb: TripletLoss(workspace_mb=mb),
        mined(losses.TripletMarginLoss(margin=0.2), miners.BatchHardMiner()),
    ),
    "hard, soft": (
        lambda mb: TripletLoss(soft=True, workspace_mb=mb),
        mined(losses.TripletMarginLoss(margin=0, smooth_loss=True), miners.BatchHardMiner()),
    ),
}
AGAINST = ("supcon", "supcon, cold", "multi-similarity", "all", "all, soft")


def value_and_gradient(loss, x, *rest):
    x = x.clone().requires_grad_()
    value = loss(x, *rest)
    value.backward()
    return value.detach(), x.grad


def assert_equal(ours, theirs, x, *rest):
    for got, expected in zip(value_and_gradient(ours, x, *rest), value_and_gradient(theirs, x, *rest)):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def rows(n, d, seed):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def two_classes_and_a_pair(labels):
    """Where PML's 0 is not the formula's value is a test of its own."""
    return len(labels.unique()) > 1 and len(labels.unique()) < len(labels)


@pytest.mark.parametrize("name", BATCH)
@given(
    labels=st.lists(st.integers(0, 6), min_size=3, max_size=30),
    d=st.integers(2, 9),
    seed=st.integers(0, 10**6),
    way=st.sampled_from(tuple(WAYS)),
)
@settings(deadline=None, max_examples=16)
def test_batch(name, labels, d, seed, way):
    y = torch.tensor(labels)
    if two_classes_and_a_pair(y):
        ours, theirs = BATCH[name]
        workspace = WAYS[way]
        assert_equal(ours(workspace), theirs, rows(len(labels), d, seed), y)


@pytest.mark.parametrize("name", AGAINST)
@given(
    labels=st.lists(st.integers(0, 6), min_size=2, max_size=20),
    ref_labels=st.lists(st.integers(0, 8), min_size=3, max_size=30),
    seed=st.integers(0, 10**6),
    way=st.sampled_from(tuple(WAYS)),
)
@settings(deadline=None, max_examples=8)
def test_reference_rows(name, labels, ref_labels, seed, way):
    y, z = torch.tensor(labels), torch.tensor(ref_labels)
    same = y[:, None] == z[None]
    if same.sum() > 1 and (~same).any():
        ours, theirs = BATCH[name]
        workspace = WAYS[way]
        assert_equal(ours(workspace), theirs, rows(len(y), 5, seed), y, None, rows(len(z), 5, seed + 1), z)


@pytest.mark.parametrize("name", AGAINST)
@pytest.mark.parametrize("parts", [3, 4])
@given(data=st.data(), seed=st.integers(0, 10**6), way=st.sampled_from(tuple(WAYS)))
@settings(deadline=None, max_examples=8)
def test_listed(name, parts, data, seed, way):
    """Any triplets and pairs, whatever the labels say; only that no pair is both positive and negative."""
    n = 12
    pair = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))
    of_p = data.draw(st.lists(pair, min_size=2, max_size=30, unique=True))
    of_n = [pair for pair in data.draw(st.lists(pair, min_size=2, max_size=30, unique=True)) if pair not in of_p]
    # An anchor with one positive and nothing else has L = 0; that is a test of its own, below.
    of_p = [pair for pair in of_p if pair[0] in {a for a, _ in of_n}]
    if parts == 3:
        triplets = [(a, p, m) for a, p in of_p for b, m in of_n if a == b]
        indices = (
            tuple(torch.tensor(part, dtype=torch.int64) for part in zip(*triplets)) or (torch.empty(0).long(),) * 3
        )
    else:
        indices = tuple(
            torch.tensor([pair[place] for pair in pairs], dtype=torch.int64)
            for pairs in (of_p, of_n)
            for place in (0, 1)
        )
    if len(indices[0]) > 1:
        ours, theirs = BATCH[name]
        # Far from each other and from themselves: where d = 0 PML's cdist is off by 1e-8.
        x, refs = rows(n, 6, seed), rows(n, 6, seed + 1)
        workspace = WAYS[way]
        assert_equal(ours(workspace), theirs, x, None, indices, refs)


@pytest.mark.parametrize("name", BATCH)
def test_strips_and_blocks(name):
    """More rows than a strip holds, classes across its edges, and a class larger than a strip."""
    ours, theirs = BATCH[name]
    y = torch.cat([torch.arange(140) % 47, torch.full((270,), 50), torch.arange(50) // 5 + 60])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(4))]
    small = y.unique(return_inverse=True)[1]
    if name.startswith("all"):
        small = small[:180]
    assert_equal(ours(64), theirs, rows(len(small), 6, 5), small)
    assert_equal(ours(1), theirs, rows(len(small), 6, 5), small)


def test_where_pml_gives_zero():
    x = rows(5, 3, 0)
    one_class = torch.zeros(5, dtype=torch.int64)
    assert losses.SupConLoss()(x, one_class) == 0
    logits = (x / x.norm(dim=1, keepdim=True)) @ (x / x.norm(dim=1, keepdim=True)).T / 0.1
    others = ~torch.eye(5, dtype=torch.bool)
    expected = (logits.masked_fill(~others, -torch.inf).logsumexp(1) - (logits * others).sum(1) / 4).mean()
    torch.testing.assert_close(SupConLoss()(x, one_class), expected)
    one_pair = tuple(torch.tensor([place]) for place in (0, 1, 0, 2))
    for theirs, ours in ((losses.SupConLoss(), SupConLoss()), (losses.MultiSimilarityLoss(), MultiSimilarityLoss())):
        assert theirs(x, None, one_pair) == 0
        assert ours(x, None, one_pair) > 0


def test_where_pml_adds_the_margin():
    x, y = rows(8, 3, 0), torch.arange(8) % 3
    assert_equal(TripletLoss(5.0, "all", soft=True), losses.TripletMarginLoss(margin=0, smooth_loss=True), x, y)
    assert losses.TripletMarginLoss(margin=5, smooth_loss=True)(x, y) > TripletLoss(5.0, "all", soft=True)(x, y) + 1


def test_where_pml_leaves_out_zero_terms():
    """An anchor with one positive and nothing else has L = 0: it counts in our mean, and not in PML's."""
    x = rows(4, 3, 0)
    pairs = tuple(torch.tensor(part) for part in ([0, 1], [1, 0], [1, 1], [2, 3]))
    assert losses.SupConLoss()(x, None, pairs).item() == pytest.approx(2 * SupConLoss()(x, None, pairs).item())
    # So, too, where L only rounds to 0, as three of these do at a small T.
    far = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    assert losses.SupConLoss(0.01)(far, y).item() == pytest.approx(4 * SupConLoss(0.01)(far, y).item())
