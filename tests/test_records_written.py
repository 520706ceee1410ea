"""Records print as short tables, and triplets are written in the forms that other trainers read."""

import csv
import json

import pytest
import torch

from legolas_metric import EmbeddingBank, ExactIndex, FalseNegativeGuard, HardMiner, MiningSchedule, RandomMiner
from legolas_metric.miners.informative_pairs import MultiSimilarityMiner
from legolas_metric.records import MiningStats, SearchStats, Triplets


def mined() -> Triplets:
    a, p, n = (torch.tensor(side) for side in ([3, 3, 0], [1, 1, 2], [0, 2, 1]))
    stats = MiningStats(anchors=4, no_positive=1, search=SearchStats(engine="by hand"), seconds=0.5)
    return Triplets(a, p, n, torch.tensor([0.5, 0.5, 0.25]), torch.tensor([0.75, 0.125, 0.0]), stats)


NAMES = ["zero", "one", "two", "thrée"]
RECORDS = [
    {"anchor": "thrée", "positive": "one", "negatives": ["zero", "two"], "scores": [0.5, 0.75, 0.125]},
    {"anchor": "zero", "positive": "two", "negatives": ["one"], "scores": [0.25, 0.0]},
]


def test_records_by_hand():
    assert mined().records(names=NAMES) == RECORDS
    assert mined().records(names=dict(enumerate(NAMES))) == RECORDS
    assert mined().records(names=[9, 9, 9, 9], text=NAMES) == RECORDS
    assert mined().records()[1] == {"anchor": 0, "positive": 2, "negatives": [1], "scores": [0.25, 0.0]}
    apart = mined().records(names=(["a", "b", "c", "d"], NAMES))
    assert [(record["anchor"], record["positive"]) for record in apart] == [("d", "one"), ("a", "two")]


def test_json_lines_of_each_form(tmp_path):
    def lines(form):
        mined().to_jsonl(tmp_path / "out.jsonl", names=NAMES, form=form)
        return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]

    assert lines("n-tuple")[0] == {
        "anchor": "thrée", "positive": "one", "negatives": ["zero", "two"], "scores": [0.5, 0.75, 0.125],
    }  # fmt: skip
    assert lines("triplet") == [
        {"anchor": "thrée", "positive": "one", "negative": "zero", "s_ap": 0.5, "s_an": 0.75},
        {"anchor": "thrée", "positive": "one", "negative": "two", "s_ap": 0.5, "s_an": 0.125},
        {"anchor": "zero", "positive": "two", "negative": "one", "s_ap": 0.25, "s_an": 0.0},
    ]
    assert [tuple(line.values()) for line in lines("labelled-pair")] == [
        ("thrée", "one", 1, 0.5), ("thrée", "zero", 0, 0.75), ("thrée", "two", 0, 0.125),
        ("zero", "two", 1, 0.25), ("zero", "one", 0, 0.0),
    ]  # fmt: skip


def test_csv_of_each_form(tmp_path):
    mined().to_csv(tmp_path / "out.csv", names=NAMES)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines() == [
        "anchor,positive,negative,s_ap,s_an",
        "thrée,one,zero,0.5,0.75", "thrée,one,two,0.5,0.125", "zero,two,one,0.25,0.0",
    ]  # fmt: skip
    mined().to_csv(tmp_path / "wide.csv", form="n-tuple")
    with (tmp_path / "wide.csv").open(encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["anchor", "positive", "negative_1", "negative_2", "s_ap", "s_an_1", "s_an_2"]
    assert (first["negative_2"], first["s_an_2"], second["negative_2"], second["s_an_2"]) == ("2", "0.125", "", "")


def test_parquet_or_the_extra_that_it_needs(tmp_path, monkeypatch):
    try:
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(ImportError, match=r"pip install 'legolas-metric\[parquet\]', or use to_csv"):
            mined().to_parquet(tmp_path / "out.parquet")
        return
    mined().to_parquet(tmp_path / "out.parquet", names=NAMES)
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()[1] == {
        "anchor": "thrée", "positive": "one", "negative": "two", "s_ap": 0.5, "s_an": 0.125,
    }  # fmt: skip
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"legolas-metric\[parquet\]"):
        mined().to_parquet(tmp_path / "out.parquet")


def test_what_cannot_be_named_leaves_the_file_as_it_was(tmp_path):
    (tmp_path / "out.jsonl").write_text("kept")
    with pytest.raises(ValueError, match="there is no name for the id 3: give a mapping, or a sequence"):
        mined().to_jsonl(tmp_path / "out.jsonl", names=["a"])
    with pytest.raises(ValueError, match="there is no name for the id 1"):
        mined().to_jsonl(tmp_path / "out.jsonl", names={3: "c", 0: "z"})
    assert (tmp_path / "out.jsonl").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_no_triplets_are_no_lines(tmp_path):
    none = torch.empty(0, dtype=torch.int64)
    stats = MiningStats(anchors=0, search=SearchStats(engine="by hand"), seconds=0.0)
    empty = Triplets(none, none, none, torch.empty(0), torch.empty(0), stats)
    assert empty.records() == []
    empty.to_jsonl(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == ""
    assert "Triplets: 0 of 0 anchors" in repr(empty)


def test_fields_of_the_search_are_direct_attributes():
    search = SearchStats(engine="e", precision="int16", recall=0.5, certified=0.9, widened=3, details={"tiles": 1.0})
    stats = MiningStats(anchors=1, search=search, seconds=0.0)
    for name in ("engine", "precision", "recall", "certified", "widened", "details"):
        assert getattr(stats, name) == getattr(search, name)


def records():
    bank = EmbeddingBank(torch.eye(12), torch.arange(12) // 3)
    triplets = HardMiner().mine(bank)
    return [
        triplets,
        triplets.stats,
        MultiSimilarityMiner().mine(bank),
        ExactIndex().fit(bank.embeddings, bank.labels).self_join(2, want="negative"),
        MiningSchedule([(0, RandomMiner()), (3, HardMiner(ranks=(1, 10)))]),
        FalseNegativeGuard(vote=0.3, depth=20),
    ]


@pytest.mark.parametrize("record", records(), ids=lambda record: type(record).__name__)
def test_records_print_as_short_tables(record):
    text, html = repr(record), record._repr_html_()
    assert text.startswith(type(record).__name__)
    assert len(text.splitlines()) <= 16
    assert max(map(len, text.splitlines())) < 100
    assert "tensor(" not in text
    assert html.startswith("<table><caption>" + type(record).__name__)
    assert html.count("<tr>") == html.count("</tr>") > 1


def test_what_the_tables_say():
    triplets, stats, _, neighbors, schedule, guard = map(repr, records())
    assert "and 7 more" in triplets
    assert "engine   exact" in stats
    assert "recall   exact" in stats
    assert "query  rank 1" in neighbors
    assert "HardMiner(ranks=(1, 10))" in schedule
    assert guard == "FalseNegativeGuard(vote=0.3, depth=20)"
