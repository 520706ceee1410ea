"""A vector database behind the protocol: the same answers, ids of its own, recall measured, refusals in a sentence."""

import math

import lancedb
import pyarrow as pa
import pytest
import torch
from lancedb.index import IvfFlat, IvfPq
from processes import python

from legolas_metric import (
    DistanceWeightedMiner,
    EmbeddingBank,
    ExactIndex,
    FalseNegativeGuard,
    FullHardMiner,
    HardMiner,
    LabelRelation,
    LanceIndex,
    RandomMiner,
    SemiHardMiner,
)
from legolas_metric.miners import stored

METRICS = ("cosine", "dot", "euclidean")
WANTS = ("any", "negative", "positive", "cross_group_positive")


@pytest.fixture(scope="module")
def data():
    """90 rows with ties, names of classes that SQL must quote, unlabelled rows, and ids that are not 0..n-1."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(90, 6, generator=generator)
    rows[40:55] = rows[40:41]
    rows[60:] *= 3
    people = ["d'Arc", "d'Arc", "d'Arc", 'say "so"', "ann", "bob", None]  # the first is a large class
    labels = [people[i] for i in torch.randint(0, 7, (90,), generator=generator).tolist()]
    groups = torch.randint(0, 3, (90,), generator=generator)
    return rows, labels, torch.randperm(10**6, generator=generator)[:90] * 10**9, groups


@pytest.fixture(scope="module", params=METRICS)
def pair(request, data):
    rows, labels, ids, groups = data
    return tuple(
        index.fit(rows, labels, ids=ids, groups=groups)
        for index in (LanceIndex(metric=request.param), ExactIndex(metric=request.param))
    )


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A database that another program wrote, with names of its own for the columns, in several pieces."""
    rows, labels, ids, groups = data
    where = tmp_path_factory.mktemp("database")
    table = pa.table(
        {
            "Photo No": ids.numpy(),
            "who": labels,
            "day": [f"day {group}" for group in groups.tolist()],
            "embedding": pa.FixedSizeListArray.from_arrays(rows.numpy().ravel(), 6),
        }
    )
    made = lancedb.connect(where).create_table("photos", table.slice(0, 30))
    made.add(table.slice(30))
    made.create_index("embedding", config=IvfFlat(distance_type="cosine", num_partitions=8))
    return where


def opened(folder, **settings):
    return LanceIndex(folder, "photos", **settings).open(id="Photo No", vector="embedding", label="who", group="day")


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("farthest", [False, True])
@pytest.mark.parametrize("want", WANTS)
def test_equals_the_exact_index(want, farthest, windowed, pair, data):
    if pair[0].metric == "euclidean" and farthest and want in ("any", "negative"):
        with pytest.raises(ValueError, match="no farthest rows under metric='euclidean': use ExactIndex"):
            pair[0].self_join(1, want=want, farthest=True)
        return
    low = torch.randn(90, generator=torch.Generator().manual_seed(4)) - 1
    low[::5] = torch.nan
    window = (low, low + 0.7) if windowed else None
    found, true = (index.self_join(3, want=want, farthest=farthest, window=window) for index in pair)
    assert torch.equal(found.ids, true.ids)
    assert torch.equal(found.similarities, true.similarities)
    assert found.stats.engine == "lance:flat"
    assert found.stats.recall is None
    rows, labels, ids, groups = data
    asked, truly = (
        index.search(
            rows[:20] + 0.1, 2, labels=[*labels[50:68], "new", None], ids=ids[:20], groups=groups[:20], want=want
        )
        for index in pair
    )
    assert torch.equal(asked.ids, truly.ids)


def test_asks_again_where_ties_crowd_out_the_rest(generator):
    """By hand: 200 rows of one direction lie nearer than row 200, and k = 3 of them go to the smallest ids."""
    rows = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(200, 1), torch.tensor([[0.0, 1.0]])])
    found = LanceIndex().fit(rows, ids=torch.arange(201).flip(0)).search([[1.0, 0.01]], 3)
    assert found.ids.tolist() == [[1, 2, 3]]
    assert found.stats.widened == 1


def test_a_table_of_others_is_searched_as_it_is(folder, data):
    rows, labels, ids, groups = data
    index = opened(folder)
    true = ExactIndex().fit(rows, labels, ids=ids, groups=groups)
    for want in WANTS:
        found = index.self_join(2, want=want)
        assert torch.equal(found.ids, true.self_join(2, want=want).ids)
    assert index.table.label_names == tuple(sorted({label for label in labels if label is not None}))
    assert index.table.embeddings.isnan().all()  # not in memory
    assert torch.equal(index.read(torch.tensor([7, 3, 7])).ids, ids[[7, 3, 7]])


