"""What recipes are compared on: classes to train on, unseen ones to judge by, an encoder, an augmentation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.recipes.trial import Recipe, Trial
from legolas_metric import RetrievalProtocol, class_disjoint_folds, class_disjoint_split
from legolas_metric.datasets import Omniglot, load_ecg_id, load_omniglot, split_omniglot
from legolas_metric.encoders import Conv4, ResNet1D

HEAD = 128
EPISODES = 1000
WIDTHS = {"omniglot": 64, "omniglot, 32 channels": 32, "omniglot, 128 channels": 128}
"""Channels of the encoder, by task."""
DRAWN = {"eight alphabets, ragged": False, "eight alphabets, smooth": True}
"""Whether the drawings are reduced smoothly, by task."""

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Arena:
    """One task with one seed.

    Attributes:
        inputs, labels, groups: to train on; labels are 0 to C - 1.
        unseen_inputs, unseen_labels, unseen_groups: to judge by.
        questions: protocols by name; those of `grouped` are asked with the groups.
        grouped: names of questions.
        encoder: (head) -> encoder, and the width of its embeddings.
        augment: a batch as it is trained on.
        plain: a batch as it is embedded.
        bfloat16: train and look under autocast; judging is in float32.
        unseen_days: of heartbeats.
    """

    inputs: Tensor
    labels: Tensor
    groups: Tensor | None
    unseen_inputs: Tensor
    unseen_labels: Tensor
    unseen_groups: Tensor | None
    questions: Mapping[str, RetrievalProtocol]
    grouped: frozenset[str]
    encoder: Callable[[bool], tuple[nn.Module, int]]
    augment: Augment
    plain: Callable[[Tensor], Tensor]
    bfloat16: bool
    unseen_days: Tensor | None = None


def arena(trial: Trial, recipe: Recipe, data: Path) -> Arena:
    """The arena of a trial.

    Args:
        data: folder of `clinc150.npz` and `ecgid_dev.npz`; Omniglot is bundled.
    """
    if trial.task in WIDTHS:
        return _omniglot(trial, recipe.rotations, split_omniglot(seed=trial.seed))
    if trial.task in DRAWN:
        return _omniglot(
            trial, recipe.rotations, _small(data / "omniglot_small_gray.npz", DRAWN[trial.task], trial.seed)
        )
    if trial.task == "ecg":
        return _ecg(data / "ecgid_dev.npz", trial.seed, recipe)
    path = data / "clinc150.npz"
    return _clinc(path, trial.seed) if trial.task == "clinc" else _clinc_domains(path, trial.seed)


def _omniglot(trial: Trial, rotations: bool, split: tuple[Omniglot, Omniglot]) -> Arena:
    """Some alphabets to train on, other ones unseen; the seed chooses which."""
    train, unseen = split
    images, labels = train.images, _compact(train.labels)
    if trial.classes is not None:
        generator = torch.Generator().manual_seed(trial.seed)
        chosen = torch.randperm(int(labels.max()) + 1, generator=generator)[: trial.classes]
        kept = torch.isin(labels, chosen)
        images, labels = images[kept], _compact(labels[kept])
    if rotations:
        count = int(labels.max()) + 1
        images = torch.cat([images.rot90(turn, (1, 2)) for turn in range(4)])
        labels = torch.cat([labels + turn * count for turn in range(4)])
    few = partial(RetrievalProtocol.few_shot, ways=20, shots=1, episodes=EPISODES)
    return Arena(
        inputs=images,
        labels=labels,
        groups=None,
        unseen_inputs=unseen.images,
        unseen_labels=unseen.labels,
        unseen_groups=unseen.alphabets,
        questions={"": RetrievalProtocol(), "few": few(), "few_within": few(within_group=True)},
        grouped=frozenset({"few_within"}),
        encoder=partial(_conv4, WIDTHS.get(trial.task, 64)),
        augment=jitter_drawings,
        plain=_scaled,
        bfloat16=True,
    )


def _small(path: Path, smooth: bool, seed: int) -> tuple[Omniglot, Omniglot]:
    """The drawings of eight alphabets that are at hand both ragged and smooth: six alphabets to train, two unseen."""
    data = load_omniglot()
    with np.load(path, allow_pickle=False) as file:
        kept = data.take(torch.from_numpy(file["background_row"].astype(np.int64)))
        drawn = replace(kept, images=torch.from_numpy(file["x"])) if smooth else kept
    present = drawn.alphabets.unique()
    generator = torch.Generator().manual_seed(seed)
    unseen = torch.isin(drawn.alphabets, present[torch.randperm(len(present), generator=generator)[:2]])
    return drawn.take((~unseen).nonzero().flatten()), drawn.take(unseen.nonzero().flatten())


def _clinc(path: Path, seed: int) -> Arena:
    """Sentences: 100 intents train, 50 are unseen; the seed chooses which. The group is the domain."""
    vectors, intents, domains = _sentences(path)
    train, unseen = class_disjoint_split(intents, test_size=1 / 3, seed=seed)
    return _vectors(vectors, intents, domains, train, unseen, {"": RetrievalProtocol()})


def _clinc_domains(path: Path, seed: int) -> Arena:
    """Few classes under a strong nuisance: the ten domains, each of 8 intents to train on and 7 unseen ones.

    The group is the intent; a query must find its domain by other intents.
    """
    vectors, intents, domains = _sentences(path)
    generator = torch.Generator().manual_seed(seed)
    unseen = torch.zeros(len(intents), dtype=torch.bool)
    for domain in domains.unique():
        own = intents[domains == domain].unique()
        unseen |= torch.isin(intents, own[torch.randperm(len(own), generator=generator)[8:]])
    parts = ((~unseen).nonzero().flatten(), unseen.nonzero().flatten())
    return _vectors(vectors, domains, intents, *parts, {"": RetrievalProtocol.cross_session()})


def _ecg(path: Path, seed: int, recipe: Recipe) -> Arena:
    """Heartbeats: 30 persons to train on, 15 unseen; three seeds in a row are the folds of one partition.

    The group is the recording: a query must find its person in another one. Every row counts alike.
    """
    beats = load_ecg_id(path)
    train, unseen = list(class_disjoint_folds(beats.labels, 3, seed=seed // 3))[seed % 3]
    days = torch.stack([beats.labels, beats.days], 1).unique(dim=0, return_inverse=True)[1]  # a person's, no one else's
    return Arena(
        inputs=beats.signals[train],
        labels=_compact(beats.labels[train]),
        groups=days[train] if recipe.days else beats.recordings[train],
        unseen_inputs=beats.signals[unseen],
        unseen_labels=beats.labels[unseen],
        unseen_groups=beats.recordings[unseen],
        unseen_days=days[unseen],
        questions={"": RetrievalProtocol.cross_session()},
        grouped=frozenset({""}),
        encoder=_resnet,
        augment=jitter_beats if recipe.augmented else lambda rows, generator: rows,
        plain=lambda rows: rows,
        bfloat16=False,
    )


def _vectors(
    vectors: Tensor,
    labels: Tensor,
    groups: Tensor,
    train: Tensor,
    unseen: Tensor,
    questions: Mapping[str, RetrievalProtocol],
) -> Arena:
    return Arena(
        inputs=vectors[train],
        labels=_compact(labels[train]),
        groups=groups[train],
        unseen_inputs=vectors[unseen],
        unseen_labels=labels[unseen],
        unseen_groups=groups[unseen],
        questions=questions,
        grouped=frozenset(questions),
        encoder=partial(_mlp, vectors.shape[1]),
        augment=lambda rows, generator: rows,
        plain=lambda rows: rows,
        bfloat16=False,
    )


def _sentences(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    with np.load(path, allow_pickle=False) as file:
        vectors = torch.from_numpy(file["x"]).float()
        intents, domains = (torch.from_numpy(file[name].astype(np.int64)) for name in ("y", "domain"))
    kept = (intents >= 0) & (vectors != 0).any(1)
    return vectors[kept], intents[kept], domains[kept]


def _compact(labels: Tensor) -> Tensor:
    return labels.unique(return_inverse=True)[1]


def _conv4(width: int, head: bool) -> tuple[nn.Module, int]:
    trunk = Conv4(width=width)
    return (nn.Sequential(trunk, nn.Linear(width, HEAD)), HEAD) if head else (trunk, width)


def _mlp(width: int, head: bool) -> tuple[nn.Module, int]:
    layers = [nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True)]
    return (nn.Sequential(*layers, nn.Linear(512, HEAD)), HEAD) if head else (nn.Sequential(*layers), 512)


def _resnet(head: bool) -> tuple[nn.Module, int]:
    trunk = ResNet1D()
    return (nn.Sequential(trunk, nn.Linear(128, HEAD)), HEAD) if head else (trunk, 128)


def _scaled(images: Tensor) -> Tensor:
    return images[:, None].float() / 255


def jitter_drawings(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 10 degrees, shear and scale by up to a tenth, and shift by up to two pixels of 28.

    Args:
        images: uint8 [b, 28, 28].
        generator: of the draws.
    """
    b = len(images)
    turn, shear, wide, high, right, down = (2 * torch.rand(6, b, generator=generator) - 1).unbind()
    turn, shear = turn * math.radians(10), shear * 0.1
    wide, high = 1 + 0.1 * wide, 1 + 0.1 * high
    cos, sin, shift = turn.cos(), turn.sin(), 2 / 14
    rows = torch.stack([cos * wide, (shear - sin) * high, right * shift, sin * wide, cos * high, down * shift], 1)
    grid = nn.functional.affine_grid(rows.view(b, 2, 3), [b, 1, 28, 28], align_corners=False)
    return nn.functional.grid_sample(_scaled(images), grid, align_corners=False)


def jitter_beats(signals: Tensor, generator: torch.Generator) -> Tensor:
    """Warp time by up to 5 %, move the R peak by up to 4 % of the beat, and let the baseline wander.

    Args:
        signals: [b, c, t].
        generator: of the draws.
    """
    b, _, t = signals.shape
    stretch, shift, height, phase = (2 * torch.rand(4, b, 1, generator=generator) - 1).unbind()
    time = torch.linspace(-1, 1, t)
    x = time * (1 + 0.05 * stretch) + 0.08 * shift
    grid = torch.stack([x, torch.zeros_like(x)], 2)[:, None]
    warped = nn.functional.grid_sample(signals[:, :, None], grid, padding_mode="border", align_corners=True)[:, :, 0]
    wander = 0.2 * height * torch.sin(math.pi * (time + phase)) * signals.flatten(1).std(1, keepdim=True)
    return warped + wander[:, None]
