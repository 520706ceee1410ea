"""Several encoders as one, such as those of the folds."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.data import Dataset

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, check_choice, check_whole, shown
from legolas_metric.datasets.source import Inputs
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking import evaluate_ranking
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.files import read_tensors, read_weights, write_json, write_tensors
from legolas_metric.signatures import typed
from legolas_metric.training.best_weights import digest_of

How = Literal["mean", "concat", "score"]
Vote = Literal["soft", "hard"]
_LIST = "ensemble.json"
_PROJECTION = "projection.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleRanking:
    """The ranking by the ensemble, beside that of each member.

    Attributes:
        ensemble: the report of all together.
        members: the report of each alone.

    Example:
        >>> import torch
        >>> from legolas_metric.training.ensemble import EncoderEnsemble
        >>> encoders = [torch.nn.Linear(3, 2) for _ in range(2)]
        >>> ranking = EncoderEnsemble(encoders).rank(torch.randn(8, 3), [0, 0, 1, 1, 2, 2, 3, 3])
        >>> len(ranking.members), ranking.ensemble.queries
        (2, 8)
    """

    ensemble: RankingReport
    members: tuple[RankingReport, ...]


class EncoderEnsemble(nn.Module):
    """Several encoders that give one embedding, a unit row of each input.

        mean:    normalised mean of the members' unit rows
        concat:  the unit rows side by side, reduced by `fit_pca` if that was called, normalised
        score:   the unit rows side by side over sqrt(K), so that the cosine is the mean of the members' cosines

    "mean" adds up coordinates: it suits members that share a start and so a coordinate system. Members that were
    trained apart have their own; of their rows "score" compares each with its own kind.

    Args:
        encoders: modules from inputs to [b, d]; for "mean" of one d.
        how: "mean", "concat" or "score".

    Raises:
        ValueError: no encoder.

    Example:
        >>> import torch
        >>> from legolas_metric.training.ensemble import EncoderEnsemble
        >>> ensemble = EncoderEnsemble([torch.nn.Linear(3, 2) for _ in range(2)], how="score")
        >>> ensemble(torch.randn(5, 3)).shape
        torch.Size([5, 4])
        >>> ensemble.save("both")
        >>> again = EncoderEnsemble([torch.nn.Linear(3, 2) for _ in range(2)], how="score").load("both")

    Source: Lakshminarayanan et al. (2017), Deep Ensembles, arXiv:1612.01474; for embeddings ours.
    """

    centre: Tensor
    directions: Tensor

    @typed
    def __init__(self, encoders: Sequence[nn.Module], how: How = "mean") -> None:
        super().__init__()
        check_choice("how", how, get_args(How))
        if len(encoders) == 0 or not all(isinstance(encoder, nn.Module) for encoder in encoders):
            raise ValueError("encoders must be one module or more: an ensemble needs at least one encoder")
        self.encoders = nn.ModuleList(encoders)
        self.how: How = how
        self.register_buffer("centre", torch.zeros(0))  # of the projection; empty before `fit_pca`
        self.register_buffer("directions", torch.zeros(0, 0))

    def forward(self, *inputs: Any) -> Float[Tensor, "b d"]:
        """Embed a batch."""
        return self._combined([encoder(*inputs) for encoder in self.encoders])

    def _combined(self, parts: Sequence[Float[Tensor, "b _"]]) -> Float[Tensor, "b e"]:
        unit = [nn.functional.normalize(part, dim=1) for part in parts]
        if self.how == "mean":
            widths = sorted({part.shape[1] for part in unit})
            if len(widths) > 1:
                raise ValueError(f"the members have {widths} dimensions: their mean needs one, use how='score'")
            return nn.functional.normalize(torch.stack(unit).mean(0), dim=1)
        side_by_side = torch.cat(unit, 1)
        if self.how == "concat" and len(self.centre):
            side_by_side = (side_by_side - self.centre) @ self.directions.T
            return nn.functional.normalize(side_by_side, dim=1)
        return side_by_side / len(unit) ** 0.5

    def fit_pca(self, dataset: Dataset | ArrayLike, dimensions: int, *, batch_size: int = 512) -> "EncoderEnsemble":
        """Reduce "concat" to the directions of largest variance over a data set, the training part; returns itself.

        Raises:
            ValueError: another `how`, or more dimensions than there are rows or coordinates.
        """
        check_whole("dimensions", dimensions, 1)
        if self.how != "concat":
            raise ValueError(f"PCA reduces how='concat', got how={self.how!r}")
        self.centre, self.directions = self.centre[:0], self.directions[:0, :0]
        rows = torch.cat([nn.functional.normalize(part, dim=1) for part in self._parts(dataset, batch_size)], 1)
        if dimensions > min(rows.shape):
            raise ValueError(f"dimensions={dimensions} of {rows.shape[0]} rows of {rows.shape[1]}: choose fewer")
        centre = rows.mean(0)
        self.directions = torch.linalg.svd(rows - centre, full_matrices=False)[2][:dimensions].contiguous()
        self.centre = centre
        return self

    def rank(
        self,
        dataset: Dataset | ArrayLike,
        labels: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        protocol: RetrievalProtocol = RetrievalProtocol(),  # noqa: B008  (frozen)
        baseline: ArrayLike | RankingReport | None = None,
        batch_size: int = 512,
    ) -> EnsembleRanking:
        """Rank a data set by all members together and by each alone; arguments as `evaluate_ranking`."""
        parts = self._parts(dataset, batch_size)
        *members, whole = (
            evaluate_ranking(rows, labels, groups=groups, protocol=protocol, baseline=baseline)
            for rows in (*parts, self._combined(parts))
        )
        return EnsembleRanking(ensemble=whole, members=tuple(members))

    def _parts(self, dataset: Dataset | ArrayLike, batch_size: int) -> list[Float[Tensor, "n _"]]:
        n = len(Inputs(dataset))
        nobody = torch.zeros(n, dtype=torch.int64)
        return [
            EmbeddingBank.encode(
                encoder, dataset, labels=nobody, metric="dot", batch_size=batch_size, progress=False
            ).embeddings
            for encoder in self.encoders
        ]

    def ask(self, question: Callable[[nn.Module], Any], *, of: int | None = None) -> list[Any]:
        """Ask the members something, such as attention weights or `saliency`: of one (the best fold), or of all.

        Raises:
            ValueError: `of` is no member.

        Example:
            >>> import torch
            >>> from legolas_metric.training.ensemble import EncoderEnsemble, saliency
            >>> ensemble, x = EncoderEnsemble([torch.nn.Linear(3, 2) for _ in range(2)]), torch.randn(5, 3)
            >>> [seen.shape for seen in ensemble.ask(lambda encoder: saliency(encoder, x), of=1)]
            [torch.Size([5, 3])]
        """
        if of is not None and not 0 <= of < len(self.encoders):
            raise ValueError(f"of={of} is no member: there are {len(self.encoders)}, from 0")
        return [question(encoder) for number, encoder in enumerate(self.encoders) if of is None or of == number]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write one file of weights for each member, and a list of them with digests, which is written last."""
        place = Path(folder)
        members = []
        for number, encoder in enumerate(self.encoders):
            weights = encoder.state_dict()
            name = f"member_{number}.safetensors"
            write_tensors(place / name, weights)
            members.append({"file": name, "digest": digest_of(weights)})
        projected = bool(len(self.centre))
        if projected:
            write_tensors(place / _PROJECTION, {"centre": self.centre, "directions": self.directions})
        write_json(place / _LIST, {"how": self.how, "members": members, "projected": projected})

    def load(self, folder: str | os.PathLike[str]) -> "EncoderEnsemble":
        """Take up the weights that `save` wrote, into encoders of the same kind; returns itself.

        Raises:
            FileNotFoundError: no ensemble in the folder.
            ValueError: another number of members, another `how`, or weights that don't agree with their digest.
        """
        place = Path(folder)
        if not (place / _LIST).is_file():
            raise FileNotFoundError(f"{place} holds no ensemble: there is no {_LIST}")
        held = json.loads((place / _LIST).read_text(encoding="utf-8"))
        if len(held["members"]) != len(self.encoders):
            raise ValueError(f"{place} holds {len(held['members'])} members, this ensemble {len(self.encoders)}")
        if held["how"] != self.how:
            raise ValueError(f"{place} holds an ensemble of how={held['how']!r}, this one is of how={self.how!r}")
        states = [read_weights(place / member["file"]) for member in held["members"]]
        for member, state in zip(held["members"], states, strict=True):
            if digest_of(state) != member["digest"]:
                raise ValueError(f"{place / member['file']} does not agree with its digest: save the ensemble again")
        for encoder, state in zip(self.encoders, states, strict=True):
            encoder.load_state_dict(state)
        if held["projected"]:
            projection = read_tensors(place / _PROJECTION)[0]
            self.centre, self.directions = (projection[name].to(self.centre) for name in ("centre", "directions"))
        return self


