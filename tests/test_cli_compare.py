"""The command line's comparison of embeddings of the same rows."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from cli_files import embeddings

from legolas_metric import (
    RetrievalProtocol,
    evaluate_ranking,
    evaluate_verification,
    probe_embeddings,
)


def test_compare_ranks_by_the_protocol(call):
    x, y = embeddings(1.0)
    groups = np.arange(40) % 3
    np.savez("grouped.npz", embeddings=x, labels=y, groups=groups)
    _, out, _ = call("compare", "grouped.npz", "grouped.npz", "--format", "csv", "--protocol", "cross-session")
    across = evaluate_ranking(x, y, groups=groups, protocol=RetrievalProtocol.cross_session()).map_at_r
    assert f"MAP@R,{across},{across}," in out


def test_compare_says_which_is_better(call):
    status, out, _ = call("compare", "x.npy", "untrained.npz", "--labels", "y.npy", "--format", "csv")
    assert status == 0
    assert not [line for line in out.splitlines() if line.endswith((",A", ",B"))]  # the same rows
    x, y = embeddings(0.3)
    np.savez("good.npz", embeddings=x, labels=y)
    report = evaluate_ranking(x, y, baseline=embeddings(0.6)[0])
    (low, high), paired = report.intervals()["map_at_r"], report.difference("map_at_r")
    status, out, err = call("compare", "untrained.npz", "good.npz")
    assert (status, err) == (0, "")
    assert f"B [{low:.3f}, {high:.3f}]; B less A {paired.value:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]" in out
    assert "paired, over 10 identities" in out
    for files, best in (("untrained.npz", "good.npz"), "B"), (("good.npz", "untrained.npz"), "A"):
        _, out, _ = call("compare", *files, "--format", "csv")
        verdicts = {line.split(",")[0]: line.split(",")[-1] for line in out.splitlines()}
        assert (verdicts["MAP@R"], verdicts["queries"]) == (best, "")
    assert call("compare", "untrained.npz", "cut.npz")[0] == 2


def test_better_is_said_only_where_the_interval_of_the_difference_leaves_out_zero(call):
    x, y = embeddings(0.6)
    near = x + 0.02 * np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    np.savez("near.npz", embeddings=near, labels=y)
    report = evaluate_ranking(near, y, baseline=x)
    assert report.map_at_r != report.baseline.map_at_r
    assert not report.difference("map_at_r").shown
    _, out, _ = call("compare", "untrained.npz", "near.npz", "--format", "csv")
    assert not [line for line in out.splitlines() if line.endswith((",A", ",B"))]


def test_compare_as_json_holds_what_the_screen_shows(call):
    x, y = embeddings(0.3)
    np.savez("good.npz", embeddings=x, labels=y)
    status, out, _ = call("compare", "untrained.npz", "good.npz", "--json")
    first, second = json.loads(out)
    report = evaluate_ranking(x, y, baseline=embeddings(0.6)[0])
    verification, collapse = evaluate_verification(x, y), probe_embeddings(x, y)
    assert (status, first["file"], second["file"]) == (0, "untrained.npz", "good.npz")
    for record in (report, verification, collapse):
        for name, value in record.scalars().items():
            assert second[name] == value, name
    assert second["verdict"] == collapse.verdict
    pairs = evaluate_verification(x, y, baseline=embeddings(0.6)[0])
    ends = {**report.intervals(), **pairs.intervals()}
    assert second["intervals"] == {name: list(interval) for name, interval in ends.items()}
    lost = pairs.difference("eer")
    assert lost.high < 0
    assert second["differences"]["eer"] == {**dataclasses.asdict(lost), "better": "B"}
    assert second["differences"]["tar_at_far_0.0001"]["better"] is None  # too few impostor pairs to be quoted
    assert pairs.difference("tar_at_far_0.0001").shown
    paired = report.difference("map_at_r")
    assert second["differences"]["map_at_r"] == {**dataclasses.asdict(paired), "better": "B"}
    assert first["rank_at_1"] == report.baseline.rank[1]


def test_groups_are_drawn_where_they_are_the_question(call):
    x, y = embeddings(0.3)
    sessions = np.tile(np.arange(4), 10)
    np.savez("good.npz", embeddings=x, labels=y, groups=sessions)
    np.savez("other.npz", embeddings=embeddings(0.6)[0], labels=y, groups=sessions)
    status, out, err = call("compare", "other.npz", "good.npz", "--over", "groups")
    assert (status, err) == (0, "legolas-metric: an interval over 4 groups says little: ten or more are needed\n")
    assert "paired, over 4 groups" in out
    status, _, err = call("compare", "untrained.npz", "untrained.npz", "--over", "groups")
    assert (status, err.startswith("legolas-metric: untrained.npz: no groups, which --over draws")) == (2, True)


def test_no_encoder_of_two_is_called_untrained_on_the_page(call):
    np.savez("good.npz", embeddings=embeddings(0.3)[0], labels=embeddings(0.3)[1])
    assert call("compare", "good.npz", "untrained.npz", "--html", "page.html")[0] == 0
    page = Path("page.html").read_text().replace("B: untrained.npz", "")
    assert "untrained" not in page


def test_rows_worth_a_look_are_listed_by_name(call):
    x, y = embeddings(0.1)
    names = np.array(["ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay"])
    wrong = y.copy()
    wrong[[0, 20]] = 3, 7
    np.savez("noisy.npz", embeddings=x, labels=names[wrong], ids=np.arange(40) + 100)
    want = [("100", "dog", "ant"), ("120", "hen", "fox")]
    status, out, _ = call("diagnose", "noisy.npz", "--format", "csv")
    header, *rows = [tuple(line.split(",")) for line in out.splitlines()]
    assert (status, header) == (0, ("id", "label", "suggestion", "share"))
    assert sorted(row[:3] for row in rows) == want
    found = json.loads(call("diagnose", "noisy.npz", "--json", "--html", "page.html")[1])
    assert sorted((str(s["id"]), s["label"], s["suggestion"]) for s in found["suspects"]) == want
    page = Path("page.html").read_text()
    assert "Worth a look" in page
    assert all(f">{one}</th>" in page or f">{one}</td>" in page for row in want for one in row)
    out = call("diagnose", "noisy.npz")[1]
    assert "2 of 40 rows are worth a look" in out
    assert "--format csv, --json, or --html FILE" in out
    assert "| 100 | dog | ant |" in call("diagnose", "noisy.npz", "--format", "markdown")[1]


def test_names_that_differ_are_other_examples(call):
    x, y = embeddings(0.3)
    np.savez("cats.npz", embeddings=x, labels=np.array(["cat", "dog"])[y % 2])
    np.savez("apes.npz", embeddings=x, labels=np.array(["ape", "bee"])[y % 2])
    status, _, err = call("compare", "cats.npz", "apes.npz")
    assert (status, "40 of 40 labels differ" in err) == (2, True)
    assert call("compare", "cats.npz", "cats.npz")[0] == 0


def test_fewer_than_ten_identities_warn_once(call):
    y = embeddings(0.6)[1]
    for name, noise in (("few", 0.6), ("other", 0.3)):
        np.savez(f"{name}.npz", embeddings=embeddings(noise)[0][y < 5], labels=y[y < 5])
    status, out, err = call("compare", "few.npz", "other.npz")
    assert status == 0
    assert "over 5 identities" in out
    assert err == "legolas-metric: an interval over 5 identities says little: ten or more are needed\n"
    _, out, _ = call("compare", "few.npz", "other.npz", "--json")
    assert json.loads(out)[1]["warnings"] == ["an interval over 5 identities says little: ten or more are needed"]
