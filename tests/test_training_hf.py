"""Global mining under the Trainer of transformers, on Omniglot."""

import os

import pytest
import torch
from processes import start
from torch import nn

from legolas_metric import HardMiner, MiningSchedule, SemiHardMiner
from legolas_metric.bank import EmbeddingBank
from legolas_metric.datasets import load_omniglot
from legolas_metric.distributed import World
from legolas_metric.losses import SupConLoss, TripletLoss
from legolas_metric.training import MiningLoop, WithIds

transformers = pytest.importorskip("transformers")

from legolas_metric.training import MiningCallback  # noqa: E402

ROWS, BATCH, STEPS = 120, 24, 4


class Pictures:
    def __init__(self):
        self.data = load_omniglot().take(torch.arange(ROWS))

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        image, label = self.data[row]
        return {"x": image.flatten(), "labels": int(label)}


class Small(nn.Module):
    def __init__(self, loop):
        super().__init__()
        torch.manual_seed(1)
        self.net, self.loop, self.seen = nn.Linear(784, 8), [loop], []

    def embed(self, batch):
        return self.net(batch["x"])

    def forward(self, x, labels=None, ids=None):
        z, loop = self.net(x), self.loop[0]
        triplets = loop.indices(ids)
        self.seen.append((ids.tolist(), len(triplets[0])))
        return {"loss": TripletLoss(margin=0.5)(z, labels, triplets), "embeddings": z}


class Gathering(Small):
    """Compares each row with those of all processes, in float64."""

    def __init__(self, loop):
        super().__init__(loop)
        self.net.double()

    def embed(self, batch):
        return self.net(batch["x"].double())

    def forward(self, x, labels=None, ids=None):
        z, world = self.net(x.double()), World.current(averages_gradients=True)
        self.seen.append(ids)
        return {"loss": SupConLoss(gather=world if world.size > 1 else None)(z, labels), "embeddings": z}


def run(folder, *, resume=None, sampled=True, late=False, epochs=3, batch=BATCH, mined=BATCH, kind=Small, **settings):
    pictures = Pictures()
    stages = MiningSchedule([(0, SemiHardMiner(margin=1.0)), (1, HardMiner())])
    loop = MiningLoop(
        pictures,
        pictures.data.labels,
        schedule=stages,
        batch_size=mined,
        steps_per_epoch=STEPS,
        every_steps=3,
        collate_fn=transformers.default_data_collator,
        progress=False,
    )
    model = kind(loop)
    mining = MiningCallback(loop, encoder=lambda module: module.embed)

    class Mined(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return mining.sampler if sampled else super()._get_train_sampler(*_)

    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        save_strategy="steps",
        save_steps=6,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )
    trainer = Mined(model, arguments, train_dataset=WithIds(pictures), callbacks=[] if late else [mining])
    if late:
        trainer.add_callback(mining)
    first = EmbeddingBank.encode(
        model.embed,
        pictures,
        labels=pictures.data.labels,
        collate_fn=transformers.default_data_collator,
        progress=False,
    )
    trainer.train(resume_from_checkpoint=resume)
    return loop, model, first


def test_every_epoch_is_mined_and_its_batches_are_trained_on(tmp_path):
    loop, model, first = run(tmp_path)
    assert [(r.epoch, r.step, r.miner) for r in loop.rounds] == [
        (0, 0, "SemiHardMiner"),
        (0, 3, "SemiHardMiner"),
        (1, 4, "HardMiner"),
        (1, 6, "HardMiner"),
        (2, 8, "HardMiner"),
        (2, 9, "HardMiner"),
    ]
    found = loop.rounds[0].triplets
    expected = SemiHardMiner(margin=1.0).mine(first)
    assert torch.equal(found.anchor, expected.anchor)
    assert torch.equal(found.negative, expected.negative)
    assert len(model.seen) == 3 * STEPS
    for step, (ids, triplets) in enumerate(model.seen):
        assert len(set(ids)) == len(ids) == BATCH
        assert triplets >= BATCH // 3 or step in (3, 6, 9)  # fetched ahead of a round within the epoch
    assert loop.last.drift < 0.9999


