"""The benchmark of recipes: equal terms for all, nothing run twice, and a table that adds up."""

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(ROOT)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def vectors(tmp_path) -> Path:
    """A file as CLINC's: 12 classes of 10 rows, one zero row, two rows of no class."""
    rng = np.random.default_rng(0)
    y = np.arange(12).repeat(10)
    x = rng.normal(size=(12, 8))[y] + rng.normal(size=(120, 8))
    x[3] = 0
    path = tmp_path / "vectors.npz"
    np.savez(path, x=np.concatenate([x, x[:2]]).astype(np.float16), y=np.concatenate([y, [-1, -1]]).astype(np.int16))
    return path


def call(*arguments: object) -> None:
    from benchmarks.recipes.__main__ import main

    main([str(argument) for argument in arguments])


def test_every_recipe_of_a_task_runs_on_equal_terms(vectors, tmp_path, capsys):
    from benchmarks.recipes.catalogue import RECIPES
    from benchmarks.recipes.table import read

    out = tmp_path / "out.jsonl"
    call("--task", "clinc", "--data", vectors, "--steps", 6, "--seeds", 0, 1, "--out", out)
    lines = read(out)
    assert [(line["seed"], line["recipe"]) for line in lines] == [
        (seed, recipe.name) for seed in (0, 1) for recipe in RECIPES["clinc"]
    ]
    trained = [line for line in lines if line["settings"]["loss"]]
    assert len(trained) == len(lines) - 2 * sum(recipe.loss is None for recipe in RECIPES["clinc"])
    assert {(fold["steps"], line["batch_size"]) for line in trained for fold in line["folds"]} == {(6, 128)}
    starts = [{line["folds"][0]["initial_weights"] for line in trained if line["seed"] == seed} for seed in (0, 1)]
    assert [len(start) for start in starts] == [1, 1]
    assert starts[0] != starts[1]
    assert all(0 <= fold["mining_cpu_s"] <= fold["cpu_s"] for line in trained for fold in line["folds"])
    looks = {line["recipe"] for line in trained if line["folds"][0]["mining_cpu_s"] > 0}
    assert looks == {recipe.name for recipe in RECIPES["clinc"] if recipe.loss and recipe.looks}
    assert len(capsys.readouterr().out.splitlines()) == len(lines)


