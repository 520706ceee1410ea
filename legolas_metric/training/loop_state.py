"""What a mining loop saves, and how it goes on from there; tensors and plain values alone."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from legolas_metric.bank import EmbeddingBank
from legolas_metric.distributed import World
from legolas_metric.miners.schedule import MiningSchedule
from legolas_metric.records import MiningStats, SearchStats, Triplets
from legolas_metric.samplers.draws import fingerprint
from legolas_metric.training.embedder import Embedder, Placed
from legolas_metric.training.feeding import Feeder
from legolas_metric.training.resume import generator_states, restore_generators
from legolas_metric.training.rounds import MiningRound
from legolas_metric.training.settings import Rhythm


@runtime_checkable
class Resumable(Protocol):
    """What of a `MiningLoop` is saved, and what that rests on."""

    world: World
    rhythm: Rhythm
    schedule: MiningSchedule
    embedder: Embedder
    feeder: Feeder
    rounds: list[MiningRound]
    bank: EmbeddingBank | None
    averaged: AveragedModel | None
    current: int
    step: int
    done: int
    next_row: int
    value: float | None
    batches_out: bool
    complete: bool

    @property
    def steps(self) -> int:
        """Of an epoch."""
        ...


def saved_state(loop: Resumable) -> dict[str, Any]:
    """All that resuming needs beside encoder and optimiser."""
    bank = loop.bank
    assert bank is not None
    return {
        "epoch": loop.current,
        "step": loop.step,
        "next": loop.next_row,
        "value": loop.value,
        "follow_up": loop.batches_out,
        "bank": {"embeddings": bank.embeddings.clone(), "steps": bank.steps.clone(), "drift": bank.drift},
        "average": None if loop.averaged is None else loop.averaged.state_dict(),
        "schedule": loop.schedule.state_dict(),
        "round": asdict(loop.rounds[-1]),
        "batches": loop.feeder.state_dict(loop.done),
        "rank": loop.world.rank,
        "generators": generator_states(),
    }


def check_state(loop: Resumable, state: Mapping[str, Any]) -> None:
    """Raise unless a state is of a loop that averages its encoder as this one does."""
    averaged = state.get("average") is not None
    if state and averaged != (loop.rhythm.ema is not None):
        how = "with" if averaged else "without"
        raise ValueError(f"ema={loop.rhythm.ema}, but the saved run was {how} an averaged encoder: set ema as it was")


def take_up(loop: Resumable, saved: Mapping[str, Any], placed: Placed) -> None:
    """Put a loop where the saved one stood. A state serves every process, but for another's random generators."""
    device = placed.device
    if device is None and isinstance(placed.encoder, nn.Module):
        device = next((parameter.device for parameter in placed.encoder.parameters()), None)
    bank = saved["bank"]
    # a copy: the state is the caller's, and the bank is written in place
    rows = bank["embeddings"].to(device, copy=True)
    loop.bank = loop.embedder.of_rows(rows, bank["steps"], bank["drift"])
    if loop.averaged is not None:
        loop.averaged.load_state_dict(saved["average"])
    loop.schedule.load_state_dict(saved["schedule"])
    loop.current, loop.step, loop.next_row = saved["epoch"], saved["step"], saved["next"]
    loop.value, loop.batches_out = saved["value"], saved["follow_up"]
    mined = saved["round"]["triplets"]
    told = mined["stats"] | {"search": SearchStats(**mined["stats"]["search"])}
    triplets = Triplets(**(mined | {"stats": MiningStats(**told)}))
    loop.rounds = [MiningRound(**(saved["round"] | {"triplets": triplets}))]
    loop.feeder.resume(saved["batches"], triplets, loop.bank, epoch=loop.current)
    loop.done = saved["batches"]["step"]
    loop.complete = loop.done >= loop.steps
    if saved["rank"] == loop.world.rank:
        restore_generators(saved["generators"])


def check_agreement(world: World, triplets: Triplets, epoch: int, device: torch.device) -> None:
    """Raise where the processes of a world have mined different triplets."""
    names = (triplets.anchor, triplets.positive, triplets.negative)
    digest = fingerprint(*(part.cpu().numpy() for part in names)) if world.size > 1 else 0
    if not world.agree(digest, device):
        raise RuntimeError(
            f"the processes mined different triplets in epoch {epoch}: they must hold equal data, labels, schedules "
            f"and seeds, and see the same value of a monitored metric (self.log(..., sync_dist=True))"
        )
