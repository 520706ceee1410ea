"""What a loss chooses: never by rounding, and as PML chooses where both have the rule."""

import math

import pytest
import torch
from loss_ways import WAYS
from pytorch_metric_learning import distances, losses, miners, reducers

from legolas_metric import MultiSimilarityLoss, TripletLoss

TRIPLETS = [
    pytest.param(
        {"selection": "all", "cosine": True},
        losses.TripletMarginLoss(margin=0.2, distance=distances.CosineSimilarity()),
        None,
        id="cosine margin",
    ),
    pytest.param(
        {"selection": "all", "soft": True, "soft_margin": 0.3},
        losses.TripletMarginLoss(margin=0.3, smooth_loss=True),
        None,
        id="soft with a margin",
    ),
    pytest.param(
        {"selection": "all", "reduction": "mean"},
        losses.TripletMarginLoss(margin=0.2, reducer=reducers.MeanReducer()),
        None,
        id="mean over all",
    ),
    pytest.param(
        {"selection": "violating", "reduction": "mean"},
        losses.TripletMarginLoss(margin=0.2, reducer=reducers.MeanReducer()),
        miners.TripletMarginMiner(margin=0.2, type_of_triplets="all"),
        id="mean over violating",
    ),
    pytest.param(
        {"selection": "violating", "soft": True},
        losses.TripletMarginLoss(margin=0, smooth_loss=True),
        miners.TripletMarginMiner(margin=0.2, type_of_triplets="all"),
        id="violating, soft",
    ),
    pytest.param(
        {"reduction": "mean"},
        losses.TripletMarginLoss(margin=0.2, reducer=reducers.MeanReducer()),
        miners.BatchHardMiner(),
        id="mean over hard",
    ),
]


@pytest.mark.parametrize(("settings", "theirs", "miner"), TRIPLETS)
@pytest.mark.parametrize("way", WAYS)
def test_triplets_as_pml_has_them(settings, theirs, miner, way, generator):
    x, y = torch.randn(17, 3, dtype=torch.float64, generator=generator), torch.arange(17) % 5
    rows = [x.clone().requires_grad_() for _ in range(2)]
    ours = TripletLoss(**settings, workspace_mb=WAYS[way])
    values = [ours(rows[0], y), theirs(rows[1], y, None if miner is None else miner(x, y))]
    for value in values:
        value.backward()
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rows[0].grad, rows[1].grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_have_no_distance(dtype, way, generator):
    """One row ten times, in two classes: no negative lies beyond the positive, and every hinge is the margin."""
    for d in (3, 37, 128):
        row = torch.randn(d, generator=generator, dtype=dtype)
        lengths = torch.ones(10, 1, dtype=dtype)
        for scale in (lengths, torch.linspace(0.3, 7, 10, dtype=dtype)[:, None]):
            x, y = row * scale, torch.arange(10) % 2
            mb = {"workspace_mb": WAYS[way]}
            _, detail = TripletLoss(0.2, "semihard", soft=True, **mb)(x, y, detail=True)
            assert math.isnan(detail.active_share)  # of no triplet
            assert TripletLoss(0.3, **mb)(x, y).item() == pytest.approx(0.3, abs=1e-7)
            assert TripletLoss(0.3, "all", **mb)(x, y).item() == pytest.approx(0.3, abs=1e-7)
            # A positive counts only below the nearest negative: s = 1 < 1 is no positive, and no rounding makes it one.
            pull = MultiSimilarityLoss(mining=0.0, **mb)(x, y)
            push = math.log1p(0.0)
            assert pull.item() == push


@pytest.mark.parametrize("way", WAYS)
def test_semi_hard_in_a_narrow_cone(way, generator):
    """Distances of some 1e-4, which a float32 product of rows loses: chosen as the rows' own differences choose."""
    x = 1 + 1e-4 * torch.randn(24, 16, generator=generator)
    y = torch.arange(24) % 6
    unit = x.double() / x.double().norm(dim=1, keepdim=True)
    d = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    expected = []
    for a in range(24):
        for p in range(24):
            if p != a and y[p] == y[a]:
                inside = [float(d[a, n]) for n in range(24) if y[n] != y[a] and d[a, p] < d[a, n] < d[a, p] + 1e-5]
                expected += [float(d[a, p]) - min(inside) + 1e-5] if inside else []
    assert len(expected) > 5
    value = TripletLoss(1e-5, "semihard", workspace_mb=WAYS[way])(x, y)
    assert value.item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)
