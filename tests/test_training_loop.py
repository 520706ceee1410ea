"""MiningLoop: the same rounds as Lightning's, in a plain loop, with pytorch-metric-learning inside."""

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch import nn
from torch.utils.data import DataLoader

from legolas_metric import HardMiner, MiningSchedule, PKSampler, RandomMiner, SemiHardMiner, SupConLoss
from legolas_metric.bank import EmbeddingBank
from legolas_metric.datasets import load_omniglot
from legolas_metric.miners.schedule import Plateau
from legolas_metric.training import MiningLoop, RunHistory, WithIds
from legolas_metric.training.embedder import Placed


@pytest.fixture(scope="module")
def omniglot():
    return load_omniglot().take(torch.arange(160))  # 8 characters of one alphabet


def encoder() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))


def train(loop, net, optimizer, epochs, *, loss=None, stop=None, saved=None):
    """A plain loop; returns the ids of its batches. At `stop` (epoch, step) the states are put into `saved`."""
    loss, seen = loss or losses.TripletMarginLoss(), []
    for epoch in range(loop.next_epoch, epochs):
        for step, (x, y, ids) in enumerate(loop.epoch(net, value=0.5)):
            value = loss(net(x), y, loop.indices(ids))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            seen.append(ids.tolist())
            if (epoch, step) == stop:
                saved.update(loop=loop.state_dict(), net=net.state_dict(), optimizer=optimizer.state_dict())
                return seen
    return seen


def make(omniglot, **settings):
    net = encoder()
    given = {"batch_size": 32, "steps_per_epoch": 5, "progress": False} | settings
    if "schedule" not in given:
        given["miner"] = HardMiner()
    return MiningLoop(omniglot, omniglot.labels, **given), net, torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)


def test_a_plain_loop_trains_on_what_was_mined(omniglot):
    loop, net, optimizer = make(omniglot, every_steps=3)
    assert loop.next_epoch == 0
    before = EmbeddingBank.encode(net, omniglot, labels=omniglot.labels, progress=False)
    batches = list(train(loop, net, optimizer, 3))
    assert len(batches) == 15
    # a round at each epoch's start, and at every third step that is not an epoch's last
    assert [(r.epoch, r.step) for r in loop.rounds] == [(0, 0), (0, 3), (1, 5), (1, 6), (1, 9), (2, 10), (2, 12)]
    assert torch.equal(loop.rounds[0].triplets.anchor.unique(), torch.arange(160))
    first = loop.rounds[0].triplets
    assert torch.equal(first.s_an, (before.embeddings[first.anchor] * before.embeddings[first.negative]).sum(1)) or (
        (first.s_an - (before.embeddings[first.anchor] * before.embeddings[first.negative]).sum(1)).abs().max() < 1e-5
    )
    for ids in batches[:3]:
        a, p, n = first.locate(torch.tensor(ids))
        # every row is of a triplet that lies inside, but for places that were left when the next one did not fit
        assert len(ids) == 32
        assert len(torch.stack([a, p, n]).unique()) >= 30
    assert loop.next_epoch == 3
    assert loop.last.drift < 0.9999
    assert "HardMiner found 160 triplets of 160 anchors" in loop.last.summary()


def stages():
    return MiningSchedule([(0, RandomMiner()), (1, SemiHardMiner(margin=1.0)), (Plateau(1), HardMiner())])


