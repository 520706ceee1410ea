"""Verdicts on embeddings that training drove into each state, and on ones put together by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from legolas_metric import CollapseGuard, PKSampler, SupConLoss, probe_embeddings
from legolas_metric.datasets import load_ecg_id, split_omniglot
from legolas_metric.encoders import Conv4
from legolas_metric.probes.collapse_report import VERDICTS

ECG = Path(__file__).parents[1] / "examples/data/ecgid_dev.npz"
CLASSES, ROWS, INPUTS = 20, 20, 16


def data(noise: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Twenty classes of twenty rows, as clouds that overlap the more the more noise."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(CLASSES * ROWS) % CLASSES
    coarse = torch.randn(4, INPUTS, generator=generator)[torch.arange(CLASSES) // 5]
    centres = coarse + torch.randn(CLASSES, INPUTS, generator=generator)
    return centres[labels] + noise * torch.randn(len(labels), INPUTS, generator=generator), labels


def train(loss, *, steps: int, rate: float = 3e-3, noise: float = 0.5) -> torch.Tensor:
    """Train a small network on all rows at once; its embeddings afterwards."""
    inputs, labels = data(noise)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(INPUTS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(normalize(network(inputs)), labels).backward()
        optimiser.step()
    return network(inputs).detach()


def hardest(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Batch-hard triplets with margin 1: farthest positive, hardest negative."""
    distance = (2 - 2 * rows @ rows.T).clamp_min(1e-6).sqrt()
    same = labels[:, None] == labels
    positive = distance.masked_fill(~same, 0).amax(1)
    return (positive - distance.masked_fill(same, 9).amin(1) + 1).relu().mean()


def test_the_verdicts_are_these():
    assert VERDICTS == ("healthy", "point collapse", "class collapse", "dimensional collapse", "over-clustered")


def test_a_little_supcon_is_healthy():
    _, labels = data()
    report = probe_embeddings(train(SupConLoss(0.1), steps=20), labels)
    assert (report.verdict, report.remedy) == ("healthy", "")
    assert len(report.evidence) == 6  # every figure that was looked at


def test_an_untrained_network_is_healthy():
    _, labels = data()
    assert probe_embeddings(train(hardest, steps=0), labels).verdict == "healthy"


def test_hardest_negatives_from_step_0_end_in_a_point():
    _, labels = data()
    report = probe_embeddings(train(hardest, steps=60, noise=2), labels)
    assert report.verdict == "point collapse"
    assert "resultant length R = " in report.evidence[0]
    assert "easier negatives" in report.remedy