def test_what_others_write_meanwhile_is_not_seen(folder, data, tmp_path):
    table = lancedb.connect(tmp_path).create_table("photos", lancedb.connect(folder).open_table("photos").to_arrow())
    index = opened(tmp_path)
    before = index.self_join(2)
    table.delete("who = 'ann'")
    table.optimize()
    assert torch.equal(index.self_join(2).ids, before.ids)
    assert len(opened(tmp_path).table) < len(index.table)


def test_an_approximate_search_is_measured(generator, tmp_path):
    rows, labels = torch.randn(3000, 16, generator=generator), torch.arange(3000) // 2
    asked = torch.arange(0, 3000, 10)
    LanceIndex(tmp_path).fit(rows, labels)
    made = lancedb.connect(tmp_path).open_table("rows")
    made.create_index("vector", config=IvfFlat(distance_type="cosine", num_partitions=64))
    exact = ExactIndex().fit(rows, labels).search(rows[asked], 2, labels=labels[asked], ids=asked, want="negative")
    recalls = []
    for effort in (1, 64):
        index = LanceIndex(tmp_path, approximate=True, effort=effort).open()
        found = index.search(rows[asked], 2, labels=labels[asked], ids=asked, want="negative")
        share = (exact.ids[:, :, None] == found.ids[:, None]).any(2).float().mean().item()
        assert found.stats.engine == "lance:IVF_FLAT"
        assert found.stats.recall == pytest.approx(share, abs=0.03)
        assert (labels[found.ids] != labels[asked][:, None]).all()
        recalls.append(found.stats.recall)
    assert 0 < recalls[0] < recalls[1] == 1


def test_effort_raises_the_recall_of_compressed_rows(generator, tmp_path):
    """All lists are searched; what is lost is lost to the codes, of which as many as asked for hold too few."""
    rows = torch.randn(2000, 32, generator=generator)
    LanceIndex(tmp_path).fit(rows)
    made = lancedb.connect(tmp_path).open_table("rows")
    made.create_index("vector", config=IvfPq(distance_type="cosine", num_partitions=1, num_sub_vectors=2))
    recalls = [
        LanceIndex(tmp_path, approximate=True, effort=effort).open(label=None).search(rows[:50] + 0.1, 3).stats.recall
        for effort in (1, 20)
    ]
    assert recalls[0] < 0.75 < 0.85 < recalls[1]  # 0.55 and 0.97, by centres that LanceDB draws anew each time


def test_a_column_may_serve_twice_and_may_hold_categories(data, tmp_path):
    rows, labels, _, _ = data
    table = pa.table(
        {
            "id": range(90),
            "vector": pa.FixedSizeListArray.from_arrays(rows.numpy().ravel(), 6),
            "who": pa.array(labels).dictionary_encode(),
        }
    )
    lancedb.connect(tmp_path).create_table("rows", table)
    found = LanceIndex(tmp_path).open(label="who", group="id")
    true = ExactIndex().fit(rows, labels, groups=range(90))
    for want in ("negative", "cross_group_positive"):
        assert torch.equal(found.self_join(3, want=want).ids, true.self_join(3, want=want).ids)


def test_a_version_that_others_took_away_is_told(data, tmp_path):
    rows, labels, *_ = data
    index = LanceIndex(tmp_path).fit(rows, labels)
    lancedb.connect(tmp_path).drop_table("rows")
    for ask in (lambda: index.self_join(1), lambda: FullHardMiner().mine(index)):
        with pytest.raises(RuntimeError, match=r"another program has cleaned up old versions, replaced or dropped it"):
            ask()


def test_the_caller_may_be_in_inference_mode(pair):
    with torch.inference_mode():
        found = pair[0].self_join(2)
    assert torch.equal(found.ids, pair[1].self_join(2).ids)


def test_what_is_exact_measured_and_unmeasured_is_told_apart(data):
    rows, labels, *_ = data
    index = LanceIndex(approximate=True).fit(rows, labels)
    assert index.self_join(1).stats.recall == 1
    for unmeasured in (LanceIndex(approximate=True, audit=0), LanceIndex(approximate=True, audit=0).clone()):
        recall = unmeasured.fit(rows, labels).self_join(1).stats.recall
        assert recall is not None
        assert math.isnan(recall)
    window = (torch.full((90,), -0.5), torch.full((90,), 0.4))
    for exactly in (index.self_join(2, window=window), index.self_join(2, want="positive")):
        assert exactly.stats.recall is None
        assert exactly.stats.engine == "lance:flat"


