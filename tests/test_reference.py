"""The reference tells of every public name, and each docstring has its parts: shapes, errors, an example, a source."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from types import FunctionType

import pytest
from test_docs import PUBLIC, ROOT

PAGES = sorted((ROOT / "docs/reference").glob("*.md"))
OURS = {name: value for name, value in PUBLIC.items() if inspect.isclass(value) or isinstance(value, FunctionType)}
SHAPE = re.compile(r"\[\w+(, ?[\w.*/ ]+)*\]")


def entries() -> list[str]:
    return [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)]


def test_every_public_name_has_its_entry_and_there_are_no_others():
    assert sorted(entries()) == sorted(PUBLIC)


def test_the_site_is_built_without_a_warning_and_shows_every_entry(tmp_path):
    pytest.importorskip("zensical")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "paths: [.]" in text
    (tmp_path / "mkdocs.yml").write_text(text.replace("paths: [.]", f"paths: ['{ROOT}']"), encoding="utf-8")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    built = "".join(page.read_text(encoding="utf-8") for page in (tmp_path / "site/reference").rglob("*.html"))
    assert not [name for name in PUBLIC if f'id="{name}"' not in built]


@pytest.mark.parametrize("name", OURS)
def test_a_docstring_says_where_its_method_comes_from(name):
    assert re.search(r"^Sources?: \S", inspect.getdoc(OURS[name]) or "", re.M), f"{name}: end with 'Source: ours.'"


def raises(function: ast.AST) -> bool:
    """Whether a function refuses something by itself, or has arguments checked."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    checked = any(isinstance(call, ast.Name) and call.id.startswith("check_") for call in calls)
    return checked or any(isinstance(node, ast.Raise) for node in ast.walk(function))


@pytest.mark.parametrize("name", OURS)
def test_a_docstring_says_what_is_refused(name):
    node = ast.parse(textwrap.dedent(inspect.getsource(OURS[name]))).body[0]
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    parts = node.body if isinstance(node, ast.ClassDef) else [node]
    for part in (part for part in parts if isinstance(part, ast.FunctionDef) and raises(part)):
        own = node if part.name in ("__init__", "__post_init__") else part
        if not part.name.startswith(("_", "on_")) or own is node:  # Lightning calls on_...
            assert re.search(r"^Raises:$", ast.get_docstring(own) or "", re.M), f"{name}, {part.name}: no Raises"


def array_arguments(function: FunctionType) -> list[str]:
    given = inspect.signature(function).parameters.values()
    return [one.name for one in given if re.search(r"Tensor|ndarray", str(one.annotation))]


@pytest.mark.parametrize("name", [name for name, value in OURS.items() if isinstance(value, FunctionType)])
def test_a_docstring_gives_shapes_where_arrays_come_in(name):
    if array_arguments(OURS[name]):
        assert SHAPE.search(inspect.getdoc(OURS[name]) or ""), f"{name}: shapes of {array_arguments(OURS[name])}"
