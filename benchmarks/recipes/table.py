"""The file of results as Markdown tables.

python -m benchmarks.recipes.table                          # print all tables
python -m benchmarks.recipes.table --page docs/log.md       # renew those that a page names

A page names a table by a line `<!-- table: finals -->` before it and `<!-- end -->` behind it.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recipes.arenas import DRAWN, WIDTHS
from benchmarks.recipes.plan import COLD, LONG, LONGEST, RATE, SELECTION_SEED, SHORT, merit

Line = dict[str, Any]

SELECTED = ("side", "recipe", "head", "rate", "sharpness", "Rank@1", "MAP@R", "1-shot", "within", "training", "CPU s")
MEANS = ("recipe", "head", "rate", "sharpness", "Rank@1", "MAP@R", "less best batch-only", "the same, MAP@R", "1-shot")
AFTER = ("within", "CPU s", "seeds")
PERSONS = {
    "other recording": "beats",
    "other recording, AS-norm": "AS-norm",
    "other recording, templates": "templates",
    "other recording, templates, AS-norm": "both",
    "other recording, averaged probe and templates": "averaged probe",
    "other day": "day: beats",
    "other day, averaged probe and templates": "day: averaged probe",
}
"""Measures by person, and their columns."""
RESAMPLES = 2000
MERITS = ("rank1", "map_at_r")
RESULTS = (Path("benchmarks/results/arena.jsonl"), Path("benchmarks/results/chances.jsonl"))


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
    if reference is not None:  # rows of fewer seeds have their place by the seeds that they share with it
        rows.sort(key=lambda own: -sum(mean_and_spread(gains(own, reference, x) or [-9])[0] for x in MERITS))
    cells = []
    for own in rows:
        less = [[] if reference is None else gains(own, reference, name) for name in MERITS]
        few = [_cell([x[name] for x in own]) if name in own[0] else "–" for name in ("few", "few_within")]
        figures = [_cell([x[name] for x in own]) for name in ("rank1", "map_at_r")]
        spent = f"{math.fsum(x['cpu_s'] for x in own) / len(own):.0f}"
        against = [_cell(values, "+") if values else "–" for values in less]
        cells.append([own[0]["recipe"], *_settings(own[0]), *figures, *against, *few, spent, str(len(own))])
    return markdown([*MEANS, *AFTER], cells)


def curve_table(lines: Sequence[Line], names: tuple[str, str]) -> str:
    """What the second recipe gains over the first, by the chance to meet the nearest class in a random batch."""
    found: dict[tuple[str, int, int], tuple[list[Line], list[Line]]] = {}
    for line in lines:
        if line["recipe"] in names:
            size = line["classes"] or 0
            found.setdefault((line["task"], size, line["p"]), ([], []))[names.index(line["recipe"])].append(line)
    rows = []
    for (task, _, p), (plain, near) in found.items():
        seeds = len(gains(near, plain, "rank1"))
        if not seeds:
            continue
        count = math.fsum(x["train_classes"] for x in plain) / len(plain)
        chance = math.fsum((min(p, x["train_classes"]) - 1) / (x["train_classes"] - 1) for x in plain) / len(plain)
        more = [_cell(gains(near, plain, name), "+") for name in ("rank1", "map_at_r")]
        rows.append((chance, [task, f"{count:.0f}", str(p), f"{chance:.2f}", *more, str(seeds)]))
    head = ["task", "classes", "in a batch", "chance", "Rank@1", "MAP@R", "seeds"]
    return markdown(head, [cells for _, cells in sorted(rows)])


def by_task_table(lines: Sequence[Line]) -> str:
    """Means over seeds of recipes on several tasks."""
    cells = []
    tasks = [[x for x in lines if x["task"] == task] for task in dict.fromkeys(x["task"] for x in lines)]
    for own in (own for some in tasks for own in grouped(some)):
        names = ("rank1", "map_at_r", "few", "few_within", "train_rank1")
        spent = f"{math.fsum(x['cpu_s'] for x in own) / len(own):.0f}"
        figures = [_cell([x[name] for x in own]) for name in names]
        cells.append([own[0]["task"], own[0]["recipe"], f"{own[0]['rate']:g}", *figures, spent, str(len(own))])
    head = ["task", "recipe", "rate", "Rank@1", "MAP@R", "1-shot", "within", "training", "CPU s", "seeds"]
    return markdown(head, cells)


def by_person(lines: Sequence[Line], measure: str) -> dict[str, float]:
    """The mean of each person over the partitions in which they were judged."""
    found: dict[str, list[float]] = {}
    for line in lines:
        for person, value in line["persons"][measure].items():
            found.setdefault(person, []).append(value)
    return {person: math.fsum(values) / len(values) for person, values in found.items()}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the mean, by the bootstrap over persons."""
    given = np.array(values)
    draws = np.random.default_rng(0).integers(len(given), size=(RESAMPLES, len(given)))
    low, high = np.quantile(given[draws].mean(1), (0.025, 0.975))
    return float(low), float(high)


