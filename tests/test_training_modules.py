"""Both callbacks in any LightningModule, on any data, in any precision; and what MetricLearner trains and predicts."""

import lightning as L
import pytest
import torch
from lightning.pytorch.tuner import Tuner
from pytorch_metric_learning import losses
from torch import nn
from torch.utils.data import DataLoader

from legolas_metric import (
    BankLoss,
    EmbeddingBank,
    HardMiner,
    PKSampler,
    RetrievalProtocol,
    SupConLoss,
    evaluate_ranking,
)
from legolas_metric.datasets import load_omniglot
from legolas_metric.training import GlobalMining, MetricLearner, ValidationMonitor, WithIds

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(scope="module")
def omniglot():
    return load_omniglot().take(torch.arange(160))


def net(width=16) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width))


class Own(L.LightningModule):
    """A module of one's own: the encoder under another name, one loss, batches taken apart by hand."""

    def __init__(self, encoder=None, mining=None):
        super().__init__()
        self.parts = nn.ModuleDict({"backbone": encoder or net()})
        self.mining = mining

    def forward(self, x):
        return self.parts["backbone"](x)

    def training_step(self, batch, batch_idx):
        x, y, ids = batch
        loss = SupConLoss()(self(x), y, self.mining.indices(ids))
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    "encoder", [None, "parts.backbone", lambda module: module.parts["backbone"], lambda module: lambda x: module(x)]
)
def test_any_module_is_mined_for_and_ranked(omniglot, encoder):
    mining = GlobalMining(
        omniglot, omniglot.labels, schedule=HardMiner(), encoder=encoder, batch_size=32, progress=False
    )
    watch = ValidationMonitor(omniglot, omniglot.labels, encoder=encoder)
    module = Own(mining=mining)
    expected = EmbeddingBank.encode(module.parts["backbone"], omniglot, labels=omniglot.labels, progress=False)
    L.Trainer(max_epochs=2, callbacks=[mining, watch], **QUIET).fit(module, mining.loader())
    assert len(mining.rounds) == 2
    assert watch.history[0].ranking.rank[1] == evaluate_ranking(expected.embeddings, omniglot.labels).rank[1]
    assert watch.history[2].ranking.map_at_r > watch.history[0].ranking.map_at_r


@pytest.mark.parametrize(
    ("encoder", "error", "message"),
    [
        ("backbon", ValueError, "encoder='backbon', but Own has no attribute 'backbon'"),
        (lambda module: 3, ValueError, r"the encoder of Own must map inputs to \[b, d\], got 3"),
    ],
)
def test_an_encoder_that_is_not_there_is_told(omniglot, encoder, error, message):
    mining = GlobalMining(omniglot, omniglot.labels, schedule=HardMiner(), encoder=encoder, progress=False)
    with pytest.raises(error, match=message):
        L.Trainer(max_epochs=1, callbacks=[mining], **QUIET).fit(Own(mining=mining), mining.loader())


class Classifies(Own):
    """Its forward pass gives classes, which is not what is to be ranked."""

    def forward(self, x):
        return self.parts["backbone"](x)[:, :2]

    def training_step(self, batch, batch_idx):
        x, y, _ = batch
        return SupConLoss()(self.parts["backbone"](x), y)


def test_a_monitor_ranks_by_the_encoder_that_is_mined_with(omniglot):
    def before_training(encoder):
        mining = GlobalMining(
            omniglot, omniglot.labels, schedule=HardMiner(), encoder="parts.backbone", batch_size=32, progress=False
        )
        watch, module = ValidationMonitor(omniglot, omniglot.labels, encoder=encoder), Classifies()
        L.Trainer(max_epochs=1, limit_train_batches=1, callbacks=[watch, mining], **QUIET).fit(module, mining.loader())
        return watch.history[0].ranking.map_at_r

    module = Classifies()
    expected, other = (
        evaluate_ranking(EmbeddingBank.encode(part, omniglot, labels=omniglot.labels, progress=False)).map_at_r
        for part in (module.parts["backbone"], module)
    )
    assert before_training(None) == expected != other
    assert before_training(lambda trained: trained) == other


class Formless(Own):
    forward = L.LightningModule.forward


def test_a_module_that_cannot_embed_is_told_before_anything_is_mined(omniglot):
    mining = GlobalMining(omniglot, omniglot.labels, schedule=HardMiner(), progress=False)
    with pytest.raises(ValueError, match=r"Formless has neither an attribute encoder nor a forward pass .* pass enc"):
        L.Trainer(max_epochs=1, callbacks=[mining], **QUIET).fit(Formless(mining=mining), mining.loader())
    assert mining.rounds == []


def test_a_module_as_encoder_is_refused_at_once(omniglot):
    with pytest.raises(TypeError, match="encoder is the name of an attribute of the trained module, or a function"):
        ValidationMonitor(omniglot, omniglot.labels, encoder=net())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("settings", [{}, {"ema": 0.9, "rotate": 0.3}], ids=["whole", "averaged, rotating"])
