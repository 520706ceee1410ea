"""Train small runs into faults, and sound ones beside them, and keep their histories in tests/histories.

All are trained anew by `python tests/doctor_runs.py`, within some minutes, or some of them by name (`mining claims`).
Not so `recipe`, the history of `legolas-metric train --set epochs=5` on the bundled handwriting, which takes some
minutes by itself; nor `recipe_ecg`, whose heartbeats (ECG-ID, PhysioNet) are not bundled: it is trained where
`../shared/data/ecgid_dev.npz` lies, and kept as it is elsewhere.

Nothing in a history is set by hand: values are measured on the encoder that was trained, and settings are those that
it was trained with.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import doctor_learning_runs
import doctor_mining_runs
import torch
from doctor_cases import HISTORIES, both, classified, gaussians, kept, of_training
from torch import Tensor, nn
from torch.nn.functional import normalize, softmax
from trained_cases import drawn, ranked, rows_of, trained

from legolas_metric import SupConLoss, evaluate_ranking, probe_embeddings
from legolas_metric.datasets import load_omniglot
from legolas_metric.encoders import attention_entropy
from legolas_metric.index.exact import ExactIndex
from legolas_metric.losses.focal import FocalLoss
from legolas_metric.runs import RunSettings
from legolas_metric.runs.commands import train
from legolas_metric.training.class_balance import balanced_sampler, balancings, class_weights

ECG = Path(__file__).parents[2] / "shared" / "data" / "ecgid_dev.npz"


def claims() -> None:
    """A gain that 40 queries can't tell from none; of as few, one that they can."""
    inputs, labels, other = gaussians(1.3)
    few = torch.arange(40)
    kept("interval_wider_than_gain", trained(inputs, labels, ranked(other[few], labels[few] % 20), rate=1e-4))
    inputs, labels, other = gaussians(1.0)
    kept("large_gain_on_few_queries", trained(inputs, labels, ranked(other[few], labels[few]), rate=3e-3))


def parts() -> None:
    """A split by rows, in which both parts hold each identity; one by identities."""
    inputs, labels, other = gaussians(0.7)
    blur = torch.tensor([1.0] * 8 + [3.0] * 8)  # identities lie in the first directions, which is to be learnt
    inputs, other = ((rows + (blur - 1) * drawn(300, 16, seed=seed)) for rows, seed in ((inputs, 8), (other, 9)))
    for name, known, unseen in (
        ("shared_identities", torch.arange(200), torch.arange(200, 300)),
        ("split_by_identity", torch.nonzero(labels < 12)[:, 0], torch.nonzero(labels >= 12)[:, 0]),
    ):
        shared = set(labels[known].tolist()) & set(labels[unseen].tolist())
        lines = trained(inputs[known], labels[known], ranked(other[unseen], labels[unseen]))
        kept(name, lines, {"shared_identities": len(shared)})


def rankings() -> None:
    """Classes that overlap; a run whose ranking breaks in one epoch and recovers."""
    inputs, labels, other = gaussians(2.0)
    kept("weak_ranking", trained(inputs, labels, ranked(other, labels)))
    inputs, labels, other = gaussians(0.8)
    lines = trained(inputs, labels, ranked(other, labels), epochs=12, clock=lambda e: 0.3 if e == 4 else 3e-3)
    kept("ranking_dips_and_recovers", lines)


def auxiliary() -> None:
    """An auxiliary loss of four times what it is to help, and the same at a weight that leaves it a help."""
    inputs, labels, other = gaussians(1.0)
    for name, weight in (("auxiliary_outweighs", 3.0), ("auxiliary_helps", 0.02)):
        heard: dict[str, float] = {}

        def loss(rows: Tensor, fed: Tensor, weight: float = weight, heard: dict = heard) -> Tensor:
            main = SupConLoss(0.1)(rows, fed)
            decode = (torch.linalg.lstsq(rows.detach(), inputs).solution).detach()
            rebuilt = (rows @ decode - inputs).square().sum(1).mean()  # of the inputs, summed over their 16 values
            heard.update(main_loss=main.item(), auxiliary_loss=rebuilt.item())
            return main + weight * rebuilt

        told = both(ranked(other, labels), lambda _, heard=heard: dict(heard))
        kept(name, trained(inputs, labels, told, loss=loss), {"auxiliary_weight": weight})


