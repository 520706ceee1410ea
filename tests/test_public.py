"""What users rely on: the public names and their signatures, which editors and type checkers see, and light imports.

`public_names.txt` holds them; a change that is meant is written there by `.venv/bin/python tests/test_public.py`, and
told in CHANGELOG.md.
"""

import ast
import difflib
import importlib
import inspect
import json
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import legolas_metric

ROOT = Path(__file__).parents[1]
HELD = Path(__file__).with_name("public_names.txt")
PACKAGES = (
    "legolas_metric",
    "legolas_metric.datasets",
    "legolas_metric.encoders",
    "legolas_metric.interop.pml",
    "legolas_metric.report",
    "legolas_metric.training",
)
HEAVY = (
    *("torch", "numpy", "faiss", "sklearn", "numba", "lightning", "plotly", "jinja2", "rich", "typer"),
    *("pytorch_metric_learning", "torchmetrics", "transformers"),
)


def names_of(package: str) -> list[str]:
    """The names that a package offers: those of its stub or its re-exports, or of a module what it defines itself."""
    module = importlib.import_module(package)
    file = Path(str(module.__file__))
    stub = file.with_suffix(".pyi")
    tree = ast.parse((stub if stub.exists() else file).read_text(encoding="utf-8"))
    exported = {
        alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname
    }
    own = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    return sorted(name for name in exported or own if not name.startswith("_"))


def signature(value: Any) -> str:
    """Names of arguments and their defaults; of a default that is an object, its class."""
    held = inspect.signature(value)
    plain = []
    for parameter in held.parameters.values():
        default = parameter.default
        if default is not parameter.empty and not isinstance(default, str | int | float | tuple | None):
            default = _Named(type(default).__name__)
        plain.append(parameter.replace(annotation=parameter.empty, default=default))
    return str(held.replace(parameters=plain, return_annotation=held.empty))


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


def described(package: str, name: str) -> list[str]:
    """A line for a name, and one for each public method and property of a class of ours."""
    value, full = getattr(importlib.import_module(package), name), f"{package}.{name}"
    if inspect.ismodule(value):
        return [f"{full} (module)"]
    if not callable(value) or not getattr(value, "__module__", "").startswith("legolas_metric"):
        return [full]
    lines = [f"{full}{signature(value)}"]
    if inspect.isclass(value):
        ours = [kind for kind in reversed(value.__mro__) if kind.__module__.startswith("legolas_metric")]
        for key, held in sorted({key: held for kind in ours for key, held in vars(kind).items()}.items()):
            function = getattr(held, "__func__", held)
            if key.startswith("_") and key != "__call__":
                continue
            if inspect.isfunction(function):
                lines.append(f"{full}.{key}{signature(function)}")
            elif isinstance(held, property):
                lines.append(f"{full}.{key}")
    return lines


def surface() -> list[str]:
    return [line for package in PACKAGES for name in names_of(package) for line in described(package, name)]


def test_the_public_names_and_their_signatures_are_as_they_were_promised():
    held = HELD.read_text(encoding="utf-8").splitlines()
    change = "\n".join(difflib.unified_diff(held, surface(), "promised", "now", lineterm="", n=0))
    assert not change, (
        f"{change}\n\nIf that is meant: .venv/bin/python tests/test_public.py, and a line in CHANGELOG.md"
    )


def test_the_root_shows_its_names_everywhere():
    names = names_of("legolas_metric")
    assert sorted(legolas_metric.__all__) == names
    assert set(names) <= set(dir(legolas_metric))
    text = pydoc.render_doc(legolas_metric, renderer=pydoc.plaintext)
    assert all(name in text for name in names)
    assert "class EmbeddingBank" in text
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = legolas_metric.no_such_name


def test_importing_the_library_loads_nothing_until_a_name_is_used():
    script = (
        "import sys, json; before = len(sys.modules); import legolas_metric\n"
        "modules = len(sys.modules) - before\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "legolas_metric.EmbeddingBank\n"
        "later = [name for name in ('faiss', 'sklearn', 'lightning', 'plotly', 'pytorch_metric_learning', 'numba') "
        "if name in sys.modules]\n"
        "print(json.dumps([modules, heavy, later, 'torch' in sys.modules]))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules, heavy, later, torch_then = json.loads(ended.stdout)
    assert heavy == later == []
    assert torch_then
    assert modules < 60  # 20 today, in milliseconds; torch has more than a thousand


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["rank", "--help"], ["rank", "--nope"], ["rank"], []])
def test_the_command_line_answers_at_once_without_torch(arguments):
    script = (
        "import sys, atexit, legolas_metric.cli.app as app\n"
        "heavy = ('torch', 'numpy')\n"
        "atexit.register(lambda: print(len(sys.modules) < 600, [name for name in heavy if name in sys.modules]))\n"
        f"sys.argv = ['legolas-metric', *{arguments}]; app.main()"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == (2 if arguments in (["rank", "--nope"], ["rank"]) else 0), ended.stderr
    assert ended.stdout.splitlines()[-1] == "True []"
    if arguments == ["--version"]:
        assert ended.stdout.splitlines()[0] == f"legolas-metric {legolas_metric.__version__}"


PROGRAM = """
import legolas_metric
from legolas_metric import EmbeddingBank, FullHardMiner, evaluate_ranking, RankingReport, Triplets
import numpy as np

rows = np.random.default_rng(0).normal(size=(40, 8))
labels = [row // 4 for row in range(40)]
bank = EmbeddingBank(rows, labels)
triplets: Triplets = FullHardMiner().mine(bank)
report: RankingReport = evaluate_ranking(rows, labels)
share: float = report.rank[1]
version: str = legolas_metric.__version__
legolas_metric.no_such_name
text: str = report.map_at_r
FullHardMiner(no_such_argument=3)
"""


def test_a_type_checker_sees_the_names_and_their_types(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    settings = {"include": [str(tmp_path)], "extraPaths": [str(ROOT)], "venvPath": str(ROOT), "venv": ".venv"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(tmp_path)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    lines = PROGRAM.splitlines()
    wrong = {lines[d["range"]["start"]["line"]] for d in said["generalDiagnostics"] if d["severity"] == "error"}
    assert wrong == set(lines[-3:]), said


if __name__ == "__main__":
    HELD.write_text("\n".join(surface()) + "\n", encoding="utf-8")
