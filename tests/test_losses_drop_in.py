"""Our objects in the place of PML's, in the situations of its own tests: the same calls to both, equal answers."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from pytorch_metric_learning import losses, miners, reducers, samplers, trainers
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import nn
from torch.utils.data import TensorDataset

from legolas_metric import (
    EasyPositiveMiner,
    FullHardMiner,
    HardMiner,
    MultiSimilarityLoss,
    PKSampler,
    SemiHardMiner,
    SupConLoss,
    TripletLoss,
)
from legolas_metric.interop.pml import as_loss, as_miner, as_sampler

PAIRS = {
    "supcon": (SupConLoss(), losses.SupConLoss()),
    "multi-similarity": (MultiSimilarityLoss(), losses.MultiSimilarityLoss()),
    "triplet": (TripletLoss(selection="all"), losses.TripletMarginLoss(margin=0.2)),
}
_REMEDY = "give the miner to the memory, CrossBatchMemory"
CLOSE = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float32: 1e-5, torch.float64: 1e-9}


@pytest.fixture
def batch(generator):
    return torch.randn(20, 6, generator=generator), torch.randint(0, 5, (20,), generator=generator)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("with_tuple", [False, True])
def test_types(name, dtype, with_tuple, batch):
    """The value is of the embeddings' type, so that it can be compared and summed with PML's."""
    x, y = batch[0].to(dtype).requires_grad_(), batch[1]
    if (name, dtype) == ("triplet", torch.bfloat16):
        pytest.skip("PML's distances know no bfloat16 on a processor")
    ours, theirs = PAIRS[name]
    found = miners.MultiSimilarityMiner()(x, y) if with_tuple else None
    values = [loss(x, y, found) for loss in (ours, as_loss(ours), theirs)]
    assert [value.dtype for value in values] == [dtype] * 3
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
    torch.testing.assert_close(values[0], values[2], rtol=CLOSE[dtype], atol=CLOSE[dtype])
    sum(values).backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


def test_half_precision_is_computed_in_single(batch):
    """Rounded once, at the end; under autocast not at all, as torch's own losses."""
    x, y = batch[0].half(), batch[1]
    for ours, _ in PAIRS.values():
        single = ours(x.float(), y)
        assert torch.equal(ours(x, y), single.half())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(ours(x, y), single)


@pytest.mark.parametrize("name", PAIRS)
def test_a_memory_and_a_miners_tuple(name, batch):
    """PML reads the tuple's positions as rows of the memory; what the labels contradict is left out, and said once."""
    ours, _ = PAIRS[name]
    memory, miner = losses.CrossBatchMemory(as_loss(ours), 6, memory_size=64), as_miner(FullHardMiner())
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(12):
            x = torch.randn(16, 6, generator=generator).requires_grad_()
            y = torch.randint(0, 2, (16,), generator=generator)
            memory(x, y, miner(x, y)).backward()
            assert x.grad is not None
            assert x.grad.isfinite().all()
    assert [str(warning.message)[:36] for warning in said] == ["indices_tuple contradicts the labels"]


def test_what_is_left_is_what_the_labels_say(batch):
    """A memory's own list of all pairs, and a tuple of which half is wrong, is the list alone."""
    x, y = batch
    memories = [losses.CrossBatchMemory(as_loss(SupConLoss()), 6, memory_size=40) for _ in range(2)]
    for part, context in zip(torch.arange(20).chunk(2), (nullcontext(), pytest.warns(UserWarning, match=_REMEDY))):
        found = HardMiner()(x[part], y[part])
        with context:
            values = [memory(x[part], y[part], mined) for memory, mined in zip(memories, (found, None))]
        assert torch.equal(*values)


@pytest.mark.parametrize("name", PAIRS)
def test_a_memory_with_the_miner_inside(name, batch):
    """The remedy: the same value as PML's loss with the same miner."""
    x, y = batch
    memories = [
        losses.CrossBatchMemory(loss, 6, memory_size=32, miner=as_miner(FullHardMiner()))
        for loss in (as_loss(PAIRS[name][0]), PAIRS[name][1])
    ]
    for part in torch.arange(20).chunk(2):
        values = [memory(x[part], y[part]) for memory in memories]
        torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)


def test_a_memory_with_a_miner_of_nearest_positives(generator):
    """The memory holds the batch: an anchor's nearest positive is another row, and not its own copy there."""
    memory = losses.CrossBatchMemory(as_loss(TripletLoss(0.5)), 6, memory_size=32, miner=as_miner(EasyPositiveMiner()))
    for _ in range(3):
        x = torch.randn(16, 6, generator=generator).requires_grad_()
        value = memory(x, torch.arange(16) % 4)
        value.backward()
        assert value > 0
        assert x.grad is not None
        assert x.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:DistributedLossWrapper is being used")
