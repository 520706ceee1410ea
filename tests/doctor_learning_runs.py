"""Runs that learn badly, or look as if they did: losses, rates, what is kept, and what may be claimed."""

from collections.abc import Callable

import torch
from doctor_cases import both, classified, gaussians, kept
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import Tensor, nn
from torch.nn.functional import normalize
from trained_cases import drawn, encoder, ranked, rows_of, trained

from legolas_metric import EmbeddingBank, SupConLoss, evaluate_ranking, probe_embeddings
from legolas_metric.doctor.saved_rows import overlap
from legolas_metric.doctor.thresholds import limits


def apart(rows: Tensor) -> Tensor:
    """Distances of unit rows."""
    return (2 - 2 * rows @ rows.T).clamp_min(1e-6).sqrt()


def hardest(rows: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """Batch-hard without a warm-up: the textbook way into a point."""
    distance, same = apart(rows), labels[:, None] == labels
    return (distance.masked_fill(~same, 0).amax(1) - distance.masked_fill(same, 9).amin(1) + margin).relu().mean()


def semi_hard(rows: Tensor, labels: Tensor, margin: float = 0.2) -> Tensor:
    """The nearest negative behind the nearest positive: as the encoder learns, it finds harder ones."""
    distance, same = apart(rows), labels[:, None] == labels
    positive = distance.masked_fill(~same | torch.eye(len(rows), dtype=torch.bool), 9).amin(1)
    negative = distance.masked_fill(same | (distance <= positive[:, None]), 9).amin(1)
    return (positive - negative + margin).relu()[negative < 9].mean()


def probed(inputs: Tensor, labels: Tensor) -> Callable[[nn.Module], dict[str, object]]:
    """Where the rows lie, and the verdict."""

    def measured(network: nn.Module) -> dict[str, object]:
        found = probe_embeddings(network(inputs), labels)
        return {"resultant_length": found.resultant_length, "verdict": found.verdict or "none"}

    return measured


def jumps() -> None:
    """A rate that breaks the loss in one epoch; harder triplets from an epoch on, whose loss is larger; a root of 0."""
    inputs, labels, other = gaussians(1.0)
    measured = ranked(other, labels)
    kept("loss_jumps", trained(inputs, labels, measured, epochs=10, clock=lambda e: 3.0 if e == 7 else 1e-3))
    state = {"step": 0}

    def harder(rows: Tensor, fed: Tensor) -> Tensor:
        state["step"] += 1
        if state["step"] > 30:  # from epoch 6 on
            return hardest(rows, fed, 0.3)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(state["step"]))
        positive = (torch.arange(len(rows)) + 20) % len(rows)
        gap = (rows - rows[positive]).norm(dim=1) - (rows - rows[order]).norm(dim=1) + 0.3
        return gap[fed != fed[order]].relu().mean()

    lines = trained(inputs, labels, measured, epochs=10, loss=harder)
    for line in lines:
        line["values"]["strategy"] = "random" if line["epoch"] < 6 else "hard"
    kept("harder_from_an_epoch_on", lines, {"loss": "triplet", "margin": 0.3})

    def rooted(rows: Tensor, fed: Tensor) -> Tensor:
        distance, same = (2 - 2 * rows @ rows.T).sqrt(), fed[:, None] == fed  # of a row to itself: of less than 0
        return (distance[same].mean() - distance[~same].mean() + 1).relu()

    def finite(network: nn.Module) -> dict[str, float]:
        return measured(network) if network(other).isfinite().all() else {}

    kept("root_of_nought", trained(inputs, labels, finite, epochs=4, loss=rooted))
    empty = both(measured, lambda _: {"val_recall_class_99": float("nan")})
    kept("measure_of_an_empty_class", trained(inputs, labels, empty))


