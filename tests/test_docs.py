"""The documentation can't rot: its code runs, its arguments exist, its links and commands lead somewhere."""

import ast
import doctest
import importlib
import inspect
import re
import shlex
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
import yaml

import legolas_metric

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "legolas_metric"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DOCTEST_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# Modules that users import from: what each re-exports, or defines itself.
PUBLIC_PACKAGES = (
    "legolas_metric",
    "legolas_metric.datasets",
    "legolas_metric.encoders",
    "legolas_metric.interop.pml",
    "legolas_metric.recipes",
    "legolas_metric.report",
    "legolas_metric.training",
)


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_blocks(path: Path, language: str) -> list[tuple[int, str]]:
    """(line of its first line, text) of each fenced block of a language."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return [(text.count("\n", 0, block.start(1)) + 1, block[1]) for block in found]


@pytest.mark.parametrize("path", [path for path in PAGES if code_blocks(path, "python")], ids=page_id)
def test_code_of_a_page_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # a clone's folder, which a page may read from
    names: dict[str, Any] = {"__name__": "page"}
    for line, block in code_blocks(path, "python"):
        code = compile("\n" * (line - 1) + block, str(path), "exec")
        exec(code, names)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_blocks_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    opened = re.findall(r"^```(\S*)", text, re.M)[::2]
    assert set(opened) <= {"python", "text"}, f"{path.name}: fence code that runs as python, everything else as text"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_commands_exist_with_their_options(path):
    from typer.main import get_command

    from legolas_metric.cli.app import app

    commands: Any = get_command(app)
    for _, block in code_blocks(path, "text"):
        for line in block.splitlines():
            match shlex.split(line, comments=True):
                case ["legolas-metric" | "$legolas-metric", name, *rest] if not name.startswith("-"):
                    assert name in commands.commands, f"{path.name}: no command {name}"
                    known = {option for held in commands.commands[name].params for option in held.opts} | {"--help"}
                    asked = {word for word in rest if word.startswith("--")}
                    assert asked <= known, f"{path.name}: {name} has no {', '.join(asked - known)}"


def pages_of(entries: list[Any]) -> list[str]:
    """The pages of a list of contents, those of its sections too."""
    held = [value for entry in entries for value in entry.values()]
    return [page for value in held for page in (pages_of(value) if isinstance(value, list) else [value])]


def test_every_page_is_in_the_contents():
    listed = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(pages)
    linked = set(re.findall(r"\]\((\S+\.md)\)", (ROOT / "docs/index.md").read_text(encoding="utf-8")))
    assert linked <= pages
    assert {page for page in pages - linked if not page.startswith("reference/")} == {"index.md"}


def examples() -> dict[str, tuple[Path, int, str]]:
    """Name -> (file, line, text) of every docstring with an example, private ones too."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                name = getattr(node, "name", path.stem)
                if ">>>" in text:
                    found[f"{path.relative_to(SOURCE)}:{name}"] = (path, getattr(node, "lineno", 0), text)
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_hold(name, tmp_path, monkeypatch, capsys):
    path, line, text = EXAMPLES[name]
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    test = doctest.DocTestParser().get_doctest(text, dict(vars(module)), name, str(path), line)
    result = doctest.DocTestRunner(optionflags=DOCTEST_FLAGS).run(test)
    assert result.attempted > 0
    assert result.failed == 0, capsys.readouterr().out


def public_names() -> dict[str, Any]:
    """Name -> what it is; what several modules offer stands under the first."""
    found: dict[str, Any] = {}
    for package in PUBLIC_PACKAGES:
        module = importlib.import_module(package)
        file = Path(str(module.__file__))
        stub = file.with_suffix(".pyi")
        body = ast.parse((stub if stub.exists() else file).read_text(encoding="utf-8")).body
        lazily = [inner for node in body if isinstance(node, ast.If) for inner in node.body]  # if TYPE_CHECKING
        imports = [node for node in (*body, *lazily) if isinstance(node, ast.ImportFrom)]
        names = [alias.name for node in imports for alias in node.names if alias.asname == alias.name]
        names += [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        for name in names:
            value = getattr(module, name)
            if not (name.startswith("_") or inspect.ismodule(value) or any(value is held for held in found.values())):
                found[f"{package}.{name}"] = value
    return found


PUBLIC = public_names()


def described(docstring: str, heading: str) -> set[str]:
    """Names under a heading such as "Args:", where several may share a line: `labels, ids: ...`."""
    section = re.search(rf"^ *{heading}:\n((?:(?: +.*)?\n?)*?)(?=^\S|^ *[A-Z]\w+:\n|\Z)", docstring, re.M)
    if section is None:
        return set()
    lines = [line for line in section[1].splitlines() if line.strip()]
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    entries = [line.strip() for line in lines if len(line) - len(line.lstrip()) == indent]
    names = [match[1] for entry in entries if (match := re.match(r"((?:\w+(?:, )?)+):", entry))]
    return {name for group in names for name in group.split(", ")}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented_with_an_example(name):
    value = PUBLIC[name]
    if not (inspect.isclass(value) or isinstance(value, FunctionType)):
        return
    text = inspect.getdoc(value) or ""
    assert text, f"{name} has no docstring"
    assert "dataclass" not in text or not text.startswith(f"{value.__name__}("), f"{name} has dataclass's own docstring"
    assert ">>>" in text, f"{name} has no runnable example"


@pytest.mark.parametrize("name", PUBLIC)
def test_documented_arguments_exist(name):
    value = PUBLIC[name]
    if inspect.isclass(value):
        text = inspect.getdoc(value) or ""
        held = {field.name for field in fields(value) if field.repr} if is_dataclass(value) else set()
        kept = set(re.findall(r"self\.(\w+)", inspect.getsource(value)))
        assert described(text, "Attributes") <= held | kept | set(dir(value)), f"{name}: Attributes"
        assert described(text, "Args") <= set(inspect.signature(value).parameters), f"{name}: Args"
        if is_dataclass(value):
            unnamed = {field for field in held if not re.search(rf"\b{field}\b", text, re.IGNORECASE)}
            assert not unnamed, f"{name} does not say what {', '.join(sorted(unnamed))} is"
        functions = {f"{name}.{key}": method for key, method in vars(value).items() if not key.startswith("_")}
    else:
        functions = {name: value}
    for where, function in functions.items():
        plain = getattr(function, "__func__", function)
        if callable(plain):
            documented = described(inspect.getdoc(plain) or "", "Args")
            assert documented <= set(inspect.signature(plain).parameters), f"{where}: {documented}"
            assert inspect.getdoc(plain), f"{where} has no docstring"


def test_the_reader_of_docstrings_reads_them():
    text = legolas_metric.EmbeddingBank.encode.__doc__
    assert described(inspect.cleandoc(text), "Args") >= {"encoder", "dataset", "labels", "ids", "progress", "step"}
    text = inspect.getdoc(legolas_metric.MiningStats)
    assert described(text, "Attributes") == {field.name for field in fields(legolas_metric.MiningStats)}
    assert described("One.\n\nArgs:\n    x: a\n        more: of it\n    y, z: b\n\nReturns:\n    w: c", "Args") == {
        "x",
        "y",
        "z",
    }
