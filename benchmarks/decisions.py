"""What the steps after an encoder gain: the tables of docs/decisions-and-thresholds.md.

Three folds of persons (characters, intents): each is judged once, by an encoder and back ends that never saw it.

python -m benchmarks.decisions --steps 150
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from legolas_metric import (
    LDA,
    PLDA,
    WCCN,
    DecisionRule,
    KReciprocal,
    PKSampler,
    RankingReport,
    RetrievalProtocol,
    ScoreNorm,
    SupConLoss,
    Whitening,
    class_disjoint_folds,
    enrol,
    evaluate_ranking,
    evaluate_verification,
    expand,
    identify,
    template_curve,
    verification_from_scores,
    verify_by,
)
from legolas_metric.datasets import load_ecg_id
from legolas_metric.encoders import Conv4, ResNet1D
from legolas_metric.evaluation.bootstrap import paired_difference

FOLDS, SEED = 3, 0
ROOT = Path(__file__).parents[1]


class Task:
    """Examples, whose they are, and the sessions between which a person must be found."""

    def __init__(self, name: str, x: torch.Tensor, y: torch.Tensor, groups: torch.Tensor | None, encoder) -> None:
        self.name, self.x, self.y, self.groups, self.encoder = name, x, y, groups, encoder


def ecg(data: Path) -> Task:
    beats = load_ecg_id(data / "ecgid_dev.npz")
    return Task("ECG-ID, beats", beats.signals, beats.labels, beats.recordings, ResNet1D)


def omniglot(data: Path) -> Task:
    with np.load(data / "omniglot_small_gray.npz") as held:
        images = torch.from_numpy(held["x"]).float().div(255)[:, None]
        return Task("Omniglot, characters", images, torch.from_numpy(held["y"]).long(), None, Conv4)


def clinc(data: Path) -> Task:
    with np.load(data / "clinc150.npz") as held:
        x, y = torch.from_numpy(held["x"]).float(), torch.from_numpy(held["y"]).long()
    generator = torch.Generator().manual_seed(SEED)
    known = ((y >= 0) & (x.norm(dim=1) > 0)).nonzero().flatten()
    rows = torch.cat(
        [members[torch.randperm(len(members), generator=generator)[:30]] for members in by_class(known, y)]
    )

    def encoder() -> nn.Module:
        return nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128))

    return Task("CLINC, intents", x[rows], y[rows], None, encoder)


def by_class(rows: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    return [rows[y[rows] == one] for one in y[rows].unique()]


def fit(encoder: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> None:
    """Supervised contrastive learning on batches of 16 people with 4 rows each."""
    loss, optimizer = SupConLoss(temperature=0.05), torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    sampler = PKSampler(y, 16, 4, seed=SEED, batches_per_epoch=steps)
    encoder.train()
    for batch in sampler:
        rows = torch.as_tensor(batch)
        optimizer.zero_grad()
        loss(encoder(x[rows]), y[rows]).backward()
        optimizer.step()
    encoder.eval()


@torch.no_grad()
def embed(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([nn.functional.normalize(encoder(part)) for part in x.split(256)])


def scorers(x: torch.Tensor, y: torch.Tensor, test: torch.Tensor, groups) -> dict[str, Callable]:
    """Each step as a function that makes (rows to compare, scorer or None), fitted on the training rows."""

    def mapped(back_end):
        return lambda: (back_end().transform(test), None)

    return {
        "AS-norm": lambda: (test, ScoreNorm(x, labels=y)),
        "S-norm": lambda: (test, ScoreNorm(x, how="s", labels=y)),
        "whitening": mapped(lambda: Whitening().fit(x, y)),
        "LDA": mapped(lambda: LDA().fit(x, y)),
        "WCCN": mapped(lambda: WCCN().fit(x, y, groups=groups)),
        "PLDA": lambda: (test, PLDA().fit(x, y)),
        "expansion": lambda: (expand(test), None),
        "k-reciprocal": lambda: (test, KReciprocal(test)),
    }


def steps_of(task: Task, steps: int) -> tuple[dict, torch.Tensor, torch.Tensor, list]:
    protocol = RetrievalProtocol() if task.groups is None else RetrievalProtocol.cross_session()
    found: dict[str, list] = {}
    table, fold, trained = [], torch.full((len(task.y),), -1), []
    for number, (train, test) in enumerate(class_disjoint_folds(task.y, FOLDS, seed=SEED)):
        torch.manual_seed(SEED)
        encoder = task.encoder()
        fit(encoder, task.x[train], task.y[train], steps)
        x, seen = embed(encoder, task.x), task.y[train]
        fold[test] = number
        table.append((test, x[test]))
        groups = None if task.groups is None else task.groups[test]
        inner = None if task.groups is None else task.groups[train]
        rule = DecisionRule.fit(evaluate_verification(x[train], seen, groups=inner), far=0.01)
        trained.append(rule.apply(x[test], task.y[test], groups=groups, resamples=2).far)
        plain = evaluate_ranking(x[test], task.y[test], groups=groups, protocol=protocol)
        eer = evaluate_verification(x[test], task.y[test], groups=groups).eer
        for name, made in scorers(x[train], seen, x[test], inner).items():
            start = time.perf_counter()
            rows, scorer = made()
            report = evaluate_ranking(rows, task.y[test], groups=groups, protocol=protocol, scorer=scorer)
            seconds = time.perf_counter() - start
            if scorer is None:
                after = evaluate_verification(rows, task.y[test], groups=groups).eer
            else:
                after = verify_by(scorer, rows, task.y[test], groups=groups).eer
            found.setdefault(name, []).append((plain, report, eer, after, seconds))
    rows, order = torch.cat([x for _, x in table]), torch.cat([place for place, _ in table])
    embedded = torch.empty_like(rows)
    embedded[order] = rows
    return found, embedded, fold, trained


def paired(reports: list[tuple[RankingReport, RankingReport]], measure: str):
    """The difference over the queries of all folds, drawn by person."""
    change = torch.cat(
        [
            b.per_query.rank_at(1) - a.per_query.rank_at(1)
            if measure == "rank_at_1"
            else b.per_query.map_at_r - a.per_query.map_at_r
            for a, b in reports
        ]
    )
    people = torch.cat([a.per_query.labels for a, _ in reports])
    return paired_difference(change, (people, None), over="identities", level=0.95, resamples=1000, seed=SEED)


def interval(found) -> str:
    mark = "" if found.shown else " ?"
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f}){mark}"


def show(task: Task, steps: int) -> None:
    found, x, fold, trained = steps_of(task, steps)
    first = next(iter(found.values()))
    queries = torch.cat([one[0].per_query.rank_at(1) for one in first])
    maps = torch.cat([one[0].per_query.map_at_r for one in first])
    eer = np.mean([one[2] for one in first])
    print(f"\n### {task.name}: {len(task.y)} rows, {len(task.y.unique())} classes\n")
    print(f"Plain: Rank@1 {queries.mean():.3f}, MAP@R {maps.mean():.3f}, EER {eer:.3f}.\n")
    print("| step | Rank@1 | MAP@R | EER | seconds |\n| --- | --- | --- | --- | --- |")
    for name, folds in found.items():
        pairs = [(a, b) for a, b, *_ in folds]
        after, took = np.mean([one[3] for one in folds]), sum(one[4] for one in folds)
        cells = (
            interval(paired(pairs, "rank_at_1")),
            interval(paired(pairs, "map_at_r")),
            f"{after:.3f}",
            f"{took:.1f}",
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\n| enrolled rows | Rank@1 | against one | EER |\n| --- | --- | --- | --- |")
    curves = [
        template_curve(
            x[fold == k],
            task.y[fold == k],
            groups=None if task.groups is None else task.groups[fold == k],
            counts=(1, 2, 4, 8),
            repeats=20,
            seed=SEED,
        )
        for k in range(FOLDS)
    ]
    for count in (1, 2, 4, 8):
        rank1 = np.average([one.rank1[count] for one in curves], weights=[one.people for one in curves])
        equal = np.mean([one.eer[count] for one in curves])
        gains = ", ".join(f"{one.gain[count].value:+.3f}{'' if one.gain[count].shown else ' ?'}" for one in curves)
        print(f"| {count} | {rank1:.3f} | {gains} | {equal:.3f} |")
    if task.groups is not None:
        show_recordings(task, x, fold)
    cross = DecisionRule.cross_fit(x, task.y, groups=task.groups, folds=fold, far=0.01)
    far = ", ".join(f"{one:.4f}" for one in trained)
    held = ", ".join(f"{one.far:.4f}" for one in cross.fold_rates)
    print(
        f"\nFAR for 0.01, threshold of the persons trained on: {far}; cross-fitted: {held}; together {cross.far:.4f} "
        f"({cross.far_interval[0]:.4f} to {cross.far_interval[1]:.4f}).",
        flush=True,
    )


def show_recordings(task: Task, x: torch.Tensor, fold: torch.Tensor) -> None:
    """What is averaged, on which side: beats or means of recordings ask; beats, means, or people are asked."""
    assert task.groups is not None
    print("\n| who asks | what is searched, of other recordings | Rank@1 | of | EER |\n| --- | --- | --- | --- | --- |")
    parts = [(x[fold == k], task.y[fold == k], task.groups[fold == k]) for k in range(FOLDS)]
    means = [recordings(*part) for part in parts]
    ways = {
        ("a beat", "beats"): [rows_against_rows(*part) for part in parts],
        ("the mean of a recording", "means of recordings"): [rows_against_rows(*part) for part in means],
        ("a beat", "means of people"): [rows_against_people(part, part) for part in parts],
        ("the mean of a recording", "means of people"): [
            rows_against_people(mean, part) for mean, part in zip(means, parts)
        ],
    }
    for (asks, searched), found in ways.items():
        every, equal = torch.cat([hits for hits, _ in found]), np.mean([eer for _, eer in found])
        print(f"| {asks} | {searched} | {every.mean():.3f} | {len(every)} | {equal:.3f} |")


Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def recordings(x: torch.Tensor, y: torch.Tensor, groups: torch.Tensor) -> Part:
    """The mean of each recording, whose it is, and which."""
    means, names = enrol(x, by=groups)
    assert isinstance(names, torch.Tensor)
    return means, torch.stack([y[groups == one][0] for one in names]), names


def rows_against_rows(x: torch.Tensor, y: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, float]:
    ranked = evaluate_ranking(x, y, groups=groups, protocol=RetrievalProtocol.cross_session())
    return ranked.per_query.rank_at(1), evaluate_verification(x, y, groups=groups).eer


def rows_against_people(asking: Part, enrolled: Part) -> tuple[torch.Tensor, float]:
    """Each person is enrolled by the mean of all their rows outside the recording that asks."""
    (probes, who, where), (x, y, groups) = asking, enrolled
    hits, scores, same = [], [], []
    for recording in where.unique():
        templates, names = enrol(x[groups != recording], by=y[groups != recording])
        assert isinstance(names, torch.Tensor)
        mine = where == recording
        if not (names == who[mine][0]).any():  # their only recording
            continue
        found = identify(probes[mine], templates, names, k=len(names))
        own = torch.tensor(found.names) == who[mine][0]
        hits.append(own[:, 0].double())
        scores.append(found.scores.flatten())
        same.append(own.flatten())
    return torch.cat(hits), verification_from_scores(torch.cat(scores), torch.cat(same)).eer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    parser.add_argument("--task", default="ecg,clinc,omniglot")
    options = parser.parse_args()
    print(f"seed {SEED}, {options.steps} steps, torch {torch.__version__}, Python {platform.python_version()}")
    for name in options.task.split(","):
        show({"ecg": ecg, "clinc": clinc, "omniglot": omniglot}[name](options.data), options.steps)


if __name__ == "__main__":
    main()