def plateaus() -> None:
    """A loss at its margin in a point, and one about there whose rows rank; a rate of 0, and a loss that adapts."""
    inputs, labels, other = gaussians(2.0)
    told = {"loss": "triplet", "margin": 1.0}
    lost = both(ranked(other, labels), probed(other, labels))
    kept("loss_at_its_margin", trained(inputs, labels, lost, loss=hardest, epochs=12, steps=20), told)
    inputs, labels, other = gaussians(0.9)
    measured = both(ranked(other, labels), probed(other, labels))
    kept("loss_about_its_margin", trained(inputs, labels, measured, loss=hardest, epochs=16, rate=1e-3), told)
    kept("rate_of_nought", trained(inputs, labels, ranked(other, labels), rate=0.0, epochs=6))
    kept("loss_that_adapts", trained(inputs, labels, ranked(other, labels), loss=semi_hard, epochs=8))


def turns() -> None:
    """Labels of other rows from an epoch on, as after a resume; and a gradient uphill, whose loss grows."""
    inputs, labels, other = gaussians(1.0)
    measured = ranked(other, labels)
    state, others = {"step": 0}, torch.randperm(300, generator=torch.Generator().manual_seed(9))

    def mixed_up(rows: Tensor, fed: Tensor) -> Tensor:
        state["step"] += 1
        return SupConLoss(0.1)(rows, fed if state["step"] <= 36 else fed[others])  # from epoch 7 on

    kept("fell_from_its_peak", trained(inputs, labels, measured, loss=mixed_up, epochs=14, rate=1e-2))

    def away(rows: Tensor, fed: Tensor) -> Tensor:
        """What it leaves of the gradient points uphill."""
        value = SupConLoss(0.1)(rows, fed)
        return 2 * value.detach() - value

    few, unseen = (rows_of(torch.arange(40) % 10, 0.5 * drawn(10, 16), 1.0, seed) for seed in (2, 3))
    kept("too_few_rows", classified(few, torch.arange(40) % 10, unseen, rate=0.05, epochs=12))
    kept("loss_diverges", trained(inputs, labels, measured, loss=away, epochs=10, rate=1e-3))


def rates() -> None:
    """A rate at which little moves; one as small that fits small weights; one that stays too long, and lowered."""
    inputs, labels, other = gaussians(1.0)
    kept("rate_too_small", trained(inputs, labels, ranked(other, labels), rate=4e-6))
    small = encoder()
    for weights in small.parameters():
        weights.data *= 0.01
    kept("small_rate_for_small_weights", trained(inputs, labels, ranked(other, labels), rate=9e-6, network=small))
    hard = ranked(other + 0.7 * drawn(300, 16, seed=8), labels)
    kept("rate_stays", trained(inputs, labels, hard, epochs=20))
    kept("rate_is_lowered", trained(inputs, labels, hard, epochs=20, clock=lambda epoch: 3e-3 * 0.8**epoch))
    for name, temperature in (("too_warm", 20.0), ("too_cold", 1e-3)):
        lines = trained(inputs, labels, ranked(other, labels), loss=SupConLoss(temperature), epochs=5)
        kept(name, lines, {"loss": "supcon", "temperature": temperature})
    kept("as_warm_as_usual", trained(inputs, labels, ranked(other, labels)), {"loss": "supcon", "temperature": 0.1})


