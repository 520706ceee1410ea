"""What the steps after an encoder gain: the tables of docs/decisions-and-thresholds.md.

Three folds of persons (characters, intents): each is judged once, by an encoder and back ends that never saw it.

python -m benchmarks.decisions --steps 150
"""

import argparse
import platform
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
    Difference,
    KReciprocal,
    PKSampler,
    RetrievalProtocol,
    ScoreNorm,
    SupConLoss,
    VerificationReport,
    Whitening,
    class_disjoint_folds,
    compare_steps,
    enrol,
    evaluate_ranking,
    evaluate_verification,
    expand,
    identify,
    template_curve,
    verification_from_scores,
)
from legolas_metric.datasets import load_ecg_id
from legolas_metric.decisions.step_gains import signed
from legolas_metric.decisions.templates import Fuse, How
from legolas_metric.encoders import Conv4, ResNet1D
from legolas_metric.evaluation.bootstrap import draws, paired_difference
from legolas_metric.evaluation.identity_pairs import percentiles

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


def made_of(x: torch.Tensor, y: torch.Tensor, groups: torch.Tensor | None) -> dict[str, Callable]:
    """Each step as a function of the rows that are judged, fitted on the training rows: that counts as its time."""
    return {
        "AS-norm": lambda _: ScoreNorm(x, labels=y),
        "S-norm": lambda _: ScoreNorm(x, how="s", labels=y),
        "whitening": lambda _: Whitening().fit(x, y),
        "LDA": lambda _: LDA().fit(x, y),
        "WCCN": lambda _: WCCN().fit(x, y, groups=groups),
        "PLDA": lambda _: PLDA().fit(x, y),
        "expansion": expand,
        "k-reciprocal": KReciprocal,
    }


class Judged:
    """What the three folds gave: steps, rows, the fold of each, and the FAR of thresholds of the people trained on."""

    def __init__(self, task: Task, steps: int) -> None:
        self.task, self.steps, self.trained = task, [], []
        self.fold = torch.full((len(task.y),), -1)
        for number, (train, test) in enumerate(class_disjoint_folds(task.y, FOLDS, seed=SEED)):
            torch.manual_seed(SEED)
            encoder = task.encoder()
            fit(encoder, task.x[train], task.y[train], steps)
            x, seen = embed(encoder, task.x), task.y[train]
            if not number:
                self.x = torch.empty(len(x), x.shape[1])
            self.fold[test], self.x[test] = number, x[test]
            groups, inner = (None if task.groups is None else task.groups[part] for part in (test, train))
            rule = DecisionRule.fit(evaluate_verification(x[train], seen, groups=inner), far=0.01)
            self.trained.append(rule.apply(x[test], task.y[test], groups=groups, resamples=2).far)
            protocol = "leave-one-out" if groups is None else "cross-session"
            made = made_of(x[train], seen, inner)
            self.steps.append(compare_steps(x[test], task.y[test], made, groups=groups, protocol=protocol, resamples=2))

    def parts(self) -> list["Part"]:
        """Rows, people and sessions of each fold."""
        inside = [self.fold == k for k in range(FOLDS)]
        groups = self.task.groups
        return [(self.x[one], self.task.y[one], None if groups is None else groups[one]) for one in inside]


Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def over_people(change: list[torch.Tensor], people: list[torch.Tensor]) -> Difference:
    """The mean change over the queries of all folds, drawn by person."""
    who = (torch.cat(people), None)
    return paired_difference(torch.cat(change), who, over="identities", level=0.95, resamples=1000, seed=SEED)


def of_eer(own: list[VerificationReport], other: list[VerificationReport]) -> Difference:
    """The difference of the folds' mean EER: people are drawn within each fold, for both at once."""
    drawn = []
    for number, pair in enumerate(zip(own, other)):
        now, then = (one.identified().drawn(resamples=1000, seed=SEED + number) for one in pair)
        assert now is not None
        assert then is not None
        drawn.append(now["eer"] - then["eer"])
    low, high = percentiles(torch.stack(drawn).mean(0), 0.95)
    value = float(np.mean([a.eer - b.eer for a, b in zip(own, other)]))
    people = sum(one.identified().pairs.identities for one in own)
    return Difference(value=value, low=low, high=high, identities=people, shown=low > 0 or high < 0)


