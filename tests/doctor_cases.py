"""What the runs of the doctor's histories are made of: rows, classifiers, measures, and a history of a run's lines."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from trained_cases import drawn, rows_of

from legolas_metric import evaluate_ranking
from legolas_metric.training import RunHistory

HISTORIES = Path(__file__).parent / "histories"


def begun(name: str) -> RunHistory:
    """The history of a run, in place of one of an earlier training."""
    history = RunHistory(HISTORIES / name)
    history.path.unlink(missing_ok=True)
    return history


def kept(
    name: str, lines: list[dict], settings: dict[str, object] | None = None, why: tuple[str, str] | None = None
) -> None:
    """Write a run as its history; `why` is an event that happened in it."""
    history = begun(name)
    history.start(seed=0, settings=settings)
    if why:
        history.event(epoch=0, step=0, what=why[0], why=why[1])
    for line in lines:
        values = {key: _short(value) for key, value in line["values"].items()}
        history.epoch(epoch=line["epoch"], step=line["step"], values=values)
        for what, because in line.get("events", ()):
            history.event(epoch=line["epoch"], step=line["step"], what=what, why=because)
    history.end(why="finished")


def _short(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def gaussians(noise: float, classes: int = 20, rows: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to train on, their labels, and other rows of the same classes."""
    labels, centres = torch.arange(rows) % classes, drawn(classes, 16)
    return rows_of(labels, centres, noise, 2), labels, rows_of(labels, centres, noise, 3)


def both(*measures: Callable[[nn.Module], dict[str, float]]) -> Callable[[nn.Module], dict[str, float]]:
    """Several measures of an encoder as one."""
    return lambda network: {name: value for measure in measures for name, value in measure(network).items()}


def of_training(inputs: Tensor, labels: Tensor) -> Callable[[nn.Module], dict[str, float]]:
    """Rank@1 of the rows that were trained on."""
    return lambda network: {"train_rank_at_1": evaluate_ranking(network(inputs), labels).rank[1]}


def classified(
    inputs: Tensor,
    labels: Tensor,
    other: Tensor,
    *,
    loss=None,
    draw=None,
    mix: float = 0.0,
    epochs: int = 8,
    rate: float = 1e-2,
    steps: int = 10,
    network: nn.Module | None = None,
    judged: bool = False,
) -> list[dict]:
    """Lines of a classifier's run, linear by default, on rows that `draw` chooses and `mix` mixes.

    Where it is judged, the loss of the other rows is told too, and the F1 of each class.
    """
    torch.manual_seed(0)
    classes = int(labels.max()) + 1
    network, loss = network or nn.Linear(inputs.shape[1], classes), loss or cross_entropy
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    lines: list[dict] = []
    for epoch in range(1, epochs + 1):
        told = 0.0
        for _ in range(steps):
            order = torch.arange(len(labels)) if draw is None else torch.tensor(list(draw))
            x, y = inputs[order], labels[order]
            if mix:
                share = torch.distributions.Beta(mix, mix).sample()
                turned = x.flip(0)
                out = network(share * x + (1 - share) * turned)
                value = share * loss(out, y) + (1 - share) * loss(out, y.flip(0))
            else:
                value = loss(network(x), y)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            told += value.item() / steps
        with torch.no_grad():
            known, unseen = (network(rows) for rows in (inputs, other[: len(labels)]))
        right = [(said.argmax(1) == labels[: len(said)]).float().mean().item() for said in (known, unseen)]
        values = {"train_loss": told, "train_accuracy": right[0], "val_accuracy": right[1], "lr": rate}
        if judged:
            said, truth = unseen.argmax(1), labels[: len(unseen)]
            values["val_loss"] = cross_entropy(unseen, truth).item()
            for c in range(classes):
                found = ((said == c) & (truth == c)).sum().item()
                values[f"val_f1_class_{c}"] = 2 * found / ((said == c).sum() + (truth == c).sum()).clamp_min(1).item()
            if classes == 2:
                values["val_f1"] = values["val_f1_class_1"]
        called = unseen.argmax(1).unique().tolist()
        alone = [("one class", f"all {len(unseen)} val rows of epoch {epoch} were called {called[0]}")]
        events = alone if judged and len(called) == 1 else []
        lines.append({"epoch": epoch, "step": steps * epoch, "values": values, "events": events})
    return lines