def test_wrappers_take_adapted_losses(batch):
    x, y = batch
    for ours, theirs in PAIRS.values():
        for wrap in (
            DistributedLossWrapper,
            lambda loss: losses.MultipleLosses([loss, loss], miners=[as_miner(HardMiner()), None]),
            lambda loss: losses.MultipleLosses({"a": loss}, weights={"a": 2.0}),
        ):
            torch.testing.assert_close(wrap(as_loss(ours))(x, y), wrap(theirs)(x, y))
        both = [losses.SelfSupervisedLoss(loss)(x, x.flip(1)) for loss in (as_loss(ours), theirs)]
        torch.testing.assert_close(*both)


def test_what_pml_knows_by_name_or_base(batch):
    """Where the adapter is needed PML ends the run; its sentence stands in docs/from-pml.md."""
    with pytest.raises(Exception, match="CrossBatchMemory not supported for TripletLoss"):
        losses.CrossBatchMemory(TripletLoss(), 6)
    with pytest.raises(TypeError, match="must extend BaseMetricLossFunction or CrossBatchMemory"):
        DistributedLossWrapper(SupConLoss())
    with pytest.raises(TypeError, match="HardMiner is not a Module subclass"):
        losses.MultipleLosses([losses.SupConLoss()], miners=[HardMiner()])


@pytest.mark.parametrize(
    "make",
    [
        lambda: reducers.MeanReducer(),
        lambda: reducers.AvgNonZeroReducer(),
        lambda: reducers.SumReducer(),
        lambda: reducers.ThresholdReducer(low=0.5),
        lambda: reducers.ClassWeightedReducer(torch.arange(1, 6).float()),
        lambda: reducers.MultipleReducers({"loss": reducers.SumReducer()}),
    ],
)
@pytest.mark.parametrize("name", ["supcon", "multi-similarity"])
def test_reducers(name, make, batch):
    x, y = batch
    ours, theirs = PAIRS[name][0], type(PAIRS[name][1])(reducer=make())
    if name == "multi-similarity" and isinstance(make(), reducers.ClassWeightedReducer):
        # PML's losses are [n, 1] there, and broadcast against [n] weights: each loss gets the mean weight.
        weighted = as_loss(ours, reducer=make())(x, y)
        torch.testing.assert_close(weighted, (ours.per_anchor(x, y) * (y + 1)).mean())
        return
    later = as_loss(ours)
    later.reducer = make()
    rows = [x.clone().requires_grad_() for _ in range(3)]
    values = [loss(row, y) for loss, row in zip((theirs, later, as_loss(ours, reducer=make())), rows)]
    for value, row in zip(values, rows):
        value.backward()
        torch.testing.assert_close(value, values[0])
        torch.testing.assert_close(row.grad, rows[0].grad, rtol=1e-4, atol=1e-6)


def test_reducers_of_triplets(batch):
    x, y = batch
    for reducer in (reducers.MeanReducer(), reducers.AvgNonZeroReducer()):
        theirs = losses.TripletMarginLoss(margin=0.2, reducer=reducer)
        torch.testing.assert_close(as_loss(TripletLoss(selection="all"), reducer=reducer)(x, y), theirs(x, y))
    with pytest.raises(TypeError, match="lists none for a SumReducer: use MeanReducer or AvgNonZeroReducer"):
        as_loss(TripletLoss(), reducer=reducers.SumReducer())
    later = as_loss(TripletLoss())
    later.reducer = reducers.SumReducer()
    with pytest.raises(TypeError, match="lists none for a SumReducer"):
        later(x, y)


def test_per_anchor_values_come_in_the_order_of_the_batch(generator):
    """Also of more rows than are left unsorted."""
    x = torch.randn(300, 6, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 60, (300,), generator=generator)
    for loss in (SupConLoss(), MultiSimilarityLoss(mining=0.1)):
        values = loss.per_anchor(x, y)
        one = torch.zeros(300)
        one[17] = 1.0
        torch.testing.assert_close(values[17], loss(x, y, weights=one))
        alone = y.bincount()[y] == 1  # counted by SupCon in no mean
        counted = len(y) - int(alone.sum()) if isinstance(loss, SupConLoss) else len(y)
        torch.testing.assert_close(values.sum() / counted, loss(x, y))


