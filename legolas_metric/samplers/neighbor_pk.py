"""P x K batches of classes that lie near each other: mining in the batch sees the neighbourhood in the whole set."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import Metric, check_choice, check_whole
from legolas_metric.geometry import chunks, similarity_matrix
from legolas_metric.samplers.class_means import ClassMeans, class_centroids
from legolas_metric.samplers.draws import NEIGHBORS, random_bits
from legolas_metric.samplers.epochs import PlannedSampler, checked_place, checked_shape
from legolas_metric.samplers.hard_rows import draw_hard_rows
from legolas_metric.samplers.members import Members, Short, check_enough_classes, draw_rows
from legolas_metric.samplers.visits import occurrence, planned_visits
from legolas_metric.signatures import typed

_GROUP = 16  # classes


def plan_classes(
    centroids: Float32[Tensor, "c d"],
    p: int,
    *,
    pool: int,
    metric: Metric = "cosine",
    epoch: int = 0,
    steps: int | None = None,
    seed: int = 0,
    world_size: int = 1,
) -> Int64[Tensor, "b p"]:
    """The classes of an epoch's batches: a seed, then p - 1 drawn from the `pool` classes nearest to it.

    Args:
        centroids: [c, d] of the classes, unit rows under "cosine".
        p: classes of a batch.
        pool: how many of the nearest classes are drawn from, p - 1 to c - 1.
        metric: under which classes are near.
        epoch, steps, seed, world_size: see `plan_epoch`.
    """
    once = np.ones(len(centroids), np.int64)
    seeds, _ = planned_visits(once, world_size, epoch=epoch, steps=steps, seed=seed)
    seeds = seeds.ravel()
    near = _nearest(centroids, torch.from_numpy(seeds).to(centroids.device), pool, metric).cpu()
    keys = random_bits(seed, NEIGHBORS, epoch, np.arange(near.numel())).reshape(near.shape)
    drawn = torch.from_numpy(np.argsort(keys, axis=1, kind="stable")[:, : p - 1])
    return torch.cat([torch.from_numpy(seeds)[:, None], near.gather(1, drawn)], 1)


def plan_epoch(
    members: Members,
    classes: Int64[Tensor, "b p"],
    k: int,
    *,
    epoch: int = 0,
    steps: int | None = None,
    seed: int = 0,
    world_size: int = 1,
) -> Int64[Tensor, "s w pk"]:
    """Row numbers of an epoch: s steps of w ranks, each the p classes of its batch with k rows.

    Args:
        members: the classes that take part.
        classes: of the batches, from `plan_classes`.
        k: rows of each class.
        epoch: a window on the endless sequence of rounds, in each of which every class seeds one batch.
        steps: of an epoch (default: a round).
        seed: of the choice.
        world_size: ranks; the seeds of one step differ.
    """
    batches, p = classes.shape
    own, others = classes[:, 0].numpy(), classes[:, 1:].numpy()
    # A class's turns as seed show all its rows; beside other seeds, it draws from shuffles of this epoch alone.
    _, turn = planned_visits(np.ones(len(members.classes), np.int64), world_size, epoch=epoch, steps=steps, seed=seed)
    first = draw_rows(members, own, turn.ravel(), k, seed=seed)
    epoch_seed = int(random_bits(seed, NEIGHBORS, epoch)[0])
    rest = draw_rows(members, others.ravel(), occurrence(others).ravel(), k, seed=epoch_seed)
    rows = np.concatenate([first[:, None], rest.reshape(batches, p - 1, k)], 1)
    return torch.from_numpy(rows.reshape(-1, world_size, p * k))


class NeighborPKSampler(PlannedSampler):
    """Batches of P mutually near classes with K examples each: every class in turn seeds a batch with its neighbours.

    Which classes are near is read off the bank: similarity of the class centroids. Each epoch is planned from the
    bank's rows as they are when it begins. A batch's neighbours are drawn anew each time from the `pool` classes
    nearest to its seed.

    Args:
        bank: embeddings and labels of the data set; row i of the bank is row i of the data set.
        p: classes of a batch, the seed among them.
        k: examples of each class.
        pool: nearest classes among which a seed's p - 1 neighbours are drawn (default: 2 (p - 1)). p - 1 always takes
            the nearest; more classes make batches more varied and less hard.
        distinct_groups: draw a class's k examples from k different groups of the bank, see `PKSampler`.
        hard: draw them from this share of the class's examples (0.5: half of them) that lies nearest to the batch's
            other classes, by the bank; None draws from all. With distinct_groups, the share of each group.
        batches_per_epoch: batches of an epoch on each rank (default: until every class was a seed). Shorter epochs go
            on where the one before stopped: ceil(C / P) is as long as an epoch of `PKSampler`.
        short: "skip" or "repeat" classes of fewer than k examples, see `PKSampler`.
        seed: of all random choices; the same on every rank.
        rank, world_size: this process, and how many there are: rank r hands out batches r, r + world_size, ... of one
            process. All ranks must hold equal banks.

    Behaviour in corner cases:
        - Every class seeds one batch in C / world_size batches of each rank; where C is no multiple of world_size, some
          classes seed a second one. Classes with many near ones stand in more batches than others.
        - A class of n examples has shown all of them once every class was a seed ceil(n / k) times; with `hard`, easy
          ones may never come. No batch holds a
          class or an example twice (unless `short="repeat"`), but the batches of one step on two ranks may share
          classes.
        - An epoch's classes, and with `hard` its rows, are chosen once, when it is first asked for: updating the bank
          changes the next epoch. `refresh` changes this one, or takes another bank.
        - `state_dict` holds what was chosen for a begun epoch, so that it goes on exactly, whatever became of the bank.
        - Each iteration hands out the next epoch, unless `set_epoch` is used, as Lightning does: then the epoch is the
          one that was set.

    Raises:
        ValueError: p or k below 2, pool, hard or batches_per_epoch out of bounds, a rank outside the world, fewer than
            p or world_size classes of at least k examples, distinct_groups with a bank that has no groups.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, NeighborPKSampler
        >>> angles = torch.arange(6).repeat_interleave(3) * 0.5
        >>> bank = EmbeddingBank(torch.stack([angles.cos(), angles.sin()], 1), torch.arange(6).repeat_interleave(3))
        >>> sampler = NeighborPKSampler(bank, p=2, k=2, pool=1)
        >>> len(sampler), all(abs(int(bank.labels[b[0]] - bank.labels[b[2]])) == 1 for b in sampler)
        (6, True)

    Source: graph sampling of Liao & Shao 2022 (arXiv:2104.01546), which takes one random example of each class for its
    place, where the bank gives the centroid, and the P - 1 nearest classes, where here they are drawn from a pool.
    """

    @typed
    def __init__(
        self,
        bank: EmbeddingBank | ClassMeans,
        p: int,
        k: int,
        *,
        pool: int | None = None,
        distinct_groups: bool = False,
        hard: float | int | None = None,
        batches_per_epoch: int | None = None,
        short: Short = "skip",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        rank, world_size, seed = checked_place(rank, world_size, seed)
        super().__init__(rank, world_size)
        if not isinstance(bank, EmbeddingBank | ClassMeans):
            raise TypeError(f"bank must be an EmbeddingBank, got {type(bank).__name__}")
        p, k = checked_shape(p, k)
        check_choice("short", short, get_args(Short))
        if batches_per_epoch is not None:
            batches_per_epoch = check_whole("batches_per_epoch", batches_per_epoch, 1)
        if distinct_groups and bank.groups is None:
            raise ValueError("distinct_groups=True compares groups: make the bank with groups")
        if hard is not None and not 0 < hard <= 1:
            raise ValueError(f"hard must lie in (0, 1], the share of a class's examples to draw from, got {hard}")
        _refuse_means(bank, hard)
        self._members = Members.of(
            bank.labels, bank.groups if distinct_groups else None, least=1 if short == "repeat" else k
        )
        check_enough_classes(self._members, p, k, 1)
        count = len(self._members.classes)
        if count < world_size:
            raise ValueError(f"world_size={world_size} ranks need as many seeds, got {count} classes: use fewer ranks")
        self.pool = min(2 * (p - 1), count - 1) if pool is None else check_whole("pool", pool, 0)
        if not p - 1 <= self.pool < count:
            raise ValueError(f"pool must lie in {p - 1}..{count - 1}: p - 1 to the number of other classes, got {pool}")
        self.bank, self.p, self.k, self.seed, self.hard = bank, p, k, seed, hard
        self._batches = batches_per_epoch or -(-count // world_size)
        self._chosen: tuple[int, Int64[Tensor, "b p"]] | None = None  # an epoch, and its classes, or with `hard` rows

    def __repr__(self) -> str:
        return (
            f"NeighborPKSampler({len(self._members.classes)} classes, p={self.p}, k={self.k}, pool={self.pool}, "
            f"{len(self)} batches an epoch, {len(self.left_out)} classes left out, "
            f"rank {self.rank} of {self.world_size})"
        )

    def _steps(self) -> int:
        return self._batches

    @property
    def left_out(self) -> Int64[Tensor, " s"]:
        """Labels of the classes that were skipped for having too few examples, ascending."""
        return torch.from_numpy(self._members.left_out)

    @property
    def few_groups(self) -> Int64[Tensor, " f"]:
        """With distinct_groups, labels of the visited classes that have fewer than k groups."""
        return torch.from_numpy(self._members.few_groups(self.k))

    def refresh(self, bank: EmbeddingBank | ClassMeans | None = None) -> None:
        """Choose the classes anew when the epoch is next begun; from another bank of the same rows, if one is given.

        Raises:
            ValueError: the bank's ids, labels or (with distinct_groups) groups are not those that the sampler was made
                with.
        """
        if bank is not None:
            names = ("ids", "labels", "groups") if self._members.blocks is not None else ("ids", "labels")
            for name in names:
                new, old = getattr(bank, name), getattr(self.bank, name)
                if new is None or not torch.equal(new.cpu(), old.cpu()):
                    raise ValueError(
                        f"the bank has other {name} than the one the sampler was made with: make a new sampler"
                    )
            _refuse_means(bank, self.hard)
            self.bank = bank
        self._chosen = None

    def plan(self) -> tuple[Int64[Tensor, " pk"], ...]:
        """This rank's batches of the current epoch."""
        if self._chosen is None or self._chosen[0] != self.epoch:
            self._chosen = (self.epoch, self._choose())
        chosen = self._chosen[1]
        if self.hard is not None:
            return chosen.view(-1, self.world_size, self.p * self.k)[:, self.rank].unbind()
        steps = plan_epoch(
            self._members,
            chosen,
            self.k,
            epoch=self.epoch,
            steps=self._batches,
            seed=self.seed,
            world_size=self.world_size,
        )
        return steps[:, self.rank].unbind()

    def _choose(self) -> Int64[Tensor, "b p"]:
        """The classes of the epoch's batches by the bank as it is; with `hard`, their rows."""
        centroids, exponent = class_centroids(self.bank, self._members)
        metric, epoch, seed = self.bank.metric, self.epoch, self.seed
        classes = plan_classes(
            centroids,
            self.p,
            pool=self.pool,
            metric=metric,
            epoch=epoch,
            steps=self._batches,
            seed=seed,
            world_size=self.world_size,
        )
        if self.hard is None or isinstance(self.bank, ClassMeans):
            return classes
        rows = draw_hard_rows(
            self._members,
            classes.numpy(),
            self.k,
            embeddings=self.bank.embeddings if metric == "cosine" else torch.ldexp(self.bank.embeddings, -exponent),
            centroids=centroids,
            metric=metric,
            share=self.hard,
            epoch=epoch,
            seed=seed,
        )
        return torch.from_numpy(rows).flatten(1)

    def settings(self) -> dict[str, int | float]:
        """What a saved state must agree with."""
        return {
            "p": self.p,
            "k": self.k,
            "pool": self.pool,
            "seed": self.seed,
            "world_size": self.world_size,
            "batches": self._batches,
            "data": self._members.fingerprint,
        } | ({} if self.hard is None else {"hard": self.hard})

    @property
    def choice(self) -> Int64[Tensor, "b p"] | None:
        """The classes of the epoch's batches, or with `hard` their rows, once they are chosen."""
        return self._chosen[1] if self._chosen is not None and self._chosen[0] == self.epoch else None

    def state_at(self, epoch: int, batch: int, choice: Int64[Tensor, "b p"] | None) -> dict[str, Any]:
        """See `PlannedSampler`; with what was chosen."""
        state = super().state_at(epoch, batch, choice)
        return state if choice is None else {**state, "classes": choice.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` stood, with what was chosen then."""
        super().load_state_dict(state)
        chosen = state.get("classes")
        self._chosen = None if chosen is None or self.epoch != state["epoch"] else (self.epoch, chosen.clone())


def _refuse_means(bank: EmbeddingBank | ClassMeans, hard: float | int | None) -> None:
    if hard is not None and isinstance(bank, ClassMeans):
        raise ValueError("hard chooses among all rows, which stay on several processes here: hard=None, or more memory")


def _nearest(
    centroids: Float32[Tensor, "c d"], seeds: Int64[Tensor, " b"], pool: int, metric: Metric
) -> Int64[Tensor, "b pool"]:
    """The classes nearest to each seed, itself left out.

    They lie in those `pool` groups of classes whose maxima are largest, so that no more than these is sorted.
    """
    classes, size = len(centroids), rows_for(BLOCK, 4 * len(centroids))
    groups = -(-classes // _GROUP)
    # Written again for each block, which is cheaper than a new one; the last columns fill the groups up.
    table = centroids.new_full((min(size, len(seeds)), _GROUP * groups), -torch.inf)
    step = groups * torch.arange(_GROUP, device=centroids.device)[:, None]
    found = []
    for part in chunks(len(seeds), size):
        block = table[: len(seeds[part])]
        scores = block[:, :classes]
        if metric == "euclidean":
            scores.copy_(similarity_matrix(centroids[seeds[part]], centroids, metric))
        else:
            torch.mm(centroids[seeds[part]], centroids.T, out=scores)
        scores.scatter_(1, seeds[part][:, None], -torch.inf)
        group = block.view(-1, _GROUP, groups).amax(1).topk(min(pool, groups), 1).indices
        near = (group[:, None] + step).flatten(1)
        found.append(near.gather(1, block.gather(1, near).topk(pool, 1).indices))
    return torch.cat(found)