SETTINGS = {
    "each epoch": {},
    "within epochs, rotating, averaged": {"every_steps": 2, "rotate": 0.2, "ema": 0.9},
    "in turns": {"turns": ("mined", "neighbors", "random"), "every": 2},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("stop", [(0, 1), (1, 4), (2, 0)])
def test_a_loop_that_was_stopped_goes_on_as_if_it_was_not(omniglot, tmp_path, name, stop):
    whole, net, optimizer = make(omniglot, schedule=stages(), **SETTINGS[name])
    seen = train(whole, net, optimizer, 4)
    first, other, its_optimizer = make(omniglot, schedule=stages(), **SETTINGS[name])
    saved = {}
    begun = train(first, other, its_optimizer, 4, stop=stop, saved=saved)
    torch.save(saved, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    again, fresh, fresh_optimizer = make(omniglot, schedule=stages(), **SETTINGS[name])
    again.load_state_dict(loaded["loop"])
    fresh.load_state_dict(loaded["net"])
    fresh_optimizer.load_state_dict(loaded["optimizer"])
    assert again.next_epoch == stop[0] + (stop[1] == 4)
    assert begun + train(again, fresh, fresh_optimizer, 4) == seen
    for key, value in net.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[key])
    assert torch.equal(whole.bank.embeddings, again.bank.embeddings)
    assert whole.schedule.changes == again.schedule.changes


def test_miners_and_losses_of_pml_have_their_place_inside(omniglot):
    loop, net, _ = make(omniglot)
    mine, loss = miners.BatchHardMiner(), losses.ProxyAnchorLoss(int(omniglot.labels.max()) + 1, 16)
    for x, y, ids in loop.epoch(net):
        z = net(x)
        a, p, n = loop.indices(ids)
        assert torch.equal(y[a], y[p])
        value = loss(z, y) + losses.TripletMarginLoss()(z, y, (a, p, n)) + losses.TripletMarginLoss()(z, y, mine(z, y))
        assert torch.isfinite(value)


def test_ids_for_a_loader_of_ones_own(omniglot):
    names = torch.randperm(500)[:160]
    loop, net, _ = make(omniglot, ids=names)
    next(iter(loop.epoch(net)))
    loader = DataLoader(WithIds(omniglot, ids=names), batch_sampler=PKSampler(omniglot.labels, 8, 10))
    located = 0
    for x, y, ids in loader:
        a, p, n = loop.indices(ids)
        located += len(a)
        assert torch.equal(y[a], y[p])
        assert (y[a] != y[n]).all()
        assert torch.isfinite(SupConLoss()(net(x), y, (a, p, n)))
    assert located


def test_a_loop_that_is_left_has_ended_its_epoch(omniglot):
    loop, net, _ = make(omniglot)
    for _ in loop.epoch(net):
        break
    assert loop.next_epoch == 1
    assert len(list(loop.epoch(net))) == 5
    assert [r.epoch for r in loop.rounds] == [0, 1]


def test_every_round_is_written(omniglot, tmp_path):
    loop, net, optimizer = make(omniglot, history=tmp_path / "history.jsonl")
    train(loop, net, optimizer, 2)
    rounds = RunHistory(tmp_path).rounds
    assert [(r["epoch"], r["step"], r["miner"]) for r in rounds] == [(0, 0, "HardMiner"), (1, 5, "HardMiner")]
    assert rounds[1]["values"]["triplets"] == 160
    assert rounds[1]["values"]["drift"] == pytest.approx(loop.last.drift)
    assert {"fed", "no_positive", "outside_window", "encode_seconds", "plan_seconds", "max_age"} <= set(
        rounds[0]["values"]
    )


def test_random_views_are_told_with_what_they_do(omniglot):
    class Views:
        def __len__(self):
            return 160

        def __getitem__(self, row):
            image, label = omniglot[row]
            return image + torch.randn_like(image), label

    net = encoder()
    loop = MiningLoop(Views(), omniglot.labels, miner=HardMiner(), progress=False)
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match=r"32 examples, read twice, have a mean cosine of 0\.\d+ .*pass embed_dataset"):
        loop.embedder.warn_of_random_views(loop.embedding(Placed(net)))
    assert torch.equal(torch.get_rng_state(), before)
    plain = MiningLoop(Views(), omniglot.labels, miner=HardMiner(), embed_dataset=omniglot, progress=False)
    next(iter(plain.epoch(net)))  # pytest makes an error of a warning
    expected = EmbeddingBank.encode(net, omniglot, labels=omniglot.labels, progress=False)
    torch.testing.assert_close(plain.bank.embeddings, expected.embeddings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ValueError, "pass either miner, such as HardMiner"),
        ({"miner": HardMiner(), "schedule": stages()}, ValueError, "pass either miner"),
        ({"miner": HardMiner(), "embed_dataset": torch.zeros(3, 2)}, ValueError, "embed_dataset has 3 examples"),
        ({"miner": HardMiner(), "turns": ("mined", "random"), "k": 1}, ValueError, "both at least 2"),
        ({"miner": HardMiner(), "embed_batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
)
def test_settings_are_checked_when_constructed(omniglot, settings, error, message):
    build = MiningLoop.__init__.__wrapped__
    with pytest.raises(error, match=message):
        build(MiningLoop.__new__(MiningLoop), omniglot, omniglot.labels, **settings)