def pairs() -> None:
    """What improves on the pairs that the loss is fed: of wrong labels, families, sessions; and of the classes."""
    inputs, labels, other = gaussians(1.0)

    def of_pairs(fed: Tensor, inputs: Tensor = inputs) -> Callable[[nn.Module], dict[str, float]]:
        def measured(network: nn.Module) -> dict[str, float]:
            report = evaluate_ranking(network(inputs), fed)
            return {"intra": report.intra, "inter": report.inter}

        return measured

    wrong = labels[torch.randperm(300, generator=torch.Generator().manual_seed(9))]
    lines = trained(inputs, wrong, both(ranked(other, labels), of_pairs(wrong)), epochs=10, rate=1e-2, steps=20)
    told = {"stopped_on": "train_loss"}
    kept("pairs_of_wrong_labels", lines, told)
    kept("pairs_of_the_classes", trained(inputs, labels, both(ranked(other, labels), of_pairs(labels))), told)
    labels, session = torch.arange(480) % 40, torch.arange(480) % 160  # four sessions in each class
    family, sessions = torch.arange(40) % 4, 1.2 * drawn(160, 16, seed=5)
    centres = drawn(4, 16, seed=6)[family] + 0.2 * drawn(40, 16)
    inputs, other = (rows_of(labels, centres, 0.5, seed) + sessions[session] for seed in (2, 3))
    lines = trained(inputs, family[labels], ranked(other, labels))
    kept("families_learnt", lines, {"gallery_size": 480})
    kept("classes_of_families_learnt", trained(inputs, labels, ranked(other, labels)), {"gallery_size": 480})
    labels, groups = torch.arange(480) % 20, torch.arange(480) // 20 % 4
    centres, sessions = drawn(20, 16), 1.5 * drawn(80, 16, seed=5)
    inputs, other = (rows_of(labels, centres, 0.7, seed) + sessions[labels * 4 + groups] for seed in (2, 3))
    kept("sessions_learnt", trained(inputs, labels * 4 + groups, ranked(other, labels, groups), epochs=10))
    kept("classes_across_sessions", trained(inputs, labels, ranked(other, labels, groups)))


def ends() -> None:
    """When runs end, and what they keep."""
    inputs, labels, other = gaussians(1.0)
    hard, measured = ranked(other + 0.7 * drawn(300, 16, seed=8), labels), ranked(other, labels)
    breaks = trained(inputs, labels, measured, epochs=8, clock=lambda e: 1.0 if e > 7 else 3e-3)
    kept("best_not_kept", breaks, {"restored": None})
    kept("best_kept", breaks, None, ("best weights", "kept epoch 7"))
    slow = trained(inputs, labels, measured, epochs=11, rate=2e-4)
    kept("still_improving", slow, {"epochs": 11})
    kept("stopped_while_improving", slow[:9], {"epochs": 60, "patience": 5})
    kept("stopped_in_warm_up", slow[:7], {"epochs": 20, "warmup_epochs": 10})
    kept("warm_up_was_all_that_was_planned", slow[:7], {"epochs": 6, "warmup_epochs": 10})
    level = trained(inputs, labels, hard, epochs=12, clock=lambda epoch: 3e-3 * 0.7**epoch)
    kept("levels_off", level, {"epochs": 12})
    kept("stopped_on_a_plateau", level, {"epochs": 60, "patience": 5})
    kept("judged_every_fourth_epoch", level[::4], {"epochs": 12, "warmup_epochs": 5})
    kept("few_epochs", slow[:4], {"epochs": 12})
    alone = torch.where(torch.arange(300) < 60, 100 + torch.arange(300), labels)
    kept("queries_without_answers", trained(inputs, labels, ranked(other, alone)))
    once = torch.where(torch.arange(300) < 3, 100 + torch.arange(300), labels)
    kept("a_query_without_answer", trained(inputs, labels, ranked(other, once)))


def folds() -> None:
    """Folds of people that are recorded well and less well, and of people recorded alike."""
    inputs, labels, other = gaussians(1.0)
    for name, noise in (("folds_apart", (0.0, 1.5, 4.0)), ("folds_alike", (0.0, 0.0, 0.0))):
        for number, level in enumerate(noise):
            rows = torch.arange(300)[labels % 5 == number]
            asked = ranked(other[rows] + level * drawn(len(rows), 16, seed=7), labels[rows])
            kept(f"{name}/fold_{number}", trained(inputs, labels, asked, epochs=5))


