"""Nothing is lost on the way out: no input, no figures, no hours; and nothing reaches the terminal that isn't text."""

import json
import os
import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_files import embeddings
from test_cli_checkpoints import checkpoints as checkpoints

OUTPUTS = [
    ("rank", "epoch-1.npz", "--html", "epoch-1.npz"),
    ("rank", "epoch-2.npz", "epoch-1.npz", "--html", "link.npz"),
    ("rank", "untrained.npz", "--untrained", "epoch-1.npz", "--html", "./epoch-1.npz"),
    ("probe", "epoch-1.npz", "--html", "link.npz"),
    ("verify", "x.npy", "--labels", "y.npy", "--html", "y.npy"),
    ("compare", "untrained.npz", "epoch-1.npz", "--html", "epoch-1.npz"),
    ("diagnose", "untrained.npz", "--untrained", "epoch-1.npz", "--html", "epoch-1.npz"),
    (
        "rank",
        "epoch-1.npz",
        "--protocol",
        "fixed",
        "--queries",
        "first.npy",
        "--gallery",
        "even.npz",
        "--html",
        "even.npz",
    ),
    ("mine", "epoch-1.npz", "--out", "epoch-1.npz"),
    ("mine", "link.npz", "--out", "epoch-1.npz"),
    ("mine", "epoch-1.npz", "--labels", "untrained.npz", "--out", "untrained.npz"),
]


@pytest.mark.parametrize("arguments", OUTPUTS)
def test_an_output_never_destroys_an_input(call, arguments):
    Path("link.npz").symlink_to("epoch-1.npz")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert f"{arguments[-1].removeprefix('./')} would be overwritten, but " in err
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def fails(*_, **__):
    raise OSError(28, "No space left on device")


def test_figures_are_printed_before_a_file_is_written_that_may_fail(call, monkeypatch):
    monkeypatch.setattr("legolas_metric.outputs.os.fsync", fails)
    for command in ("probe", "rank", "verify", "diagnose", "compare"):
        files = ("untrained.npz", "epoch-1.npz") if command == "compare" else ("untrained.npz",)
        status, out, err = call(command, *files, "--html", "page.html")
        assert status == 2
        assert "No space left on device" in err
        assert "effective rank" in out if command == "probe" else "queries" in out or "EER" in out
        assert not Path("page.html").exists()
    for form, word in ((), "without positive"), (("--json",), '"no_positive"'):
        status, out, err = call("mine", "epoch-1.npz", "--out", "t.npz", *form)
        assert (status, word in out, "Wrote" in out) == (2, True, False)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((7, 5, 5), np.uint8), "images has 7 entries for 40 rows of embeddings"),
        (np.zeros((40, 5, 5), np.int64), "images can't be shown on the page: an image must be uint8"),
        (np.zeros((40, 5, 5, 4), np.uint8), "images can't be shown on the page: an image must be [h, w]"),
    ],
)
@pytest.mark.parametrize("command", ["rank", "diagnose"])
def test_wrong_images_are_refused_before_the_work(call, monkeypatch, command, images, message):
    x, y = embeddings(0.6)
    np.savez("pictures.npz", embeddings=x, labels=y, images=images)
    monkeypatch.setattr("legolas_metric.evaluation.ranking.evaluate_ranking", pytest.fail)
    monkeypatch.setattr("legolas_metric.doctor.diagnosis.diagnose", pytest.fail)
    status, out, err = call(command, "pictures.npz", "--html", "page.html")
    assert (status, out) == (2, "")
    assert f"pictures.npz: {message}" in err


def test_what_controls_a_terminal_does_not_reach_it(call):
    x, y = embeddings(0.6)
    evil = "\x1b[2J\x07\nx\udcff.npz"
    np.savez(evil, embeddings=x, labels=y)
    shown = []
    for form in ("table", "csv", "markdown", "json"):
        status, out, err = call("rank", evil, "untrained.npz", "--format", form)
        assert status == 0
        shown += [out, err]
    for arguments in (("rank", evil), ("rank", "\x1b[2J.npz"), ("probe", evil), ("mine", evil, "--out", "\x1b[1m.npz")):
        shown += call(*arguments)[1:]
    shown += call("compare", evil, "untrained.npz", "--html", "page.html")[1:]
    for text in shown:
        assert not set(text) - {"\n"} & {chr(code) for code in range(32)}
        text.encode()
    assert any("\\x1b[2J" in text for text in shown)
    assert json.loads(call("rank", evil, "--json")[1])["file"] == evil


def test_flags_are_checked_before_anything_is_encoded(call, checkpoints, monkeypatch):
    monkeypatch.setattr("legolas_metric.bank.EmbeddingBank.encode", pytest.fail)
    own = ("plain.pt", "--encoder", "own_code:net", "--data", "own_code:data")
    for command, flags, message in (
        ("verify", ("--far", "0"), "--far must lie in (0, 1], got 0.0"),
        ("rank", ("--protocol", "cross-day"), "no groups, which the protocol 'cross-day' compares"),
        ("rank", ("--protocol", "3-way-1-shot", "--within-group"), "no groups, which the protocol"),
        ("rank", ("--protocol", "nonsense"), "--protocol must be one of"),
        ("rank", ("--html", "plain.pt"), "plain.pt would be overwritten"),
        ("rank", ("--html", "x.csv/page.html"), "cannot write to x.csv"),
    ):
        status, out, err = call(command, *own, *flags)
        assert (status, out) == (2, "")
        assert message in err