MINERS = {
    "hard": lambda: HardMiner(per_anchor=2, seed=3),
    "full hard": FullHardMiner,
    "another session": lambda: FullHardMiner(relation=LabelRelation(positive_group="other")),
    "semi-hard": lambda: SemiHardMiner(margin=0.3, positive="nearest"),
    "every positive": lambda: HardMiner(positive="all"),
    "semi-hard or hardest": lambda: SemiHardMiner(margin=0.01, on_empty="hardest", seed=1),
    "random": lambda: RandomMiner(per_anchor=3, seed=5),
    "ranks": lambda: HardMiner(ranks=(2, 6), mix=0.3, seed=5),
    "guarded": lambda: HardMiner(guard=FalseNegativeGuard(relative=0.95, neighbours=5), seed=2),
}


@pytest.mark.filterwarnings("ignore:the guard rejected")
@pytest.mark.parametrize("miner", MINERS)
def test_rows_in_a_database_are_mined_as_a_bank_in_memory(miner, folder, data, monkeypatch):
    rows, labels, ids, groups = data
    monkeypatch.setattr(stored, "WORKSPACE", 16 * 6 * 20)  # blocks of 20 anchors
    index = opened(folder)
    sizes: list[int] = []
    read = index.read
    monkeypatch.setattr(index, "read", lambda number: sizes.append(len(number)) or read(number))
    found = MINERS[miner]().mine(index)
    true = MINERS[miner]().mine(EmbeddingBank(rows, labels, ids=ids, groups=groups))
    for name in ("anchor", "positive", "negative", "s_ap", "s_an"):
        assert torch.equal(getattr(found, name), getattr(true, name)), name
    for name in ("anchors", "no_positive", "outside_window", "fallback", "filtered", "exhausted"):
        assert getattr(found.stats, name) == getattr(true.stats, name)
    assert len(sizes) >= 4
    anchors = ids[[0, 4, 2]]
    some = MINERS[miner]().mine(index, anchors=anchors[[labels[i] is not None for i in (0, 4, 2)]])
    assert set(some.anchor.tolist()) <= set(anchors.tolist())


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_other_metrics_are_mined_alike(metric, pair, data):
    rows, labels, ids, groups = data
    if pair[0].metric != metric:
        return
    bank = EmbeddingBank(rows, labels, ids=ids, groups=groups, metric=metric)
    found, true = (SemiHardMiner(margin=2.0, positive="nearest").mine(source) for source in (pair[0], bank))
    assert torch.equal(found.negative, true.negative)
    assert len(found.negative) > 20


def test_what_a_database_does_not_serve_is_refused(folder, data):
    index = opened(folder)
    some = index.table.ids[:3]
    for mine, what in (
        (lambda: HardMiner().mine(index, candidates=some), "candidates"),
        (lambda: HardMiner().mine(index, step=3), "step"),
        (lambda: HardMiner(index=ExactIndex()).mine(index), "an index of the miner's"),
        (lambda: HardMiner(max_staleness=3).mine(index), "max_staleness"),
        (lambda: DistanceWeightedMiner().mine(index), "distance-weighted negatives"),
    ):
        with pytest.raises(ValueError, match=f"LanceIndex are mined without {what}: leave that out, or load them as"):
            mine()
    with pytest.raises(ValueError, match=r"miners need labels: fit the LanceIndex with labels, or open it with label="):
        HardMiner().mine(LanceIndex().fit(torch.eye(3)))
    with pytest.raises(ValueError, match=r"1 ids are not in the bank \(first: \[12\]\)"):
        HardMiner().mine(index, anchors=[12])