def classes() -> None:
    """Classifiers: by heart, of too few inputs, of rare classes; and those that look like it."""
    inputs, labels, other = gaussians(1.6, classes=4, rows=80)
    deep = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    kept("learnt_by_heart", classified(inputs, labels, other, network=deep, judged=True, epochs=10))
    inputs, labels, other = gaussians(1.0, classes=4)
    kept(
        "not_by_heart",
        classified(inputs, labels, other, judged=True, epochs=10),
        {"num_classes": 4, "classes_found": 4},
    )
    inputs, labels, other = gaussians(1.0)
    told = {"num_classes": 20}
    kept("too_few_inputs", classified(inputs[:, :2], labels, other[:, :2], epochs=10, rate=0.05, steps=20), told)
    kept("slow_and_rising", classified(inputs, labels, other, epochs=10, rate=1e-3), told)
    mostly = torch.arange(400) % 40 // 10 * (torch.arange(400) % 4 == 0)  # of four classes the first holds most rows
    inputs, other = (rows_of(mostly, drawn(4, 16), 1.0, seed) for seed in (2, 3))
    for name, rate in (("one_class_called", 1e-3), ("one_class_called_at_first", 1e-2)):
        calling = nn.Linear(16, 4)
        nn.init.zeros_(calling.weight)
        calling.bias.data = torch.tensor([3.0, 0.0, 0.0, 0.0])
        kept(name, classified(inputs, mostly, other, judged=True, rate=rate, network=calling, steps=5))
    rare = (torch.arange(620) < 20).long()
    inputs, other = (rows_of(rare, 0.4 * drawn(2, 16), 1.0, seed) for seed in (2, 3))
    told = {"num_classes": 2, "class_counts": {"0": 600, "1": 20}}
    kept("rare_class", classified(inputs, rare, other, judged=True, epochs=6), told)
    inputs, other = (rows_of(rare, 1.5 * drawn(2, 16), 1.0, seed) for seed in (2, 3))
    weighed = nn.CrossEntropyLoss(torch.tensor([1.0, 30.0]))
    lines = classified(inputs, rare, other, judged=True, epochs=6, loss=weighed)
    kept("rare_class_weighed", lines, told | {"class_weights": True})


class Held(nn.Module):
    """An encoder that may hold more than it computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.net = encoder()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def proxies() -> None:
    """A loss with proxies of its own, which the optimiser of the encoder lacks, or holds."""
    inputs, labels, other = gaussians(1.0)
    for name, held in (("proxies_left_out", False), ("proxies_held", True)):
        loss, network = ProxyAnchorLoss(20, 16), Held()
        if held:
            network.proxies = loss
        lines = trained(inputs, labels, ranked(other, labels), loss=loss, network=network)
        known = {id(weights) for weights in network.parameters()}
        kept(name, lines, {"not_optimised": [f"loss.{n}" for n, w in loss.named_parameters() if id(w) not in known]})


def copies() -> None:
    """A validation part that holds rows of the training part once more, under other names; and one that does not."""
    inputs, labels, other = gaussians(0.7)
    blur = torch.tensor([0.0] * 8 + [2.0] * 8)  # who it is lies in the first directions, which is to be learnt
    inputs, other = (rows + blur * drawn(300, 16, seed=seed) for rows, seed in ((inputs, 8), (other, 9)))
    network, known = encoder(), labels < 12
    lines = trained(inputs[known], labels[known], ranked(other[~known], labels[~known]), network=network)
    training = EmbeddingBank(network(inputs[known]).detach(), labels[known])
    rows, names = network(other[~known]).detach(), labels[~known]
    twice = torch.cat([rows, 1.0001 * training.embeddings[:20]]), torch.cat([names, 500 + torch.arange(20) % 2])
    for name, held in (("rows_of_the_other_part", twice), ("rows_of_its_own", (rows, names))):
        kept(name, lines, overlap(training, EmbeddingBank(*held), limits({})))


def cones() -> None:
    """Rows behind a ReLU and a large offset, which share a cone and rank; untrained ones that began in a point."""
    inputs, labels, other = gaussians(1.0)
    torch.manual_seed(0)

    class Offset(Held):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + 10

    def centred(rows: Tensor, fed: Tensor) -> Tensor:
        return SupConLoss(0.1)(normalize(rows - rows.mean(0)), fed)

    measured = both(ranked(other, labels), probed(other, labels))
    kept("cone_that_ranks", trained(inputs, labels, measured, network=Offset(), loss=centred))


RUNS = (jumps, plateaus, turns, rates, pairs, ends, folds, classes, proxies, copies, cones)
