"""The combinations with pytorch-metric-learning that users make."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from processes import begin, python, start
from pytorch_metric_learning import losses, miners, samplers, testers, trainers
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper, DistributedMinerWrapper
from pytorch_metric_learning.utils.inference import FaissKNN, InferenceModel
from torch import nn
from torch.utils.data import TensorDataset

from legolas_metric import (
    EmbeddingBank,
    ExactIndex,
    FaissIndex,
    FullHardMiner,
    HardMiner,
    MiningSchedule,
    MultiSimilarityLoss,
    RandomMiner,
    SemiHardMiner,
    SupConLoss,
    TripletLoss,
)
from legolas_metric.interop.pml import as_knn_func, as_loss, as_miner

OURS_AND_THEIRS = [
    (SupConLoss(), losses.SupConLoss()),
    (MultiSimilarityLoss(), losses.MultiSimilarityLoss()),
    (TripletLoss(), losses.TripletMarginLoss(margin=0.2)),
]


@pytest.fixture
def batch(generator):
    x = torch.randn(24, 6, generator=generator)
    return x, torch.randint(0, 6, (24,), generator=generator)


def test_pml_is_imported_late():
    code = "import sys, legolas_metric, legolas_metric.interop.pml; print('pytorch_metric_learning' in sys.modules)"
    assert python("-c", code, check=True).stdout.strip() == "False"


@pytest.mark.parametrize(("ours", "theirs"), OURS_AND_THEIRS)
def test_cross_batch_memory(ours, theirs, batch):
    """Three batches through the memory, which lists every pair or triplet for the loss."""
    x, y = batch
    memories = [losses.CrossBatchMemory(loss, 6, memory_size=16) for loss in (as_loss(ours), theirs)]
    for part in torch.arange(24).chunk(3):
        rows = [x[part].clone().requires_grad_() for _ in memories]
        values = [memory(row, y[part]) for memory, row in zip(memories, rows)]
        torch.testing.assert_close(values[0], values[1])
        for value in values:
            value.backward()
        torch.testing.assert_close(rows[0].grad, rows[1].grad, rtol=1e-4, atol=1e-6)


def test_cross_batch_memory_with_our_miner(batch):
    x, y = batch
    memory = losses.CrossBatchMemory(as_loss(TripletLoss()), 6, memory_size=24, miner=as_miner(FullHardMiner()))
    for part in torch.arange(24).chunk(3):
        value = memory(x[part].clone().requires_grad_(), y[part])
        assert torch.isfinite(value)


@pytest.mark.parametrize(("ours", "theirs"), OURS_AND_THEIRS)
@pytest.mark.parametrize("miner", [HardMiner(), SemiHardMiner(), FullHardMiner()])
def test_our_miner_feeds_pml_losses(miner, ours, theirs, batch):
    x, y = batch
    tuples = miner(x, y)
    torch.testing.assert_close(ours(x, y, tuples), theirs(x, y, tuples))
    ref, ref_y = x.flip(0).mul(2).add(0.1), y.flip(0)
    against = miner(x, y, ref, ref_y)
    torch.testing.assert_close(ours(x, y, against, ref, ref_y), theirs(x, y, against, ref, ref_y))


def test_pml_miners_feed_our_losses(batch):
    x, y = batch
    for miner in (miners.MultiSimilarityMiner(), miners.BatchHardMiner(), miners.TripletMarginMiner(margin=0.3)):
        for ours, theirs in OURS_AND_THEIRS:
            found = miner(x, y)
            torch.testing.assert_close(ours(x, y, found), theirs(x, y, found))


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # PML formats its loss
@pytest.mark.parametrize("loss", [ours for ours, _ in OURS_AND_THEIRS])
def test_trainer(loss, generator):
    y = torch.arange(64) % 8
    x = torch.randn(8, 5, generator=generator)[y] + 0.3 * torch.randn(64, 5, generator=generator)
    model = nn.Linear(5, 3)
    start = model.weight.detach().clone()
    trainer = trainers.MetricLossOnly(
        models={"trunk": model},
        optimizers={"trunk_optimizer": torch.optim.SGD(model.parameters(), 0.1)},
        batch_size=16,
        loss_funcs={"metric_loss": as_loss(loss)},
        mining_funcs={"tuple_miner": as_miner(HardMiner())},
        dataset=TensorDataset(x, y),
        sampler=samplers.MPerClassSampler(y, 2, length_before_new_iter=64),
        dataloader_num_workers=0,
    )
    trainer.train(num_epochs=1)
    assert torch.isfinite(model.weight).all()
    assert not torch.equal(model.weight, start)


@pytest.mark.parametrize("index", [ExactIndex(metric="euclidean"), FaissIndex(metric="euclidean")])
def test_accuracy_calculator(index, batch):
    x, y = batch
    x[5] = x[9]  # equal rows: self is told by number, not by distance
    include = ("precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_average_precision")
    got, expected = (
        AccuracyCalculator(include=include, knn_func=knn, device=torch.device("cpu"))
        for knn in (as_knn_func(index), FaissKNN())
    )
    assert got.get_accuracy(x, y) == pytest.approx(expected.get_accuracy(x, y))
    apart = (x[:10], y[:10], x[10:], y[10:])
    assert got.get_accuracy(*apart) == pytest.approx(expected.get_accuracy(*apart))


def test_tester(batch):
    x, y = batch
    calculator = AccuracyCalculator(("precision_at_1",), knn_func=as_knn_func(ExactIndex()), device=torch.device("cpu"))
    tester = testers.GlobalEmbeddingSpaceTester(accuracy_calculator=calculator, dataloader_num_workers=0, batch_size=8)
    accuracies = tester.test({"val": TensorDataset(x, y)}, 0, nn.Identity())
    assert 0 <= accuracies["val"]["precision_at_1_level0"] <= 1


def test_inference_model(batch, tmp_path):
    x, _ = batch
    ours = InferenceModel(nn.Identity(), knn_func=as_knn_func(ExactIndex(metric="euclidean")))
    theirs = InferenceModel(nn.Identity(), knn_func=FaissKNN(reset_before=False, reset_after=False))
    for model in (ours, theirs):
        model.train_knn(x[:12])
        model.add_to_knn(x[12:])
    (d, rows), (squared, expected) = (model.get_nearest_neighbors(x[:4], k=3) for model in (ours, theirs))
    assert rows.tolist() == expected.tolist()
    torch.testing.assert_close(d[:, 1:].square(), squared[:, 1:], rtol=1e-4, atol=1e-5)
    ours.save_knn_func(tmp_path / "rows.safetensors")
    again = as_knn_func(ExactIndex(metric="euclidean"))
    again.load(tmp_path / "rows.safetensors")
    assert again(ours.get_embeddings(x[:4]), 3)[1].tolist() == rows.tolist()


def test_knn_func_refuses():
    knn = as_knn_func(ExactIndex())
    with pytest.raises(ValueError, match="nothing to search: pass reference, or call train"):
        knn(torch.eye(2), 1)
    with pytest.raises(ValueError, match="k=2 is more than there are rows"):
        knn(torch.eye(2), 2, torch.eye(2), ref_includes_query=True)
    with pytest.raises(ValueError, match="nothing to save"):
        knn.save("nowhere.safetensors")
    knn.train(torch.eye(2))
    knn.reset()
    with pytest.raises(ValueError, match="nothing to search"):
        knn(torch.eye(2), 1)


def test_load_refuses_another_file(tmp_path):
    EmbeddingBank(torch.eye(2), [0, 1]).save(tmp_path / "bank.safetensors")
    with pytest.raises(ValueError, match="is not a saved KnnFunc"):
        as_knn_func(ExactIndex()).load(tmp_path / "bank.safetensors")


def test_pml_miner_is_a_stage(batch):
    """Over the bank, batch-hard is batch-hard of the whole set: farthest positive, nearest negative."""
    x, y = batch
    y[3] = -1
    bank = EmbeddingBank(x, y, ids=torch.arange(24) * 3 + 1)
    stage = as_miner(miners.BatchHardMiner(), chunk=7)
    schedule = MiningSchedule([(0, stage), (1, FullHardMiner())])
    got, expected = (schedule.advance(epoch).mine(bank) for epoch in (0, 1))
    named = [
        sorted(zip(*(t.tolist() for t in (found.anchor, found.positive, found.negative)))) for found in (got, expected)
    ]
    assert named[0] == named[1]
    assert got.stats.engine == "pml:BatchHardMiner"
    assert got.stats.anchors == expected.stats.anchors == 23
    assert got.stats.no_positive == expected.stats.no_positive
    stage.load_state_dict(stage.state_dict())
    assert repr(stage) == "PmlMiner(BatchHardMiner)"


@pytest.mark.parametrize(
    "make",
    [
        lambda: miners.BatchEasyHardMiner("easy", "semihard"),
        lambda: miners.BatchEasyHardMiner("easy", "hard"),
        lambda: miners.HDCMiner(0.3),
        lambda: miners.MultiSimilarityMiner(),
    ],
)
def test_a_bank_is_a_batch_to_a_pml_miner_that_takes_it_whole(make, batch):
    x, y = batch
    own = as_miner(make())
    found = own.mine(EmbeddingBank(x, y))
    expected = as_miner(make())(x, y)
    assert len(found) > 0
    for part, other in zip((found.anchor, found.positive, found.negative), expected, strict=True):
        assert torch.equal(part, other)
    some = own.mine(EmbeddingBank(x, y), anchors=[9, 2])
    with pytest.raises(ValueError, match="must be unique"):
        own.mine(EmbeddingBank(x, y), anchors=[2, 2])
    assert set(some.anchor.tolist()) == {2, 9} & set(found.anchor.tolist())


def test_a_pml_miner_of_nearest_positives_takes_no_bank_in_parts(batch):
    x, y = batch
    with pytest.raises(ValueError, match=r"would take each row itself: pass as_miner\(miner, chunk=24\)"):
        as_miner(miners.BatchEasyHardMiner("easy", "semihard"), chunk=7).mine(EmbeddingBank(x, y))


def test_an_adapted_miner_keeps_its_calls_in_its_state(batch):
    x, y = batch
    miner, again = as_miner(RandomMiner(seed=3)), as_miner(RandomMiner(seed=3))
    miner(x, y)
    again.load_state_dict(miner.state_dict())
    assert [part.tolist() for part in again(x, y)] == [part.tolist() for part in miner(x, y)]


def test_pml_miner_of_pairs_in_a_batch(batch):
    x, y = batch
    a, p, n = as_miner(miners.MultiSimilarityMiner())(x, y)
    assert (y[a] == y[p]).all()
    assert (y[a] != y[n]).all()
    assert (a != p).all()


@pytest.mark.parametrize("ours", [ours for ours, _ in OURS_AND_THEIRS])
def test_adapters_can_be_pickled_and_copied(ours, batch):
    x, y = batch
    loss, miner = as_loss(ours).eval(), as_miner(SemiHardMiner(seed=3))
    miner(x, y)
    for loss_again, miner_again in (pickle.loads(pickle.dumps((loss, miner))), copy.deepcopy((loss, miner))):
        assert type(loss_again) is type(loss)
        assert not loss_again.training
        assert loss_again.loss is not loss.loss
        torch.testing.assert_close(loss_again(x, y), loss(x, y))
        assert [part.tolist() for part in miner_again(x, y)] == [part.tolist() for part in copy.deepcopy(miner)(x, y)]


def test_adapters_refuse():
    class Other(SupConLoss):
        pass

    with pytest.raises(TypeError, match="as_loss takes one of SupConLoss, MultiSimilarityLoss, TripletLoss"):
        as_loss(Other())
    with pytest.raises(TypeError, match="as_miner takes a miner of this library or of PML"):
        as_miner(3)


def wrapped(rank: int, size: int, port: int) -> None:
    begin(rank, size, port)
    try:
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(12, 4, generator=generator), torch.arange(12) % 3
        own = slice(6 * rank, 6 * rank + 6)
        got = []
        for efficient in (False, True):
            miner = DistributedMinerWrapper(as_miner(FullHardMiner()), efficient=efficient)
            loss = DistributedLossWrapper(as_loss(TripletLoss(0.5)), efficient=efficient)
            mined = miner(x[own], y[own])
            got.append(loss(x[own], y[own], mined))
        joint = TripletLoss(0.5)(x, y)
        torch.testing.assert_close(got[0] / 2, joint)  # PML multiplies by the number of processes
        assert torch.isfinite(got[1])
    finally:
        dist.destroy_process_group()


def test_distributed_wrappers():
    start(wrapped, 2)
