"""The false-negative guard on planted label noise: what it removes, and what that costs.

Labels of the bundled Omniglot's training alphabets are flipped; conv4 is trained on 10 % of noise for a few steps, and
its embeddings are mined. A mined negative is false if its true class is the anchor's. Other vectors: set
LEGOLAS_NOISE_EMBEDDINGS to an .npz with `embeddings` and `labels`.
"""

import os
import warnings

import numpy as np
import pytest
import torch

from legolas_metric import (
    EmbeddingBank,
    ExactIndex,
    FalseNegativeGuard,
    HardMiner,
    PKSampler,
    SemiHardMiner,
    SupConLoss,
)
from legolas_metric.datasets import split_omniglot
from legolas_metric.encoders import Conv4


def flipped(labels: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Labels of which a share is replaced by another class."""
    generator = torch.Generator().manual_seed(seed)
    out, classes = labels.clone(), labels.unique()
    rows = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    place = torch.searchsorted(classes, labels[rows])
    out[rows] = classes[(place + torch.randint(1, len(classes), (len(rows),), generator=generator)) % len(classes)]
    return out


@pytest.fixture(scope="module")
def vectors(full) -> tuple[torch.Tensor, torch.Tensor]:
    if path := os.environ.get("LEGOLAS_NOISE_EMBEDDINGS"):
        with np.load(path, allow_pickle=False) as file:
            return torch.from_numpy(file["embeddings"]).float(), torch.from_numpy(file["labels"]).long()
    torch.manual_seed(0)
    train, _ = split_omniglot(seed=0)
    images, labels = train.images[:, None].float() / 255, flipped(train.labels, 0.1, seed=1)
    encoder, loss, steps = Conv4(), SupConLoss(), 400 if full else 40
    optimiser = torch.optim.Adam(encoder.parameters(), 2e-3)
    sampler = PKSampler(labels, 32, 4, batches_per_epoch=steps, seed=0)
    for batch in sampler:
        rows = torch.as_tensor(batch)
        optimiser.zero_grad()
        loss(encoder(images[rows]), labels[rows]).backward()
        optimiser.step()
    encoder.eval()
    part = slice(None) if full else slice(0, 4000)
    with torch.inference_mode():
        rows = torch.cat([encoder(images[i : i + 512]) for i in range(0, len(images[part]), 512)])
    return rows[: len(train.labels[part])].clone(), train.labels[part]


@pytest.mark.parametrize("miner", [HardMiner, SemiHardMiner])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_guard(benchmark, full, vectors, miner, share):
    if not full and share != 0.1:
        pytest.skip("--full")
    embeddings, truth = vectors
    bank = EmbeddingBank(embeddings, flipped(truth, share, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = miner(index=ExactIndex()).mine(bank)
        guarded = miner(index=ExactIndex(), guard=FalseNegativeGuard()).mine(bank)
    false = [truth[t.anchor] == truth[t.negative] for t in (plain, guarded)]
    nearest = dict(zip(guarded.anchor.tolist(), guarded.negative.tolist()))
    true_hard = [
        (a, n) for a, n, bad in zip(plain.anchor.tolist(), plain.negative.tolist(), false[0].tolist()) if not bad
    ]
    benchmark.extra_info.update(
        false_share=float(false[0].double().mean()),
        false_share_guarded=float(false[1].double().mean()),
        anchors_kept=len(guarded) / len(plain),
        true_hard_lost=sum(nearest.get(a) != n for a, n in true_hard) / len(true_hard),
        filtered=str(dict(guarded.stats.filtered)),
    )
    assert benchmark.extra_info["false_share_guarded"] <= 0.5 * benchmark.extra_info["false_share"]
    assert benchmark.extra_info["anchors_kept"] >= 0.6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        benchmark.pedantic(lambda: miner(index=ExactIndex(), guard=FalseNegativeGuard()).mine(bank), rounds=1)
