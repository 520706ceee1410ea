"""The arena of recipes: equal terms for all, nothing run twice, a selection that is fair, tables that add up."""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(ROOT)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder with a file as CLINC's: ten domains of 15 intents, six rows each, and a row of no intent."""
    rng = np.random.default_rng(0)
    y = np.arange(150).repeat(6)
    x = rng.normal(size=(150, 8))[y] + rng.normal(size=(900, 8))
    columns = {"x": np.concatenate([x, x[:1]]).astype(np.float16), "y": np.append(y, -1), "domain": np.append(y, -1)}
    np.savez(tmp_path / "clinc150.npz", **(columns | {"domain": np.append(y // 15, -1)}))
    return tmp_path


def trial(recipe: str, **changes):
    from benchmarks.recipes.trial import Trial

    settings = {"head": True, "rate": 2e-3, "value": 0.05, "steps": 10, "seed": 0, "p": 8}
    return Trial(task="clinc", recipe=recipe, **(settings | changes))


def test_every_recipe_trains_on_equal_terms(data):
    from benchmarks.recipes.arenas import arena
    from benchmarks.recipes.fitting import fit
    from benchmarks.recipes.plan import RECIPES

    firsts = set()
    for name, recipe in RECIPES.items():
        asked, recipe = trial(name, value=recipe.values[0]), replace(recipe, pool=None)
        stage = arena(asked, recipe, data)
        assert len(stage.labels.unique()) == int(stage.labels.max()) + 1 == 100
        assert not set(map(tuple, stage.inputs.tolist())) & set(map(tuple, stage.unseen_inputs.tolist()))
        encoder, took = fit(asked, recipe, stage)
        assert np.isfinite(took["last_loss"])
        assert all(torch.isfinite(value).all() for value in encoder.state_dict().values())
        assert (took["mining_cpu_s"] > 0) == (recipe.feed != "random")
        firsts.add(tuple(stage.inputs[0].tolist()))
    assert len(firsts) == 1


def test_a_trial_depends_on_its_seed_alone(data):
    from benchmarks.recipes.fitting import run
    from benchmarks.recipes.plan import RECIPES

    name = "near, hard drawings + SupCon"
    one = run(trial(name), RECIPES[name], data)
    torch.manual_seed(99)
    again, other = run(trial(name), RECIPES[name], data), run(trial(name, seed=1), RECIPES[name], data)
    assert again["last_loss"] == one["last_loss"] != other["last_loss"]
    assert {"rank1", "map_at_r", "train_rank1", "cpu_s", "threads", "versions", "settings"} <= one.keys()
    assert json.loads(json.dumps(one))["settings"]["values"] == [0.02, 0.05, 0.1]


def test_domains_are_found_by_other_intents(data):
    from benchmarks.recipes.arenas import arena
    from benchmarks.recipes.plan import RECIPES

    stage = arena(trial("PK + SupCon", seed=2), RECIPES["PK + SupCon"], data)
    domains = arena(replace(trial("PK + SupCon", seed=2), task="clinc domains"), RECIPES["PK + SupCon"], data)
    assert stage.groups is not None
    assert domains.groups is not None
    assert domains.unseen_groups is not None
    assert set(domains.labels.tolist()) == set(domains.unseen_labels.tolist()) == set(range(10))
    assert not set(domains.groups.tolist()) & set(domains.unseen_groups.tolist())
    assert len(domains.groups.unique()) == 80
    assert domains.questions[""].exclude == "same_group"


def test_the_queue_goes_on_where_it_was_broken_off(data, tmp_path, monkeypatch, capsys):
    from benchmarks.recipes import queue

    wanted = [trial("PK + SupCon", seed=seed) for seed in (0, 1)]
    monkeypatch.setattr(
        queue,
        "remaining",
        lambda lines, *limits: (t for t in wanted if t.seed not in {line["seed"] for line in lines}),
    )
    out = tmp_path / "results" / "out.jsonl"
    command = ["--data", str(data), "--out", str(out)]
    queue.main(command)
    whole = out.read_text().splitlines()
    assert len(whole) == 2
    out.write_text(whole[0] + "\n")
    queue.main(command)
    again = out.read_text().splitlines()
    assert again[0] == whole[0]
    assert json.loads(again[1])["last_loss"] == json.loads(whole[1])["last_loss"]
    capsys.readouterr()
    queue.main(command)
    assert capsys.readouterr().out == "nothing is left\n"
    queue.main([*command, "--until", "00:00"])  # no trial begins after it
    assert len(out.read_text().splitlines()) == 2


def played(worth, part: Literal["all", "claim", "rest"] = "all") -> list[dict]:
    """The whole plan, with made-up results."""
    from benchmarks.recipes.plan import RECIPES, remaining

    lines: list[dict] = []
    while (following := next(remaining(lines, part=part), None)) is not None:
        rank1 = worth(following)
        found = {"rank1": rank1, "map_at_r": rank1 / 2, "side": RECIPES[following.recipe].side}
        lines.append(following.plain() | found)
    return lines


def test_the_plan_is_fair_and_ends():
    from benchmarks.recipes.plan import BEYOND, FIRST, LONG, LONGEST, MOST_TRIALS, NEAR, SHORT, TRIED, VARIANTS

    liked = {recipe.name: 0.5 + 0.01 * number for number, recipe in enumerate((*FIRST, *VARIANTS))}

    def worth(asked) -> float:
        return liked.get(asked.recipe, 0.1) + 0.05 * asked.head + 0.02 * (asked.rate == 4e-3) - (asked.recipe in TRIED)

    lines = played(worth)
    keys = [tuple(line[name] for name in trial("x").plain()) for line in lines]
    assert len(set(keys)) == len(keys)
    short = [x for x in lines if (x["task"], x["steps"], x["seed"]) == ("omniglot", SHORT, 3)]
    chosen = [x for x in short if x["rate"] != BEYOND]
    assert Counter(x["recipe"] for x in chosen) == {name: 1 if name in TRIED else MOST_TRIALS for name in liked}
    assert {x["recipe"] for x in chosen} == set(liked)
    for recipe in liked.keys() - set(TRIED):  # the head and the higher rate were found in each
        own = [x for x in chosen if x["recipe"] == recipe]
        assert any(x["head"] and x["rate"] == 4e-3 for x in own)
    starts = [x["recipe"] for x in chosen[: len(FIRST)]]
    assert starts == [recipe.name for recipe in FIRST]
    finals = [x for x in lines if x["steps"] == LONG]
    assert Counter(x["seed"] for x in finals) == {0: 7, 1: 7, 2: 7}
    assert all(x["head"] and x["rate"] == 4e-3 for x in finals)
    assert [x["side"] for x in finals[:6]] == ["batch", "global"] * 3
    best = sorted(liked.keys() - set(TRIED), key=lambda name: -liked[name])
    sides = {x["recipe"]: x["side"] for x in chosen}
    for side in ("batch", "global"):
        three = set([name for name in best if sides[name] == side][:3])
        assert {x["recipe"] for x in finals if x["side"] == side} - {NEAR.name} == three
        assert {x["recipe"] for x in short if x["rate"] == BEYOND and x["side"] == side} == three
    assert [x["recipe"] for x in lines if x["steps"] == LONGEST and x["seed"] == 2] == [finals[1]["recipe"]]


def test_two_processes_share_the_plan_without_meeting():
    whole, claim, rest = (
        {tuple(line[name] for name in trial("x").plain()) for line in played(lambda asked: 0.5, part)}
        for part in ("all", "claim", "rest")
    )
    assert claim | rest == whole
    assert not claim & rest
    assert claim
    assert rest


def test_losers_wait():
    from benchmarks.recipes.plan import FIRST, remaining

    lines: list[dict] = []
    for _ in range(3 * len(FIRST)):
        following = next(remaining(lines))
        rank1 = 0.1 if following.recipe == "PK + ArcFace" else 0.8
        lines.append(following.plain() | {"rank1": rank1, "map_at_r": rank1 / 2})
    counts = Counter(line["recipe"] for line in lines)
    assert counts["PK + ArcFace"] == 1
    assert counts["PK + SupCon"] >= 2


def test_communities_show_each_class_once_a_round_and_near_ones_together():
    from benchmarks.recipes.feeds import around, communities

    place = torch.arange(12.0)
    score = -(place[:, None] - place[None]).abs()
    score.fill_diagonal_(-torch.inf)
    generator = torch.Generator().manual_seed(0)
    batches = list(islice(communities(score, 4, generator), 6))
    for start in (0, 3):
        assert sorted(torch.cat(batches[start : start + 3]).tolist()) == list(range(12))
    uneven = list(islice(communities(score[:10, :10], 4, generator), 4))
    left = set(range(10)) - set(torch.cat(uneven[:2]).tolist())
    assert len(left) == 2
    assert left <= set(torch.cat(uneven[2:]).tolist())  # what one round leaves, the next begins with
    for batch in islice(around(score, 3, generator), 12):
        assert len(batch.unique()) == 3
        assert (batch[1:] - batch[0]).abs().max() <= 4


def test_confusions_count_rows_of_each_other_both_ways():
    from benchmarks.recipes.feeds import CONFUSIONS, class_means, confusions, nearest_is_own
    from legolas_metric import EmbeddingBank

    generator = torch.Generator().manual_seed(0)
    bank = EmbeddingBank(torch.randn(60, 3, generator=generator), torch.arange(60) % 4)
    rows, labels = bank.embeddings, bank.labels
    expected = torch.zeros(4, 4)
    for i in range(60):
        others = [(float(rows[i] @ rows[j]), int(labels[j])) for j in range(60) if labels[j] != labels[i]]
        for _, label in sorted(others, reverse=True)[:CONFUSIONS]:
            expected[labels[i], label] += 1
    assert torch.equal(confusions(bank, 4), expected + expected.T)
    hits = sum(
        int(labels[max((j for j in range(60) if j != i), key=lambda j: float(rows[i] @ rows[j]))] == labels[i])
        for i in range(60)
    )
    assert nearest_is_own(bank) == hits / 60
    assert torch.allclose(class_means(bank)[2], torch.nn.functional.normalize(rows[labels == 2].sum(0), dim=0))


def test_augmentations_are_mild_and_repeat_with_their_seed():
    from benchmarks.recipes.arenas import jitter_beats, jitter_drawings

    image = torch.zeros(64, 28, 28, dtype=torch.uint8)
    image[:, 12:16, 12:16] = 255
    for jitter, given in ((jitter_drawings, image), (jitter_beats, torch.randn(64, 1, 200))):
        one, again = (jitter(given, torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(one, again)
        assert not torch.allclose(one[0], one[1])
    drawn = jitter_drawings(image, torch.Generator().manual_seed(1))[:, 0]
    centre = (drawn.sum(1) * torch.arange(28)).sum(1) / drawn.sum((1, 2))
    assert ((centre - 13.5).abs() < 2.6).all()
    assert (drawn.sum((1, 2)) - 16).abs().max() < 6  # both scales within a tenth, and the shear


def test_the_tables_add_up():
    from benchmarks.recipes.table import curve_table, gains, mean_and_spread, means_table, selection_table

    assert mean_and_spread([0.1, 0.2, 0.6]) == pytest.approx((0.3, (0.04 + 0.01 + 0.09) ** 0.5 / 2**0.5))

    def line(recipe: str, seed: int, rank1: float, **more) -> dict:
        side = "batch" if recipe.startswith("PK") else "global"
        shown = {
            "few": 0.9,
            "few_within": 0.8,
            "train_rank1": 0.95,
            "cpu_s": 40.0,
            "mining_cpu_s": 4.0 * (side != "batch"),
        }
        given = trial(recipe, seed=seed, head=False, value=0.02, steps=800).plain() | {"task": "omniglot"}
        return given | {"rank1": rank1, "map_at_r": rank1 / 2, "side": side, "train_classes": 100} | shown | more

    lines = [line("PK + SupCon", 0, 0.5), line("PK + SupCon", 1, 0.7), line("near + SupCon", 0, 0.6)]
    lines += [line("near + SupCon", 1, 0.9)]
    assert gains(lines[2:], lines[:2], "rank1") == pytest.approx([0.1, 0.2])
    shown = means_table(lines).splitlines()
    assert shown[2] == (
        "| near + SupCon | none | 0.002 | 0.02 | 0.750 ± 0.212 | 0.375 ± 0.106 | +0.150 ± 0.071 | +0.075 ± 0.035 "
        "| 0.900 ± 0.000 | 0.800 ± 0.000 | 40 | 2 |"
    )
    assert "| +0.000 ± 0.000 |" in shown[3]
    chosen = selection_table([line("near + SupCon", 3, 0.6), line("near + SupCon", 3, 0.8, head=True)], 3).splitlines()
    assert chosen[2].startswith("| global | near + SupCon | linear | 0.002 | 0.02 | 0.800 | 0.400 ")
    assert chosen[2].endswith("| 0.950 | 40 (10%) | 2 |")
    drawn = curve_table(lines, ("PK + SupCon", "near + SupCon")).splitlines()
    assert drawn[2] == "| omniglot | 100 | 8 | 0.07 | +0.150 ± 0.071 | +0.075 ± 0.035 | 2 |"


def test_the_longest_runs_are_those_of_the_best_whole_finals_and_have_a_table_by_task():
    from benchmarks.recipes.plan import best_final, hour
    from benchmarks.recipes.table import tables

    def line(recipe: str, seed: int, rank1: float, steps: int = 2400, task: str = "omniglot") -> dict:
        held = trial(recipe, seed=seed, head=False, value=0.02, steps=steps).plain() | {"task": task}
        shown = {"few": 0.9, "few_within": 0.8, "train_rank1": 0.7, "cpu_s": 400.0, "mining_cpu_s": 0.0}
        side = "batch" if recipe.startswith("PK") else "global"
        return held | shown | {"rank1": rank1, "map_at_r": 0.5, "side": side, "train_classes": 100}

    lines = [line("PK + SupCon", seed, 0.5) for seed in range(3)] + [
        line("near + SupCon", seed, 0.6) for seed in range(3)
    ]
    lines += [line("PK + batch-hard", seed, 0.9) for seed in range(2)]  # of too few seeds to be judged by
    assert best_final(lines, "batch") is lines[0]
    assert best_final(lines[:5], "global") is None
    assert list(hour(lines[:5])) == []
    wanted = [(run.task, run.recipe, run.seed) for run in hour(lines)]
    near = [("omniglot", "near + SupCon", seed) for seed in range(3)]
    assert wanted == [("omniglot", "PK + SupCon", 0), ("omniglot, 128 channels", "near + SupCon", 0), *near]
    assert {run.steps for run in hour(lines)} == {9600}
    lines += [line("near + SupCon", 0, 0.7, 9600), line("near + SupCon", 1, 0.8, 9600)]
    lines += [line("near + SupCon", 0, 0.9, 9600, "omniglot, 128 channels")]
    rows = tables(lines)["hour"].splitlines()[2:]
    assert rows[0].startswith("| omniglot | near + SupCon | 0.002 | 0.750 ± 0.071 | 0.500 ± 0.000 |")
    assert rows[0].endswith("| 400 | 2 |")
    assert rows[1].startswith("| omniglot, 128 channels | near + SupCon | 0.002 | 0.900 |")


def test_a_page_is_renewed_from_the_lines_and_the_log_is_as_they_say():
    from benchmarks.recipes.table import read, renewed, tables

    page = "a\n<!-- table: x -->\nold\nrows\n<!-- end -->\nb\n<!-- table: y z -->\n<!-- end -->\n"
    assert renewed(page, {"x": "| 1 |", "y z": "| 2 |"}) == (
        "a\n<!-- table: x -->\n| 1 |\n<!-- end -->\nb\n<!-- table: y z -->\n| 2 |\n<!-- end -->\n"
    )
    with pytest.raises(ValueError, match="names a table 'x', the results have y"):
        renewed(page, {"y": ""})
    results = ROOT / "benchmarks" / "results"
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    lines = read(results / "arena.jsonl") + read(results / "chances.jsonl")
    assert renewed(log, tables(lines, read(results / "ceiling.jsonl"))) == log
