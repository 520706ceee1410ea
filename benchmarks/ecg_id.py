"""Tell persons apart by their heartbeat, from raw recordings to a table that says what it can't say.

Persons are dealt to folds, so that each is judged once, by encoders that never saw him or her. Every method answers two
questions: who is it in another recording, and who on another day? Each person counts once, however many beats there
are; intervals are by the bootstrap over persons. About two minutes on two cores; docs/ecg.md explains the table.

python benchmarks/ecg_id.py --steps 150
python benchmarks/ecg_id.py --data ecg-id-database-1.0.0   # PhysioNet's own folder, with the extra `ecg`
python benchmarks/ecg_id.py --peaks found                  # R peaks by wfdb's detector: none need be given
"""

import argparse
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from legolas_metric import (
    EmbeddingBank,
    EncoderEnsemble,
    FoldResult,
    FoldsResult,
    HardMiner,
    KFold,
    LabelRelation,
    PKSampler,
    RetrievalProtocol,
    SupConLoss,
    TripletSampler,
    evaluate_ranking,
)
from legolas_metric.datasets import EcgBeats, load_ecg_id
from legolas_metric.encoders import ResNet1D

BUNDLED = Path(__file__).parents[1] / "examples/data/ecgid_dev.npz"
BATCH, K = 64, 4
QUESTIONS = ("another recording", "another day")
Found = dict[tuple[str, str], list[tuple[Tensor, Tensor]]]  # (method, question) -> persons and their Rank@1, by fold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=BUNDLED)
    parser.add_argument("--peaks", choices=("given", "found"), default="given", help="R peaks; found by wfdb")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--refresh", type=int, default=25, help="steps between two looks at the whole training set")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    beats = load_ecg_id(options.data, peaks=options.peaks)
    came_again = torch.isin(beats.labels, beats.labels[beats.days > 0].unique())
    # As many of those who came on another day in each fold: they alone can answer the second question.
    folds = KFold(beats.labels, options.folds, stratify=came_again, test_share=0, seed=options.seed)
    assert not folds.leakage().identities
    print(
        f"{len(beats)} beats, {len(beats.recordings.unique())} recordings, {len(beats.labels.unique())} persons, "
        f"{len(beats.labels[came_again].unique())} of whom came on another day"
    )
    found: Found = {}
    for number, (train, unseen) in enumerate(folds):
        methods = trained(beats.take(train), options.steps, options.refresh, options.seed)
        for name, encoder in methods.items():
            judge(name, encoder, beats.take(unseen), found)
        print(f"fold {number}: trained on {len(beats.labels[train].unique())} persons", flush=True)
    show(found)


def trained(train: EcgBeats, steps: int, refresh: int, seed: int) -> dict[str, nn.Module]:
    """The methods, from the same weights, with equally many steps of equal batches."""
    encoders = {}
    for name, warm_up in (("untrained", None), ("batch-only", steps), ("global mining", steps // 3)):
        torch.manual_seed(seed)
        encoder = ResNet1D()
        if warm_up is not None:
            fit(encoder, train, steps, warm_up, refresh, seed)
        encoders[name] = encoder
    both = EncoderEnsemble([encoders["batch-only"], encoders["global mining"]], how="score")
    return {"no learning": nn.Flatten(), **encoders, "ensemble of both": both}


def fit(encoder: nn.Module, train: EcgBeats, steps: int, warm_up: int, refresh: int, seed: int) -> None:
    loss = SupConLoss(temperature=0.05)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 2))
    for rows in islice(batches(encoder, train, warm_up, refresh, seed), steps):
        value = loss(encoder(train.signals[rows]), train.labels[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        cycle.step()


def batches(encoder: nn.Module, train: EcgBeats, warm_up: int, refresh: int, seed: int) -> Iterator[list[int]]:
    """Random batches of each person's different recordings, then batches of what was mined from the whole set."""
    random = PKSampler(
        train.labels,
        BATCH // K,
        K,
        groups=train.recordings,
        distinct_groups=True,
        batches_per_epoch=max(warm_up, 1),
        seed=seed,
    )
    yield from islice(random, warm_up)
    miner = HardMiner(ranks=(1, 10), relation=LabelRelation(positive_group="other"))
    while True:
        bank = EmbeddingBank.encode(
            encoder, train.signals, labels=train.labels, groups=train.recordings, progress=False
        )
        yield from islice(TripletSampler(miner.mine(bank), BATCH), refresh)


def judge(name: str, encoder: nn.Module, unseen: EcgBeats, found: Found) -> None:
    """Each person's Rank@1 by single beats, and by templates: the mean of a recording's unit rows."""
    rows = EmbeddingBank.encode(encoder, unseen.signals, labels=unseen.labels, progress=False).embeddings
    recordings, place = unseen.recordings.unique(return_inverse=True)
    templates = torch.zeros(len(recordings), rows.shape[1]).index_add_(0, place, rows)
    first = torch.tensor([int((place == number).nonzero()[0]) for number in range(len(recordings))])
    for ending, x, labels, days, recording in (
        ("", rows, unseen.labels, unseen.days, unseen.recordings),
        (", templates", templates, unseen.labels[first], unseen.days[first], recordings),
    ):
        for question, groups in zip(QUESTIONS, (recording, days), strict=True):
            persons = evaluate_ranking(x, labels, groups=groups, protocol=RetrievalProtocol.cross_session()).by_class()
            order = persons.keys.argsort()
            held = found.setdefault((f"{name}{ending}", question), [])
            held.append((persons.keys[order], persons.rank1[order]))


def pooled(folds: list[tuple[Tensor, Tensor]]) -> FoldsResult:
    """All persons' figures as one result."""
    parts = [
        FoldResult(number=n, values={"rank_at_1": float(v.mean())}, per_query={"rank_at_1": v}, identities=persons)
        for n, (persons, v) in enumerate(folds)
    ]
    return FoldsResult(tuple(parts))


def show(found: Found) -> None:
    print("\n| method | Rank@1, another recording | over untrained | Rank@1, another day | over untrained |")
    print("| --- | --- | --- | --- | --- |")
    for method in dict.fromkeys(method for method, _ in found):
        cells = []
        for question in QUESTIONS:
            mine = found[method, question]
            basis = found["untrained" + (", templates" if method.endswith("templates") else ""), question]
            gain = [(persons, v - w) for (persons, v), (_, w) in zip(mine, basis, strict=True)]
            cells += [told(pooled(mine)), "" if method.startswith("untrained") else told(pooled(gain), sign="+")]
        print(f"| {method} | {' | '.join(cells)} |")
    for question in QUESTIONS:
        persons = sum(len(keys) for keys, _ in found["untrained", question])
        print(
            f"\n{question}: {persons} persons; a share near 0.5 of them is known to within {1 / math.sqrt(persons):.2f}"
        )


def told(result: FoldsResult, sign: str = "") -> str:
    low, high = result.interval()
    return f"{result.pooled():{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    main()