def test_records_and_counts(batch):
    """What PML's record keeper reads: the class's name makes the table's, `_record_these` its columns."""
    x, y = batch
    miner = as_miner(SemiHardMiner(margin=0.3))
    found = miner(x, y)
    assert miner.num_triplets == len(found[0]) > 0
    assert type(miner).__name__ == "SemiHardMiner"
    for ours, columns in ((SupConLoss(0.3), ["temperature"]), (TripletLoss(0.4), ["margin"])):
        adapted = as_loss(ours)
        assert [name for name in adapted._record_these if name in columns] == columns
        assert [getattr(adapted, name) for name in columns] == [getattr(ours, name) for name in columns]
    theirs = as_miner(miners.BatchHardMiner()).to("cpu")
    assert theirs.num_triplets == 0
    assert theirs.num_triplets == len(theirs(x, y)[0]) or theirs.num_triplets > 0


def trainer_of(sampler, x, y, **named):
    model = nn.Linear(x.shape[1], 3)
    seen = []
    made = trainers.MetricLossOnly(
        models={"trunk": model},
        optimizers={"trunk_optimizer": torch.optim.SGD(model.parameters(), 0.1)},
        loss_funcs={"metric_loss": as_loss(SupConLoss())},
        dataset=TensorDataset(x, y),
        sampler=sampler,
        dataloader_num_workers=0,
        end_of_iteration_hook=lambda trainer: seen.append(float(trainer.losses["total_loss"].detach())),
        **named,
    )
    return made, seen


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # PML formats its loss
def test_a_trainer_gets_rows(generator):
    """Two epochs, every batch two classes of four rows."""
    y = torch.arange(40) % 10
    x = torch.randn(40, 5, generator=generator)
    flat = as_sampler(PKSampler(y, p=2, k=4))
    assert (len(flat), flat.batch_size) == (40, 8)
    rows = list(as_sampler(PKSampler(y, p=2, k=4)))
    assert all((y[part].view(2, 4) == y[part].view(2, 4)[:, :1]).all() for part in torch.tensor(rows).view(-1, 8))
    trainer, seen = trainer_of(flat, x, y, batch_size=flat.batch_size)
    trainer.train(num_epochs=2)
    assert len(seen) == 10
    plain, other = trainer_of(samplers.MPerClassSampler(y, 4, 8, 40), x, y, batch_size=8)
    plain.train(num_epochs=2)
    assert len(other) == 10


@pytest.mark.parametrize("batch_size", [4, 32])
def test_a_batch_sampler_in_a_trainers_place_fails_with_the_remedy(batch_size, generator):
    """PML would ask it for batches of batches: fewer than one, and so train zero steps."""
    y = torch.arange(40) % 10
    trainer, _ = trainer_of(PKSampler(y, p=2, k=4), torch.randn(40, 5, generator=generator), y, batch_size=batch_size)
    with pytest.raises(TypeError, match=r"PKSampler hands out whole batches: .*as_sampler\(sampler\)"):
        trainer.train(num_epochs=1)


def test_as_sampler_refuses():
    with pytest.raises(TypeError, match="as_sampler takes a PKSampler, NeighborPKSampler or TripletSampler"):
        as_sampler(samplers.MPerClassSampler(torch.arange(8) // 2, 2))


@pytest.mark.parametrize("reducer", [reducers.DivisorReducer(), nn.ReLU(), "mean"])
def test_a_reducer_that_cannot_be_served_is_refused_at_once(reducer):
    """PML's own SupConLoss takes a DivisorReducer, and ends in KeyError: 'divisor' at the first step."""
    for loss in (SupConLoss(), MultiSimilarityLoss(), TripletLoss()):
        with pytest.raises(TypeError, match=r"reducer must be|DivisorReducer"):
            as_loss(loss, reducer=reducer)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_two_views(name, symmetric, batch, generator):
    ours, theirs = PAIRS[name]
    x, other = batch[0], batch[0] + 0.1 * torch.randn(20, 6, generator=generator)
    values = [losses.SelfSupervisedLoss(loss, symmetric=symmetric)(x, other) for loss in (as_loss(ours), theirs)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("name", PAIRS)
def test_a_memory_that_takes_some_rows_only(name, generator):
    ours, theirs = PAIRS[name]
    memories = [losses.CrossBatchMemory(loss, 6, 24) for loss in (as_loss(ours), theirs)]
    for step in range(5):
        x, y = torch.randn(12, 6, generator=generator), torch.randint(0, 4, (12,), generator=generator)
        kept = torch.arange(12) % 2 == step % 2
        values = [memory(x, y, enqueue_mask=kept) for memory in memories]
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