def test_a_run_goes_on_within_an_epoch(tmp_path):
    _, whole, _ = run(tmp_path / "whole")
    run(tmp_path / "again", epochs=3)
    loop, rest, _ = run(tmp_path / "again", resume=str(tmp_path / "again" / "checkpoint-6"))
    assert rest.seen == whole.seen[6:]
    assert torch.equal(rest.net.weight, whole.net.weight)
    assert [(r.epoch, r.step) for r in loop.rounds] == [(1, 6), (2, 8), (2, 9)]


def test_a_trainer_that_would_train_on_other_batches_is_refused(tmp_path):
    with pytest.raises(ValueError, match="let its _get_train_sampler return mining"):
        run(tmp_path, sampled=False)
    with pytest.raises(ValueError, match="the Trainer's batches have 12 rows, the loop's 24"):
        run(tmp_path, batch=12)
    run(tmp_path / "saved")
    (tmp_path / "saved" / "checkpoint-6" / "mining.pt").unlink()
    with pytest.raises(ValueError, match=r"mining needs .*mining\.pt"):
        run(tmp_path / "saved", resume=str(tmp_path / "saved" / "checkpoint-6"))


def test_what_is_no_loop_is_refused():
    with pytest.raises(TypeError, match="must be a MiningLoop"):
        MiningCallback.__init__.__wrapped__(MiningCallback.__new__(MiningCallback), "loop")


JOINT = 48


def one_of(rank, size, port, folder):
    """A process of a run, started as torchrun starts it: a whole run, one that goes on, and what is refused."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    given = {"batch": JOINT // size, "mined": JOINT // size, "kind": Gathering, "ddp_backend": "gloo"}
    with pytest.raises(ValueError, match=r"has 2 processes, the loop 1: pass the callback to the Trainer's callbacks"):
        run(folder / "late", late=True, **given)
    runs = [run(folder / "saved", **given)]
    runs.append(run(folder / "saved", resume=str(folder / "saved" / "checkpoint-6"), **given))
    torch.save([kept(*made) for made in runs], folder / f"{rank}.pt")


def kept(loop, model, _):
    rounds = [[r.triplets.anchor, r.triplets.positive, r.triplets.negative] for r in loop.rounds]
    return {"rounds": rounds, "bank": loop.bank.embeddings, "ids": model.seen, "weight": model.net.weight.detach()}


def test_on_two_processes_a_run_is_that_of_one(tmp_path):
    start(one_of, 2, tmp_path)
    alone = kept(*run(tmp_path / "one", batch=JOINT, mined=JOINT, kind=Gathering))
    whole, again = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)))
    for runs, begun in ((whole, 0), (again, 6)):
        for step, ids in enumerate(alone["ids"][begun:]):
            assert {len(run["ids"][step]) for run in runs} == {JOINT // 2}
            assert torch.equal(torch.cat([run["ids"][step] for run in runs]), ids)
        for run_ in runs:
            assert torch.equal(run_["bank"], runs[0]["bank"])
            torch.testing.assert_close(run_["weight"], alone["weight"], rtol=0, atol=1e-6)
            for found, expected in zip(reversed(run_["rounds"]), reversed(alone["rounds"])):
                assert all(map(torch.equal, found, expected))
    assert len(alone["rounds"]) == len(whole[0]["rounds"]) == 6


def test_weights_that_are_divided_among_processes_are_refused(tmp_path):
    nothing = transformers.TrainerState(), transformers.TrainerControl()
    for divides in ("fsdp", "deepspeed"):
        arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
        setattr(arguments, divides, "on")
        loop = MiningLoop(torch.randn(12, 4), torch.arange(12) // 3, miner=HardMiner(), batch_size=6)
        mining = MiningCallback(loop)
        loader = torch.utils.data.DataLoader(range(12), sampler=mining.sampler, batch_size=6)
        with pytest.raises(ValueError, match="whole encoder, which DeepSpeed, FSDP"):
            mining.on_train_begin(arguments, *nothing, train_dataloader=loader, model=nn.Linear(4, 2))