def vote(logits: Sequence[Float[Tensor, "n c"]], how: Vote = "soft") -> Int64[Tensor, " n"]:
    """The class that several classifiers choose together.

    "soft" takes the largest mean probability; "hard" the class that most members chose, among equals that of the
    largest mean probability.

    Args:
        logits: [n, c] of each classifier.
        how: "soft" or "hard".

    Raises:
        TypeError: no list of tensors [n, c].
            ValueError: an unknown `how`, or no logits.

    Example:
        >>> import torch
        >>> from legolas_metric.training.ensemble import vote
        >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.1]])
        >>> vote([sure, unsure, unsure]).item(), vote([sure, unsure, unsure], "hard").item()
        (0, 1)

    Source: Kittler et al. (1998), On Combining Classifiers.
    """
    check_choice("how", how, get_args(Vote))
    if isinstance(logits, Tensor) and logits.ndim == 3:
        logits = list(logits)
    if not isinstance(logits, list | tuple) or not all(isinstance(part, Tensor) and part.ndim == 2 for part in logits):
        raise TypeError(f"logits must be a list of tensors [n, c], one of each classifier, got {shown(logits)}")
    if not logits:
        raise ValueError("no logits to vote on: give those of at least one classifier")
    mean = torch.stack([part.softmax(1) for part in logits]).mean(0)
    if how == "soft":
        return mean.argmax(1)
    chosen = torch.stack([part.argmax(1) for part in logits], 1)
    votes = nn.functional.one_hot(chosen, mean.shape[1]).sum(1)
    return (votes + mean / 2).argmax(1)


def saliency(encoder: nn.Module, inputs: Float[Tensor, "b *s"]) -> Float[Tensor, "b *s"]:
    """How much each number of an input moves its unit embedding: | d (z . stop(z)) / d x |, z the raw embedding.

    Args:
        encoder: a module from inputs to [b, d].
        inputs: [b, ...], floating point.

    Source: Simonyan et al. (2014), Deep Inside Convolutional Networks, arXiv:1312.6034; of an embedding, ours.

    Raises:
        RuntimeError: inputs that are not floating point.

    Example:
        >>> import torch
        >>> from legolas_metric.training.ensemble import saliency
        >>> saliency(torch.nn.Linear(3, 2), torch.randn(4, 3)).shape
        torch.Size([4, 3])
    """
    was = encoder.training
    encoder.eval()
    try:
        with torch.enable_grad():
            x = inputs.detach().clone().requires_grad_()
            z = encoder(x)
            (z * z.detach()).sum().backward(inputs=[x])
    finally:
        encoder.train(was)
    assert x.grad is not None
    return x.grad.abs()