def test_learning_coarse_labels_ends_in_few_dimensions():
    """Two coarse labels need one dimension, where twenty classes need nineteen."""
    _, labels = data()
    report = probe_embeddings(train(lambda x, y: SupConLoss(0.1)(x, y // 10), steps=200), labels)
    assert report.verdict == "dimensional collapse"
    assert "effective rank" in report.evidence[0]
    assert "uniformity" in report.remedy


def test_learning_wrong_labels_puts_the_classes_onto_one_another():
    _, labels = data()
    wrong = torch.randint(0, CLASSES, labels.shape, generator=torch.Generator().manual_seed(5))
    report = probe_embeddings(train(lambda x, _: SupConLoss(0.1)(x, wrong), steps=400), labels)
    assert report.verdict == "class collapse"
    assert "beyond chance" in report.evidence[0]
    assert "labels and rows belong together" in report.remedy


def test_supcon_to_the_end_is_over_clustered():
    _, labels = data()
    report = probe_embeddings(train(SupConLoss(0.1), steps=450), labels)
    assert report.verdict == "over-clustered"
    assert "of the spread is within classes" in report.evidence[0]
    assert "no alarm" in report.remedy


def test_the_same_states_put_together():
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(600) % 30
    centres = torch.randn(30, 24, generator=generator)[labels]
    noise = torch.randn(600, 24, generator=generator)
    point = torch.ones(24) + 1e-3 * noise
    flat = torch.cat([(centres + 0.3 * noise)[:, :3], 1e-3 * noise[:, 3:]], 1)
    for rows, verdict in [
        (centres + 0.5 * noise, "healthy"),
        (point, "point collapse"),
        (noise, "class collapse"),
        (flat, "dimensional collapse"),
        (centres + 0.01 * noise, "over-clustered"),
    ]:
        assert probe_embeddings(rows, labels).verdict == verdict
    for rows, verdict in [(noise, "healthy"), (point, "point collapse"), (flat, "dimensional collapse")]:
        assert probe_embeddings(rows).verdict == verdict


def test_few_classes_need_few_dimensions():
    """Three classes at the corners of a triangle fill two of 32 dimensions, and that is no fault."""
    labels = torch.arange(300) % 3
    rows = torch.eye(32)[labels] + 0.1 * torch.randn(300, 32)
    rows[:, 3:] *= 0.01
    assert probe_embeddings(rows, labels).effective_rank < 4
    assert probe_embeddings(rows, labels).verdict == "healthy"


def test_the_run_is_held_against_its_own_reference(generator):
    """A rank that passes beside iid rows, and is half of what this run had, does not pass; nor do classes that fade."""
    labels = torch.arange(800) % 40
    noise = torch.randn(800, 32, generator=generator)
    centres = torch.randn(40, 32, generator=generator)[labels]
    before = probe_embeddings(centres + noise, labels)
    half = torch.cat([(centres + noise)[:, :12], 1e-3 * noise[:, 12:]], 1)
    assert probe_embeddings(half, labels).verdict == "healthy"
    now = probe_embeddings(half, labels, reference=before)
    assert now.verdict == "dimensional collapse"
    assert f"reference {before.effective_rank:.1f}" in now.evidence[0]
    assert now.reference is before
    faded = 0.35 * centres + noise
    assert probe_embeddings(faded, labels).verdict == "healthy"
    assert probe_embeddings(faded, labels, reference=before).verdict == "class collapse"
    # A network that was a narrow cone to begin with is no point collapse; one that has become twice as narrow is.
    cone = torch.ones(32) + 0.08 * (centres + 0.1 * noise)
    start = probe_embeddings(cone, labels)
    assert start.resultant_length > 0.99
    assert start.verdict == "healthy"
    assert start.evidence[0].startswith("narrow cone")
    assert probe_embeddings(cone).verdict == "point collapse"  # without labels nothing tells the two apart
    assert probe_embeddings(cone, reference=probe_embeddings(cone)).verdict == "healthy"
    assert probe_embeddings(cone, labels, reference=start).verdict == "healthy"


HEADS = {
    "relu": lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU()),
    "relu, then linear": lambda: nn.Linear(64, 32),
    "layer norm": lambda: nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32)),
    "batch norm": lambda: nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32)),
}


