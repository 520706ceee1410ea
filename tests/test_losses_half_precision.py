"""Training in float16: a step whose values overflow is the gradient scaler's to skip, and no error ends the run."""

import pytest
import torch
from pytorch_metric_learning import losses

from legolas_metric import (
    EasyPositiveMiner,
    FullHardMiner,
    HardMiner,
    MultiSimilarityLoss,
    MultiSimilarityMiner,
    SemiHardMiner,
    SupConLoss,
    TripletLoss,
)
from legolas_metric.interop.pml import as_loss, as_miner

Y = torch.arange(16) // 4
LOSSES = {
    "supcon": SupConLoss(),
    "supcon, plain": SupConLoss(workspace_mb=None),
    "multi-similarity, mined": MultiSimilarityLoss(mining=0.1),
    **{f"triplet, {s}": TripletLoss(selection=s) for s in ("hard", "semihard", "all", "violating")},
    "soft": TripletLoss(soft=True),
    "adapted": as_loss(SupConLoss()),
}
MINERS = (SemiHardMiner(), HardMiner(), FullHardMiner(), EasyPositiveMiner(), MultiSimilarityMiner(0.1))


def poisoned(value, rows, dtype=torch.float16):
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[rows] = value
    return x.requires_grad_()


@pytest.mark.filterwarnings("ignore:(embeddings|ref_emb) hold NaN or inf")
@pytest.mark.parametrize("loss", [SupConLoss(), TripletLoss(), losses.TripletMarginLoss()])
@pytest.mark.parametrize("miner", [None, SemiHardMiner(positive="all"), as_miner(HardMiner())])
def test_a_scaler_skips_the_step_and_training_goes_on(loss, miner):
    torch.manual_seed(0)
    net = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    x, moved = torch.randn(16, 8), []
    for step in range(4):
        given = x.clone()
        if step == 1:
            given[3] = 1e30  # inf in float16
        before, scale = net.weight.clone(), scaler.get_scale()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            embeddings = net(given)
            value = loss(embeddings, Y, None if miner is None else miner(embeddings, Y))
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        moved.append(not torch.equal(before, net.weight))
        if isinstance(loss, SupConLoss | TripletLoss):  # PML's loses the NaN, and with it the skipped step
            assert scaler.get_scale() == (scale / 2 if step == 1 else scale)
    assert bool(net.weight.isfinite().all())
    if isinstance(loss, SupConLoss):  # which has a gradient at every other step
        assert moved == [True, False, True, True]


@pytest.mark.filterwarnings("ignore:(embeddings|ref_emb) hold NaN or inf")
@pytest.mark.parametrize("rows", [[0], [15], list(range(16))], ids=["first", "last", "all"])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_an_overflow_is_a_loss_of_nan_with_a_gradient_of_nan(loss, value, rows):
    x = poisoned(value, rows)
    got = loss(x, Y)
    got.backward()
    assert bool(got.isnan())
    assert bool(x.grad.isnan().any())
    anchors = torch.randn(16, 6).half().requires_grad_()
    got = loss(anchors, Y, None, poisoned(value, rows), Y.clone())
    got.backward()
    assert bool(got.isnan() & anchors.grad.isnan().any())


@pytest.mark.parametrize("miner", MINERS, ids=lambda miner: type(miner).__name__)
def test_nothing_is_mined_from_an_overflow(miner):
    x = poisoned(torch.nan, [2])
    with pytest.warns(UserWarning, match="NaN or inf in 1 of 16 rows: nothing is mined"):
        assert all(len(part) == 0 for part in miner(x, Y))
    if hasattr(miner, "mine_batch"):
        with pytest.warns(UserWarning, match="nothing is mined"):
            assert miner.mine_batch(x, Y).stats.anchors == 0
    with pytest.warns(UserWarning, match="ref_emb hold NaN or inf"):
        assert all(len(part) == 0 for part in miner(torch.randn(16, 6).half(), Y, x, Y.clone()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_elsewhere_losses_and_miners_refuse_alike(dtype):
    x = poisoned(torch.nan, [2], dtype)
    for call in (*LOSSES.values(), *MINERS):
        with pytest.raises(ValueError, match="embeddings: NaN or inf"):
            call(x, Y)


def test_rows_of_zeros_are_refused_in_float16_too():
    x = poisoned(0.0, [2])
    for call in (*LOSSES.values(), *MINERS):
        with pytest.raises(ValueError, match="embeddings: all zero"):
            call(x, Y)


def test_the_warning_says_what_the_loss_is():
    with pytest.warns(UserWarning, match="embeddings hold NaN or inf in 2 of 16 rows: the loss is NaN"):
        SupConLoss()(poisoned(torch.inf, [0, 1]), Y)
