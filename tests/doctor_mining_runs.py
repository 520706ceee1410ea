"""Runs that mine: into each fault of mining, and beside each a sound one that looks like it."""

from collections.abc import Callable

import torch
from doctor_cases import begun, gaussians, kept
from torch import Tensor, nn
from torch.nn.functional import normalize
from trained_cases import encoder, ranked, trained

from legolas_metric import (
    EmbeddingBank,
    FalseNegativeGuard,
    HardMiner,
    LabelRelation,
    RandomMiner,
    SemiHardMiner,
    SupConLoss,
)
from legolas_metric.training import MiningLoop

Measured = Callable[[nn.Module], dict[str, float]]


def looped(
    name: str,
    rows: tuple[Tensor, Tensor, Tensor],
    *,
    miner: object,
    steps: int = 10,
    epochs: int = 6,
    rate: float = 1e-3,
    network: nn.Module | None = None,
    measured: Measured | None = None,
    told: dict[str, object] | None = None,
    **settings: object,
) -> None:
    """A run by `MiningLoop`: rounds as it writes them, and the ranking of other rows after each epoch."""
    inputs, labels, other = rows
    history, network = begun(name), network or encoder()
    optimiser, measured = torch.optim.Adam(network.parameters(), lr=rate), measured or ranked(other, labels)
    given = {"batch_size": 64, "steps_per_epoch": steps, "progress": False, "history": history, **settings}
    loop = MiningLoop(inputs, labels, miner=miner, **given)
    own = {"batch_size": 64, "k": 4, "num_classes": len(labels.unique()), "steps_per_epoch": steps}
    history.start(seed=0, settings=own | (told or {}))
    history.epoch(epoch=0, step=0, values=measured(network))
    for epoch in range(1, epochs + 1):
        heard = []
        for x, y, ids in loop.epoch(network):
            loss = SupConLoss(0.1)(normalize(network(x)), y, loop.indices(ids))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            heard.append(loss.item())
        values = {"train_loss": sum(heard) / len(heard), "lr": rate, **measured(network)}
        history.epoch(epoch=epoch, step=epoch * steps, values=values)
    history.end(why="finished")


def mining() -> None:
    """Rounds of which a third is fed, rounds with an empty window, and sound ones."""
    rows = gaussians(1.0, classes=30, rows=600)
    looped("not_fed", rows, miner=HardMiner(), steps=3)
    looped("outside_window", rows, miner=SemiHardMiner(margin=1e-4))
    looped("mined", rows, miner=HardMiner(), steps=20)


def windows() -> None:
    """A window so narrow that another rule serves most; and one that is empty since everything is learnt."""
    looped("fell_back", gaussians(1.0), miner=SemiHardMiner(margin=0.01, on_empty="hardest"))
    easy = gaussians(0.6)
    looped("window_empty_once_solved", easy, miner=SemiHardMiner(margin=0.1), steps=20)
    looped("fell_back_once_solved", easy, miner=SemiHardMiner(margin=0.1, on_empty="hardest"), steps=20)


