"""Batches of a trial: random classes while it warms up, then what its look at the whole training set suggests."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.recipes.arenas import Arena
from benchmarks.recipes.trial import Recipe, Trial
from legolas_metric import EmbeddingBank, ExactIndex, HardMiner, NeighborPKSampler, PKSampler, TripletSampler
from legolas_metric.samplers.epochs import PlannedSampler

K = 4
CONFUSIONS = 10  # nearest negatives of each row that count
ROTATED_SHARE = 5  # of rotated classes, every fifth drawing is embedded


@dataclass(slots=True)
class Batches:
    """Row numbers, batch by batch.

    Attributes:
        embed: rows -> embeddings, by the encoder as it is.
        mining_s: processor seconds of embedding, mining and planning so far.
    """

    recipe: Recipe
    trial: Trial
    arena: Arena
    embed: Callable[[Tensor], Tensor]
    mining_s: float = 0.0
    share: float = 1.0  # of near batches, under "rising"
    looks: list[float] = field(default_factory=list)  # training Rank@1 at each look, under "rising"

    def __iter__(self) -> Iterator[Tensor]:
        steps, recipe = self.trial.steps, self.recipe
        random = _endless(
            PKSampler(
                self.arena.labels,
                self._p(),
                K,
                groups=self.arena.groups if recipe.across else None,
                distinct_groups=recipe.across,
                short="repeat",
                seed=self.trial.seed,
            )
        )
        coin = torch.Generator().manual_seed(self.trial.seed)
        begin = max(1, round(recipe.warm_up * steps))
        between = max(1, -(-(steps - begin) // recipe.looks))
        chosen: Iterator[list[int]] = random
        for step in range(steps):
            if recipe.feed != "random" and step >= begin and (step - begin) % between == 0:
                started = time.process_time()
                chosen = self._look((step - begin) // between, between)
                self.mining_s += time.process_time() - started
            near = float(torch.rand((), generator=coin)) < self.share
            yield torch.tensor(next(chosen if near else random))

    def _p(self) -> int:
        return min(self.trial.p, int(self.arena.labels.max()) + 1)

    def _look(self, number: int, steps: int) -> Iterator[list[int]]:
        labels, recipe, seed = self.arena.labels, self.recipe, self.trial.seed
        rows = torch.arange(len(labels))
        if recipe.rotations and not recipe.hard_rows:
            rows = rows[rows % ROTATED_SHARE == number % ROTATED_SHARE]
        bank = EmbeddingBank(
            self.embed(rows),
            labels[rows],
            ids=rows,
            groups=None if self.arena.groups is None else self.arena.groups[rows],
        )
        if recipe.feed == "rising":
            self.share = nearest_is_own(bank)
            self.looks.append(self.share)
        if recipe.feed == "mined":
            triplets = HardMiner(ranks=(1, 10), seed=seed + number).mine(bank)
            return _endless(TripletSampler(triplets, self.trial.p * K, seed=seed + number))
        if recipe.feed in ("near", "rising") and not (recipe.hard_rows or recipe.rotations):
            sampler = NeighborPKSampler(
                bank,
                self._p(),
                K,
                pool=recipe.pool,
                distinct_groups=recipe.across,
                batches_per_epoch=steps,
                short="repeat",
                seed=seed,
            )
            sampler.set_epoch(number)
            return _endless(sampler)
        return self._own(bank, torch.Generator().manual_seed(1000 * seed + number))

    def _own(self, bank: EmbeddingBank, generator: torch.Generator) -> Iterator[list[int]]:
        """Batches by a matrix of class similarities."""
        recipe, p = self.recipe, self._p()
        centroids = class_means(bank)
        score = centroids @ centroids.T
        if recipe.feed == "confused":
            score = confusions(bank, len(centroids)) + 0.01 * score  # ties by the centroids
        score.fill_diagonal_(-torch.inf)
        order = torch.argsort(self.arena.labels, stable=True)
        members = order.split(torch.bincount(self.arena.labels).tolist())
        hardness = bank.embeddings @ centroids.T if recipe.hard_rows else None
        plan = communities(score, p, generator) if recipe.feed == "communities" else around(score, p, generator)
        for classes in plan:
            yield torch.cat([_drawn(members[c], hardness, classes, c, generator) for c in classes.tolist()]).tolist()


def _drawn(rows: Tensor, hardness: Tensor | None, classes: Tensor, own: int, generator: torch.Generator) -> Tensor:
    """K rows of a class: any, or any of the half that lies nearest to the batch's other classes."""
    if hardness is not None:
        others = classes[classes != own]
        gap = hardness[rows][:, others].amax(1) - hardness[rows, own]
        rows = rows[gap.argsort(descending=True)[: max(K, len(rows) // 2)]]
    return rows[torch.randperm(len(rows), generator=generator)[:K]]


def class_means(bank: EmbeddingBank) -> Tensor:
    """[c, d]: unit means of classes 0 to C - 1."""
    sums = torch.zeros(int(bank.labels.max()) + 1, bank.embeddings.shape[1])
    return torch.nn.functional.normalize(sums.index_add_(0, bank.labels, bank.embeddings))


def confusions(bank: EmbeddingBank, classes: int) -> Tensor:
    """[c, c]: how many of each other's rows stand among the ten nearest negatives, both ways."""
    found = ExactIndex().fit(bank.embeddings, bank.labels).self_join(CONFUSIONS, want="negative").ids
    pairs = bank.labels[:, None] * classes + bank.labels[found.clamp_min(0)]
    counts = torch.bincount(pairs[found >= 0], minlength=classes**2).view(classes, classes).float()
    return counts + counts.T


def nearest_is_own(bank: EmbeddingBank) -> float:
    """Rank@1 of the training set, each row among all others."""
    rows, hits = bank.embeddings, 0
    for start in range(0, len(rows), 1024):
        block = rows[start : start + 1024] @ rows.T
        block[torch.arange(len(block)), start + torch.arange(len(block))] = -torch.inf
        hits += int((bank.labels[block.argmax(1)] == bank.labels[start : start + 1024]).sum())
    return hits / len(rows)


def around(score: Tensor, p: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of classes: each class in turn with p - 1 of the 2 (p - 1) nearest to it."""
    near = score.topk(min(2 * (p - 1), len(score) - 1), 1).indices
    while True:
        for seed in torch.randperm(len(score), generator=generator):
            drawn = torch.randperm(near.shape[1], generator=generator)[: p - 1]
            yield torch.cat([seed[None], near[seed][drawn]])


def communities(score: Tensor, p: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of classes in rounds: a random class that is left takes the p - 1 nearest that are left.

    Whatever is fewer than p at the end of a round is left for the next one, which begins with it.
    """
    first = torch.zeros(0, dtype=torch.int64)
    while True:
        left = torch.ones(len(score), dtype=torch.bool)
        order = torch.randperm(len(score), generator=generator)
        order = torch.cat([first, order[~torch.isin(order, first)]])
        for seed in order.tolist():
            if int(left.sum()) < p:
                break
            if not left[seed]:
                continue
            left[seed] = False
            nearest = score[seed].masked_fill(~left, -torch.inf).topk(p - 1).indices
            left[nearest] = False
            yield torch.cat([torch.tensor([seed]), nearest])
        first = left.nonzero().flatten()


def _endless(sampler: PlannedSampler) -> Iterator[list[int]]:
    while True:
        yield from sampler
        sampler.set_epoch(sampler.epoch + 1)
