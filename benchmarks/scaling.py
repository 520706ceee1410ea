"""Fits the cost model of docs/scaling.md to small measured jobs, and prints its tables.

    python -m benchmarks.scaling                     # a minute or two on one core
    python -m benchmarks.scaling --points FILE       # the tables from points that were measured before

Times are processor seconds of one thread, so that other work on the machine counts little; what the model says of large
banks is extrapolated.

Letters: n rows, q queries, d dimensions, C classes, w processes, c cores of a node, k neighbours.
"""

import argparse
import json
import platform
import socket
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from legolas_metric import ExactIndex, FaissIndex, ShardedIndex
from legolas_metric.index.exact.warm_up import warm_up
from legolas_metric.index.placement import needed, travelling
from legolas_metric.samplers.neighbor_pk import plan_classes

Points = dict[str, list[Any]]

CLASS = 20  # rows
RECALL = 0.95  # that an IVF index is to reach
_MOST = 1 << 14  # nodes
LARGE = (10_000_000, 100_000_000, 1_000_000_000)


def rows_of(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of n / 20 classes, each twice as far from its class's centre as the centres of two classes are near."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) // CLASS
    centres = torch.randn(-(-n // CLASS), d, generator=generator)
    return centres[labels] + 0.7 * torch.randn(n, d, generator=generator), labels


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of the fastest of some calls, after one that warms up: a neighbour on the core only adds."""
    work()
    taken = []
    for _ in range(3):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


# Points


def measure() -> Points:
    """All points, by job."""
    warm_up()
    sizes, dimensions = (6_000, 16_000, 48_000), (64, 128, 512)  # the widest apart tell n from n squared
    points: Points = {"join": [], "search": [], "ivf": [], "classes": [], "messages": []}
    for d in dimensions:
        for n in sizes:
            join(points, n, d)
        plan(points, 4_000, d)
    points["ivf"] = [ivf(n, 128) for n in sizes[:2]]
    points["messages"] = on_two_processes(_counted, 2_000, 128)
    points["sharded"] = on_two_processes(_timed, 32_000, 128)
    return points


def join(points: Points, n: int, d: int) -> None:
    """The exact self-join, and searches for queries that are other rows: few and as many, to tell q n from n."""
    x, labels = rows_of(n, d)
    index = ExactIndex().fit(x, labels)
    points["join"].append({"n": n, "d": d, "s": seconds(lambda: index.self_join(1))})
    for q in (4_000, n):
        searched = seconds(lambda: index.search(x[:q] + 0.01, 1, labels=labels[:q], want="negative"))  # noqa: B023
        points["search"].append({"n": n, "q": q, "d": d, "s": searched})


def plan(points: Points, most: int, d: int) -> None:
    """Which classes are near each other."""
    classes = torch.nn.functional.normalize(torch.randn(most, d, generator=torch.Generator().manual_seed(0)))
    for count in (most // 2, most):
        some = classes[:count]
        points["classes"].append({"C": count, "d": d, "s": seconds(lambda: plan_classes(some, 8, pool=14))})  # noqa: B023


def ivf(n: int, d: int) -> dict[str, float]:
    """The least effort of an IVF index of 4 sqrt(n) lists that reaches the recall, and what it costs."""
    x, labels = rows_of(n, d)
    lists, effort = min(int(4 * n**0.5), n // 39), 1
    start = time.process_time()
    index = FaissIndex(f"IVF{lists},Flat", audit=256).fit(x, labels)
    index.self_join(1)
    trained = time.process_time() - start
    while True:
        index.effort = effort
        recall = index.self_join(1).stats.recall
        if recall is None or recall >= RECALL or effort >= lists:
            break
        effort *= 2
    index.audit = 0
    searched = seconds(lambda: index.self_join(1))
    return {"n": n, "d": d, "lists": lists, "effort": effort, "recall": recall or 1.0, "built": trained, "s": searched}


def on_two_processes(work: Callable[..., dict[str, float]], n: int, d: int) -> list[dict[str, float]]:
    """What each of two processes says of the whole self-join of rows that they share."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = mp.get_context("spawn").SimpleQueue()
    mp.start_processes(_process, args=(work, n, d, port, results), nprocs=2, start_method="spawn")  # pyright: ignore
    return [results.get() for _ in range(2)]


def _process(rank: int, work: Callable[..., dict[str, float]], n: int, d: int, port: int, results) -> None:
    torch.set_num_threads(1)
    warm_up()
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    x, labels = rows_of(n, d)
    index = ShardedIndex().fit(x[rank::2], labels[rank::2], ids=torch.arange(n)[rank::2])
    results.put({"n": n, "d": d} | work(index, n, d))
    dist.destroy_process_group()


def _timed(index: ShardedIndex, n: int, d: int) -> dict[str, float]:
    return {"s": seconds(lambda: index.self_join(1))}


def _counted(index: ShardedIndex, n: int, d: int) -> dict[str, float]:
    received, calls = 0, 0

    def counting(name: str, size: Callable[..., int]) -> None:
        inner = getattr(dist, name)

        def outer(*given, **named):
            nonlocal received, calls
            received, calls = received + size(*given), calls + 1
            return inner(*given, **named)

        setattr(dist, name, outer)

    counting("all_gather", lambda parts, own: sum(part.nbytes for part in parts))
    counting("all_to_all_single", lambda out, *_: out.nbytes)
    counting("all_reduce", lambda value, *_: value.nbytes)
    counting("all_gather_object", lambda *_: 0)
    k = 1
    index.self_join(k)
    return {"k": k, "bytes": received, "calls": calls, "predicted": travelled(n, d, k)}


# The model


def fit(points: Points) -> dict[str, list[float]]:
    """Least squares of relative errors: seconds of a pair of rows, a + b d, and of a row, likewise; none negative."""
    return {
        "join": _solved(points["join"], lambda p: [p["n"] ** 2, p["n"] ** 2 * p["d"], p["n"] * p["d"]]),
        "search": _solved(
            points["search"], lambda p: [p["q"] * p["n"], p["q"] * p["n"] * p["d"], (p["q"] + p["n"]) * p["d"]]
        ),
        "classes": _solved(points["classes"], lambda p: [p["C"] ** 2, p["C"] ** 2 * p["d"]]),
        "ivf": _solved(points["ivf"], lambda p: [p["n"] * (p["lists"] + p["n"] / p["lists"] * p["effort"]) * p["d"]]),
    }


def _solved(points: list[dict[str, float]], terms: Callable[[dict[str, float]], list[float]]) -> list[float]:
    target = np.array([point["s"] for point in points])
    table = np.array([terms(point) for point in points]) / target[:, None]
    scale = table.max(0)
    kept = list(range(table.shape[1]))
    while True:
        solution = np.linalg.lstsq(table[:, kept] / scale[kept], np.ones(len(target)), rcond=None)[0]
        if (solution >= 0).all():
            out = np.zeros(table.shape[1])
            out[kept] = solution / scale[kept]
            return out.tolist()
        kept.remove(kept[int(solution.argmin())])


def travelled(n: float, d: int, k: int) -> float:
    """Bytes that a process receives in a search for all rows: queries with their names, ids with similarities."""
    return n * (4 * d + 24) + n * 16 * k


def joined(model: dict[str, list[float]], n: float, d: int, w: float) -> float:
    """Processor seconds of a process: the whole self-join by itself, its part of n queries against n / w rows else."""
    if w == 1:
        a, b, c = model["join"]
        return n**2 * (a + b * d) + n * c * d
    a, b, c = model["search"]
    return n * (n / w) * (a + b * d) + (n + n / w) * c * d


def nodes(model: dict[str, list[float]], n: int, d: int, settings: argparse.Namespace) -> dict[str, float]:
    """The fewest nodes on which bank and search fit, and on which the search ends in time; and what they do then."""
    memory = settings.memory_gib * 2**30
    w = 1
    while w < _MOST and (_bytes(n, w, d) > memory or _wall(model, n, d, w, settings) > settings.hours * 3600):
        w *= 2
    return {
        "nodes": w if w < _MOST else float("nan"),
        "hours": _wall(model, n, d, w, settings) / 3600,
        "node_hours": w * joined(model, n, d, w) / 3600 / settings.cores,
        "gib": _bytes(n, w, d) / 2**30,
        "sent_gib": 0 if w == 1 else travelled(n, d, 1) / 2**30,
    }


def _bytes(n: int, w: int, d: int) -> int:
    return needed(n, n if w == 1 else -(-n // w), d, 1) + (travelling(n, d, 1) if w > 1 else 0)


def _wall(model: dict[str, list[float]], n: int, d: int, w: int, settings: argparse.Namespace) -> float:
    sent = 0 if w == 1 else travelled(n, d, 1) / (settings.gbit * 1e9 / 8)
    return joined(model, n, d, w) / settings.cores + sent


# Tables


def tables(points: Points, settings: argparse.Namespace) -> str:
    """The fit, and the model at large n, as Markdown."""
    model = fit(points)
    return "\n".join([*fitted(points, model), "", *exactly(model, settings), "", *cheaper(points, model, settings)])


def fitted(points: Points, model: dict[str, list[float]]) -> list[str]:
    """What was measured, and the constants."""
    rows = [["job", "a [ns]", "b [ns]", "c [ns]", "at d = 128 [ns]"]]
    for job in ("join", "search", "classes"):
        a, b, c = [*(1e9 * value for value in model[job]), 0.0][:3]
        rows.append([job, f"{a:.3g}", f"{b:.3g}", f"{c:.3g}", f"{a + 128 * b:.3g} a pair"])
    b = 1e9 * model["ivf"][0]
    rows.append(["ivf", "0", f"{b:.3g}", "0", f"{128 * b:.3g} a row that is looked at"])
    last, told, shared = points["ivf"][-1], points["messages"][0], points["sharded"][0]
    return [
        f"Measured {points['when'][0]}: " + ", ".join(f"{len(points[job])} of {job}" for job in model),
        "",
        *table(rows),
        "",
        f"IVF: {last['effort']} of {last['lists']} lists for a recall of {last['recall']:.3f} at n = {last['n']:,}; "
        f"built and audited in {last['built']:.1f} s, searched in {last['s']:.2f} s.",
        f"A sharded search received {told['bytes']:,.0f} bytes in {told['calls']} collectives, by the formula "
        f"{told['predicted']:,.0f}.",
        f"That of {shared['n']:,} rows took {max(point['s'] for point in points['sharded']):.2f} s of each of two "
        f"processes, by the model {joined(model, shared['n'], shared['d'], 2):.2f}.",
    ]


def exactly(model: dict[str, list[float]], settings: argparse.Namespace) -> list[str]:
    """One exact search for the nearest negative of every row."""
    rows = [["rows", "nodes", "hours", "node hours", "GiB a node", "GiB received by a node"]]
    for n in LARGE:
        found = nodes(model, n, settings.d, settings)
        known = found["nodes"] == found["nodes"]
        cells = [three_digits(value) if known or name == "gib" else "none" for name, value in found.items()]
        rows.append([f"{n:,}", *cells])
    return table(rows)


def cheaper(points: Points, model: dict[str, list[float]], settings: argparse.Namespace) -> list[str]:
    """Node hours of what asks less: a million anchors, an approximate index, classes in place of rows.

    Each process plans all classes by itself, so that theirs are hours of every node.
    """
    head = ["rows", "all, exactly, sharded", "a million anchors", "IVF, as many lists", "IVF, the same share"]
    rows = [[*head, "near classes of 20, each node", "of 100, each node"]]
    (a, b, _), (e, f), d = model["search"], model["classes"], settings.d
    for n in LARGE:
        lists, last = 4 * n**0.5, points["ivf"][-1]
        looked = [n * (lists + n / lists * last["effort"]), n * (lists + n * last["effort"] / last["lists"])]
        work = [n * n * (a + b * d), 1e6 * n * (a + b * d), *(some * d * model["ivf"][0] for some in looked)]
        work += [(n / size) ** 2 * (e + f * d) for size in (20, 100)]
        rows.append([f"{n:,}", *(three_digits(some / 3600 / settings.cores) for some in work)])
    visited = [(alone + each * d) / (d * model["ivf"][0]) for alone, each in (model["join"][:2], (a, b))]
    return [
        *table(rows),
        "",
        f"IVF is faster than the self-join of one process where it visits less than {visited[0]:.1%} of its lists, "
        f"than a search for other queries where it visits less than {visited[1]:.1%}.",
    ]


def three_digits(value: float) -> str:
    """Of a number, however large, without an exponent where it is."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 1000 else f"{value:.3g}"


def table(rows: list[list[str]]) -> list[str]:
    """As Markdown, the first row its head."""
    return [f"| {' | '.join(row)} |" for row in [rows[0], ["---:"] * len(rows[0]), *rows[1:]]]


def main() -> None:
    """Measure or read the points, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, help="measured before")
    parser.add_argument("--save", type=Path, help="keep the points that are measured")
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--memory-gib", type=float, default=64, help="of a node")
    parser.add_argument("--cores", type=int, default=32, help="of a node")
    parser.add_argument("--hours", type=float, default=1, help="that one search for all rows may take")
    parser.add_argument("--gbit", type=float, default=10, help="a second that a node receives")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    points = json.loads(settings.points.read_text()) if settings.points else measure()
    points.setdefault("when", [f"{date.today()}, {platform.machine()}, one thread"])
    if settings.save:
        settings.save.write_text(json.dumps(points, indent=1) + "\n")
    print(tables(points, settings))


if __name__ == "__main__":
    main()
