"""Files as users have them, on the command line: odd tables, ids, groups, pages, completion, waiting."""

import csv
import importlib
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import threading

import numpy as np
import pytest

from legolas_metric import evaluate_ranking
from legolas_metric.cli.waiting import waiting
from legolas_metric.files import read_embeddings

NAMES = [f"p{row // 3}" for row in range(12)]


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(12, 3)).round(4)


def table(rows, ids=None, mark=",", names=NAMES) -> str:
    head = mark.join(["id", "label", "x0", "x1", "x2"])
    lines = [mark.join([str(one), name, *map(str, row)]) for one, name, row in zip(ids or range(12), names, rows)]
    return "\n".join([head, *lines]) + "\n"


def test_a_table_is_read_however_it_was_saved(rows, tmp_path):
    plain = table(rows)
    decimal = table(rows, mark=";").replace(".", ",")
    quoted = table(rows, names=[f'"Doe, {name}"' for name in NAMES])
    blanks = "\n".join(" ".join(map(str, row)) for row in rows)
    ways = {
        "plain.csv": plain.encode(),
        "windows.csv": b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode(),
        "semicolons.csv": decimal.encode(),
        "tabs.txt": table(rows, mark="\t").encode(),
        "quoted.csv": quoted.encode(),
        "blanks.txt": blanks.encode(),
    }
    for name, held in ways.items():
        (tmp_path / name).write_bytes(held)
        found = read_embeddings(tmp_path / name)
        assert found.embeddings.numpy() == pytest.approx(rows, abs=1e-6), name
        if name == "quoted.csv":
            assert found.label_names[0] == "Doe, p0"
        elif name != "blanks.txt":
            assert (found.label_names, found.ids.tolist()) == (("p0", "p1", "p2", "p3"), list(range(12))), name


