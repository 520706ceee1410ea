"""The file of results, and its Markdown tables: python -m benchmarks.recipes.table FILE."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.recipes.plan import CURVE_CLASSES, LONG, SHORT, merit

Line = dict[str, Any]

SELECTED = ("side", "recipe", "head", "rate", "sharpness", "Rank@1", "MAP@R", "1-shot", "within", "training", "CPU s")
MEANS = ("recipe", "head", "rate", "sharpness", "Rank@1", "MAP@R", "less best batch-only", "1-shot", "within", "CPU s")


def read(path: Path) -> list[Line]:
    """The lines of a file of results; none, if there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds (n - 1; NaN for one)."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def gains(lines: Sequence[Line], other: Sequence[Line], key: str) -> list[float]:
    """What the first has more than the other, for each seed that both were run with."""
    against = {line["seed"]: line[key] for line in other}
    return [line[key] - against[line["seed"]] for line in lines if line["seed"] in against]


def settings_of(line: Line) -> tuple[Any, ...]:
    """What makes two lines one row: all but the seed."""
    return tuple(line[name] for name in ("recipe", "head", "rate", "value", "p", "classes"))


def grouped(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines of each row, best mean first."""
    rows: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        rows.setdefault(settings_of(line), []).append(line)
    return sorted(rows.values(), key=lambda own: -math.fsum(map(merit, own)) / len(own))


def selection_table(lines: Sequence[Line], seed: int) -> str:
    """The best trial of each recipe, with how many there were."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        if (line["task"], line["steps"], line["seed"], line["classes"]) == ("omniglot", SHORT, seed, None):
            found.setdefault(line["recipe"], []).append(line)
    rows = []
    for own in sorted(found.values(), key=lambda own: -max(map(merit, own))):
        top = max(own, key=merit)
        spent = f"{top['cpu_s']:.0f}" + (f" ({top['mining_cpu_s'] / top['cpu_s']:.0%})" if top["mining_cpu_s"] else "")
        figures = [f"{top[name]:.3f}" for name in ("rank1", "map_at_r", "few", "few_within", "train_rank1")]
        rows.append([top["side"], top["recipe"], *_settings(top), *figures, spent, str(len(own))])
    return markdown([*SELECTED, "trials"], rows)


def means_table(lines: Sequence[Line]) -> str:
    """Means over seeds, and each row's Rank@1 less that of the best batch-only row of most seeds, in the same seeds."""
    rows = grouped(lines)
    reference = max((own for own in rows if own[0]["side"] == "batch"), key=len, default=None)
    cells = []
    for own in rows:
        less = [] if reference is None else gains(own, reference, "rank1")
        few = [_cell([x[name] for x in own]) if name in own[0] else "–" for name in ("few", "few_within")]
        figures = [_cell([x[name] for x in own]) for name in ("rank1", "map_at_r")]
        spent = f"{math.fsum(x['cpu_s'] for x in own) / len(own):.0f}"
        against = _cell(less, "+") if less else "–"
        cells.append([own[0]["recipe"], *_settings(own[0]), *figures, against, *few, spent, str(len(own))])
    return markdown([*MEANS, "seeds"], cells)


def curve_table(lines: Sequence[Line], names: tuple[str, str]) -> str:
    """What the second recipe gains over the first, by the chance to meet the nearest class in a random batch."""
    rows = []
    for classes in CURVE_CLASSES:
        plain, near = ([x for x in lines if x["recipe"] == name and x["classes"] == classes] for name in names)
        if not gains(near, plain, "rank1"):
            continue
        count = math.fsum(x["train_classes"] for x in plain) / len(plain)
        chance = math.fsum((min(x["p"], x["train_classes"]) - 1) / (x["train_classes"] - 1) for x in plain) / len(plain)
        more = [_cell(gains(near, plain, name), "+") for name in ("rank1", "map_at_r")]
        rows.append([f"{count:.0f}", f"{chance:.2f}", *more, str(len(gains(near, plain, "rank1")))])
    return markdown(["classes", "chance", "Rank@1", "MAP@R", "seeds"], rows)


def tables(lines: Sequence[Line], selection_seed: int = 3) -> Iterator[str]:
    """All tables of a file of results, each below its heading."""
    whole = [x for x in lines if x["task"] == "omniglot" and x["steps"] == LONG]
    short = [x for x in lines if x["task"] == "omniglot" and x["steps"] == SHORT and x["seed"] != selection_seed]
    others = {name: [x for x in lines if x["task"] == name] for name in dict.fromkeys(x["task"] for x in lines)}
    parts: list[tuple[str, Callable[[], str], object]] = [
        ("Selection: the best trial of each recipe", lambda: selection_table(lines, selection_seed), lines),
        (f"Finals: {LONG} steps", lambda: means_table(whole), whole),
        ("Gain of near classes by the number of training classes", lambda: curve_table(short, CURVED), short),
    ]
    parts += [(name, lambda own=own: means_table(own), own) for name, own in others.items() if name != "omniglot"]
    for title, make, there in parts:
        if there:
            yield f"### {title}\n\n{make()}\n"


CURVED = ("PK + SupCon", "near + SupCon")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns of words to the left, of figures to the right."""
    words = {"side", "recipe", "head"}
    rule = ["---" if name in words else "---:" for name in head]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _settings(line: Line) -> list[str]:
    return ["linear" if line["head"] else "none", f"{line['rate']:g}", f"{line['value']:g}"]


def _cell(values: Sequence[float], sign: str = "") -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:{sign}.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")


if __name__ == "__main__":
    print("\n".join(tables(read(Path(sys.argv[1])))))