def show(task: Task, steps: int) -> None:
    found = Judged(task, steps)
    plain = [one.ranking for one in found.steps]
    rank, maps = (torch.cat([one.values(name) for one in plain]).mean() for name in ("rank_at_1", "map_at_r"))
    eer = np.mean([one.verification.eer for one in found.steps])
    seconds = sum(one.seconds for one in found.steps)
    print(f"\n### {task.name}: {len(task.y)} rows, {len(task.y.unique())} classes\n")
    print(f"Plain: Rank@1 {rank:.3f}, MAP@R {maps:.3f}, EER {eer:.3f}, {seconds:.1f} s.\n")
    print("| step | Rank@1 | MAP@R | EER | seconds |\n| --- | --- | --- | --- | --- |")
    for name in found.steps[0].steps:
        folds = [one.steps[name] for one in found.steps]
        cells = []
        for measure in ("rank_at_1", "map_at_r"):
            change = [one.ranking.values(measure) - one.ranking.baseline.values(measure) for one in folds]
            cells.append(signed(over_people(change, [one.ranking.per_query.labels for one in folds])))
        cells.append(signed(of_eer([one.verification for one in folds], [one.verification for one in found.steps])))
        print(f"| {name} | {' | '.join(cells)} | {sum(one.seconds for one in folds):.1f} |", flush=True)
    show_curve(found)
    if task.groups is not None:
        show_recordings(found)
    cross = DecisionRule.cross_fit(found.x, task.y, groups=task.groups, folds=found.fold, far=0.01)
    far = ", ".join(f"{one:.4f}" for one in found.trained)
    held = ", ".join(f"{one.far:.4f}" for one in cross.fold_rates)
    print(
        f"\nFAR for 0.01, threshold of the persons trained on: {far}; cross-fitted: {held}; together {cross.far:.4f} "
        f"({cross.far_interval[0]:.4f} to {cross.far_interval[1]:.4f}).",
        flush=True,
    )


def show_curve(found: Judged) -> None:
    """One probe a person against templates of so many rows."""
    print("\n| enrolled rows | Rank@1 | against one | EER |\n| --- | --- | --- | --- |")
    counts = (1, 2, 4, 8)
    curves = [template_curve(x, y, groups=g, counts=counts, repeats=20, seed=SEED) for x, y, g in found.parts()]
    base = np.cumsum([0, *(one.people for one in curves)])
    people = [start + torch.arange(one.people) for start, one in zip(base.tolist(), curves)]
    for count in counts:
        rank1 = torch.cat([one.each[count] for one in curves]).mean()
        gain = signed(over_people([one.each[count] - one.each[1] for one in curves], people)) if count > 1 else ""
        print(f"| {count} | {rank1:.3f} | {gain} | {np.mean([one.eer[count] for one in curves]):.3f} |", flush=True)


Answers = tuple[torch.Tensor, torch.Tensor, VerificationReport]
"""Of each that asks whether it found its person, and who that is; and all pairs."""


