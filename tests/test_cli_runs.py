"""The commands beside the library that they call."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from cli_files import embeddings

from legolas_metric import (
    EmbeddingBank,
    FalseNegativeGuard,
    FullHardMiner,
    HardMiner,
    RetrievalProtocol,
    evaluate_ranking,
    evaluate_verification,
    probe_embeddings,
)
from legolas_metric.cli.printing import sparkline
from legolas_metric.doctor.diagnosis import diagnose
from legolas_metric.files import read_tensors
from legolas_metric.measures import verification_figures


def test_probe_shows_the_measures_beside_iid_rows_and_the_verdict(call):
    status, out, err = call("probe", "epoch-2.npz")
    report = probe_embeddings(embeddings(0.4)[0])
    assert (status, err) == (0, "")
    assert "iid rows" in out
    assert f"{report.effective_rank:.4g}" in out
    assert f"epoch-2.npz: {report.verdict}." in out
    assert all(sentence in out for sentence in report.evidence)


def test_probe_needs_no_labels_and_prints_json(call):
    status, out, _ = call("probe", "x.npy", "--json")
    held = json.loads(out)
    report = probe_embeddings(embeddings(0.6)[0])
    assert status == 0
    assert held["file"] == "x.npy"
    assert held["effective_rank"] == report.effective_rank
    assert held["spectrum"] == report.spectrum.tolist()
    assert held["baseline"]["effective_rank"] == report.baseline.effective_rank


def test_rank_equals_the_library(call):
    status, out, _ = call("rank", "x.npy", "--labels", "y.npy", "--json", "--full", "--k", "1", "--k", "3")
    x, y = embeddings(0.6)
    report = evaluate_ranking(x, y, ks=(1, 3), full=True)
    held = json.loads(out)
    assert status == 0
    assert held["rank"] == {str(k): value for k, value in report.rank.items()}
    assert (held["map_at_r"], held["mean_average_precision"]) == (report.map_at_r, report.mean_average_precision)


def test_rank_passes_metric_and_protocol_on(call):
    x, y = embeddings(1.0)
    _, out, _ = call("rank", "epoch-1.npz", "--metric", "euclidean", "--format", "json")
    assert json.loads(out)["map_at_r"] == evaluate_ranking(x, y, metric="euclidean").map_at_r
    status, _, err = call("rank", "epoch-1.npz", "--protocol", "cross-session")
    assert status == 2
    assert "epoch-1.npz: none of 40 queries has a positive" in err


PRESETS = {
    "leave-one-out": RetrievalProtocol(),
    "re-identification": RetrievalProtocol.re_identification(),
    "cross-session": RetrievalProtocol.cross_session(),
    "cross-day": RetrievalProtocol.cross_day(),
    "re-identification --queries first.npy --gallery even.npz": RetrievalProtocol.re_identification(
        queries=range(100, 108), gallery=range(100, 140, 2)
    ),
    "fixed --queries first.npy --gallery even.npz": RetrievalProtocol.fixed(range(100, 108), range(100, 140, 2)),
    "3-way-2-shot --episodes 20 --seed 5": RetrievalProtocol.few_shot(ways=3, shots=2, episodes=20, seed=5),
    "2-way-1-shot --episodes 60 --within-group --prototypes": RetrievalProtocol.few_shot(
        ways=2, shots=1, episodes=60, within_group=True, prototypes=True
    ),
}


@pytest.mark.parametrize("arguments", PRESETS)
def test_rank_takes_every_protocol(call, arguments):
    x, y = embeddings(1.0)
    groups = y % 3 if "within" in arguments else np.arange(40) % 3
    np.savez("grouped.npz", embeddings=x, labels=y, ids=np.arange(40) + 100, groups=groups)
    status, out, err = call("rank", "grouped.npz", "--json", "--protocol", *arguments.split())
    expected = evaluate_ranking(x, y, ids=np.arange(40) + 100, groups=groups, protocol=PRESETS[arguments])
    held = json.loads(out)
    assert (status, err) == (0, "")
    assert held["rank"] == {str(k): value for k, value in expected.rank.items()}
    assert (held["map_at_r"], held["queries"]) == (expected.map_at_r, expected.queries)
    assert held["protocol"]["name"] == PRESETS[arguments].name


def test_several_files_give_a_table_in_the_order_in_which_they_are_named(call):
    status, out, err = call("rank", "epoch-1.npz", "epoch-10.npz", "epoch-2.npz", "--untrained", "untrained.npz")
    assert (status, err) == (0, "")
    lines = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert lines == ["epoch-1.npz", "epoch-10.npz", "epoch-2.npz", "untrained"]
    values = {epoch: evaluate_ranking(*embeddings(noise)).rank[1] for epoch, noise in ((1, 1.0), (2, 0.4), (0, 0.6))}
    assert f"A stop on Rank@1 would have kept epoch-2.npz ({values[2]:#.4g})." in out
    assert f"epoch-1.npz: rank_at_1 is worse than the baseline's: {values[1]:.3f}, baseline {values[0]:.3f}." in out
    assert "epoch-2.npz: rank_at_1 is worse" not in out
    found = {epoch: evaluate_ranking(*embeddings(noise)).rank[1] for epoch, noise in ((1, 1.0), (10, 0.8), (2, 0.4))}
    assert f"Rank@1           {sparkline(list(found.values()))}  {found[1]:#.4g} to {found[2]:#.4g}" in out
    assert sparkline(list(found.values())) != sparkline(sorted(found.values()))[::-1]


def test_a_file_named_twice_counts_once(call):
    status, out, err = call("rank", "epoch-1.npz", "./epoch-1.npz", "epoch-2.npz", "--format", "csv")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 3
    status, out, _ = call("compare", "untrained.npz", "untrained.npz", "--json")
    assert (status, [row["file"] for row in json.loads(out)]) == (0, ["untrained.npz"] * 2)


def test_digits_that_are_no_numbers_stop_nothing(call):
    Path("epoch-²1.npz").write_bytes(Path("epoch-1.npz").read_bytes())
    status, out, err = call("rank", "epoch-²1.npz", "epoch-2.npz", "--format", "csv")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 3


def test_probe_and_verify_take_several_files_too(call):
    status, out, _ = call("probe", "epoch-1.npz", "epoch-2.npz")
    assert status == 0
    assert "verdict" in out
    assert "effective rank   █▁" in out
    status, out, _ = call("verify", "epoch-1.npz", "epoch-2.npz", "--format", "csv", "--labels", "y.npy")
    assert (status, out) == (2, "")  # one group only: no honest pair of one class
    status, out, _ = call("rank", "epoch-2.npz", "epoch-1.npz", "--json")
    assert [held["file"] for held in json.loads(out)] == ["epoch-2.npz", "epoch-1.npz"]


def test_tables_as_csv_and_markdown(call):
    _, out, _ = call("rank", "epoch-1.npz", "epoch-2.npz", "--format", "csv")
    head, first, second = out.splitlines()
    assert head.startswith("file,Rank@1,Rank@5,Rank@10,MAP@R,")
    assert first.split(",")[1] == str(evaluate_ranking(*embeddings(1.0)).rank[1])
    assert second.startswith("epoch-2.npz,")
    _, out, _ = call("rank", "epoch-1.npz", "epoch-2.npz", "--format", "markdown")
    assert out.startswith("| file | Rank@1 |")
    assert "**" in out


def test_bad_files_are_named_and_the_rest_goes_on(call):
    status, out, err = call("rank", "epoch-1.npz", "cut.npz", "nan.npz", "nowhere.npz", "epoch-2.npz", "--json")
    assert status == 1
    assert [held["file"] for held in json.loads(out)] == ["epoch-1.npz", "epoch-2.npz"]
    assert [line.split()[1].rstrip(":") for line in err.splitlines()] == ["cut.npz", "nan.npz", "nowhere.npz"]
    status, out, err = call("probe", "cut.npz", "nowhere.npz")
    assert (status, out, len(err.splitlines())) == (2, "", 2)


def test_the_shape_of_the_output_follows_the_files_that_were_named(call):
    """Not how many of them were good: a list stays a list, and CSV is a row for each file, even for one."""
    for command in ("probe", "rank", "verify"):
        files = ("untrained.npz", "nowhere.npz")
        status, out, _ = call(command, *files, "--json")
        assert (status, [held["file"] for held in json.loads(out)]) == (1, ["untrained.npz"])
        status, out, _ = call(command, "untrained.npz", "--format", "csv")
        head, row = out.splitlines()
        assert (status, head.split(",")[0], row.split(",")[0]) == (0, "file", "untrained.npz")
        assert call(command, *files, "--format", "csv")[1] == out
        markdown = [call(command, *some, "--format", "markdown")[1] for some in (files, ("untrained.npz",))]
        assert [text.split("|")[1].strip() for text in markdown] == ["file", "measure"]
        if command == "probe":
            assert (head.split(",")[-1], row.split(",")[-1]) == ("verdict", probe_embeddings(*embeddings(0.6)).verdict)


def test_verify_equals_the_library_and_marks_what_cannot_be_believed(call):
    x, y = embeddings(0.6)
    report = evaluate_verification(x, y, fars=(0.1, 1e-3))
    status, out, _ = call("verify", "untrained.npz", "--far", "0.1", "--far", "0.001", "--json")
    held = json.loads(out)
    assert (status, held["auc"], held["eer"]) == (0, report.auc, report.eer)
    assert held["tar_at_far"] == {"0.1": report.tar_at_far[0.1], "0.001": report.tar_at_far[1e-3]}
    _, out, _ = call("verify", "untrained.npz", "--far", "0.1", "--far", "0.001")
    cells = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in out.splitlines() if line[:1] == "│"}
    assert cells["TAR@FAR 0.1"] == f"{report.tar_at_far[0.1]:#.4g}"
    assert cells["TAR@FAR 0.001"] == f"{report.tar_at_far[1e-3]:#.4g}?"
    good = verification_figures(evaluate_verification(*embeddings(0.3), fars=(1e-3,)))
    assert json.dumps(good["TAR@FAR 0.001"]) == str(float(good["TAR@FAR 0.001"]))
    status, _, err = call("verify", "untrained.npz", "--far", "2")
    assert (status, err) == (2, "legolas-metric: --far must lie in (0, 1], got 2.0\n")


def test_diagnose_says_what_follows(call):
    status, out, err = call("diagnose", "epoch-1.npz", "--labels", "y.npy", "--untrained", "untrained.npz")
    assert (status, err) == (2, "legolas-metric: epoch-1.npz: " + err.partition(".npz: ")[2])  # one group only
    status, out, err = call("diagnose", "x.npy", "--labels", "y.npy", "--untrained", "x.npy")
    x, y = embeddings(0.6)
    found = diagnose(x, y, untrained=x)
    assert (status, err) == (0, "")
    assert out == found.text() + "\n"
    _, out, _ = call("diagnose", "x.npy", "--labels", "y.npy", "--json")
    held = json.loads(out)
    assert [finding["sentence"] for finding in held["findings"]] == [f.sentence for f in diagnose(x, y).findings]
    assert held["facts"]["ranking"]["map_at_r"] == found.ranking.map_at_r


def test_diagnose_names_rows_by_their_ids_and_finds_the_untrained_ones_by_them(call):
    x, y = embeddings(0.3)
    wrong = y.copy()
    wrong[[4, 9]] = wrong[[9, 4]]
    ids, order = np.arange(40) + 100, np.random.default_rng(0).permutation(40)
    np.savez("named.npz", embeddings=x, labels=wrong, ids=ids)
    np.savez("shuffled.npz", embeddings=x[order], labels=wrong[order], ids=ids[order])
    status, out, err = call("diagnose", "named.npz", "--untrained", "shuffled.npz")
    assert (status, err) == (0, "")
    assert out == diagnose(x, wrong, ids=ids, untrained=x).text() + "\n"
    assert "baseline's" not in out
    assert "worse than untrained" not in out


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"embeddings": lambda y: np.eye(8), "labels": lambda y: y[:8], "ids": lambda y: np.arange(8)},
            "8 rows, where that has 40",
        ),
        ({"labels": lambda y: np.roll(y, 2)}, "20 of 40 labels differ; save the same rows in the same order, or"),
        ({"ids": lambda y: np.arange(40) + 102}, "2 of 40 ids are not in that file"),
        ({"ids": lambda y: (np.arange(40) + 4) % 40 + 100}, "40 of 40 labels differ; one id must have one label"),
    ],
)
def test_other_examples_are_no_untrained_encoder_and_no_comparison(call, other, message):
    x, y = embeddings(0.3)
    np.savez("good.npz", embeddings=x, labels=y, ids=np.arange(40) + 100)
    np.savez("other.npz", **{"embeddings": x, "labels": y, **{name: make(y) for name, make in other.items()}})
    for arguments in (("diagnose", "good.npz", "--untrained", "other.npz"), ("compare", "good.npz", "other.npz")):
        status, out, err = call(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith(f"legolas-metric: other.npz: not the same examples as good.npz: {message}")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_mine_writes_the_triplets_and_tells_what_fell_short(call, suffix):
    status, out, err = call("mine", "epoch-1.npz", "--out", f"deep/t{suffix}", "--index", "exact")
    x, y = embeddings(1.0)
    triplets = FullHardMiner().mine(EmbeddingBank(x, y, ids=np.arange(40) + 100))
    assert (status, err) == (0, "")
    assert "without positive" in out
    assert f"Wrote deep/t{suffix}." in out
    held = dict(np.load("deep/t.npz")) if suffix == ".npz" else read_tensors("deep/t.safetensors")[0]
    assert set(held) == {"anchor", "positive", "negative", "s_ap", "s_an"}
    for name, values in held.items():
        assert np.array_equal(np.asarray(values), getattr(triplets, name).numpy())


def test_a_corpus_is_mined_into_lines_for_other_trainers(call):
    """Queries against a corpus, from a window of ranks, by a guard: as the miner itself answers."""
    x, y = embeddings(1.0)
    ids = np.arange(40) + 100
    np.save("asked.npy", ids[:10])
    np.save("corpus.npy", ids[10:])
    status, out, _ = call(
        *("mine", "epoch-1.npz", "--miner", "hard", "--ranks", "2-6", "--per-anchor", "3", "--guard"),
        *("--anchors", "asked.npy", "--candidates", "corpus.npy", "--out", "mined.jsonl"),
    )
    with warnings.catch_warnings(action="ignore"):
        bank = EmbeddingBank(x, y, ids=ids)
        miner = HardMiner(ranks=(2, 6), per_anchor=3, guard=FalseNegativeGuard())
        mined = miner.mine(bank, ids[:10], candidates=ids[10:])
    lines = [json.loads(line) for line in Path("mined.jsonl").read_text(encoding="utf-8").splitlines()]
    assert status == 0
    assert lines == mined.records()
    assert lines
    assert {"anchor", "positive", "negatives", "scores"} == set(lines[0])
    assert {name for line in lines for name in (line["positive"], *line["negatives"])} <= set(ids[10:].tolist())
    assert f"{mined.s_an.double().mean():.4f}" in out
    assert "difference" in out
    assert "Wrote mined.jsonl." in out
    assert call("mine", "epoch-1.npz", "--out", "pairs.csv", "--form", "labelled-pair")[0] == 0
    assert Path("pairs.csv").read_text(encoding="utf-8").splitlines()[0] == "anchor,other,label,score"


@pytest.mark.parametrize("miner", ["random", "semi-hard", "hard", "full-hard"])
@pytest.mark.parametrize("index", ["auto", "exact", "Flat"])
def test_mine_takes_every_miner_and_index(call, miner, index):
    status, out, _ = call("mine", "epoch-1.npz", "--miner", miner, "--index", index, "--per-anchor", "2", "--json")
    held = json.loads(out)
    assert (status, held["anchors"], held["no_positive"]) == (0, 40, 0)


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (("probe", "epoch-1.npz", "epoch-2.npz"), ["Collapse", "Singular spectrum"]),
        (("rank", "pictures.npz", "--full"), ["Ranking", "Rank@k", "Rank@1 and the gallery", "Worst queries"]),
        (("rank", "untrained.npz"), ["Ranking", "Rank@k"]),
        (("verify", "untrained.npz"), ["Verification", "Similarity of pairs", "ROC", "DET"]),
        (("diagnose", "pictures.npz"), ["What follows", "Ranking", "Worst queries", "Verification", "The main plane"]),
        (("compare", "untrained.npz", "pictures.npz"), ["Ranking", "Verification", "Collapse"]),
    ],
)
def test_a_page_is_written_on_request(call, command, parts):
    x, y = embeddings(1.2)
    np.savez(
        "pictures.npz", embeddings=x, labels=y, ids=y * 0 + np.arange(40) + 7, images=np.zeros((40, 5, 5), np.uint8)
    )
    status, _, _ = call(*command, "--html", "deep/page.html")
    assert status == 0
    page = Path("deep/page.html").read_text(encoding="utf-8")
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert [title for title in titles if title in parts] == parts
    assert ('<img src="data:image/png' in page) == ("Worst queries" in parts)
    assert call(*command, "--html", "x.csv/page.html")[0] == 2
