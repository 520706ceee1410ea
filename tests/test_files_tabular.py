"""Tables of embeddings: CSV, TSV, JSON lines, Parquet, standard input; labels by row or by id."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from legolas_metric.files import read_embeddings
from legolas_metric.outputs import check_not_read

ROWS = [[0.5, -1.25, 3.0], [1e-3, 2.0, -0.5], [4.0, 0.0, 1.0]]
NAMES, IDS, DAYS = ["bob", "ann", ""], [7, 3, 12], ["mo", "mo", "tu"]


def write(path):
    if path.suffix in (".csv", ".tsv"):
        mark = "," if path.suffix == ".csv" else "\t"
        head = ["id", "x0", "label", "x1", "group", "x2"]
        lines = [[i, r[0], n, r[1], d, r[2]] for i, r, n, d in zip(IDS, ROWS, NAMES, DAYS)]
        path.write_text("\n".join(mark.join(map(str, line)) for line in [head, *lines]) + "\n")
    elif path.suffix == ".jsonl":
        records = [
            {"embedding": r, "id": i, "group": d} | ({"label": n} if n else {})
            for i, r, n, d in zip(IDS, ROWS, NAMES, DAYS)
        ]
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        columns = {"embedding": ROWS, "label": [n or None for n in NAMES], "id": IDS, "group": DAYS}
        pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables_are_read(suffix, tmp_path):
    held = read_embeddings(write(tmp_path / f"x{suffix}"))
    assert held.embeddings.numpy() == pytest.approx(np.float32(ROWS))
    assert (held.labels.tolist(), held.ids.tolist(), held.groups.tolist()) == ([1, 0, -1], IDS, [0, 0, 1])


def test_a_table_without_names_is_all_embeddings(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n3,4\n")
    (tmp_path / "y.csv").write_text("7\n9\n")
    (tmp_path / "z.csv").write_text("bob\nann\n")
    held = read_embeddings(tmp_path / "x.csv", labels=tmp_path / "y.csv")
    assert (held.embeddings.tolist(), held.labels.tolist()) == ([[1, 2], [3, 4]], [7, 9])
    assert read_embeddings(tmp_path / "x.csv", labels=tmp_path / "z.csv").labels.tolist() == [1, 0]


def test_a_column_is_named_behind_a_colon(tmp_path):
    (tmp_path / "people.csv").write_text("id,who,camera\n3,eve,left\n12,dan,right\n7,cy,left\n")
    table, people = write(tmp_path / "x.csv"), f"{tmp_path}/people.csv"
    held = read_embeddings(table, labels=f"{people}:who", groups=f"{people}:camera")
    assert [held.label_names[label] for label in held.labels.tolist()] == ["cy", "eve", "dan"]
    assert held.groups.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="has no array named 'lens'; it holds"):
        read_embeddings(table, groups=f"{people}:lens")
    with pytest.raises(FileNotFoundError, match="camera: no such file"):
        read_embeddings(table, groups=tmp_path / "none.csv:camera")
    (tmp_path / "odd:name.csv").write_text("a\nb\nc\n")  # a file whose own name has a colon
    assert read_embeddings(table, groups=tmp_path / "odd:name.csv").groups.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="would be overwritten"):
        check_not_read(people, [f"{people}:who"])


def test_labels_come_by_id_where_both_have_ids(tmp_path):
    (tmp_path / "y.csv").write_text("id,label\n3,eve\n12,dan\n99,bob\n7,cy\n")
    held = read_embeddings(write(tmp_path / "x.csv"), labels=tmp_path / "y.csv")
    assert held.labels.tolist() == [1, 3, 2]  # of bob, cy, dan, eve: 7 is cy, 3 eve, 12 dan
    (tmp_path / "y.csv").write_text("id,label\n3,eve\n99,bob\n7,cy\n")
    with pytest.raises(ValueError, match=r"y.csv has no label for 1 of 3 ids \(first: \[12\]\)"):
        read_embeddings(tmp_path / "x.csv", labels=tmp_path / "y.csv")
    np.save(tmp_path / "y.npy", [5, 6, 7])
    assert read_embeddings(tmp_path / "x.csv", labels=tmp_path / "y.npy").labels.tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("x.csv", "x0,label\n1,a\n2\n", "row 3: 1 entries, where the first row has 2"),
        ("x.csv", "x0,city,label\n1,Rome,a\n", "column 'city' holds no number in row 1"),
        ("x.csv", "", "is empty"),
        ("x.jsonl", '{"embedding": [1]}\n[2]\n', "line 2: expected an object"),
        ("x.jsonl", '{"embedding": [1]}\n{"embe', "line 2 is not JSON"),
        (
            "x.jsonl",
            '{"embedding": [1]}\n{"embedding": [1, 2]}',
            "row 2 has length 2, where others have length 1: leave",
        ),
        ("x.parquet", "PAR1 and no more", "is not a whole Parquet file|needs pyarrow"),
    ],
)
def test_broken_tables_are_refused_in_a_sentence(name, text, told, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, ModuleNotFoundError), match=told):
        read_embeddings(tmp_path / name)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_what_is_no_text_is_refused(suffix, tmp_path):
    (tmp_path / f"x{suffix}").write_bytes(b"\x93NUMPY\xff\x00\n")
    with pytest.raises(ValueError, match=r"is no .* file of UTF-8 text"):
        read_embeddings(tmp_path / f"x{suffix}")


def test_standard_input_is_seen_for_what_it_is(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", embeddings=np.float32(ROWS), labels=[1, 0, -1])
    np.save(tmp_path / "x.npy", np.float32(ROWS))
    for name in ("x.csv", "x.tsv", "x.jsonl"):
        write(tmp_path / name)
    for name in ("x.csv", "x.tsv", "x.jsonl", "x.npz", "x.npy"):
        given = SimpleNamespace(buffer=io.BytesIO((tmp_path / name).read_bytes()))
        monkeypatch.setattr(sys, "stdin", given)
        held = read_embeddings("-")
        assert held.embeddings.numpy() == pytest.approx(np.float32(ROWS))
        assert held.labels is None if name == "x.npy" else held.labels.tolist() == [1, 0, -1]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))
    with pytest.raises(ValueError, match="standard input is empty"):
        read_embeddings("-")


def test_a_folder_is_called_a_folder_and_a_closed_pipe_is_quiet(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder, not a file: name a file in it"):
        read_embeddings(tmp_path)
    generator = np.random.default_rng(0)
    lines = [f"{','.join(map(str, generator.normal(size=6)))},p{i // 4}" for i in range(40)]
    table = "\n".join([",".join([*(f"x{i}" for i in range(6)), "label"]), *lines])
    script = f"{sys.executable} -m legolas_metric rank - --format csv"
    ended = subprocess.run(script, shell=True, input=table, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[1].startswith("-,")
    ended = subprocess.run(f"{script} | true", shell=True, input=table, capture_output=True, text=True, check=False)
    assert ended.stderr == ""


def test_entries_are_what_they_are_written_as(tmp_path):
    place = tmp_path / "x.csv"
    for entries, expected in (
        (("007", "007", "7", "7"), ("007", "7")),
        (("\u00b2", "\u00b2", "\u00b3", "\u00b3"), ("\u00b2", "\u00b3")),
        (("1" * 20, "1" * 20, "2", "2"), ("1" * 20, "2")),
        (("-1", "12", "0", "-1"), None),
    ):
        place.write_text("label,x,y\n" + "".join(f"{one},{row},1\n" for row, one in enumerate(entries)), "utf-8")
        held = read_embeddings(place)
        assert held.label_names == expected
    assert held.labels.tolist() == [-1, 12, 0, -1]
    lines = [json.dumps({"label": "a\u2028b", "embedding": [row, 1]}, ensure_ascii=False) for row in range(3)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines), "utf-8")
    assert read_embeddings(tmp_path / "x.jsonl").label_names == ("a\u2028b",)


def test_what_pandas_writes_is_read(tmp_path):
    rows = np.array(ROWS, dtype=np.float32)
    index = "".join(f"{place},{','.join(map(str, row))},a\n" for place, row in enumerate(ROWS))
    (tmp_path / "index.csv").write_text(f",x0,x1,x2,label\n{index}")
    for mark, name in ((", ", "lists.csv"), (" ", "arrays.csv")):
        cells = "".join(f'a,"[{mark.join(map(str, row))}]"\n' for row in ROWS)
        (tmp_path / name).write_text(f"label,embedding\n{cells}")
    for name in ("index.csv", "lists.csv", "arrays.csv"):
        held = read_embeddings(tmp_path / name)
        assert np.array_equal(held.embeddings.numpy(), rows)
        assert held.label_names == ("a",)
    (tmp_path / "cut.csv").write_text('label,embedding\na,"[1.0 ... 2.0]"\n')
    with pytest.raises(ValueError, match="no number in row 1"):
        read_embeddings(tmp_path / "cut.csv")


@pytest.mark.parametrize(("odd", "told"), [({}, "None"), ({"embedding": [1]}, "length 1"), ({"embedding": 3}, "3")])
@pytest.mark.parametrize("row", [1, 3])
def test_a_row_without_its_vector_is_named(tmp_path, odd, told, row):
    rows = [{"embedding": [one, 1]} for one in range(4)]
    rows[row - 1] = odd
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = f"row {row} has {told}, where others have length 2"
    if (odd, row) == ({"embedding": [1]}, 1):
        found = "row 2 has length 2, where others have length 1"
    with pytest.raises(ValueError, match=found):
        read_embeddings(tmp_path / "x.jsonl")


def test_labels_that_know_ids_beside_embeddings_that_do_not_are_told_of(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(2, dtype=np.float32))
    (tmp_path / "labels.csv").write_text("id,label\nb,1\na,2\n")
    with pytest.warns(UserWarning, match="has ids and the embeddings have none, so its labels are taken row by row"):
        assert read_embeddings(tmp_path / "x.npy", labels=tmp_path / "labels.csv").labels.tolist() == [1, 2]
