"""Small runs whose faults are known."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from legolas_metric import (
    SupConLoss,
    evaluate_ranking,
    evaluate_verification,
    probe_embeddings,
)
from legolas_metric.evaluation.protocol import RetrievalProtocol

STRICT = RetrievalProtocol.cross_session()


def rules(found) -> set[str]:
    return {finding.rule for finding in found.findings}


def severe(found) -> set[str]:
    return {finding.rule for finding in found.findings if finding.severity != "note"}


def rows_of(labels: Tensor, centres: Tensor, noise: float, seed: int) -> Tensor:
    return centres[labels] + noise * torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(seed))


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoder(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))


def trained(
    inputs, fed, measured, *, loss=None, epochs=8, rate=3e-3, steps=6, seed=0, clock=None, network=None
) -> list[dict]:
    """Lines of a run: `measured(rows of the encoder)` after each epoch, and of the untrained encoder as epoch 0."""
    network, loss = network or encoder(seed), loss or SupConLoss(0.1)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    lines = []
    for epoch in range(epochs + 1):
        told: list[float] = []
        for group in optimiser.param_groups:
            group["lr"] = rate if clock is None else clock(epoch)
        for _ in range(steps if epoch else 0):
            value = loss(normalize(network(inputs)), fed)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            told.append(value.item())
        with torch.no_grad():
            values = {"lr": optimiser.param_groups[0]["lr"], **measured(network)}
        values |= {"train_loss": sum(told) / len(told)} if told else {}
        lines.append({"kind": "epoch", "epoch": epoch, "step": epoch * steps, "values": values})
    return lines


def ranked(inputs: Tensor, labels: Tensor, groups: Tensor | None = None):
    """What a validation measures of these rows."""

    def measured(network: nn.Module) -> dict[str, float]:
        rows = network(inputs)
        report, pairs = evaluate_ranking(rows, labels), evaluate_verification(rows, labels)
        values = {"rank_at_1": report.rank[1], "map_at_r": report.map_at_r, "auc": pairs.auc, "eer": pairs.eer}
        values |= {"queries": report.queries, "unanswerable": report.unanswerable, "threshold": pairs.eer_threshold}
        values |= {"effective_rank": probe_embeddings(rows).effective_rank}
        if groups is not None:
            strict = evaluate_ranking(rows, labels, groups=groups, protocol=STRICT)
            values |= {"rank_at_1/leave-one-out": report.rank[1], "rank_at_1/cross-session": strict.rank[1]}
        return values

    return measured