@pytest.mark.parametrize(
    ("encoder", "data", "message"),
    [
        ("own_code:leaving", "own_code:data", "--encoder own_code:leaving failed: SystemExit: 0"),
        ("own_code:net", "own_code:leaving", "--data own_code:leaving failed: SystemExit: 0"),
        ("leaves:net", "own_code:data", "--encoder leaves:net: importing leaves failed: SystemExit: 0"),
        ("own_code:leaver", "own_code:data", "the encoder or its data failed: SystemExit: 3"),
        ("torch.nn:Flatten", "own_code:data", "nothing to load into: the encoder, Flatten, has no weights"),
        ("own_code:ended", "own_code:data", "the encoder or its data failed: StopIteration"),
    ],
)
def test_an_encoder_that_ends_everything_is_one_line(call, checkpoints, encoder, data, message):
    with Path("own_code.py").open("a") as file:
        file.write(
            "def leaving():\n    raise SystemExit(0)\n"
            "class Leaver(Sequential):\n    error = SystemExit(3)\n"
            "    def forward(self, x):\n        raise self.error\n"
            "class Ended(Leaver):\n    error = StopIteration()\n"
            "leaver = lambda: Leaver(*net())\nended = lambda: Ended(*net())\n"
        )
    Path("leaves.py").write_text("raise SystemExit(0)\n")
    status, out, err = call("rank", "plain.pt", "--encoder", encoder, "--data", data)
    assert (status, out) == (2, "")
    assert message in err.split("\r")[-1]


def test_inputs_that_are_no_pictures_leave_the_examples_out_and_say_so(call, checkpoints):
    own = ("--encoder", "own_code:net", "--data", "images.npz")
    x, y = embeddings(0.6)
    np.savez("images.npz", images=x.astype(np.float64).astype(np.float32), labels=y)
    assert call("rank", "plain.pt", *own, "--html", "signals.html")[0] == 0
    assert "Worst queries" in Path("signals.html").read_text()
    Path("own_cubes.py").write_text(
        "from own_code import Sequential, data, net\n"
        "cube = lambda: (data()[0].view(40, 2, 2, 2), data()[1])\n"
        "class Flat(Sequential):\n    def forward(self, x):\n        return super().forward(x.flatten(1))\n"
        "flat = lambda: Flat(*net())\n"
    )
    own = ("--encoder", "own_cubes:flat", "--data", "own_cubes:cube")
    status, _, err = call("rank", "plain.pt", *own, "--html", "c.html")
    assert status == 0
    assert "the page shows no examples: images can't be shown on the page: a signal must be" in err
    assert "Worst queries" not in Path("c.html").read_text()


def test_a_page_goes_to_a_pipe_and_a_link_stays_one(call):
    Path("deep").mkdir()
    Path("page.html").symlink_to("deep/page.html")
    assert call("probe", "x.npy", "--html", "page.html")[0] == 0
    assert Path("page.html").is_symlink()
    os.mkfifo("pipe.html")
    cat = ["timeout", "300", "cat", "pipe.html"]
    with subprocess.Popen(cat, stdout=subprocess.PIPE) as reader, ThreadPool(1) as pool:
        received = pool.apply_async(reader.communicate)
        assert call("probe", "x.npy", "--html", "pipe.html")[0] == 0
        assert received.get()[0].decode().endswith("</html>\n")


def test_arrays_of_other_names_are_read_by_every_command(call):
    x, y = embeddings(0.6)
    np.savez("other.npz", feats=x, pids=y, names=np.array([f"c{label}" for label in y]))
    keys = ("--embeddings-key", "feats", "--labels-key", "pids")
    for command in ("probe", "rank", "verify", "diagnose", "mine"):
        status, out, _ = call(command, "other.npz", *keys, "--json")
        _, expected, _ = call(command, "untrained.npz", "--json")
        assert status == 0
        assert timeless(out) == timeless(expected)
    assert call("compare", "other.npz", "other.npz", *keys)[0] == 0
    _, out, _ = call("rank", "other.npz", "--embeddings-key", "feats", "--labels-key", "names", "--json")
    assert timeless(out) == timeless(call("rank", "untrained.npz", "--json")[1])
    _, _, err = call("rank", "other.npz")
    told = (
        "has no array named 'embeddings'; it holds feats, pids, names: name the one that is meant with --embeddings-key"
    )
    assert told in err
    _, _, err = call("rank", "other.npz", "--embeddings-key", "feats")
    assert "or name their array with --labels-key" in err


def timeless(text: str) -> dict:
    held = json.loads(text)
    return {key: value for key, value in held.items() if key not in ("file", "seconds", "details")}


def test_warm_up_prints_the_seconds_of_each_loop(call, monkeypatch):
    module = type(sys)("legolas_metric.index.exact.warm_up")
    module.warm_up = lambda: {"float32": 1.25}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("legolas_metric.evaluation.tally.warm_up", lambda: {"counting": 0.5})
    status, out, _ = call("warm-up")
    assert status == 0
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in out.splitlines() if line[:1] == "│"]
    assert cells == [["float32", "1.25"], ["counting", "0.50"], ["in all", "1.75"]]
    assert json.loads(call("warm-up", "--json")[1]) == {"seconds": {"float32": 1.25, "counting": 0.5, "in all": 1.75}}


def test_warnings_are_one_line_too(call, monkeypatch):
    def warned(*_, **__):
        torch.tensor([1.0])
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("slow,\nbut right", stacklevel=1)
        return {"float32": 1.0}

    module = type(sys)("legolas_metric.index.exact.warm_up")
    module.warm_up = warned
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("legolas_metric.evaluation.tally.warm_up", dict)
    assert call("warm-up")[2] == "legolas-metric: slow, but right\n"
