"""What is run, in which order: a pure function of what has been run.

1. Selection: four trials of each contender, 800 steps, seed 3: as it comes, with the other head, another sharpness and
   another rate, each from the best so far. The recipe with fewest trials is next, so that a slow hour hits all alike,
   but those far behind wait. Variants start from the best settings of the recipe that they vary; those that a first
   trial showed to add nothing to it are no contenders.
2. Finals: the three best of each side, 2,400 steps, seeds 0 to 2, recipes alternating.
3. The rest, which a second process may run meanwhile: the curve of what near classes gain over the chance to meet the
   nearest class in a random batch, and other data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from benchmarks.recipes.arenas import DRAWN, WIDTHS
from benchmarks.recipes.trial import Recipe, Trial

Line = Mapping[str, Any]
Part = Literal["all", "claim", "rest", "sentences", "chances", "curve", "heartbeats", "bounds", "hour"]

SHORT, LONG, LONGEST = 800, 2400, 9600
SELECTION_SEED, FINAL_SEEDS = 3, (0, 1, 2)
MOST_TRIALS, FINALISTS = 4, 3
RATE, RATES = 2e-3, (4e-3, 1e-3)
BEHIND = 0.06
"""Of Rank@1 + MAP@R: losers wait, so that a broken-off selection has tried the promising settings."""
BASE_TRIALS = 2
"""Of a recipe before its variants begin."""

COLD = (0.02, 0.05, 0.1)
FIRST = (
    Recipe(name="PK + SupCon", side="batch", values=COLD),
    Recipe(name="near + SupCon", side="global", feed="near", values=COLD),
    Recipe(name="PK + batch-hard", side="batch", loss="triplet", values=(0.2, 0.4, 0.1)),
    Recipe(name="mined ranks 1-10 + SupCon", side="global", feed="mined", values=COLD),
    Recipe(name="PK + softmax and SupCon", side="batch", loss="softmax and supcon", values=COLD),
    Recipe(name="near + softmax and SupCon", side="global", feed="near", loss="softmax and supcon", values=COLD),
    Recipe(name="PK + normalised softmax", side="batch", loss="normalised softmax", values=(0.05, 0.1, 0.02)),
    Recipe(name="PK + multi-similarity", side="batch", loss="multi-similarity", values=(0.7, 0.5, 0.9)),
    Recipe(name="PK + Proxy-Anchor", side="batch", loss="proxy-anchor", values=(32.0, 16.0, 64.0)),
    Recipe(name="PK + ArcFace", side="batch", loss="arcface", values=(32.0, 16.0, 64.0)),
)
PK, NEAR = FIRST[:2]


def _of(base: Recipe, name: str, **changes: Any) -> Recipe:
    return replace(base, name=name, after=base.name, **changes)


VARIANTS = (
    _of(NEAR, "near, hard drawings + SupCon", hard_rows=True),
    _of(NEAR, "near, hard drawings, rotations + SupCon", hard_rows=True, rotations=True, looks=2),
    _of(NEAR, "near, averaged weights + SupCon", ema=True),
    _of(PK, "PK, averaged weights + SupCon", ema=True),
    _of(NEAR, "near by confusions + SupCon", feed="confused"),
    _of(NEAR, "near, rotations + SupCon", rotations=True, looks=2),
    _of(PK, "PK, rotations + SupCon", rotations=True),
    _of(FIRST[2], "PK, rotations + batch-hard", rotations=True),
    _of(NEAR, "communities + SupCon", feed="communities"),
    _of(NEAR, "near, rising share + SupCon", feed="rising"),
    _of(NEAR, "near + SupCon, cooled", cooled=True),
    _of(PK, "PK + SupCon, cooled", cooled=True),
    _of(NEAR, "near + normalised softmax", loss="normalised softmax", values=(0.05, 0.1, 0.02)),
    _of(NEAR, "near, pool 200 + batch-hard", loss="triplet", pool=200, values=(0.2, 0.4, 0.1)),
)
ACROSS = (
    replace(PK, name="PK across groups + SupCon", across=True),
    replace(NEAR, name="near across groups + SupCon", across=True),
)
BEATS = (
    replace(PK, name="PK, augmented + SupCon", augmented=True),
    replace(PK, name="PK across groups, augmented + SupCon", augmented=True, across=True),
    replace(PK, name="PK across days, augmented + SupCon", augmented=True, across=True, days=True),
)
RECIPES = {recipe.name: recipe for recipe in (*FIRST, *VARIANTS, *ACROSS, *BEATS)}

TRIED = (
    "near, averaged weights + SupCon",
    "PK, averaged weights + SupCon",
    "near by confusions + SupCon",
    "communities + SupCon",
    "near, rising share + SupCon",
    "near + SupCon, cooled",
    "PK + SupCon, cooled",
    "near + normalised softmax",
    "near, pool 200 + batch-hard",
    "near + softmax and SupCon",
    "mined ranks 1-10 + SupCon",
)
"""At most one or two points from the recipe that they vary, up or down, or far behind: no contenders."""

CHANCE_CLASSES = (2, 4, 8, 16)
"""Of a batch; 32 are among the sentences."""

CURVE_CLASSES = (40, 80, 160, 320, None)

BEYOND = 8e-3
"""A rate above all of the selection, where the best of most recipes lay at its end."""


def merit(line: Line) -> float:
    """What settings are chosen by."""
    return line["rank1"] + line["map_at_r"]


def best(lines: Sequence[Line]) -> Line | None:
    """The best trial so far, the earlier of equal ones."""
    return max(lines, key=merit, default=None)


def selection_lines(lines: Sequence[Line], recipe: str) -> list[Line]:
    """The trials of a recipe in the selection."""
    wanted = ("omniglot", recipe, SHORT, SELECTION_SEED, None)
    return [x for x in lines if (x["task"], x["recipe"], x["steps"], x["seed"], x["classes"]) == wanted]


def next_settings(recipe: Recipe, done: Sequence[Line], start: Line | None) -> tuple[bool, float, float] | None:
    """The (head, rate, value) to try next, None when all was tried.

    Args:
        done: trials of the recipe.
        start: the best trial of the recipe that it varies.
    """
    head, rate, value = (False, RATE, recipe.values[0])
    if start is not None:
        head, rate = start["head"], start["rate"]
        value = start["value"] if start["value"] in recipe.values else value
    tried = {(x["head"], x["rate"], x["value"]) for x in done}
    if not tried:
        return head, rate, value
    top = best(done)
    assert top is not None
    h, r, v = top["head"], top["rate"], top["value"]
    first = done[0]["value"]
    values = [x for x in recipe.values if x != first]
    options = [(not head, rate, first), (h, r, values[0]), (h, RATES[0], v), (h, r, values[1]), (h, RATES[1], v)]
    return next((option for option in options if option not in tried), None)


def place_in_line(recipe: Recipe, lines: Sequence[Line]) -> float:
    """The recipe of the smallest is next: its trials so far, and one more for each 0.06 that it is behind its side."""
    own = selection_lines(lines, recipe.name)
    side = [x for other in (*FIRST, *VARIANTS) if other.side == recipe.side for x in selection_lines(lines, other.name)]
    return len(own) + (max(map(merit, side)) - max(map(merit, own))) / BEHIND if own else 0.0


def selection(lines: Sequence[Line], most: int) -> Trial | None:
    """The next trial of the selection, with so many trials of each contender at most, and one of the others."""
    counts = {r.name: len(selection_lines(lines, r.name)) for r in (*FIRST, *VARIANTS)}
    allowed = {name: 1 if name in TRIED else most for name in counts}
    open_ = [r for r in FIRST if counts[r.name] < allowed[r.name]]
    if all(counts[r.after] >= min(BASE_TRIALS, allowed[r.after]) for r in VARIANTS if r.after):
        open_ += [r for r in VARIANTS if counts[r.name] < allowed[r.name]]
    for recipe in sorted(open_, key=lambda r: place_in_line(r, lines)):
        start = best(selection_lines(lines, recipe.after)) if recipe.after else None
        chosen = next_settings(recipe, selection_lines(lines, recipe.name), start)
        if chosen is not None:
            head, rate, value = chosen
            return Trial(
                task="omniglot",
                recipe=recipe.name,
                head=head,
                rate=rate,
                value=value,
                steps=SHORT,
                seed=SELECTION_SEED,
            )
    return None


def champions(lines: Sequence[Line], side: str) -> list[Line]:
    """The best trial of each of the three best recipes of a side."""
    tops = [best(selection_lines(lines, r.name)) for r in (*FIRST, *VARIANTS) if r.side == side]
    return sorted((top for top in tops if top is not None), key=merit, reverse=True)[:FINALISTS]


def final(lines: Sequence[Line]) -> Iterator[Trial]:
    """The finals, the best of each side first, sides alternating; at last near classes, which the others vary."""
    sides = (champions(lines, "batch"), champions(lines, "global"))
    for pair in zip(*sides):
        for seed in FINAL_SEEDS:
            for line in pair:
                yield _again(line, steps=LONG, seed=seed)
    plain = best(selection_lines(lines, NEAR.name))
    if plain is not None:
        yield from (_again(plain, steps=LONG, seed=seed) for seed in FINAL_SEEDS)


def beyond(lines: Sequence[Line]) -> Iterator[Trial]:
    """The best of each side at a rate above those of the selection, on its seed: the end of the rates is no choice."""
    for pair in zip(champions(lines, "batch"), champions(lines, "global")):
        for line in pair:
            yield _again(line, rate=BEYOND)


def hour(lines: Sequence[Line]) -> Iterator[Trial]:
    """The best final of the global side four times as long; once the batch side's, and an encoder twice as wide."""
    tops = {side: best_final(lines, side) for side in ("global", "batch")}
    if tops["global"] is None or tops["batch"] is None:
        return
    yield _again(tops["batch"], steps=LONGEST, seed=FINAL_SEEDS[0])
    yield _again(tops["global"], task="omniglot, 128 channels", steps=LONGEST, seed=FINAL_SEEDS[0])
    yield from (_again(tops["global"], steps=LONGEST, seed=seed) for seed in FINAL_SEEDS)