def test_bad_tables_are_refused_in_a_sentence(tmp_path):
    database = lancedb.connect(tmp_path)
    vectors = [[1.0, 0.0], [0.0, 1.0]]

    def table(name, **columns):
        floats = pa.array(columns.pop("vector", vectors), pa.list_(pa.float32(), 2))
        database.create_table(
            name, pa.table({"id": [3, 4], "label": [0, 1], "vector": floats} | columns), on_bad_vectors="null"
        )

    table("good")
    table("texts", id=["a", "b"])
    table("twice", id=[3, 3])
    table("none", id=[3, None])
    table("infinite", vector=[[1.0, 0.0], [math.inf, 0.0]])
    table("zero", vector=[[1.0, 0.0], [0.0, 0.0]])
    table("tiny", vector=[[1.0, 0.0], [1e-20, 0.0]])
    table("lacks", vector=[[1.0, 0.0], None])
    table("numbers", label=[0.5, 1.5])
    table("below", label=[0, -2])
    table("beyond", label=pa.array([0, 2**63], pa.uint64()))
    table("past", id=pa.array([0, 2**63], pa.uint64()))
    table("asks", query_index=[0, 1])
    half = pa.array([[1.0, 2.0]], pa.list_(pa.float16(), 2))
    database.create_table("half", pa.table({"id": [1], "vector": half}))
    database.create_table(
        "empty", pa.table({"id": pa.array([], pa.int64()), "vector": pa.array([], pa.list_(pa.float32(), 2))})
    )
    for name, kind, text in (
        ("absent", ValueError, r"has no table 'absent' \(it has 'asks', 'below'"),
        ("texts", TypeError, "column 'id' must hold integers, got string: triplets carry int64 ids"),
        ("twice", ValueError, "ids must be unique"),
        ("none", ValueError, "1 rows of the table have no 'id'"),
        ("infinite", ValueError, r"the table's rows: NaN or inf \(in float32\) in 1 of 2 rows \(first ids: 4\)"),
        ("zero", ValueError, "all zero, which has no direction"),
        ("tiny", ValueError, "norms of 1e-20 to 1, which LanceDB can't square in float32: write them normalised"),
        ("lacks", ValueError, r"1 rows of the table have no vector \(first ids: \[4\]\)"),
        ("numbers", TypeError, "column 'label' must hold integers or strings, got double: add a column of them"),
        ("below", ValueError, "labels must be >= 0, or -1 for unlabelled, got -2"),
        ("beyond", ValueError, r"labels must be below 2\^63, got 9223372036854775808"),
        ("past", ValueError, r"column 'id' of the table must hold numbers below 2\^63: .*9223372036854775808"),
        ("asks", ValueError, "LanceDB's answers have a column 'query_index' of their own: rename the table's"),
    ):
        with pytest.raises(kind, match=text):
            LanceIndex(tmp_path, name).open()
    with pytest.raises(TypeError, match="must hold vectors of float32 of one length, got fixed_size_list"):
        LanceIndex(tmp_path, "half").open(label=None)
    with pytest.raises(ValueError, match="the table holds no rows: write some first"):
        LanceIndex(tmp_path, "empty").open(label=None)
    with pytest.raises(ValueError, match=r"no column 'person' for label .*'vector'\): open\(label=...\), or None"):
        LanceIndex(tmp_path, "good").open(label="person")
    with pytest.raises(ValueError, match="table 'good' has no vector index: make one"):
        LanceIndex(tmp_path, "good", approximate=True).open()
    with pytest.raises(ValueError, match="has a table 'good' already, which is not overwritten"):
        LanceIndex(tmp_path, "good").fit(torch.eye(2), [0, 1])
    with pytest.raises(ValueError, match=r"holds no rows: call fit\(embeddings, labels\), or open\(\), first"):
        LanceIndex().self_join(1)


def test_a_vector_index_of_another_metric_is_refused(folder):
    """LanceDB would leave it aside without a word, and compare with every row."""
    with pytest.raises(ValueError, match="vector index is by 'cosine', metric='dot' needs 'dot'"):
        opened(folder, metric="dot", approximate=True)
    assert opened(folder, metric="dot").self_join(1).stats.engine == "lance:flat"


def test_without_the_extra_the_error_says_what_to_install():
    code = "import sys; sys.modules['lancedb'] = None; from legolas_metric import LanceIndex; LanceIndex()"
    done = python("-c", code)
    assert "LanceIndex needs LanceDB: pip install 'legolas-metric[vectordb]'" in done.stderr


def test_a_miner_takes_it_as_its_index(data):
    rows, labels, ids, groups = data
    bank = EmbeddingBank(rows, labels, ids=ids, groups=groups)
    template = LanceIndex()
    for _ in range(2):  # each call fits a copy of its own
        found = FullHardMiner(index=template).mine(bank)
    assert torch.equal(found.negative, FullHardMiner().mine(bank).negative)
    assert found.stats.engine == "lance:flat"
