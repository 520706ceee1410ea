"""Find persons again by one heartbeat, recorded on another day: unseen persons, global mining across recordings.

Three person-disjoint folds: each person is judged once, by an encoder that never saw him or her. A query may not find
its own day (or its own recording), and each person counts once, however many beats there are. About a minute.

python examples/ecg_other_day.py --steps 200
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch

from legolas_metric import (
    EmbeddingBank,
    HardMiner,
    LabelRelation,
    PKSampler,
    RetrievalProtocol,
    SupConLoss,
    TripletSampler,
    class_disjoint_folds,
    evaluate_ranking,
)
from legolas_metric.datasets import EcgBeats, load_ecg_id
from legolas_metric.encoders import ResNet1D

BUNDLED = Path(__file__).parent / "data/ecgid_dev.npz"
BATCH, K = 64, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=BUNDLED)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--refresh", type=int, default=25, help="steps between two looks at the whole training set")
    options = parser.parse_args()

    beats = load_ecg_id(options.data)
    print(f"{len(beats)} beats of {len(beats.labels.unique())} persons in {len(beats.recordings.unique())} recordings")
    found: dict[str, list[torch.Tensor]] = {}
    for number, (train, unseen) in enumerate(class_disjoint_folds(beats.labels, options.folds, seed=0)):
        torch.manual_seed(0)
        encoder = ResNet1D()
        judge(encoder, beats.take(unseen), "untrained", found)
        fit(encoder, beats.take(train), options.steps, options.refresh)
        judge(encoder, beats.take(unseen), "trained", found)
        print(f"fold {number}: trained on {len(beats.labels[train].unique())} persons")
    for question, persons in found.items():
        rank1 = torch.cat(persons)
        print(f"{question}: Rank@1 {rank1.mean():.3f}, the mean of {len(rank1)} persons")


def fit(encoder: ResNet1D, train: EcgBeats, steps: int, refresh: int) -> None:
    """A third of the steps on random persons, then on triplets of the whole set, positives from other recordings."""
    loss = SupConLoss(temperature=0.05)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 2))
    for rows in islice(batches(encoder, train, steps // 3, refresh), steps):
        value = loss(encoder(train.signals[rows]), train.labels[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        cycle.step()


def batches(encoder: ResNet1D, train: EcgBeats, warm_up: int, refresh: int) -> Iterator[list[int]]:
    """Random batches of each person's different recordings, then mined ones; the bank is refreshed every few steps."""
    random = PKSampler(
        train.labels, BATCH // K, K, groups=train.recordings, distinct_groups=True, batches_per_epoch=max(warm_up, 1)
    )
    yield from islice(random, warm_up)
    miner = HardMiner(ranks=(1, 10), relation=LabelRelation(positive_group="other"))
    while True:
        bank = EmbeddingBank.encode(
            encoder, train.signals, labels=train.labels, groups=train.recordings, progress=False
        )
        yield from islice(TripletSampler(miner.mine(bank), BATCH), refresh)


def judge(encoder: ResNet1D, unseen: EcgBeats, name: str, found: dict[str, list[torch.Tensor]]) -> None:
    """Add each person's Rank@1, asked on another day, and in another recording."""
    rows = EmbeddingBank.encode(encoder, unseen.signals, labels=unseen.labels, progress=False).embeddings
    for protocol, groups in (
        (RetrievalProtocol.cross_day(), unseen.days),
        (RetrievalProtocol.cross_session(), unseen.recordings),
    ):
        persons = evaluate_ranking(rows, unseen.labels, groups=groups, protocol=protocol).by_class()
        found.setdefault(f"{protocol.name}, {name}", []).append(persons.rank1)


if __name__ == "__main__":
    main()