def show_recordings(found: Judged) -> None:
    """What is averaged, on which side; each against the first, people drawn at once."""
    print("\n| who asks | what is searched, of other recordings | Rank@1 | against the first | of | EER | against it |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    parts = found.parts()
    quality = [agreement(found.task.x[found.fold == k], part[2]) for k, part in enumerate(parts)]
    means = [recordings(part) for part in parts]
    better = [recordings(part, weights) for part, weights in zip(parts, quality)]
    beat, mean, good = "a beat", "the mean of a recording", "the weighted mean of a recording"
    ways: dict[tuple[str, str], list[Answers]] = {
        (beat, "beats"): [rows_against_rows(part) for part in parts],
        (beat, "people's beats, highest score"): [against_people(one, one, how="all") for one in parts],
        (beat, "people's beats, mean of scores"): [against_people(one, one, how="all", fuse="mean") for one in parts],
        (beat, "means of people"): [against_people(one, one) for one in parts],
        (beat, "weighted means of people"): [against_people(p, p, weights=w) for p, w in zip(parts, quality)],
        (mean, "means of recordings"): [rows_against_rows(one) for one in means],
        (mean, "people's beats, mean of scores"): [
            against_people(m, p, how="all", fuse="mean") for m, p in zip(means, parts)
        ],
        (mean, "means of people"): [against_people(m, p) for m, p in zip(means, parts)],
        (good, "weighted means of people"): [
            against_people(m, p, weights=w) for m, p, w in zip(better, parts, quality)
        ],
    }
    plain = next(iter(ways.values()))
    for (asks, searched), each in ways.items():
        hits = torch.cat([one[0] for one in each])
        rank = "" if each is plain else signed(of_rank1(each, plain))
        pairs, before = ([one[2] for one in some] for some in (each, plain))
        equal = "" if each is plain else signed(of_eer(pairs, before))
        cells = (f"{hits.mean():.3f}", rank, str(len(hits)), f"{np.mean([one.eer for one in pairs]):.3f}", equal)
        print(f"| {asks} | {searched} | {' | '.join(cells)} |", flush=True)


def of_rank1(own: list[Answers], other: list[Answers]) -> Difference:
    """The difference of two Rank@1, of other queries but the same people, who are drawn for both at once."""
    people = torch.cat([who for _, who, _ in other]).unique()
    sums = []
    for some in (own, other):
        hits, who = torch.cat([one[0] for one in some]), torch.cat([one[1] for one in some])
        place = torch.searchsorted(people, who)
        empty = torch.zeros(len(people), dtype=torch.float64)
        sums.append((empty.index_add(0, place, hits), empty.index_add(0, place, torch.ones_like(hits))))
    weight = draws(1000, len(people), torch.Generator().manual_seed(SEED))
    now, then = ((weight @ hits) / (weight @ count) for hits, count in sums)
    low, high = percentiles(now - then, 0.95)
    value = float(sums[0][0].sum() / sums[0][1].sum() - sums[1][0].sum() / sums[1][1].sum())
    return Difference(value=value, low=low, high=high, identities=len(people), shown=low > 0 or high < 0)


def agreement(signals: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
    """The quality of a beat: its correlation with the median beat of its recording, at least 0. No label is used."""
    assert groups is not None
    flat, out = signals.flatten(1).double(), torch.empty(len(signals), dtype=torch.float64)
    for one in groups.unique():
        mine = groups == one
        both = torch.cat([flat[mine].median(0).values[None], flat[mine]])
        out[mine] = torch.corrcoef(both)[0, 1:].clamp_min(0)
    return out


def recordings(part: Part, weights: torch.Tensor | None = None) -> Part:
    """The mean of each recording, whose it is, and which."""
    x, y, groups = part
    assert groups is not None
    means, names = enrol(x, by=groups, weights=weights)
    assert isinstance(names, torch.Tensor)
    return means, torch.stack([y[groups == one][0] for one in names]), names


def rows_against_rows(part: Part) -> Answers:
    x, y, groups = part
    ranked = evaluate_ranking(x, y, groups=groups, protocol=RetrievalProtocol.cross_session())
    return ranked.values("rank_at_1"), ranked.per_query.labels, evaluate_verification(x, y, groups=groups)


def against_people(
    asking: Part, enrolled: Part, *, how: How = "mean", fuse: Fuse = "max", weights: torch.Tensor | None = None
) -> Answers:
    """Each person is enrolled by their rows outside the recording that asks."""
    (probes, who, where), (x, y, groups) = asking, enrolled
    assert where is not None
    assert groups is not None
    hits, scores, same, pairs = [], [], [], []
    for recording in where.unique():
        others = groups != recording
        templates, names = enrol(x[others], by=y[others], how=how, weights=None if weights is None else weights[others])
        assert isinstance(names, torch.Tensor)
        mine = where == recording
        person = who[mine][0]
        if not (names == person).any():  # their only recording
            continue
        found = identify(probes[mine], templates, names, k=len(names.unique()), fuse=fuse)
        called = torch.tensor(found.names)
        hits.append((called[:, 0] == person).double())
        scores.append(found.scores.flatten())
        same.append((called == person).flatten())
        pairs.append(torch.stack([person.expand(called.numel()), called.flatten()], 1))
    report = verification_from_scores(torch.cat(scores), torch.cat(same), identities=torch.cat(pairs))
    asked = [who[where == one] for one in where.unique()]
    kept = [one for one in asked if len(groups[y == one[0]].unique()) > 1]
    return torch.cat(hits), torch.cat(kept), report


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
