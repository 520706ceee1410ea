"""No NaN and no inf, whatever the batch, the precision and the temperature; and every way of computing agrees."""

import math
import re

import pytest
import torch
from loss_ways import WAYS
from processes import python
from torch.autograd import gradcheck, gradgradcheck

from legolas_metric import BankLoss, EmbeddingBank, HardMiner
from legolas_metric.distributed import World
from legolas_metric.losses import (
    FocalLoss,
    MultiSimilarityLoss,
    SupConLoss,
    TripletLoss,
    focal_loss,
    multi_similarity_loss,
    supcon_loss,
)
from legolas_metric.losses.pair_masks import ByLabel

LOSSES = {
    "supcon": lambda **ways: SupConLoss(**ways),
    "supcon, in": lambda **ways: SupConLoss(form="in", **ways),
    "supcon, T = 0.01": lambda **ways: SupConLoss(0.01, **ways),
    "supcon, in, T = 0.01": lambda **ways: SupConLoss(0.01, form="in", **ways),
    "supcon, T = 0.02": lambda **ways: SupConLoss(0.02, **ways),
    "supcon, in, T = 0.02": lambda **ways: SupConLoss(0.02, form="in", **ways),
    "supcon, T = 1": lambda **ways: SupConLoss(1.0, **ways),
    "multi-similarity": lambda **ways: MultiSimilarityLoss(**ways),
    "multi-similarity, mild": lambda **ways: MultiSimilarityLoss(1.0, 2.0, **ways),
    "multi-similarity, steep": lambda **ways: MultiSimilarityLoss(200.0, 1000.0, **ways),
    "multi-similarity, mining": lambda **ways: MultiSimilarityLoss(mining=0.1, **ways),
    "hard": lambda **ways: TripletLoss(**ways),
    "hard, squared": lambda **ways: TripletLoss(squared=True, **ways),
    "all": lambda **ways: TripletLoss(selection="all", **ways),
    "all, soft": lambda **ways: TripletLoss(selection="all", soft=True, **ways),
    "semihard": lambda **ways: TripletLoss(selection="semihard", **ways),
}
LABELS = {
    "pairs": lambda n: torch.arange(n) // 2,
    "one class": lambda n: torch.zeros(n, dtype=torch.int64),
    "no positives": lambda n: torch.arange(n),
    "unlabelled": lambda n: torch.full((n,), -1),
    "one labelled": lambda n: torch.where(torch.arange(n) == 0, 3, -1),
    "unlabelled among pairs": lambda n: torch.where(torch.arange(n) % 3 == 0, -1, torch.arange(n) // 2),
}
ROWS = {
    "random": lambda n: torch.randn(n, 4),
    "long and short": lambda n: torch.randn(n, 4) * torch.logspace(-2, 3, n)[:, None],
    "next to zero": lambda n: torch.randn(n, 4).sign() * 1e-7,
    "equal": lambda n: torch.ones(n, 4),
    "two points": lambda n: torch.eye(4)[torch.arange(n) % 2],
    "opposite": lambda n: torch.where(torch.arange(n)[:, None] % 2 == 0, 1.0, -1.0).expand(n, 4),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LOSSES)
def test_finite(name, way):
    dtypes = (torch.bfloat16, torch.float32)
    wide = [(dtype, n, LABELS["pairs"], rows) for dtype in dtypes for n in (1, 9) for rows in ROWS.values()]
    half = [(torch.float16, n, labels, rows) for n in (1, 8) for labels in LABELS.values() for rows in ROWS.values()]
    for dtype, n, labels, rows in wide + half:
        x = rows(n).to(dtype).requires_grad_()
        workspace = WAYS[way]
        value = LOSSES[name](workspace_mb=workspace)(x, labels(n))
        value.backward()
        case = (name, dtype, n, labels(n), x)
        assert value.dtype == dtype, case
        assert value.isfinite(), case
        assert x.grad.isfinite().all(), case


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(name, way):
    x, y = torch.randn(12, 4), torch.arange(12) // 3
    workspace = WAYS[way]
    loss = LOSSES[name](workspace_mb=workspace)
    plain, plain_gradient = value_and_gradient(loss, x, y)
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x, y)
    value.backward()  # outside, as torch asks
    assert torch.equal(value, plain)
    assert torch.equal(x.grad, plain_gradient)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 0.0])
def test_losses_refuse_the_rows_that_miners_refuse(name, bad):
    """In the same words, in the batch and among the reference rows."""
    x, y = torch.randn(6, 4), torch.arange(6) // 3
    broken = x.index_fill(0, torch.tensor([2]), bad)
    with pytest.raises(ValueError, match=r"in 1 of 6 rows \(first rows: 2\)") as of_miner:
        HardMiner()(broken, y)
    for workspace in WAYS.values():
        loss = LOSSES[name](workspace_mb=workspace)
        with pytest.raises(ValueError, match=re.escape(str(of_miner.value))):
            loss(broken, y)
        with pytest.raises(ValueError, match=r"ref_emb: .* in 1 of 6 rows \(first rows: 2\)"):
            loss(x, y, None, broken, y.clone())


