"""The wheel holds what a user needs, and works outside the checkout."""

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel that was made of it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (found,) = built.glob("*.whl")
    return found


def test_the_sdist_holds_what_is_kept_in_the_repository_and_nothing_else(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("no checkout to compare with")
    kept = {name for name in listed.stdout.splitlines() if not name.startswith(".ci/") and (ROOT / name).exists()}
    assert kept - names == set()
    assert {name.split("/")[0] for name in names - kept} <= {
        "PKG-INFO",
        "legolas_metric",
        "tests",
        "docs",
        "benchmarks",
    }


def test_the_wheel_holds_code_data_notices_and_types_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "legolas_metric/datasets/omniglot_background.npz",
        "legolas_metric/datasets/OMNIGLOT-LICENSE.txt",
        "legolas_metric/py.typed",
        "legolas_metric/report/page.css",
        "legolas_metric/report/page.html",
        "legolas_metric/__init__.pyi",
        *(str(path.relative_to(ROOT)) for path in (ROOT / "legolas_metric").rglob("*.html")),
    ):
        assert needed in names
    source = {str(path.relative_to(ROOT)) for path in (ROOT / "legolas_metric").rglob("*.py")}
    assert source <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"legolas_metric"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_wheel_loads_its_data_outside_the_checkout(wheel, tmp_path):
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import legolas_metric;"
        "from legolas_metric.datasets import load_omniglot; print(legolas_metric.__file__, len(load_omniglot()))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    where, count = done.stdout.rsplit(maxsplit=1)
    assert Path(where).is_relative_to(target)
    assert count == "19280"


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = settings["optional-dependencies"]
    lines = [*settings["dependencies"], *(line for name, part in extras.items() if name != "dev" for line in part)]
    declared = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in lines}
    imported = set()
    for path in (ROOT / "legolas_metric").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "legolas_metric", "llvmlite"}  # llvmlite is of numba
    known = packages_distributions()
    # What an extra brings may be absent here: then it is called as its module is.
    called = {name: {each.lower().replace("_", "-") for each in (name, *known.get(name, ()))} for name in imported}
    assert {name for name, names in called.items() if not names & declared} == set()
    # By the Trainer of transformers, and by who uses it; by torch's exporter, which `export` asks for by name.
    asked_for = {"datasets", "accelerate", "onnx", "onnxscript"}
    assert declared - asked_for <= set().union(*called.values())