def margins() -> None:
    """Random negatives of unlike classes: soon all beyond the margin, on unseen classes alone or with everything."""
    for name, noise in (("margin_inactive", 1.6), ("margin_inactive_once_solved", 0.4)):
        inputs, labels, other = gaussians(noise)
        heard: dict[str, float] = {}

        def loss(rows: Tensor, fed: Tensor, heard: dict = heard) -> Tensor:
            order = torch.randperm(len(rows))
            positive = (torch.arange(len(rows)) + 20) % len(rows)
            apart = (rows - rows[positive]).norm(dim=1) - (rows - rows[order]).norm(dim=1) + 0.2
            inside = apart[fed != fed[order]]
            heard.update(active=(inside > 0).float().mean().item())
            return inside.relu().mean()

        told = both(ranked(other, labels), lambda _, heard=heard: dict(heard))
        kept(name, trained(inputs, labels, told, loss=loss, epochs=16, steps=15), {"loss": "triplet", "margin": 0.2})


def sequences() -> None:
    """Attention whose rate is next to nothing, and one that finds the step that tells the class."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(300) % 10
    steps = torch.randn(300, 12, 8, generator=generator)
    steps[torch.arange(300), torch.randint(12, (300,), generator=generator)] += 5 * drawn(10, 8)[labels]
    for name, rate in (("uniform_attention", 1e-7), ("attention_found", 3e-2)):
        torch.manual_seed(0)
        score, value = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), nn.Linear(8, 16)
        nn.init.zeros_(list(score.parameters())[2])
        groups = [{"params": score.parameters(), "lr": rate}, {"params": value.parameters(), "lr": 3e-3}]
        optimiser = torch.optim.Adam(groups)
        lines: list[dict] = []
        for epoch in range(11):
            values: dict[str, float] = {}
            for _ in range(10 if epoch else 0):
                weight = softmax(score(steps)[..., 0], 1)
                loss = SupConLoss(0.1)(normalize((weight[..., None] * value(steps)).sum(1)), labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                values["train_loss"] = loss.item()
            with torch.no_grad():
                weight = softmax(score(steps)[..., 0], 1)
                report = evaluate_ranking((weight[..., None] * value(steps)).sum(1), labels)
            values |= {"attention_entropy": attention_entropy(weight).mean().item(), "rank_at_1": report.rank[1]}
            lines.append({"epoch": epoch, "step": 10 * epoch, "values": values})
        kept(name, lines, {"sequence_length": 12, "epochs": 10})
    kept("attention_cut_short", lines[:5], {"sequence_length": 12, "epochs": 60})
    kept("attention_settled", lines, {"sequence_length": 12, "epochs": 60})


def classifiers() -> None:
    """Balancing twice and once; focal loss with and without mixing; labels of other rows, and a slow start."""
    labels = (torch.arange(440) % 11 == 0).long()
    inputs, other = (rows_of(labels, 0.8 * drawn(2, 16), 1.0, seed) for seed in (2, 3))
    weighed = nn.CrossEntropyLoss(class_weights(labels, 2))
    sampler = balanced_sampler(labels, 2)
    for name, loss, draw in (("balanced_twice", weighed, sampler), ("balanced_once", weighed, None)):
        ways = balancings(loss, [draw])
        why = ("double balancing", f"rare classes are favoured by {' and by '.join(ways)}") if len(ways) > 1 else None
        kept(name, classified(inputs, labels, other, loss=loss, draw=draw), {"num_classes": 2}, why)
    inputs, labels, other = gaussians(1.0, classes=10)
    focal = FocalLoss()
    for name, loss, alpha in (
        ("focal_on_soft_targets", focal, 0.4),
        ("focal_on_hard_targets", focal, 0.0),
        ("cross_entropy_on_soft_targets", None, 0.4),
    ):
        settings = {"loss": "focal" if loss else "cross_entropy", "mixup_alpha": alpha, "num_classes": 10}
        kept(name, classified(inputs, labels, other, loss=loss, mix=alpha), settings)
    inputs, labels, other = gaussians(1.0, classes=10, rows=4000)
    told = {"num_classes": 10, "loss": "cross_entropy"}
    shuffled = labels[torch.randperm(4000, generator=torch.Generator().manual_seed(5))]
    kept("training_at_chance", classified(inputs, shuffled, other, epochs=8), told)
    kept("training_above_chance", classified(inputs, labels, other, epochs=8), told)


def alphabets() -> None:
    """Few identities, learnt by heart, and easy ones; drawings normalised by the constants of photographs."""
    data = load_omniglot()
    held = data.take(torch.arange(6000, 6300))
    for name, rows in (("training_classes_solved", 160),):
        part = data.take(torch.arange(rows))
        pictures, unseen = (each.images.flatten(1).float() / 255 for each in (part, held))
        network = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 32))
        told = both(ranked(unseen, held.labels), of_training(pictures, part.labels))
        kept(name, trained(pictures, part.labels, told, network=network, epochs=6))
    inputs, labels, other = gaussians(0.5)
    kept("all_classes_solved", trained(inputs, labels, both(ranked(other, labels), of_training(inputs, labels))))
    part = data.take(torch.arange(400))
    for name, mean, deviation in (("foreign_constants", 0.485, 0.229), ("own_constants", None, None)):
        raw = [each.images.flatten(1).float() / 255 for each in (part, held)]
        mean, deviation = mean or raw[0].mean().item(), deviation or raw[0].std().item()
        pictures, unseen = ((rows - mean) / deviation for rows in raw)
        network = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 32))
        lines = trained(pictures, part.labels, ranked(unseen, held.labels), network=network, epochs=6)
        kind = "imagenet" if name == "foreign_constants" else "training rows"
        kept(name, lines, {"input_normalisation": kind, "input_kind": "handwriting"})


def collapses() -> None:
    """Ranks that fall with the ranking, and with it gained; hubs of a network that is pulled towards one direction."""
    inputs, labels, other = gaussians(0.8)
    kept("effective_rank_halved", trained(inputs, labels % 2, ranked(other, labels), epochs=15, rate=1e-2, steps=15))
    kept("rank_of_few_classes", trained(inputs, labels % 4, ranked(other, labels % 4), epochs=15, rate=1e-2, steps=15))
    hubs = both(ranked(other, labels), hubness(other))
    kept("hubs_grew", trained(inputs, labels, hubs, loss=towards_one_direction, epochs=10, rate=1e-2, steps=20))
    kept("hubs_stay", trained(inputs, labels, hubs, epochs=10))


def hubness(inputs: Tensor) -> Callable[[nn.Module], dict[str, float]]:
    """How unevenly the rows are neighbours of others (skewness of how often each is among the 10 nearest)."""

    def measured(network: nn.Module) -> dict[str, float]:
        found = probe_embeddings(network(inputs), index=ExactIndex()).by_neighbour
        assert found is not None
        assert found.hubness is not None
        return {"hubness": found.hubness}

    return measured


def towards_one_direction(rows: Tensor, labels: Tensor) -> Tensor:
    """A pull of all rows to their mean, without anything that parts them."""
    return (rows - rows.mean(0)).square().sum(1).mean()


def recipes() -> None:
    """What `legolas-metric train` does by its recipes on some handwriting, and by default on heartbeats."""
    common = {"width": 32, "batch_size": 64, "epochs": 5, "progress": False}
    asked: dict[str, dict] = {
        name: {"recipe": name, "max_classes": 160, "steps_per_epoch": 30} for name in ("near", "pk-supcon", "mined")
    }
    if ECG.is_file():
        asked["ecg"] = {"data": str(ECG), "steps_per_epoch": 20}
    for name, settings in asked.items():
        with TemporaryDirectory() as folder:
            train(RunSettings.of(common | settings), Path(folder) / "run")
            own = HISTORIES / f"recipe_{name.replace('-', '_')}"
            own.mkdir(exist_ok=True)
            shutil.copy(Path(folder) / "run" / "history.jsonl", own)


OWN = (claims, parts, rankings, auxiliary, margins, sequences, classifiers, alphabets, collapses, recipes)
RUNS = {run.__name__: run for run in (*OWN, *doctor_learning_runs.RUNS, *doctor_mining_runs.RUNS)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or RUNS:
        torch.manual_seed(0)
        RUNS[name]()
