"""What a mining loop saves, and how it goes on from there; tensors and plain values alone."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

from torch import nn
from torch.optim.swa_utils import AveragedModel

from legolas_metric.bank import EmbeddingBank
from legolas_metric.distributed import World
from legolas_metric.miners.schedule import MiningSchedule
from legolas_metric.records import MiningStats, SearchStats, Triplets
from legolas_metric.training.embedder import Placed
from legolas_metric.training.feeding import Feeder
from legolas_metric.training.holding import Holding
from legolas_metric.training.resume import generator_states, restore_generators
from legolas_metric.training.rounds import MiningRound
from legolas_metric.training.settings import Rhythm


@runtime_checkable
class Resumable(Protocol):
    """What of a `MiningLoop` is saved, and what that rests on."""

    world: World
    rhythm: Rhythm
    schedule: MiningSchedule
    holding: Holding
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

    def embedding(self, placed: Placed) -> Placed:
        """The encoder that embeds."""
        ...

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
        "bank": loop.holding.saved(bank),
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
    if loop.averaged is not None:
        loop.averaged.load_state_dict(saved["average"])
    loop.current, loop.step, loop.next_row = saved["epoch"], saved["step"], saved["next"]
    bank, encoding, holding = saved["bank"], loop.embedding(placed), loop.holding
    holding.place(encoding, loop.schedule, epoch=loop.current, step=loop.step)
    if holding.is_saved(bank, needed=loop.rhythm.rotate is not None):
        loop.bank = holding.of_saved(bank, device)
    else:
        loop.bank = holding.embed(encoding, loop.schedule, epoch=loop.current, step=loop.step)
    loop.schedule.load_state_dict(saved["schedule"])
    loop.value, loop.batches_out = saved["value"], saved["follow_up"]
    mined = saved["round"]["triplets"]
    told = mined["stats"] | {"search": SearchStats(**mined["stats"]["search"])}
    triplets = Triplets(**(mined | {"stats": MiningStats(**told)}))
    loop.rounds = [MiningRound(**(saved["round"] | {"triplets": triplets}))]
    near = loop.holding.near(loop.bank, loop.feeder.settings)
    loop.feeder.resume(saved["batches"], triplets, near, epoch=loop.current)
    loop.done = saved["batches"]["step"]
    loop.complete = loop.done >= loop.steps
    if saved["rank"] == loop.world.rank:
        restore_generators(saved["generators"])