def best_final(lines: Sequence[Line], side: str) -> Line | None:
    """Of the finals that all seeds have run, a line of the recipe and settings with the best mean."""
    runs: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        if line["task"] == "omniglot" and line["steps"] == LONG and line["side"] == side:
            runs.setdefault(tuple(line[name] for name in ("recipe", "head", "rate", "value")), []).append(line)
    whole = [group for group in runs.values() if len(group) == len(FINAL_SEEDS)]
    return max(whole, key=lambda group: sum(map(merit, group)), default=[None])[0]


def _again(line: Line, **changes: Any) -> Trial:
    names = ("task", "recipe", "head", "rate", "value", "steps", "seed", "p", "classes")
    return Trial(**({name: line[name] for name in names} | changes))


def sentences() -> Iterator[Trial]:
    """CLINC: three seeds, each recipe as it comes with a head, which the vectors' encoder had before."""
    names = {
        "clinc": (PK, NEAR, FIRST[3], FIRST[2], FIRST[7], FIRST[8], FIRST[4], FIRST[5]),
        "clinc domains": (PK, ACROSS[0], FIRST[3], FIRST[2], FIRST[7], FIRST[8], NEAR, ACROSS[1]),
    }
    for value_rank in range(2):
        for seed in FINAL_SEEDS:
            for task, recipes in names.items():
                for recipe in recipes:
                    p = 32 if task == "clinc" else (5 if recipe.feed == "near" else 10)
                    value = (recipe.values if recipe.loss == "triplet" else recipe.values[1:])[value_rank]
                    yield Trial(
                        task=task,
                        recipe=recipe.name,
                        head=True,
                        rate=RATE,
                        value=value,
                        steps=SHORT,
                        seed=seed,
                        p=p,
                    )