@pytest.mark.parametrize(
    ("name", "held", "told"),
    [
        ("x.csv", "id,label,x0\n", "has names of columns, and no row below them"),
        ("x.csv", "", "is empty"),
        ("x.csv", "label,x,x\na,1,2\n", "2 columns are called 'x': give each its own name"),
        ("x.csv", "label,x0,x1\na,1,2\na,3,\n", "column 'x1' holds no number in row 2 ('')"),
        ("x.csv.gz", "", "is compressed: unpack it first"),
    ],
)
def test_a_table_of_no_use_is_refused_by_what_is_wrong(call, folder, name, held, told):
    (folder / name).write_text(held)
    status, out, err = call("rank", name)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_labels_groups_and_ids_come_from_files_of_their_own_by_name(call, folder, rows):
    pictures = [f"{chr(97 + row)}.png" for row in range(12)]
    sessions = [f"s{row % 2}" for row in range(12)]
    order = np.random.default_rng(1).permutation(12)
    (folder / "bare.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    (folder / "pictures.txt").write_text("\n".join(pictures))
    (folder / "people.csv").write_text("id,label\n" + "".join(f"{pictures[i]},{NAMES[i]}\n" for i in order))
    (folder / "days.csv").write_text("id,group\nz.png,s9\n" + "".join(f"{pictures[i]},{sessions[i]}\n" for i in order))
    asked = ("bare.csv", "--ids", "pictures.txt", "--labels", "people.csv", "--groups", "days.csv")
    status, out, err = call("rank", *asked, "--protocol", "cross-session", "--json")
    assert (status, err) == (0, "")
    from legolas_metric import RetrievalProtocol

    x = np.float32(rows)
    expected = evaluate_ranking(x, NAMES, groups=sessions, protocol=RetrievalProtocol.cross_session())
    assert json.loads(out)["map_at_r"] == expected.map_at_r
    status, _, err = call("mine", *asked, "--out", "triplets.jsonl", "--form", "triplet", "--json")
    assert (status, err) == (0, "legolas-metric: Wrote triplets.jsonl.\n".removeprefix("legolas-metric: "))
    first = json.loads((folder / "triplets.jsonl").read_text().splitlines()[0])
    assert first["anchor"] in pictures
    assert "ids are names" in call("mine", *asked, "--out", "triplets.npz")[2]
    (folder / "people.csv").write_text("id,label\n" + "".join(f"a.png,{name}\n" for name in NAMES))
    assert "people.csv has several rows for 1 ids (first: ['a.png'])" in call("rank", *asked)[2]
    (folder / "people.csv").write_text("id,label\n" + "".join(f"{i},{name}\n" for i, name in enumerate(NAMES)))
    assert "people.csv: ids are numbers there, and not in the other file" in call("rank", *asked)[2]
    status, _, err = call("rank", "epoch-1.npz", "--encoder", "a:b", "--data", "c:d", "--ids", "pictures.txt")
    assert (status, "--groups and --ids go with embeddings" in err) == (2, True)


def test_named_ids_match_the_rows_of_two_files(call, folder, rows):
    pictures = [f"{chr(97 + row)}.png" for row in range(12)]
    (folder / "one.csv").write_text(table(rows, pictures))
    (folder / "two.csv").write_text(table(rows[::-1], pictures[::-1], names=NAMES[::-1]))
    status, out, _ = call("compare", "one.csv", "two.csv", "--json")
    one, two = json.loads(out)
    assert (status, one["map_at_r"]) == (0, two["map_at_r"])
    (folder / "two.csv").write_text(table(rows, [f"{name}x" for name in pictures]))
    assert "12 of 12 ids are not in that file" in call("compare", "one.csv", "two.csv")[2]


def test_a_page_is_told_where_it_disturbs_no_script(call, folder):
    pytest.importorskip("jinja2")
    for command in (("rank",), ("probe",), ("verify",), ("diagnose",)):
        _, out, _ = call(*command, "untrained.npz", "--html", "page.html")
        assert out.endswith("Wrote page.html.\n"), command
        _, out, err = call(*command, "untrained.npz", "--html", "page.html", "--json")
        assert "Wrote" not in out
        assert err.endswith("Wrote page.html.\n")


def test_the_shell_completes_commands_and_options():
    asked = {"_LEGOLAS_METRIC_COMPLETE": "complete_bash", "COMP_WORDS": "legolas-metric ra", "COMP_CWORD": "1"}
    script = "import sys; sys.argv = ['legolas-metric']; from legolas_metric.cli.app import main; "
    script += "import atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); main()"
    ended = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == ["rank"]
    assert ended.stderr.strip() == "False"  # at once: nothing heavy was loaded


def test_a_terminal_that_waits_is_told_what_for(monkeypatch):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))  # of no columns, tqdm draws nothing
    with os.fdopen(follower, "w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setattr("legolas_metric.cli.waiting._DELAY", 600)
        with waiting("quick.npz"):
            pass
        monkeypatch.setattr("legolas_metric.cli.waiting._DELAY", 0.05)
        said = ""
        with waiting("slow.npz"):
            while not re.search(r"slow.npz: 00:0\d", said):
                assert select.select([leader], [], [], 300)[0], "nothing was said"
                said += os.read(leader, 10_000).decode()
    os.close(leader)
    assert "quick" not in said


@pytest.mark.parametrize(
    ("slow", "command"),
    [
        ("legolas_metric.cli.comparison.paired_differences", ("compare", "untrained.npz", "untrained.npz")),
        (
            "legolas_metric.evaluation.decision.drawn_rates",
            ("verify", "untrained.npz", "--threshold-far", "0.1", "--apply", "others.npz"),
        ),
        ("legolas_metric.report.write_page", ("probe", "untrained.npz", "--html", "page.html")),
        ("legolas_metric.files.write_named", ("mine", "untrained.npz", "--out", "triplets.npz")),
        ("legolas_metric.export.from_run.export_run", ("export", "run", "--out", "deployed")),
        ("legolas_metric.export.loading.load_export", ("identify", "deployed", "new.npz")),
        ("legolas_metric.export.same_space.compare_spaces", ("compare", "--same-space", "a", "b")),
        ("legolas_metric.doctor.examination.examine", ("doctor", "run")),
        ("legolas_metric.runs.commands.embed_data", ("embed", "run", "--out", "rows.npz")),
        ("legolas_metric.runs.commands.join", ("ensemble", "run")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
@pytest.mark.filterwarnings("ignore:.*identities are in both sets")
def test_whatever_takes_seconds_is_told_of(call, folder, monkeypatch, slow, command):
    importlib.import_module("tqdm")  # which is shown within the moment that is waited
    where, _, name = slow.rpartition(".")
    whole = getattr(importlib.import_module(where), name)

    told = threading.Event()

    def slowly(*args, **kwargs):
        assert told.wait(300), "nothing was said"
        return whole(*args, **kwargs)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            if re.search(r": 00:\d\d", text):
                told.set()
            return super().write(text)

    with np.load("untrained.npz") as held:
        np.savez("others.npz", embeddings=held["embeddings"][::-1], labels=held["labels"][::-1])
    screen = Terminal()
    monkeypatch.setattr(slow, slowly)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("legolas_metric.cli.waiting._DELAY", 0.02)
    monkeypatch.setattr("legolas_metric.cli.waiting._EVERY", 0.02)
    call(*command)
    assert told.is_set()


def test_nobody_watching_is_told_nothing(capsys, monkeypatch):
    told = []
    monkeypatch.setattr("legolas_metric.cli.waiting._show", lambda *_: told.append(True))
    with waiting("slow.npz"):
        pass
    assert not told
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("always:.*identities are in both sets")
def test_a_threshold_is_tried_on_people_by_their_names_in_one_row_of_csv(call, folder):
    held = dict(np.load(folder / "untrained.npz"))  # closed at once
    x, y = held["embeddings"], held["labels"]
    names = np.array([f"p{one}" for one in y])
    others = np.char.add(names, "z")
    np.savez(folder / "named.npz", embeddings=x, labels=names)
    np.savez(folder / "others.npz", embeddings=x, labels=others)
    np.savez(folder / "some.npz", embeddings=x, labels=np.where(y < 8, others, names))
    asked = ("verify", "named.npz", "--threshold-far", "0.1", "--apply")
    status, out, err = call(*asked, "others.npz", "--format", "csv")
    assert (status, err) == (0, "")  # nobody is in both, though both are numbered from 0
    (row,) = csv.DictReader(out.splitlines())
    told = json.loads(call(*asked, "others.npz", "--json")[1])["applied"]
    assert row["applied to"] == "others.npz"
    assert float(row["FAR (FMR) value"]) == told["far"]
    assert float(row["FRR (FNMR) high"]) == told["frr_interval"][1]
    assert "2 (p8, p9) identities are in both sets" in call(*asked, "some.npz")[2]