def persons_table(lines: Sequence[Line]) -> str:
    """Rank@1 of persons, each counting once, with intervals over them; and what a recipe gains over the first."""
    rows = [own for own in grouped(lines) if "persons" in own[0]]
    first = next((own for own in rows if own[0]["recipe"] == CURVED[0]), rows[0])
    plain = by_person(first, "other recording")
    cells = []
    for own in rows:
        each = [list(by_person(own, measure).values()) for measure in PERSONS]
        shown = [
            f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]" for values in each for low, high in [interval(values)]
        ]
        here = by_person(own, "other recording")
        more = [here[person] - plain[person] for person in sorted(plain.keys() & here.keys())]
        low, high = interval(more)
        rates = [f"{math.fsum(x[name] for x in own) / len(own):.3f}" for name in ("eer", "eer_as_norm")]
        gain = f"{np.mean(more):+.3f} [{low:+.3f}, {high:+.3f}]"
        cells.append([own[0]["recipe"], *shown, gain, *rates, str(len(here)), str(len(own))])
    return markdown(["recipe", *PERSONS.values(), "beats, gain", "EER", "EER, AS-norm", "persons", "folds"], cells)


def ceiling_table(lines: Sequence[Line]) -> str:
    """Encoders alone and joined, and the mistakes that all make."""
    cells = []
    for line in lines:
        for name, values in (*line["members"].items(), ("all, side by side", line["joined"])):
            figures = [f"{values[key]:.3f}" for key in ("rank1", "map_at_r", "few")]
            cells.append([name, *figures, str(line["seed"]), str(line["steps"])])
        shares = [f"{line[key]:.3f}" for key in ("missed_by_one", "missed_by_all", "same_mistake")]
        cells.append([f"missed by one, by all, by all alike: {', '.join(shares)}", *[""] * 5])
    return markdown(["recipe", "Rank@1", "MAP@R", "1-shot", "seed", "steps"], cells)


def tables(lines: Sequence[Line], ceiling: Sequence[Line] = (), selection_seed: int = 3) -> dict[str, str]:
    """All tables of the files of results, by name."""
    longest = [x for x in lines if x["steps"] == LONGEST]
    lines = [x for x in lines if x["steps"] != LONGEST]
    own = {name: [x for x in lines if x["task"] == name] for name in dict.fromkeys(x["task"] for x in lines)}
    bounding = [x for name in (*DRAWN, *WIDTHS) for x in own.get(name, []) if name != "omniglot" or _as_bounds(x)]
    own = {name: some for name, some in own.items() if name == "omniglot" or name not in (*DRAWN, *WIDTHS)}
    drawings = own.pop("omniglot", [])
    whole = [x for x in drawings if x["steps"] == LONG]
    short = [x for x in drawings if x["steps"] == SHORT and x["seed"] != selection_seed]
    short += [x for x in own.get("clinc", []) if x["value"] == 0.05]
    own = {name: [x for x in some if name != "clinc" or x["p"] == 32] for name, some in own.items()}
    found = {"selection": selection_table(drawings, selection_seed)} if drawings else {}
    if whole:
        found["finals"] = means_table(whole)
    if short:
        found["curve"] = curve_table(short, CURVED)
    if longest:
        found["hour"] = by_task_table(longest)
    if bounding:
        found["bounds"] = by_task_table(bounding)
    found |= {name: means_table(some) for name, some in own.items()}
    if any("persons" in x for x in own.get("ecg", [])):
        found["persons"] = persons_table(own["ecg"])
    if ceiling:
        found["ceiling"] = ceiling_table(ceiling)
    return found


def _as_bounds(line: Line) -> bool:
    """Whether a trial has the settings and the seed of those in narrower and wider encoders."""
    alike = (line["rate"], line["value"], line["steps"], line["head"]) == (RATE, COLD[0], SHORT, False)
    return alike and line["seed"] == SELECTION_SEED and line["recipe"] in CURVED


def renewed(page: str, found: dict[str, str]) -> str:
    """A page with its tables as the results have them.

    Raises:
        ValueError: it names a table that the results don't have.
    """

    def one(match: re.Match[str]) -> str:
        name = match[1]
        if name not in found:
            raise ValueError(f"the page names a table {name!r}, the results have {', '.join(found)}")
        return f"<!-- table: {name} -->\n{found[name]}\n<!-- end -->"

    return re.sub(r"<!-- table: (.+?) -->\n.*?<!-- end -->", one, page, flags=re.DOTALL)


CURVED = ("PK + SupCon", "near + SupCon")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns of words to the left, of figures to the right."""
    words = {"side", "recipe", "head", "task"}
    rule = ["---" if name in words else "---:" for name in head]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _settings(line: Line) -> list[str]:
    return ["linear" if line["head"] else "none", f"{line['rate']:g}", f"{line['value']:g}"]


def _cell(values: Sequence[float], sign: str = "") -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:{sign}.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")


def main() -> None:
    """Print the tables, or renew those of a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes.table", description=__doc__)
    parser.add_argument("results", type=Path, nargs="*", default=RESULTS)
    parser.add_argument("--ceiling", type=Path, default=Path("benchmarks/results/ceiling.jsonl"))
    parser.add_argument("--page", type=Path, help="renew the tables that this page names")
    options = parser.parse_args()
    found = tables([line for path in options.results for line in read(path)], read(options.ceiling))
    if options.page is None:
        print("\n".join(f"### {name}\n\n{table}\n" for name, table in found.items()))
    else:
        options.page.write_text(renewed(options.page.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
