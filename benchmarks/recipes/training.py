"""One run: a plain loop, lean enough for one core."""

import hashlib
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.recipes.recipe import Kind, Recipe
from benchmarks.recipes.tasks import Fold, Task
from legolas_metric import (
    BankLoss,
    EmbeddingBank,
    MiningSchedule,
    NeighborPKSampler,
    PKSampler,
    Triplets,
    TripletSampler,
    __version__,
)
from legolas_metric.samplers.epochs import PlannedSampler


@dataclass(slots=True)
class Stopwatch:
    """Processor seconds spent inside its blocks."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block."""
        started = time.process_time()
        yield
        self.seconds += time.process_time() - started


@dataclass(slots=True)
class Feed:
    """Batches of one run: random PK while it warms up, then the recipe's turns over a bank that is refreshed."""

    recipe: Recipe
    task: Task
    fold: Fold
    encoder: nn.Module
    seed: int
    watch: Stopwatch = field(default_factory=Stopwatch)
    bank: EmbeddingBank | None = None
    triplets: Triplets | None = None

    def __iter__(self) -> Iterator[Tensor]:
        recipe, rounds = self.recipe, 0
        begin = round(recipe.warm_up * self.task.steps) if recipe.looks else self.task.steps
        schedule = self._schedule()
        sources: dict[Kind, Iterator[list[int]]] = {"random": _endless(self._random())}
        for step in range(self.task.steps):
            if step >= begin and (step - begin) % recipe.refresh == 0:
                with self.watch.running():
                    sources |= self._look(step, rounds, schedule)
                rounds += 1
            kind = "random" if step < begin else recipe.turns[step % len(recipe.turns)]
            yield torch.tensor(next(sources[kind]))

    def _random(self) -> PKSampler:
        return PKSampler(
            self.fold.labels,
            self._p(),
            self.recipe.k,
            groups=self.fold.groups if self.recipe.across else None,
            distinct_groups=self.recipe.across,
            seed=self.seed,
        )

    def _p(self) -> int:
        return min(self.task.batch_size // self.recipe.k, len(self.fold.labels.unique()))

    def _schedule(self) -> MiningSchedule | None:
        """Stages by step, where a schedule counts epochs."""
        starts = [round(share * self.task.steps) for share, _ in self.recipe.stages]
        miners = [make(seed=self.seed, **self.recipe.relation()) for _, make in self.recipe.stages]
        return MiningSchedule(list(zip([0, *starts[1:]], miners))) if miners else None

    def _look(self, step: int, number: int, schedule: MiningSchedule | None) -> dict[Kind, Iterator[list[int]]]:
        """Embed the training set, and plan batches from what is seen."""
        fold, recipe, sources = self.fold, self.recipe, {}
        self.bank = bank = self.task.embed(self.encoder, fold.inputs, fold.labels, fold.groups, step=step)
        if "neighbors" in recipe.turns:
            near = NeighborPKSampler(
                bank,
                self._p(),
                recipe.k,
                pool=recipe.pool,
                distinct_groups=recipe.across,
                batches_per_epoch=recipe.refresh,
                seed=self.seed,
            )
            near.set_epoch(number)
            sources["neighbors"] = _endless(near)
        if schedule is not None:
            self.triplets = schedule.advance(step).mine(bank)
            sources["mined"] = _endless(TripletSampler(self.triplets, self.task.batch_size, seed=self.seed + step))
        return sources


def _endless(sampler: PlannedSampler) -> Iterator[list[int]]:
    while True:
        yield from sampler
        sampler.set_epoch(sampler.epoch + 1)


def fit(recipe: Recipe, task: Task, fold: Fold, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Train an encoder on a fold.

    Returns:
        The encoder, and what the run took.
    """
    assert recipe.loss is not None
    torch.manual_seed(seed)
    encoder = task.encoder()
    start, began = digest(encoder), (time.time(), time.process_time())
    loss, miner = recipe.loss(), recipe.miner and recipe.miner(seed=seed, **recipe.relation())
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=recipe.lr, weight_decay=1e-4, fused=True)
    rise = min(1.0, max(0.1, 2 / task.steps))  # a tenth of the run; torch needs two steps
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=task.steps, pct_start=rise)
    feed = Feed(recipe, task, fold, encoder, seed)
    values, empty = [], 0
    for step, rows in enumerate(feed):
        labels = fold.labels[rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=task.bfloat16):
            embeddings = encoder(fold.inputs[rows]).float()
        chosen = None
        if miner is not None:
            groups = fold.groups[rows] if recipe.across and fold.groups is not None else None
            chosen = miner(embeddings.detach(), labels, groups=groups)
        elif recipe.pairs == "mined" and feed.triplets is not None:
            chosen = feed.triplets.locate(rows)
        memory = feed.bank if recipe.memory else None
        if memory is None:
            value = loss(embeddings, labels, chosen)
        else:
            value = BankLoss(loss, memory)(embeddings, labels, ids=rows, step=step)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        cycle.step()
        if memory is not None:
            memory.update(rows, embeddings.detach(), step=step)
        values.append(value.item())
        empty += chosen is not None and len(chosen[0]) == 0
    took = {
        "initial_weights": start,
        "steps": len(values),
        "steps_without_triplets": empty,
        "last_loss": math.fsum(values[-20:]) / len(values[-20:]),
        "wall_s": time.time() - began[0],
        "cpu_s": time.process_time() - began[1],
        "mining_cpu_s": feed.watch.seconds,
    }
    return encoder, took


def digest(encoder: nn.Module) -> str:
    """A short name of a set of weights: equal for equal weights."""
    parts = (value.detach().contiguous().numpy().tobytes() for value in encoder.state_dict().values())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def run(recipe: Recipe, task: Task, seed: int) -> dict[str, Any]:
    """Train on each fold of the task, judge on its unseen classes: one line of the results."""
    scores, took = [], []
    for fold in task.folds(seed):
        if recipe.loss is None:
            torch.manual_seed(seed)
            encoder = nn.Flatten() if recipe.raw else task.encoder()
        else:
            encoder, spent = fit(recipe, task, fold, seed)
            took.append(spent)
        scores.append(task.judge(encoder, fold))
    return {
        "task": task.name,
        "recipe": recipe.name,
        "seed": seed,
        "steps": task.steps,
        **task.summary(scores),
        "folds": took,
        "batch_size": task.batch_size,
        "bfloat16": task.bfloat16,
        "settings": recipe.settings(),
        "threads": torch.get_num_threads(),
        "versions": {"legolas_metric": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": date.today().isoformat(),
    }
