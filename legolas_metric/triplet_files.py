"""Mined triplets in the forms that other trainers read (n-tuples, triplets, labelled pairs): JSON lines, CSV, more."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from legolas_metric.checks import check_choice
from legolas_metric.files import whole_file

Form = Literal["n-tuple", "triplet", "labelled-pair"]
Named = Sequence[Any] | Mapping[int, Any] | np.ndarray | Tensor
Naming = Named | tuple[Named, Named]
Line = dict[str, object]


Rows = Iterable[tuple[int, int, int, float, float]]
"""Anchor, positive, negative, s_ap and s_an of each triplet."""


def records_of(mined: Rows, naming: Naming | None) -> Iterator[Line]:
    """One record for each pair of anchor and positive, in the order in which the pairs come."""
    found: dict[tuple[int, int], tuple[list[int], list[float]]] = {}
    for a, p, n, s_ap, s_an in mined:
        negatives, scores = found.setdefault((a, p), ([], [s_ap]))
        negatives.append(n)
        scores.append(s_an)
    of_anchor, of_other = _sides(naming)
    for (a, p), (negatives, scores) in found.items():
        yield {
            "anchor": _called(of_anchor, a),
            "positive": _called(of_other, p),
            "negatives": [_called(of_other, n) for n in negatives],
            "scores": scores,
        }


def lines_of(mined: Rows, naming: Naming | None, form: Form) -> Iterator[Line]:
    """The lines of a file."""
    check_choice("form", form, get_args(Form))
    for record in records_of(mined, naming):
        negatives, scores = record["negatives"], record["scores"]
        assert isinstance(negatives, list)
        assert isinstance(scores, list)
        pair: Line = {"anchor": record["anchor"], "positive": record["positive"]}
        if form == "n-tuple":
            yield record
        elif form == "triplet":
            for negative, score in zip(negatives, scores[1:]):
                yield pair | {"negative": negative, "s_ap": scores[0], "s_an": score}
        else:
            for place, (other, score) in enumerate(zip([record["positive"], *negatives], scores)):
                yield {"anchor": record["anchor"], "other": other, "label": int(place == 0), "score": score}


def write_jsonl(path: str | os.PathLike[str], mined: Rows, naming: Naming | None, form: Form) -> None:
    """A JSON object a line."""
    lines = _begun(lines_of(mined, naming, form))
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: str | os.PathLike[str], mined: Rows, naming: Naming | None, form: Form) -> None:
    """A line of column names, then a row a line; negatives and scores of an n-tuple as a column each."""
    rows, columns = _flat(mined, naming, form)
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: str | os.PathLike[str], mined: Rows, naming: Naming | None, form: Form) -> None:
    """The columns of `write_csv`, by pyarrow."""
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]  (an extra)
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("parquet files need pyarrow: pip install 'legolas-metric[parquet]', or use to_csv") from error
    rows, columns = _flat(mined, naming, form)
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
    with whole_file(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def _flat(mined: Rows, naming: Naming | None, form: Form) -> tuple[list[Line], list[str]]:
    """Rows of single values, and the names of all their columns in order."""
    rows: list[Line] = []
    for line in lines_of(mined, naming, form):
        scores, negatives = line.pop("scores", []), line.pop("negatives", [])
        assert isinstance(scores, list)
        assert isinstance(negatives, list)
        line |= {f"negative_{number}": negative for number, negative in enumerate(negatives, 1)}
        names = ["s_ap", *(f"s_an_{number}" for number in range(1, len(scores)))]
        rows.append(line | dict(zip(names, scores)))
    columns = list(dict.fromkeys(chain.from_iterable(rows)))
    if form == "n-tuple":  # rows of fewer negatives come first or last: negatives before scores in any case
        columns.sort(key=lambda name: (name.startswith("s_a"), _number(name)))
    return rows, columns


def _number(name: str) -> int:
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdigit() else 0


def _begun(lines: Iterator[Line]) -> Iterator[Line]:
    """The same lines, the first of them made now: what is wrong with form or names is told before a file is begun."""
    first = list(next(lines, {}).items())
    return chain([dict(first)] if first else [], lines)


def _sides(naming: Any) -> tuple[Any, Any]:
    """The names of anchors, and those of positives and negatives, which may be numbered apart."""
    apart = isinstance(naming, tuple) and len(naming) == 2 and not any(isinstance(of, str | bytes) for of in naming)
    return naming if apart else (naming, naming)


def _called(named: Any, name: int) -> object:
    """What an id is called, as a plain value."""
    if named is None:
        return name
    try:
        value = named[name]
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"there is no name for the id {name}: give a mapping, or a sequence with an entry for each id"
        ) from error
    return value.item() if isinstance(value, Tensor | np.generic) else value