def test_embedding_goes_through_the_trainers_precision(omniglot, precision, settings):
    seen = []

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            out = self.net(x)
            seen.append((self.training, x.dtype, out.dtype))
            return out

    mining = GlobalMining(
        omniglot, omniglot.labels, schedule=HardMiner(), batch_size=64, embed_batch_size=100, progress=False, **settings
    )
    callbacks = [mining, ValidationMonitor(omniglot, omniglot.labels)]
    trainer = L.Trainer(max_epochs=1, precision=precision, callbacks=callbacks, **QUIET)
    trainer.fit(MetricLearner(Looks(), SupConLoss()), mining.loader())
    inside, out = {
        "bf16-mixed": (torch.float32, torch.bfloat16),
        "bf16-true": (torch.bfloat16, torch.bfloat16),
        "64-true": (torch.float64, torch.float64),
    }[precision]
    assert {entry for entry in seen if not entry[0]} == {(False, inside, out)}
    assert mining.bank.embeddings.dtype == torch.float32


class Recordings:
    """Named recordings of different lengths: two inputs, no subclass of torch's, as Hugging Face's sets are."""

    def __init__(self, omniglot):
        self.omniglot = omniglot

    def __len__(self):
        return len(self.omniglot)

    def __getitem__(self, row):
        image, label = self.omniglot[row]
        return ({"pixels": image.double().flatten()[: 700 + row % 5], "name": f"drawing {row}"}, torch.ones(1)), label


class Joint(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(705, 16)

    def forward(self, recording, scale):
        assert recording["name"][0].startswith("drawing")
        return self.lin(recording["pixels"].to(self.lin.weight.dtype)) * scale


def joined(items):
    pixels = [recording["pixels"] for recording, _ in items]
    padded = nn.utils.rnn.pad_sequence([nn.functional.pad(p, (0, 705 - len(p))) for p in pixels], batch_first=True)
    named = {"pixels": padded, "name": [recording["name"] for recording, _ in items]}
    return named, torch.stack([scale for _, scale in items])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_any_data_trains_and_validates(omniglot, num_workers):
    data = Recordings(omniglot)
    reading = {"collate_fn": joined, "num_workers": num_workers, "persistent_workers": num_workers > 0}
    mining = GlobalMining(
        data, omniglot.labels, schedule=HardMiner(), batch_size=32, embed_batch_size=50, progress=False, **reading
    )
    watch = ValidationMonitor(data, omniglot.labels, groups=omniglot.drawers, **reading)
    learner = MetricLearner(Joint(), SupConLoss(), lr=0.01)
    loader = mining.loader()
    assert loader.num_workers == num_workers
    L.Trainer(max_epochs=3, callbacks=[mining, watch], **QUIET).fit(learner, loader)
    assert watch.history[-1].ranking.map_at_r > watch.history[0].ranking.map_at_r


def test_validation_by_several_protocols_and_groups(omniglot):
    labels, drawers = omniglot.labels, omniglot.drawers // 10
    protocols = [RetrievalProtocol.cross_session(), RetrievalProtocol(name="all")]
    watch = ValidationMonitor(omniglot, labels, groups=drawers, protocol=protocols)
    trainer = L.Trainer(max_epochs=1, callbacks=[watch], **QUIET)
    learner = MetricLearner(net(), SupConLoss())
    trainer.fit(learner, DataLoader(omniglot, batch_sampler=PKSampler(labels, 8, 4)))
    bank = EmbeddingBank.encode(learner.encoder, omniglot, labels=labels, progress=False)
    first, second = (
        evaluate_ranking(bank.embeddings, labels, groups=drawers, protocol=protocol).rank[1] for protocol in protocols
    )
    assert first != second
    logged = trainer.callback_metrics
    assert logged["rank_at_1"] == logged[f"rank_at_1/{protocols[0].name}"] == pytest.approx(first)
    assert logged["rank_at_1/all"] == pytest.approx(second)
    with pytest.raises(ValueError, match="protocols must have names of their own"):
        ValidationMonitor(omniglot, labels, protocol=[RetrievalProtocol(), RetrievalProtocol()])


def test_the_learner_trains_predicts_and_loads(omniglot, tmp_path):
    labels = omniglot.labels
    proxies = losses.ProxyAnchorLoss(int(labels.max()) + 1, 16)
    start = proxies.proxies.detach().clone()
    learner = MetricLearner(net(), proxies, lr=1e-3, loss_lr=0.1)
    loader = DataLoader(omniglot, batch_sampler=PKSampler(labels, 8, 4))  # (x, y) alone
    trainer = L.Trainer(max_epochs=-1, max_steps=6, **QUIET)
    trainer.fit(learner, loader)
    groups = trainer.optimizers[0].param_groups
    assert [len(group["params"]) for group in groups] == [2, 1]
    assert groups[1]["lr"] == pytest.approx(100 * groups[0]["lr"])
    assert (learner.loss.proxies - start).abs().max() > 0.05
    whole = DataLoader(omniglot, batch_size=50)
    found = torch.cat(L.Trainer(**QUIET).predict(learner, whole))
    images = torch.stack([image for image, _ in omniglot])
    torch.testing.assert_close(found, learner.encoder(images).detach())
    alone = torch.cat(L.Trainer(**QUIET).predict(learner, DataLoader(images, batch_size=50)))
    assert torch.equal(alone, found)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    for settings in ({}, {"loss": losses.ProxyAnchorLoss(int(labels.max()) + 1, 16)}):
        loaded = MetricLearner.load_from_checkpoint(tmp_path / "last.ckpt", encoder=net(), **settings)
        assert torch.equal(loaded.encoder(images), learner.encoder(images))
        assert (loaded.lr, loaded.loss_lr) == (1e-3, 0.1)
    assert torch.equal(loaded.loss.proxies, learner.loss.proxies)


def test_the_learner_takes_optimiser_and_schedule(omniglot):
    made = []

    def optimizer(groups):
        made.append(torch.optim.SGD(groups, momentum=0.9))
        return made[0]

    def fit(learner, **settings):
        trainer = L.Trainer(**settings, **QUIET)
        trainer.fit(learner, DataLoader(omniglot, batch_sampler=PKSampler(omniglot.labels, 8, 4)))
        return trainer

    halved = MetricLearner(
        net(), SupConLoss(), lr=0.5, optimizer=optimizer, schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5)
    )
    trainer = fit(halved, max_steps=3)
    assert trainer.optimizers == made
    assert made[0].param_groups[0]["lr"] == 0.5**4
    assert (
        fit(MetricLearner(net(), SupConLoss(), lr=0.5, schedule=lambda o: None), max_steps=3)
        .optimizers[0]
        .param_groups[0]["lr"]
        == 0.5
    )
    with pytest.raises(ValueError, match=r"this run has no end: set max_epochs or max_steps of the Trainer, or pass"):
        fit(MetricLearner(net(), SupConLoss()), max_epochs=-1)
    with pytest.raises(ValueError, match="this MetricLearner has no loss"):
        fit(MetricLearner(net()), max_steps=1)
    with pytest.raises(ValueError, match="lr must be at least 0"):
        MetricLearner(net(), SupConLoss(), lr=-1.0)


