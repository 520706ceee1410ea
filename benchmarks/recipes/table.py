"""The file of results, and its Markdown table."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


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
    """What the first recipe has more than the other, for each seed that both were run with."""
    against = {line["seed"]: line[key] for line in other}
    return [line[key] - against[line["seed"]] for line in lines if line["seed"] in against]


def table(lines: Sequence[Line], *, against: str | None = None) -> str:
    """Markdown: a row for each recipe, in the order of the file.

    Args:
        lines: of one task.
        against: the recipe with which each seed's Rank@1 is compared (default: none, and no column for it).
    """
    names = list(dict.fromkeys(line["recipe"] for line in lines))
    by_name = {name: [line for line in lines if line["recipe"] == name] for name in names}
    extra = sorted({key for line in lines for key in line if key.endswith("_rank1")})
    head = ["recipe", "Rank@1", "MAP@R", *(key.replace("_rank1", ", Rank@1") for key in extra)]
    head += [f"less {against}"] if against else []
    head += ["effective rank", "CPU s", "mining", "seeds"]
    rows = [_row(by_name[name], extra, by_name[against] if against else None) for name in names]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows))


def _row(lines: Sequence[Line], extra: Sequence[str], other: Sequence[Line] | None) -> list[str]:
    cells = [lines[0]["recipe"], *(_cell([line[key] for line in lines]) for key in ("rank1", "map_at_r", *extra))]
    if other is not None:
        cells.append(_cell(gains(lines, other, "rank1"), sign="+"))
    spent = math.fsum(fold["cpu_s"] for line in lines for fold in line["folds"])
    mining = math.fsum(fold["mining_cpu_s"] for line in lines for fold in line["folds"])
    cells.append(f"{mean_and_spread([line['effective_rank'] for line in lines])[0]:.1f}")
    cells.append(f"{spent / len(lines):.0f}" if spent else "–")
    cells.append(f"{mining / spent:.0%}" if mining else "–")
    return [*cells, str(len(lines))]


def _cell(values: Sequence[float], sign: str = "") -> str:
    mean, spread = mean_and_spread(values)
    return f"{mean:{sign}.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")