@pytest.mark.parametrize("name", LOSSES)
def test_no_rows(name):
    x = torch.randn(0, 4, requires_grad=True)
    value = LOSSES[name]()(x, torch.empty(0, dtype=torch.int64))
    value.backward()
    assert value == 0
    assert x.grad.shape == (0, 4)


@pytest.mark.parametrize("name", LOSSES)
def test_ways_agree(name):
    """In float64: the plain formula, one row at a time, strips, and strips that are computed again."""
    n = 530
    y = torch.cat([torch.arange(n - 280) // 3, torch.full((270,), 500), torch.full((10,), -1)])
    y = y[torch.randperm(n)]
    if "all" in name:
        y = y[:64]
    x = torch.randn(len(y), 5, dtype=torch.float64)
    weights = torch.rand(len(y))
    expected, expected_gradient = value_and_gradient(LOSSES[name](workspace_mb=None), x, y, weights=weights)
    for workspace in (0, 1, 64):
        value, gradient = value_and_gradient(LOSSES[name](workspace_mb=workspace), x, y, weights=weights)
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_float64_rounded(name, way):
    x, y = torch.randn(300, 16), torch.arange(300) % 60
    if "all" in name:
        x, y = x[:64], y[:64] % 16
    expected, expected_gradient = value_and_gradient(LOSSES[name](workspace_mb=None), x.double(), y)
    workspace = WAYS[way]
    value, gradient = value_and_gradient(LOSSES[name](workspace_mb=workspace), x, y)
    torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-6)
    assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


def value_and_gradient(loss, x, y, **named):
    x = x.clone().requires_grad_()
    value = loss(x, y, **named)
    value.backward()
    return value.detach(), x.grad


def test_the_ways_are_what_they_are_called():
    """A batch against itself is walked by halves, as `mean_and_sums` chooses; the formula by plain torch."""
    x, y = torch.randn(4, 3, requires_grad=True), torch.arange(4) // 2
    for loss, expected in ((SupConLoss, True), (MultiSimilarityLoss, True), (TripletLoss, False)):
        for workspace in WAYS.values():
            value = loss(workspace_mb=workspace)(x, y)
            made_by, queue = set(), [value.grad_fn]
            while queue:
                node = queue.pop()
                made_by.add(type(node).__name__)
                queue += [following for following, _ in node.next_functions if following is not None]
            assert ("_SymmetricBackward" in made_by) == (expected and workspace is not None)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 0, 1, -1, 2, 0])
    if "0.0" in name or "steep" in name:
        x = x.detach().mul(0.05).add(1.0).requires_grad_()  # spread out, all but one term would vanish
    for way in WAYS:
        workspace = WAYS[way]
        assert gradcheck(lambda rows, mb=workspace: LOSSES[name](workspace_mb=mb)(rows, y), x)
    assert gradgradcheck(lambda rows: LOSSES[name](workspace_mb=None)(rows, y), x)


@pytest.mark.parametrize("workspace", [None, 64])
@pytest.mark.parametrize("kind", [SupConLoss, MultiSimilarityLoss, TripletLoss])
def test_gradient_of_reference_rows(kind, workspace):
    x, r = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 8))
    y, z = torch.arange(5) % 3, torch.arange(8) % 4
    loss = kind(workspace_mb=workspace)
    assert gradcheck(lambda rows, refs: loss(rows, y, None, refs, z), (x, r))


@pytest.mark.parametrize("name", ["supcon", "multi-similarity"])
def test_the_plain_way_has_what_transforms_ask_for(name):
    """A step of the graph that is differentiable once is no part of `workspace_mb=None`."""
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 3
    loss = LOSSES[name](workspace_mb=None)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, y), leaf)
    torch.testing.assert_close(torch.func.grad(lambda rows: loss(rows, y))(x), expected)
    bank = EmbeddingBank(x.float(), y, ids=torch.arange(8) + 50)
    mined = HardMiner().mine(bank)  # a record, whose ids the loss looks up inside the transform
    (expected,) = torch.autograd.grad(loss(leaf, y, mined, ids=bank.ids), leaf)
    torch.testing.assert_close(torch.func.grad(lambda rows: loss(rows, y, mined, ids=bank.ids))(x), expected)


