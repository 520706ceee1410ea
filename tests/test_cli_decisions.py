"""`verify --threshold-far RATE --apply OTHER`, thresholds in tables and JSON, the grid."""

import json

import numpy as np
import pytest
from processes import python

from legolas_metric import DecisionRule, evaluate_verification


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("decisions")
    for name, seed in (("here", 0), ("there", 1)):
        generator = np.random.default_rng(seed)
        y = np.repeat(np.arange(20), 4) + 100 * seed
        x = generator.normal(size=(20, 8))[y % 100] + 0.7 * generator.normal(size=(80, 8))
        np.savez(place / f"{name}.npz", embeddings=x.astype(np.float32), labels=y)
    np.savez(place / "narrow.npz", embeddings=x[:, :4].astype(np.float32), labels=y)
    np.savez(place / "days.npz", embeddings=x.astype(np.float32), labels=y - 100, groups=np.arange(80) % 4)
    np.save(place / "bare.npy", x.astype(np.float32))
    np.save(place / "people.npy", y - 100)
    np.save(place / "days.npy", np.arange(80) % 4)
    return place


def command(folder, *arguments):
    return python("-m", "legolas_metric", *arguments, cwd=folder)


def test_a_threshold_is_tried_on_other_people(folder):
    asked = ("verify", "here.npz", "--threshold-far", "0.02", "--apply", "there.npz")
    here, there = (dict(np.load(folder / f"{name}.npz")) for name in ("here", "there"))
    rule = DecisionRule.fit(evaluate_verification(here["embeddings"], here["labels"]), far=0.02)
    want = rule.apply(there["embeddings"], there["labels"])
    told = json.loads(command(folder, *asked, "--json").stdout)
    assert told["threshold_at_far"]["0.02"] == told["applied"]["threshold"] == rule.threshold
    assert told["applied"]["file"] == "there.npz"
    assert (told["applied"]["far"], told["applied"]["frr"]) == (want.far, want.frr)
    assert told["applied"]["far_interval"] == list(want.far_interval)
    shown = command(folder, *asked).stdout
    assert "threshold@FAR 0.02" in shown
    assert "threshold@EER" in shown
    assert f"{want.far:.4f}" in shown
    assert "FAR (FMR)" in shown
    grid = json.loads(command(folder, *asked, "--json", "--grid").stdout)
    assert grid["applied"]["threshold"] == pytest.approx(rule.threshold, abs=1e-4)
    assert grid["auc_error"] > 0 == told["auc_error"]


def test_embeddings_alone_take_labels_and_groups_from_columns_of_tables(folder):
    for name in ("here", "there"):
        held = dict(np.load(folder / f"{name}.npz"))
        np.save(folder / f"{name}_alone.npy", held["embeddings"])
        lines = [f"p{label},{row % 3}" for row, label in enumerate(held["labels"].tolist())]
        (folder / f"{name}.csv").write_text("person,camera\n" + "\n".join(lines) + "\n")
    asked = ("verify", "here_alone.npy", "--labels", "here.csv:person", "--groups", "here.csv:camera")
    applied = ("--apply", "there_alone.npy", "--apply-labels", "there.csv:person", "--apply-groups", "there.csv:camera")
    told = json.loads(command(folder, *asked, "--threshold-far", "0.02", *applied, "--json").stdout)
    here, there = (dict(np.load(folder / f"{name}.npz")) for name in ("here", "there"))
    cameras = np.arange(80) % 3
    rule = DecisionRule.fit(evaluate_verification(here["embeddings"], here["labels"], groups=cameras), far=0.02)
    want = rule.apply(there["embeddings"], there["labels"], groups=cameras)
    assert told["applied"]["threshold"] == rule.threshold
    assert (told["applied"]["far"], told["applied"]["genuine"]) == (want.far, want.genuine)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["here.npz", "--apply-labels", "there.npz"], "--apply-labels and --apply-groups are of the file that --apply"),
        (["here.npz", "--apply", "there.npz"], "--threshold-far and --apply go together"),
        (["here.npz", "--threshold-far", "0.1"], "--threshold-far and --apply go together"),
        (["here.npz", "--threshold-far", "2", "--apply", "there.npz"], "--threshold-far must lie in (0, 1], got 2.0"),
        (["here.npz", "there.npz", "--threshold-far", "0.1", "--apply", "there.npz"], "one FILE, got 2"),
        (["here.npz", "--threshold-far", "0.1", "--apply", "none.npz"], "none.npz: no such file"),
        (["here.npz", "--threshold-far", "0.1", "--apply", "narrow.npz"], "where FILE has 8 dimensions"),
        # What is told of FILE is not taken for that of others, though it has as many rows.
        (
            ["bare.npy", "--labels", "people.npy", "--threshold-far", "0.1", "--apply", "bare.npy"],
            "bare.npy has no labels: save them there as `labels`, or pass --apply-labels FILE",
        ),
        (
            ["here.npz", "--groups", "days.npy", "--threshold-far", "0.1", "--apply", "there.npz"],
            "there.npz has no groups, and pairs of one group count for nothing in FILE: save them there as `groups`, "
            "or pass --apply-groups FILE",
        ),
        (["days.npz", "--threshold-far", "0.1", "--apply", "there.npz"], "or pass --apply-groups FILE"),
    ],
)
def test_what_can_not_be_tried_is_refused_in_a_line(folder, arguments, text):
    ended = command(folder, "verify", *arguments)
    assert ended.returncode == 2
    assert text in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
