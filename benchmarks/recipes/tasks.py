"""The data sets: who trains, who is unseen, and how the unseen are asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from legolas_metric import (
    EmbeddingBank,
    RetrievalProtocol,
    class_disjoint_folds,
    class_disjoint_split,
    evaluate_ranking,
    probe_embeddings,
)
from legolas_metric.datasets import load_ecg_id, split_omniglot
from legolas_metric.encoders import Conv4, ResNet1D

ENCODE_BATCH = 128


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Training rows, and rows of classes that they lack.

    Attributes:
        inputs, labels, groups: to train on; groups (recordings) where positives can be asked across them.
        unseen_inputs, unseen_labels: to judge on.
        unseen_groups: by name of the question, what must differ between a query and what it finds; None for nothing.
    """

    inputs: Tensor
    labels: Tensor
    groups: Tensor | None
    unseen_inputs: Tensor
    unseen_labels: Tensor
    unseen_groups: Mapping[str, Tensor | None]


@dataclass(frozen=True, slots=True)
class Score:
    """What an encoder does on one fold: class means for each question, and the spectrum of the unseen rows."""

    rank1: Mapping[str, Tensor]
    map_at_r: Mapping[str, Tensor]
    effective_rank: float
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A data set, an encoder and a number of steps, the same for every recipe.

    Attributes:
        name: on the command line.
        encoder: makes the encoder; its weights follow torch's seed.
        folds: seed -> folds; the seed chooses which classes are unseen.
        questions: protocols by name; the first is the one that the table shows first.
        steps, batch_size: of a run.
        bfloat16: train and embed banks under autocast; judgement is in float32 always.
    """

    name: str
    encoder: Callable[[], nn.Module]
    folds: Callable[[int], Sequence[Fold]]
    questions: Mapping[str, RetrievalProtocol]
    steps: int
    batch_size: int = 96
    bfloat16: bool = False

    def embed(
        self, encoder: nn.Module, inputs: Tensor, labels: Tensor, groups: Tensor | None, *, step: int = 0
    ) -> EmbeddingBank:
        """A bank of all rows, in the arithmetic of the training."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return EmbeddingBank.encode(
                encoder, inputs, labels=labels, groups=groups, batch_size=ENCODE_BATCH, step=step, progress=False
            )

    def judge(self, encoder: nn.Module, fold: Fold) -> Score:
        """Rank the unseen rows by each question."""
        bank = EmbeddingBank.encode(
            encoder, fold.unseen_inputs, labels=fold.unseen_labels, batch_size=ENCODE_BATCH, progress=False
        )
        found = {
            name: evaluate_ranking(
                bank.embeddings, bank.labels, groups=fold.unseen_groups[name], protocol=protocol
            ).by_class()
            for name, protocol in self.questions.items()
        }
        collapse = probe_embeddings(bank.embeddings, bank.labels)
        return Score(
            {name: classes.rank1 for name, classes in found.items()},
            {name: classes.map_at_r for name, classes in found.items()},
            collapse.effective_rank,
            collapse.verdict,
        )

    def summary(self, scores: Sequence[Score]) -> dict[str, Any]:
        """Means over the classes of all folds: a class counts once, however many queries it has."""
        values = {}
        for number, name in enumerate(self.questions):
            prefix = "" if number == 0 else f"{name}_"
            values[f"{prefix}rank1"] = float(torch.cat([score.rank1[name] for score in scores]).mean())
            values[f"{prefix}map_at_r"] = float(torch.cat([score.map_at_r[name] for score in scores]).mean())
        return values | {
            "classes": sum(len(score.rank1[next(iter(self.questions))]) for score in scores),
            "effective_rank": sum(score.effective_rank for score in scores) / len(scores),
            "verdicts": sorted({score.verdict for score in scores}),
        }


def omniglot() -> Task:
    """Handwritten characters: 24 alphabets to train, 6 unseen; the seed chooses which."""

    def folds(seed: int) -> list[Fold]:
        train, unseen = split_omniglot(seed=seed)
        images = [part.images[:, None].float() / 255 for part in (train, unseen)]
        return [Fold(images[0], train.labels, None, images[1], unseen.labels, {"leave one out": None})]

    return Task(
        name="omniglot",
        encoder=Conv4,
        folds=folds,
        questions={"leave one out": RetrievalProtocol()},
        steps=800,
        bfloat16=True,
    )


def ecg(path: Path) -> Task:
    """Heartbeats of 45 persons in three person-disjoint folds; only ten persons came on two days or more."""
    beats = load_ecg_id(path)

    def folds(seed: int) -> list[Fold]:
        return [
            Fold(
                beats.signals[train],
                beats.labels[train],
                beats.recordings[train],
                beats.signals[unseen],
                beats.labels[unseen],
                {"other day": beats.days[unseen], "other recording": beats.recordings[unseen]},
            )
            for train, unseen in class_disjoint_folds(beats.labels, 3, seed=seed)
        ]

    return Task(
        name="ecg",
        encoder=ResNet1D,
        folds=folds,
        questions={
            "other day": RetrievalProtocol.cross_day(),
            "other recording": RetrievalProtocol.cross_session(),
        },
        steps=200,
        batch_size=64,
    )


def clinc(path: Path) -> Task:
    """Vectors of short requests: 100 intents train, 50 are unseen; the seed chooses which. Zero rows are left out."""
    with np.load(path, allow_pickle=False) as file:
        vectors, labels = torch.from_numpy(file["x"]).float(), torch.from_numpy(file["y"].astype(np.int64))
    kept = (labels >= 0) & (vectors != 0).any(1)
    vectors, labels = vectors[kept], labels[kept]

    def folds(seed: int) -> list[Fold]:
        train, unseen = class_disjoint_split(labels, test_size=1 / 3, seed=seed)
        return [Fold(vectors[train], labels[train], None, vectors[unseen], labels[unseen], {"leave one out": None})]

    return Task(
        name="clinc",
        encoder=partial(_mlp, vectors.shape[1]),
        folds=folds,
        questions={"leave one out": RetrievalProtocol()},
        steps=800,
        batch_size=128,
    )


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, width))
