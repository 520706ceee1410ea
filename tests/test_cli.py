"""What the command line tells strangers: help, and one line on whatever it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from processes import python

COMMANDS = (
    *("demo", "train", "kfold", "embed", "ensemble", "search"),
    *("probe", "rank", "verify", "compare", "diagnose", "mine", "export", "identify", "warm-up"),
)


def test_help_is_for_strangers(call):
    status, out, _ = call("--help")
    assert status == 0
    for word in (*COMMANDS[:-1], ".npz", "embeddings", "Exit status"):
        assert word in out
    for command in COMMANDS:
        status, out, _ = call(command, "--help")
        assert status == 0
        assert "Usage: legolas-metric" in out


SHARED = {
    "--labels",
    "--groups",
    "--ids",
    "--embeddings-key",
    "--labels-key",
    "--encoder",
    "--data",
    "--html",
    "--format",
    "--json",
}
PROTOCOL = {"--protocol", "--queries", "--gallery"}
EPISODES = {"--episodes", "--within-group", "--prototypes", "--seed"}
OPTIONS = {
    "demo": {"--out", "--epochs", "--seed", "--threads"},
    "train": {"--set", "--out"},
    "kfold": {"--set", "--out"},
    "embed": {"--out", "--data", "--fold"},
    "ensemble": {"--how", "--data"},
    "search": {"--settings", "--set", "--trials", "--out"},
    "probe": SHARED,
    "rank": {"--metric", "--k", "--full", "--untrained", *PROTOCOL, *EPISODES, *SHARED},
    "verify": {
        "--metric",
        "--far",
        "--threshold-far",
        "--apply",
        "--apply-labels",
        "--apply-groups",
        "--grid",
        "--untrained",
        *SHARED,
    },
    "compare": {"--metric", "--over", "--same-space", *PROTOCOL, *SHARED},
    "diagnose": {"--untrained", *SHARED},
    "warm-up": {"--json"},
    "export": {
        "--out",
        "--fold",
        "--back-end",
        "--threshold-far",
        "--gallery",
        "--onnx",
        "--tolerance",
        "--calibration",
        "--score-norm",
    },
    "identify": {"--gallery", "--k", "--engine", "--format", "--json"},
    "mine": {
        "--labels",
        "--groups",
        "--ids",
        "--embeddings-key",
        "--labels-key",
        "--out",
        "--form",
        "--miner",
        "--ranks",
        "--guard",
        "--anchors",
        "--candidates",
        "--index",
        "--metric",
        "--margin",
        "--per-anchor",
        "--seed",
        "--json",
    },
}


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_pinned(command):
    from typer.main import get_command

    from legolas_metric.cli.app import app

    held = get_command(app).commands[command].params
    assert {name for option in held for name in option.opts if name.startswith("--")} - {"--help"} == OPTIONS[command]


def test_as_many_episodes_are_drawn_as_the_library_draws():
    from legolas_metric import RetrievalProtocol
    from legolas_metric.cli.choices import protocol_of

    asked = protocol_of("3-way-1-shot", None, None)
    assert asked.episodes == RetrievalProtocol.few_shot(ways=3, shots=1).episodes


ONE_LINE = [
    (("train", "nowhere.toml"), "nowhere.toml: no such file of settings"),
    (("train", "--set", "epoch=3"), "unknown key 'epoch' in the settings: did you mean 'epochs'?"),
    (("train", "--set", "data=nowhere"), "data='nowhere': no such file or folder, and not omniglot"),
    (("train", "--set", "data=x.csv"), "data='x.csv' is neither a folder nor an .npz"),
    (("train", "--set", "data=even.npz"), "even.npz holds no inputs (x, inputs, images, signals, embed"),
    (
        ("train", "--set", "data=singles.npz", "--set", "group=day"),
        "group='day' is no attribute of singles.npz",
    ),
    (
        ("train", "--set", "data=singles.npz", "--set", "protocols=cross-day"),
        "protocols has 'cross-day', which compares groups, but singles.npz has no attribute",
    ),
    (("embed", "nowhere", "--out", "e.npz"), "nowhere holds no run: there is no settings.toml"),
    (("ensemble", "nowhere"), "nowhere holds no run: there is no settings.toml"),
    (("search", "nowhere.toml"), "nowhere.toml: no such file of a search space"),
    (("rank", "nowhere.npz"), "nowhere.npz: no such file"),
    (("rank", "x.xls"), "x.xls has the unknown extension '.xls': expected one of .npz, .npy, .safetensors, .pt"),
    (("probe", "cut.npz"), "cut.npz is not a whole NumPy file (BadZipFile): write it again"),
    (("probe", "pickled.pt"), "pickled.pt holds pickled Python objects, which are never executed: save tensors only"),
    (("rank", "nan.npz"), "nan.npz: embeddings: NaN or inf (in float32) in"),
    (("rank", "zero.npz"), "zero.npz: embeddings: all zero, which has no direction under metric='cosine', in 4 of 40"),
    (("probe", "empty.npz"), "empty.npz: embeddings must be [n, d] with n >= 1 and d >= 1, got shape (0, 8)"),
    (("rank", "x.npy"), "x.npy: no labels: save them beside the embeddings as `labels`, or pass --labels FILE"),
    (("rank", "x.npy", "--labels", "short.npy"), "x.npy: labels has 7 entries for 40 rows of embeddings"),
    (("rank", "x.npy", "--labels", "floats.npy"), "x.npy: labels must be integers, got torch.float64"),
    (("rank", "twice.npz"), "twice.npz: ids must be unique, got 10 that occur more than once"),
    (("rank", "one.npz"), "one.npz: all 40 rows have label 0: a ranking needs rows of another class"),
    (("verify", "one.npz"), "one.npz: no impostor pair"),
    (("rank", "x.npy", "--protocol", "hard"), "--protocol must be one of leave-one-out, cross-session, cross-day, re-"),
    (("rank", "x.npy", "--protocol", "fixed"), "--protocol fixed needs both lists: pass --queries FILE and --gallery"),
    (("rank", "x.npy", "--queries", "y.npy"), "ids must be unique, got 10 that occur more than once"),
    (
        ("rank", "untrained.npz", "--queries", "first.npy"),
        "--queries and --gallery belong to --protocol fixed or re-id",
    ),
    (
        ("rank", "x.npy", "--episodes", "3"),
        "--episodes, --within-group and --prototypes belong to episodes: pass --pro",
    ),
    (
        ("compare", "x.npy", "x.npy", "--labels", "y.npy", "--protocol", "cross-day"),
        "x.npy: no groups, which the proto",
    ),
    (("rank", "untrained.npz", "--protocol", "3-way-1-shot", "--within-group"), "untrained.npz: no groups, which the"),
    (("rank", "untrained.npz", "--protocol", "11-way-1-shot"), "untrained.npz: no 11 classes with 2 rows each in the"),
    (("rank", "untrained.npz", "--protocol", "1-way-1-shot"), "ways must be at least 2, got 1"),
    (("rank", "singles.npz"), "singles.npz: none of 40 queries has a positive"),
    (("mine", "one.npz"), "one.npz: no negatives: all 40 rows have the label 0"),
    (("mine", "singles.npz"), "singles.npz: no positives: each of 40 classes has one row"),
    (("mine", "epoch-1.npz", "--out", "x.csv/t.npz"), "cannot write to x.csv: File exists. Choose another output"),
    (
        ("mine", "epoch-1.npz", "--out", "t.txt"),
        "t.txt has the unknown extension '.txt': expected one of .npz, .safetensors, .jsonl, .csv, .parquet",
    ),
    (("mine", "epoch-1.npz", "--index", "Nonsense"), "Nonsense"),
    (("mine", "epoch-1.npz", "--ranks", "few"), "--ranks must be FIRST-LAST, such as 10-50, got 'few'"),
    (("mine", "epoch-1.npz", "--miner", "random", "--guard"), "--ranks and --guard choose among near rows: not with"),
    (("demo", "--out", "x.csv/demo"), "cannot write to x.csv/demo"),
]


@pytest.mark.parametrize(("arguments", "message"), ONE_LINE)
def test_bad_input_is_one_clear_line_and_status_2(call, arguments, message):
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("legolas-metric: ")
    assert message in err
    assert err.count("\n") == 1


USAGE = [
    (("mine", "x.npy", "--miner", "foo"), "'--miner': 'foo' is not one of 'random', 'semi-hard', 'hard', 'full-hard'"),
    (("rank", "x.npy", "--metric", "l2"), "'--metric': 'l2' is not one of 'cosine', 'dot', 'euclidean'"),
    (("rank", "x.npy", "--k", "0"), "'--k': "),
    (("mine", "x.npy", "--margin", "-1"), "'--margin': "),
    (("demo", "--epochs", "1"), "'--epochs': "),
    (("rank",), "Missing argument 'FILE...' (see legolas-metric rank --help)"),
    (("mine",), "Missing argument 'FILE' (see legolas-metric mine --help)"),
    (("rank", "x.npy", "--metric"), "'--metric' requires an argument"),
    (("rank", "--nope"), "No such option: --nope"),
    (("nonsense",), "No such command 'nonsense' (see legolas-metric --help)"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_bad_usage_is_one_clear_line_and_status_2(call, arguments, message):
    test_bad_input_is_one_clear_line_and_status_2(call, arguments, message)


def test_no_arguments_ask_for_help(call):
    assert call() == call("--help")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, typer.Abort])
def test_an_interrupt_is_status_130(call, monkeypatch, kind):
    def interrupted(*_, **__):
        raise kind

    monkeypatch.setattr("legolas_metric.probes.collapse.probe_embeddings", interrupted)
    assert call("probe", "x.npy") == (130, "", "")


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("Foo", "FAISS does not know the factory 'Foo' for d=8: could not parse index string Foo"),
        (
            "PQ3",
            "FAISS does not know the factory 'PQ3' for d=8: The dimension of the vector (d) should be a multiple of "
            "the number of subquantizers (M)",
        ),
        ("LSH", "FAISS does not know the factory 'LSH' for d=8: it gives no reason"),
        (
            "IVF50,Flat",
            "FAISS refuses to build 'IVF50,Flat' from 40 rows: Number of training points (40) should be at least as "
            "large as number of clusters (50); use fewer lists or codes, or factory='Flat'",
        ),
    ],
)
def test_mine_says_why_faiss_refuses_without_its_source(call, index, reason):
    expected = f"legolas-metric: epoch-1.npz: {reason}\n"
    assert call("mine", "epoch-1.npz", "--index", index) == (2, "", expected)


@pytest.mark.parametrize("name", ["there", "there.npz"])
def test_an_output_that_is_a_folder_is_refused_before_any_work(call, monkeypatch, name):
    Path(name).mkdir()
    monkeypatch.setattr("legolas_metric.cli.inputs.read_embeddings", pytest.fail)
    message = f"legolas-metric: cannot write {name}: it is a folder. Name a file, such as one in that folder.\n"
    assert call("mine", "epoch-1.npz", "--out", name) == (2, "", message)
    assert call("probe", "epoch-1.npz", "--html", name) == (2, "", message)


@pytest.mark.parametrize("command", ["probe", "rank", "verify", "diagnose", "mine"])
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("twice.npz", "ids must be unique, got 10 that occur more than once (first: 0, 1, 2, 3, 4, ...)"),
        ("negative.npz", "ids must be >= 0, got -1: -1 stands for 'no neighbour'"),
        ("fewer.npz", "ids has 7 entries for 40 rows of embeddings: give one for each row"),
        ("scalar.npz", "embeddings must be [n, d] with n >= 1 and d >= 1, got shape ()"),
        ("scalar_ids.npz", "embeddings must be [n, d] with n >= 1 and d >= 1, got shape ()"),
    ],
)
def test_every_command_refuses_the_same_files(call, command, file, message):
    assert call(command, file) == (2, "", f"legolas-metric: {file}: {message}\n")


def test_demo_is_called_with_its_options(call, monkeypatch):
    asked = {}
    monkeypatch.setattr("legolas_metric.demo.run.run_demo", lambda out, **settings: asked.update(settings, out=out))
    assert call("demo", "--out", "there", "--epochs", "4", "--seed", "3", "--threads", "1")[0] == 0
    assert asked == {"out": Path("there"), "epochs": 4, "seed": 3, "threads": 1}


@pytest.mark.parametrize(("missing", "extras"), [("plotly.graph_objects", "report"), ("lightning", "train,report")])
def test_a_missing_extra_is_named(folder, missing, extras):
    # In a process of its own: modules that are taken away here would be missed by other tests.
    script = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['x', 'demo'];"
        "from legolas_metric.cli.app import main; main()"
    )
    if missing == "lightning":  # which the processes of `python` have imported
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    else:
        ended = python("-c", script)
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"pip install 'legolas-metric[{extras}]'\n")


def test_the_package_runs_as_a_module(folder):
    ended = python("-m", "legolas_metric", "rank", "cut.npz")
    assert ended.returncode == 2
    assert ended.stderr == "legolas-metric: cut.npz is not a whole NumPy file (BadZipFile): write it again\n"


def test_the_installed_command_says_what_is_wrong(folder):
    program = Path(sys.executable).with_name("legolas-metric")
    ended = subprocess.run([program, "rank", "cut.npz"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "legolas-metric: cut.npz is not a whole NumPy file (BadZipFile): write it again\n"
