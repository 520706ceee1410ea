"""Values and gradients equal pytorch-metric-learning's, in float64, where the definitions agree."""

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners

from legolas_metric.losses import MultiSimilarityLoss, SupConLoss, TripletLoss

batch_hard = miners.BatchHardMiner()
similar = miners.MultiSimilarityMiner(epsilon=0.1)


def mined(loss, miner):
    return lambda x, y: loss(x, y, miner(x, y))


PAIRS = {
    "supcon": (lambda mb: SupConLoss(workspace_mb=mb), losses.SupConLoss()),
    "supcon, cold": (lambda mb: SupConLoss(0.01, workspace_mb=mb), losses.SupConLoss(0.01)),
    "multi-similarity": (lambda mb: MultiSimilarityLoss(workspace_mb=mb), losses.MultiSimilarityLoss()),
    "multi-similarity, mined": (
        lambda mb: MultiSimilarityLoss(mining=0.1, workspace_mb=mb),
        mined(losses.MultiSimilarityLoss(), similar),
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
    "hard": (lambda mb: TripletLoss(workspace_mb=mb), mined(losses.TripletMarginLoss(margin=0.2), batch_hard)),
}


def value_and_gradient(loss, x, *rest):
    x = x.clone().requires_grad_()
    value = loss(x, *rest)
    value.backward()
    return value.detach(), x.grad


@pytest.mark.parametrize("mb", [None, 0, 16])
@pytest.mark.parametrize("name", PAIRS)
def test_equals_pml(name, mb, generator):
    ours, theirs = PAIRS[name]
    x = torch.randn(40, 6, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 9, (40,), generator=generator)
    for got, expected in zip(value_and_gradient(ours(mb), x, y), value_and_gradient(theirs, x, y)):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