def test_a_bank_loss_is_given_ids_and_step(omniglot):
    labels = omniglot.labels
    bank = EmbeddingBank.encode(net(), omniglot, labels=labels, progress=False)
    seen = []

    class Watched(BankLoss):
        def forward(self, embeddings, labels, mined=None, **settings):
            seen.append((settings["ids"].tolist(), settings["step"]))
            return super().forward(embeddings, labels, mined, **settings)

    learner = MetricLearner(net(), Watched(SupConLoss(), bank))
    loader = DataLoader(WithIds(omniglot), batch_sampler=PKSampler(labels, 8, 4))
    L.Trainer(max_epochs=2, **QUIET).fit(learner, loader)
    sampler = PKSampler(labels, 8, 4)
    sampler.set_epoch(1)
    assert [step for _, step in seen] == list(range(len(seen)))
    assert [ids for ids, _ in seen][-len(sampler) :] == list(sampler)
    with pytest.raises(ValueError, match=r"need the ids of the batch's rows: train on mining\.loader"):
        L.Trainer(max_epochs=1, **QUIET).fit(learner, DataLoader(omniglot, batch_sampler=PKSampler(labels, 8, 4)))


@pytest.mark.filterwarnings("ignore")
def test_lr_find_works_after_prepare_and_says_so_before(omniglot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = QUIET | {"enable_checkpointing": True}
    mining = GlobalMining(
        omniglot, omniglot.labels, schedule=HardMiner(), batch_size=32, steps_per_epoch=40, progress=False
    )
    learner = MetricLearner(net(), SupConLoss())
    with pytest.raises(RuntimeError, match=r"Tuner.lr_find suspends all callbacks, .*call mining.prepare\(module\)"):
        Tuner(L.Trainer(max_epochs=1, callbacks=[mining], **settings)).lr_find(learner, mining.loader(), num_training=5)
    mining.prepare(learner)
    trainer = L.Trainer(max_epochs=1, callbacks=[mining], **settings)
    found = Tuner(trainer).lr_find(learner, mining.loader(), num_training=40)
    assert learner.lr == found.suggestion()
    trainer.fit(learner, mining.loader())
    assert [r.epoch for r in mining.rounds] == [0]


def test_batches_of_another_form_are_told(omniglot):
    learner = MetricLearner(net(), SupConLoss())
    for batch, what in ((torch.zeros(3), "Tensor"), ((1, 2, 3, 4), "4 parts")):
        with pytest.raises(ValueError, match=rf"batches of \(inputs, labels\) or \(inputs, labels, ids\), got {what}"):
            learner.training_step(batch, 0)