@pytest.mark.parametrize("name", ["supcon", "supcon, in", "multi-similarity, mild"])
def test_strips_of_rows_without_a_label(name, generator):
    """More of them than a strip holds, then classes that lie across its edge."""
    y = torch.cat([torch.full((300,), -1), torch.arange(260) // 9])
    y = y[torch.randperm(len(y), generator=generator)]
    assert len(ByLabel.of(y, None).runs().others) == 8  # rows without a label are no class of 300
    values = []
    for workspace in (64, None):
        x = torch.randn(len(y), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
        value = LOSSES[name](workspace_mb=workspace)(x, y)
        value.backward()
        values.append((value.detach(), x.grad))
    torch.testing.assert_close(values[0], values[1])


def test_second_derivative_of_blocks_is_refused():
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    for loss in (SupConLoss(), TripletLoss(1.0, "all")):
        with pytest.raises(RuntimeError, match="differentiable once: pass workspace_mb=None"):
            torch.autograd.grad(loss(x, torch.arange(6) // 2), x, create_graph=True)


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("way", WAYS)
def test_learnable_temperature(way, form):
    workspace = WAYS[way]
    check_learnable_temperature({"workspace_mb": workspace, "form": form})


def check_learnable_temperature(settings):
    loss = SupConLoss(0.2, learnable=True, **settings)
    assert loss.temperature.item() == pytest.approx(0.2)
    x, y = torch.randn(10, 4, dtype=torch.float64), torch.arange(10) // 2
    loss(x, y).backward()
    step = 1e-6
    above, below = (SupConLoss(0.2 * math.exp(sign * step), **settings)(x, y).item() for sign in (1, -1))
    assert loss.log_temperature.grad.item() == pytest.approx((above - below) / (2 * step), rel=1e-5)
    assert [name for name, _ in loss.named_parameters()] == ["log_temperature"]
    t = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda t: supcon_loss(x, y, temperature=t, **settings), t)


COMPILED = """
import warnings

import torch

from legolas_metric.losses import focal_loss, multi_similarity_loss, supcon_loss, triplet_loss

x, y = torch.randn(9, 4), torch.arange(9) % 3
listed = (torch.tensor([0, 1]), torch.tensor([3, 4]), torch.tensor([2, 0]))
for loss, arguments, settings in [
    (supcon_loss, (y,), {}),
    (multi_similarity_loss, (y,), {"mining": 0.1}),
    (triplet_loss, (y,), {"selection": "all"}),
    (triplet_loss, (y,), {"selection": "semihard", "soft": True}),
    (triplet_loss, (y, listed), {}),
    (focal_loss, (y,), {}),
]:
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    rows = [x.clone().requires_grad_() for _ in range(2)]
    values = [function(row, *arguments, **settings) for function, row in zip((loss, compiled), rows)]
    for value in values:
        value.backward()
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(rows[0].grad, rows[1].grad, rtol=1e-4, atol=1e-6)
    print(loss.__name__)
"""


def test_compiles_without_graph_breaks():
    """In a process of its own: the type checks of the tests are not for the compiler."""
    done = python("-c", COMPILED, check=True)
    assert len(done.stdout.split()) == 6


def test_focal_is_finite():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for gamma in (0.0, 0.5, 2.0):
            x = torch.tensor([[60.0, -60.0], [-60.0, 60.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
            value = FocalLoss(gamma)(x, [0, 0, -1])
            value.backward()
            assert value.isfinite()
            assert x.grad.isfinite().all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["out", "in"])
def test_all_rows_are_too_far_for_float32(form, way):
    """At right angles or opposite: exp((s - 1) / T) is exp(-100) or less for every pair."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    workspace = WAYS[way]
    value = SupConLoss(0.01, form=form, workspace_mb=workspace)(x, [0, 0, 1, 1])
    assert value.item() == pytest.approx(100 + math.log(2))  # -(-1) / T + ln(2 + exp(-100))


@pytest.mark.parametrize("way", WAYS)
def test_large_weights_stay_finite(way):
    x = -torch.ones(6, 4)
    x[0] = 1
    x.requires_grad_()
    workspace = WAYS[way]
    loss = SupConLoss(0.0255, workspace_mb=workspace)
    loss(x, [0, 0, 1, 1, 2, 2], weights=torch.full((6,), 1e6)).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_sum_of_a_collapsed_batch_stays_finite():
    loss = MultiSimilarityLoss(beta=79.0, base=0.0)
    value = loss(torch.ones(20000, 2), torch.arange(20000))
    assert value.item() == pytest.approx(1 + math.log(19999) / 79, abs=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scale", [1e-28, 1e-20, 1e20, 1e30])
def test_the_length_of_rows_changes_nothing(scale, way, generator):
    x, y = torch.randn(8, 4, generator=generator), torch.arange(8) // 2
    workspace = WAYS[way]
    loss = SupConLoss(workspace_mb=workspace)
    assert loss(x * scale, y).item() == pytest.approx(SupConLoss()(x, y).item(), rel=1e-5)


def test_functional_forms_check_their_settings():
    x, y = torch.randn(4, 2), torch.arange(4) // 2
    with pytest.raises(ValueError, match="temperature must be positive"):
        supcon_loss(x, y, temperature=-0.1)
    with pytest.raises(ValueError, match="alpha and beta"):
        multi_similarity_loss(x, y, alpha=-1)
    with pytest.raises(ValueError, match="gamma"):
        focal_loss(x, y % 2, gamma=-1)


def test_the_detail_is_that_of_float32_under_autocast(generator):
    x, y = torch.randn(8, 4, generator=generator), torch.arange(8) // 2
    plain = SupConLoss()(x, y, detail=True)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert SupConLoss()(x, y, detail=True)[1] == plain


def test_a_bank_loss_refuses_a_loss_that_gathers():
    bank = EmbeddingBank(torch.eye(4), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="without gather"):
        BankLoss(SupConLoss(gather=World(0, 2)), bank)