class Cone(nn.Module):
    """A network whose rows begin in a narrow cone, by a large bias before a head."""

    def __init__(self, head: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(INPUTS, 64), nn.ReLU())
        self.head = HEADS[head]()
        offsets = [self.head] if isinstance(self.head, nn.Linear) else list(self.head)
        last = next(layer for layer in reversed(offsets) if hasattr(layer, "bias"))
        nn.init.constant_(last.bias, 8.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def fit(network: nn.Module, inputs, labels, loss, *, steps: int, rate: float) -> torch.Tensor:
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(normalize(network(inputs)), labels).backward()
        optimiser.step()
    return network(inputs).detach()


@pytest.mark.parametrize("head", HEADS)
def test_a_cone_that_a_network_began_in_is_no_collapse(head):
    """Into the cone (untrained), trained inside it, driven into a point, and out again: for every kind of head."""
    inputs, labels = data(1.0)
    network = Cone(head)
    start = probe_embeddings(network(inputs).detach(), labels)
    assert start.resultant_length > 0.99
    trained = fit(network, inputs, labels, SupConLoss(0.05), steps=15, rate=1e-3)
    now = probe_embeddings(trained, labels, reference=start)
    assert now.nearest_share > start.nearest_share
    assert now.verdict == "healthy"
    guard = CollapseGuard("stop")
    guard.check(start, epoch=0)
    assert guard.check(probe_embeddings(trained, labels), epoch=1) is None
    point = fit(network, inputs, labels, lambda x, _: (1 - x @ x.mean(0)).mean(), steps=200, rate=1e-2)
    fallen = probe_embeddings(point, labels, reference=start)
    assert fallen.verdict in ("point collapse", "class collapse")
    assert guard.check(probe_embeddings(point, labels), epoch=2).act == "stop"
    out = fit(network, inputs, labels, SupConLoss(0.1), steps=120, rate=1e-2)
    assert probe_embeddings(out, labels, reference=start).verdict in ("healthy", "over-clustered")


def test_a_real_table_with_an_offset_is_a_narrow_cone_and_one_without_its_classes_is_not():
    """ECG beats of 45 persons as they were recorded (R = 0.85), lifted into a cone of R > 0.99."""
    beats = load_ecg_id(ECG)
    signals = beats.signals.flatten(1)
    spread = normalize(signals) + 10 / signals.shape[1] ** 0.5
    report = probe_embeddings(spread, beats.labels)
    assert report.resultant_length > 0.99
    assert report.verdict == "healthy"
    assert report.evidence[0].startswith("narrow cone")
    shuffled = beats.labels[torch.randperm(len(beats.labels))]
    assert probe_embeddings(spread, shuffled).verdict == "point collapse"


def test_conv4_on_omniglot_begins_in_a_cone_and_is_trained_out_of_it():
    """Unseen characters: a ReLU before the head puts the untrained rows into a cone of R > 0.999."""
    train_part, unseen = split_omniglot()
    fed, asked = train_part.take(torch.arange(600)), unseen.take(torch.arange(500))
    torch.manual_seed(0)
    head = nn.Sequential(nn.ReLU(), nn.Linear(64, 64))
    encoder = nn.Sequential(Conv4(), head)

    def probed(reference=None):
        encoder.eval()
        with torch.no_grad():
            rows = encoder(asked.images[:, None].float() / 255)
        encoder.train()
        return probe_embeddings(rows, asked.labels, reference=reference)

    start = probed()
    assert start.resultant_length > 0.99
    optimiser = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    sampler = PKSampler(fed.labels, p=16, k=4, batches_per_epoch=30, seed=0)
    for batch in sampler:
        optimiser.zero_grad()
        SupConLoss(0.1)(encoder(fed.images[batch, None].float() / 255), fed.labels[batch]).backward()
        optimiser.step()
    now = probed(start)
    assert now.nearest_share > start.nearest_share
    assert now.verdict == "healthy"
    guard = CollapseGuard("stop")
    assert guard.check(start, epoch=0) is None
    assert guard.check(probed(), epoch=1) is None


def test_a_ranking_that_gains_outweighs_dimensions_that_it_did_not_need(generator):
    """Half of the dimensions of the untrained encoder were noise: without them the classes are found."""
    labels = torch.arange(800) % 40
    centres = torch.zeros(40, 32)
    centres[:, :12] = torch.randn(40, 12, generator=generator)
    noise = torch.randn(800, 32, generator=generator)
    before = probe_embeddings(centres[labels] + noise, labels)
    after = centres[labels] + 0.3 * torch.cat([noise[:, :12], 1e-3 * noise[:, 12:]], 1)
    now = probe_embeddings(after, labels, reference=before)
    assert now.effective_rank < 0.5 * before.effective_rank
    assert now.nearest_share > before.nearest_share + 0.05
    assert now.verdict == "healthy"