def sessions() -> None:
    """Hard negatives of the own session: where most sessions hold one person, and where each holds several."""
    rows = gaussians(1.0)
    relation = LabelRelation(negative_group="same")
    alone = torch.where(rows[1] < 14, rows[1], 100)  # fourteen people have a session of their own
    for name, groups in (("no_negative", alone), ("negatives_of_a_session", torch.arange(300) // 100)):
        looped(name, rows, miner=HardMiner(relation=relation), groups=groups)


def guards() -> None:
    """A guard whose bound leaves nothing within its depth, and one that leaves the next row; two names for a row."""
    rows = gaussians(1.0)
    for name, bound, depth in (("exhausted", 0.0, 2), ("guard_finds_the_next", -0.1, 64)):
        looped(name, rows, miner=HardMiner(guard=FalseNegativeGuard(vote=None, absolute=bound, depth=depth)))
    near = HardMiner(guard=FalseNegativeGuard(near_duplicate=0.05))
    inputs, labels, other = rows
    looped("guard_rejects_once_in_a_while", rows, miner=near)
    twice = (inputs.repeat(2, 1), torch.cat([labels, labels + 20]), other.repeat(2, 1))
    looped("guard_rejects_most", twice, miner=near, epochs=5, measured=ranked(other, labels))


class Long(nn.Module):
    """Rows that point along one direction are much longer, which a dot product takes for near."""

    def __init__(self) -> None:
        super().__init__()
        self.net = encoder()

    def forward(self, x: Tensor) -> Tensor:
        return normalize(self.net(x)) * torch.exp(1.5 * x[:, :1])


def hubs() -> None:
    """Mining by dot products takes the longest rows for everyone; by cosine each anchor finds its own."""
    rows = gaussians(1.0)
    for name, metric in (("few_rows_for_everyone", "dot"), ("rows_of_ones_own", "cosine")):
        looped(name, rows, miner=HardMiner(), epochs=5, network=Long(), metric=metric)


def banks() -> None:
    """Rewritten within twenty epochs at a rate that turns the rows around meanwhile; at one that doesn't; each epoch.

    And banks of a loop that logs no drift: rewritten within six epochs, and within one.
    """
    rows = gaussians(1.0)
    looped("stale_bank", rows, miner=HardMiner(), rotate=0.005, epochs=24, rate=0.3)
    looped("slow_enough_for_its_bank", rows, miner=HardMiner(), rotate=0.005, epochs=24, rate=3e-4)
    looped("bank_that_settles", rows, miner=HardMiner(), epochs=6, rate=1e-2, steps=20)
    inputs, labels, other = rows
    for name, share in (("old_bank", 60), ("bank_in_turn", 10)):
        history, network = begun(name), encoder()
        optimiser, measured = torch.optim.Adam(network.parameters(), lr=1e-3), ranked(other, labels)
        bank, step = EmbeddingBank(network(inputs).detach(), labels), 0
        history.start(seed=0, settings={"batch_size": 300, "steps_per_epoch": 10})
        history.epoch(epoch=0, step=0, values=measured(network))
        for epoch in range(1, 10):
            mined = HardMiner().mine(bank, step=step)
            counts = {"triplets": len(mined), "anchors": mined.stats.anchors, "max_age": mined.stats.max_age}
            history.round(epoch=epoch, step=step, values=counts)
            for _ in range(10):
                loss = SupConLoss(0.1)(normalize(network(inputs)), labels, mined.locate(torch.arange(300)))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step += 1
                turn = torch.arange(300)[step % share :: share]
                bank.update(turn, network(inputs[turn]).detach(), step=step)
            history.epoch(epoch=epoch, step=step, values={"train_loss": loss.item(), **measured(network)})
        history.end(why="finished")


def batches() -> None:
    """Batches that hold most of the classes, and few of them; a crowd of classes that a good AUC hides."""
    looped(
        "crowd_of_classes",
        gaussians(1.0, classes=60, rows=600),
        miner=HardMiner(),
        epochs=5,
        told={"gallery_size": 600},
    )
    looped("batches_of_most_classes", gaussians(1.0), miner=HardMiner(), epochs=5)
    looped("batches_of_few_classes", gaussians(0.7, classes=60, rows=600), miner=HardMiner(), epochs=5)


def origins() -> None:
    """Triplets that a loop calls hard, and whose miner got no embeddings; and a random start that is meant so."""
    inputs, labels, other = gaussians(1.0)
    for name, warm_up in (("negatives_were_random", 99), ("negatives_random_at_first", 3)):
        state = {"epoch": 0}

        def loss(rows: Tensor, fed: Tensor, state: dict = state, warm_up: int = warm_up) -> Tensor:
            miner = RandomMiner(seed=state["step"]) if state["step"] // 6 < warm_up else HardMiner()
            state["step"] += 1
            anchor, positive, negative = miner(rows.detach(), fed)
            apart = (rows[anchor] - rows[positive]).norm(dim=1) - (rows[anchor] - rows[negative]).norm(dim=1) + 0.5
            return apart.relu().mean()

        state["step"] = 0
        lines = trained(inputs, labels, ranked(other, labels), loss=loss, epochs=8)
        for line in lines:
            by_chance = line["epoch"] <= warm_up
            hard = "hard" if not by_chance or warm_up > 8 else "random"
            line["values"] |= {"strategy": hard, "negatives_from": "random" if by_chance else "bank"}
        kept(name, lines)


RUNS = (mining, windows, sessions, guards, hubs, banks, batches, origins)