def test_what_was_run_is_not_run_again(vectors, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    command = ("--task", "clinc", "--data", vectors, "--steps", 3, "--out", out)
    command = (*command, "--recipes", "untrained", "PK + SupCon T=0.1", "--seeds")
    call(*command, 0)
    first = out.read_text(encoding="utf-8")
    out.write_text(first.splitlines(keepends=True)[0], encoding="utf-8")  # broken off after the first run
    capsys.readouterr()
    call(*command, 0, 1)
    shown = [line.split(" |")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["PK + SupCon T=0.1", "untrained", "PK + SupCon T=0.1"]
    again = json.loads(out.read_text(encoding="utf-8").splitlines()[1])
    assert again["rank1"] == json.loads(first.splitlines()[1])["rank1"]


def test_a_run_depends_on_its_seed_alone(vectors):
    from benchmarks.recipes.catalogue import near
    from benchmarks.recipes.tasks import clinc
    from benchmarks.recipes.training import run

    task, recipe = replace(clinc(vectors), steps=5), near(0.1, warm_up=0.2, refresh=2)
    one, other = run(recipe, task, 0), run(recipe, task, 1)
    torch.manual_seed(99)
    again = run(recipe, task, 0)
    assert again["folds"][0]["last_loss"] == one["folds"][0]["last_loss"] != other["folds"][0]["last_loss"]


def test_the_feed_warms_up_takes_turns_and_looks_again(vectors):
    from benchmarks.recipes.recipe import Recipe
    from benchmarks.recipes.tasks import clinc
    from benchmarks.recipes.training import Feed
    from legolas_metric import HardMiner, SemiHardMiner, SupConLoss

    task = replace(clinc(vectors), steps=10, batch_size=16)
    (fold,) = task.folds(0)
    recipe = Recipe(
        name="both",
        loss=partial(SupConLoss),
        turns=("neighbors", "mined"),
        stages=((0.4, partial(SemiHardMiner, margin=9.0)), (0.8, partial(HardMiner))),
        warm_up=0.4,
        refresh=2,
    )
    feed = Feed(recipe, task, fold, task.encoder(), seed=0)
    seen, triplets = [], []
    for rows in feed:
        seen.append(rows)
        triplets.append(feed.triplets)
    assert len(seen) == 10
    plain = list(Feed(replace(recipe, turns=("random",), stages=()), task, fold, task.encoder(), seed=0))
    assert all(torch.equal(a, b) for a, b in zip(seen[:4], plain[:4]))  # the same warm-up for all
    assert triplets[3] is None
    changes = [later is not earlier for earlier, later in pairwise(triplets[4:])]
    assert changes == [False, True, False, True, False]
    for step in (4, 6, 8):  # "neighbors": four of the eight classes, four rows each
        assert sorted(fold.labels[seen[step]].unique(return_counts=True)[1].tolist()) == [4, 4, 4, 4]
    for step in (5, 7, 9):  # "mined": whole triplets
        assert len(triplets[step].locate(seen[step])[0]) >= 16 // 3
    hard = HardMiner(seed=0).mine(task.embed(feed.encoder, fold.inputs, fold.labels, None))
    assert torch.equal(triplets[9].s_an.sort().values, hard.s_an.sort().values)


def test_the_table_adds_up():
    from benchmarks.recipes.table import gains, mean_and_spread, table

    assert mean_and_spread([0.1, 0.2, 0.6]) == pytest.approx((0.3, (0.04 + 0.01 + 0.09) ** 0.5 / 2**0.5))

    def line(recipe: str, seed: int, rank1: float, cpu: float, mining: float) -> dict:
        folds = [{"cpu_s": cpu, "mining_cpu_s": mining}] if cpu else []
        scores = {"rank1": rank1, "map_at_r": rank1 / 2, "other_rank1": 0.9, "effective_rank": 10.0 * (seed + 1)}
        return {"recipe": recipe, "seed": seed, "folds": folds, **scores}

    lines = [
        line("none", 0, 0.2, 0, 0),
        line("plain", 0, 0.5, 10, 0),
        line("plain", 1, 0.7, 20, 0),
        line("global", 0, 0.6, 30, 3),
        line("global", 1, 0.9, 30, 9),
    ]
    by_name = {name: [entry for entry in lines if entry["recipe"] == name] for name in ("none", "plain", "global")}
    assert gains(by_name["global"], by_name["plain"], "rank1") == pytest.approx([0.1, 0.2])
    assert gains(by_name["none"], by_name["plain"], "rank1") == pytest.approx([-0.3])
    assert table(lines, against="plain").splitlines() == [
        "| recipe | Rank@1 | MAP@R | other, Rank@1 | less plain | effective rank | CPU s | mining | seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| none | 0.200 | 0.100 | 0.900 | -0.300 | 10.0 | – | – | 1 |",
        "| plain | 0.600 ± 0.141 | 0.300 ± 0.071 | 0.900 ± 0.000 | +0.000 ± 0.000 | 15.0 | 15 | – | 2 |",
        "| global | 0.750 ± 0.212 | 0.375 ± 0.106 | 0.900 ± 0.000 | +0.150 ± 0.071 | 15.0 | 30 | 20% | 2 |",
    ]


def test_what_is_missing_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call("--task", "clinc", "--out", tmp_path / "out.jsonl")
    assert "--task clinc reads a file: give --data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call("--task", "omniglot", "--steps", 2, "--out", tmp_path / "out.jsonl")
    assert "--steps must be at least 3: the rate rises, and falls" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call("--task", "omniglot", "--out", tmp_path / "out.jsonl", "--recipes", "magic")
    assert "no recipe magic; there are: untrained" in capsys.readouterr().err