def heartbeats() -> Iterator[Trial]:
    """ECG-ID: two partitions of three folds, 200 steps of 64 beats."""
    for seed in range(6):
        for recipe in (PK, BEATS[1], BEATS[0], ACROSS[0], BEATS[2]):
            yield Trial(task="ecg", recipe=recipe.name, head=False, rate=RATE, value=0.05, steps=200, seed=seed, p=16)


def chances() -> Iterator[Trial]:
    """PK and near classes of CLINC's 100 intents, in batches of fewer and fewer of them: cheap, and 1 % to 15 %."""
    for seed in FINAL_SEEDS:
        for p in CHANCE_CLASSES:
            for recipe in (PK, NEAR):
                yield Trial(
                    task="clinc", recipe=recipe.name, head=True, rate=RATE, value=0.05, steps=SHORT, seed=seed, p=p
                )


def bounds() -> Iterator[Trial]:
    """What bounds the drawings: ragged or smooth ones of the same hand, and the encoder's width."""
    for seed in FINAL_SEEDS:
        for task in DRAWN:
            for recipe in (PK, NEAR):
                yield _short(task, recipe, seed)
    for task, width in WIDTHS.items():
        if width != WIDTHS["omniglot"]:
            for recipe in (PK, NEAR):
                yield _short(task, recipe, SELECTION_SEED)


def _short(task: str, recipe: Recipe, seed: int, classes: int | None = None) -> Trial:
    return Trial(
        task=task,
        recipe=recipe.name,
        head=False,
        rate=RATE,
        value=COLD[0],
        steps=SHORT,
        seed=seed,
        classes=classes,
    )


def curve() -> Iterator[Trial]:
    """PK and near classes on fewer and fewer training classes, both as they come."""
    for seed in FINAL_SEEDS:
        for classes in CURVE_CLASSES:
            for recipe in (PK, NEAR):
                yield _short("omniglot", recipe, seed, classes)


RESTS = {
    "sentences": sentences,
    "chances": chances,
    "curve": curve,
    "heartbeats": heartbeats,
    "bounds": bounds,
}
"""What need not wait for the selection."""


def remaining(lines: Sequence[Line], most: int = MOST_TRIALS, part: Part = "all") -> Iterator[Trial]:
    """What is left to do; of the selection only the next trial is known.

    Args:
        most: trials of each contender in the selection.
        part: "claim" is the selection and the finals, "rest" what a second process need not wait for, of which the
            others are parts.
    """
    done = {Trial(**{name: x[name] for name in Trial.__dataclass_fields__}).key() for x in lines}
    wanted: list[Trial] = []
    if part in ("all", "claim"):
        chosen = selection(lines, most)
        if chosen is not None:
            yield chosen
            return
        wanted += [*beyond(lines), *final(lines)]
    if part in ("all", "claim", "hour"):
        wanted += hour(lines)
    for name, trials in RESTS.items():
        if part in ("all", "rest", name):
            wanted += trials()
    yield from (trial for trial in wanted if trial.key() not in done)
