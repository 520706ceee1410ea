"""The direction of imports: a module knows lower layers only, and heavy or optional packages have one door each."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "legolas_metric"

# From the bottom up. Packages are named by their folder; those of one line do not import each other.
LAYERS = (
    {"compiled", "arrays", "signs_of_life"},
    {"checks", "budgets", "lookup", "outputs"},
    {"names", "signatures"},
    {"geometry", "tables", "distributed"},
    {"measures", "relations", "tabular_files", "matched_ids"},
    {"rows", "files"},
    {"triplet_files"},
    {"records"},
    {"datasets", "encoders"},
    {"bank"},
    {"disk"},
    {"samplers", "index"},
    {"miners", "losses"},
    {"probes", "evaluation"},
    {"decisions"},
    {"recipe_settings"},
    {"recipes"},
    {"training", "interop"},
    {"doctor", "report"},
    {"demo", "runs"},
    {"export"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# What each of these must not know although it lies lower: measures and losses judge, whoever chose the examples.
BLIND_TO_MINING = {"losses", "probes", "evaluation", "decisions"}

# Modules of compiled loops: the only ones that import numba, and imported by functions only.
COMPILED = {"avx2", "buffers", "counting_loops", "kept", "passes", "pointers", "row_loops"}

DOORS = {
    "faiss": {"index/faiss.py"},
    "lancedb": {"index/lance_table.py"},
    "pytorch_metric_learning": {"interop"},
    "plotly": {"report/theme.py", "report/page.py"},
    "lightning": {"training", "demo", "runs"},
    "torchmetrics": {"training"},
    "tensorboard": {"doctor/log_readers.py"},
    "mlflow": {"doctor/log_readers.py"},
    "sklearn": {"evaluation", "datasets", "decisions"},
    "PIL": {"datasets/image_files.py"},
    "optuna": {"runs/search.py"},
    "wfdb": {"datasets/ecg.py", "datasets/r_peaks.py"},
    "transformers": {"training/hf_trainer.py", "training/__init__.py"},
}


@cache
def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path, *, top_level: bool = False) -> tuple[str, ...]:
    """Absolute names of what a file imports, function bodies included unless `top_level`."""
    return tuple(_imports(path, top_level))


def _imports(path: Path, top_level: bool) -> Iterator[str]:
    tree = parsed(path)
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if is_module(name) else node.module


@cache
def is_module(name: str) -> bool:
    place = ROOT.parent.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def part(path: Path) -> str:
    """The layer's name that a file belongs to: its folder or, at the top, itself."""
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def own(path: Path) -> list[str]:
    return [name for name in imports(path) if name.split(".")[0] == "legolas_metric"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_lower_layers_only(path):
    if path == ROOT / "__init__.py":
        return
    here = part(path)
    assert here in RANK, f"{here} is in no layer: give it its place in LAYERS"
    for name in own(path):
        if name == "legolas_metric" and path == ROOT / "cli" / "app.py":
            continue  # its version, which is defined there
        assert name != "legolas_metric", f"{path}: import from the module that defines the name"
        there = name.split(".")[1]
        assert there == here or RANK[there] < RANK[here], f"{path}: {here} must not import {there}"
        assert not (here in BLIND_TO_MINING and there in {"miners", "samplers"}), f"{here} must not know {there}"


def test_modules_of_one_package_import_each_other_in_one_direction():
    edges = {module_name(path): {name for name in own(path) if part_of(name) == part(path)} for path in modules()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle of imports: {' -> '.join([*above, name])}"
        if name not in done:
            for below in edges.get(name, ()):
                visit(below, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(name: str) -> str:
    return [*name.split("."), ""][1]


def test_inside_the_indexes_implementations_know_the_protocol_and_auto_knows_them():
    for path in (ROOT / "index").rglob("*.py"):
        here = path.relative_to(ROOT / "index").parts[0].removesuffix(".py")
        known = {name.split(".")[2] for name in own(path) if name.startswith("legolas_metric.index.")}
        if here == "interface":
            assert not known
        elif here not in {"auto", "sharded", "stored_index"}:
            assert not known & ({"exact", "faiss", "auto", "sharded", "lance"} - {here}), f"{path} knows {known}"


@pytest.mark.parametrize("package", DOORS)
def test_heavy_packages_have_one_door(package):
    users = {str(path.relative_to(ROOT)) for path in modules() if package in {n.split(".")[0] for n in imports(path)}}
    strangers = {user for user in users if user not in DOORS[package] and user.split("/")[0] not in DOORS[package]}
    assert not strangers, f"{package} is imported by {', '.join(sorted(strangers))}"


def test_pytorch_metric_learning_is_imported_lazily():
    for path in modules():
        assert "pytorch_metric_learning" not in {name.split(".")[0] for name in imports(path, top_level=True)}


def test_compiled_loops_are_imported_by_what_calls_them():
    for path in modules():
        known = {part for name in imports(path, top_level=True) for part in name.split(".")}
        if path.stem not in COMPILED:
            assert not known & {"numba", "llvmlite", *COMPILED}, f"{path}: import kernels inside the function"


def test_the_roots_stub_holds_explicit_re_exports_and_nothing_else():
    docstring, *body = parsed(ROOT / "__init__.pyi").body
    assert isinstance(docstring, ast.Expr)
    for node in body:
        if isinstance(node, ast.ImportFrom):
            assert all(alias.asname == alias.name for alias in node.names)
        else:
            assert isinstance(node, ast.AnnAssign)
            assert isinstance(node.target, ast.Name)
            assert node.target.id == "__version__"


def room(name: str) -> tuple[str, ...]:
    """The folders in which a module lies, below the package."""
    return tuple(name.split(".")[1:-1])


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_is_entered_by_its_door(path):
    """Nobody imports what another room keeps to itself: names that begin with an underscore."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("legolas_metric"):
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            assert not private, f"{path} takes {', '.join(private)} of {node.module}, which are its own"
            assert not any(part.startswith("_") for part in (node.module or "").split(".")), f"{path}: {node.module}"


def test_only_the_engine_knows_the_inside_of_the_engine():
    for path in modules():
        inside = {name for name in own(path) if name.startswith("legolas_metric.index.exact.")}
        strangers = inside - {f"legolas_metric.index.exact.{door}" for door in ("engine", "precision", "warm_up")}
        if "index/exact" not in str(path):
            assert not strangers, f"{path} knows {', '.join(sorted(strangers))}"


def test_no_two_modules_have_one_name():
    stems = [path.stem for path in modules() if path.stem not in {"__init__", "__main__"}]
    packages = [path.parent.name for path in modules() if path.stem == "__init__" and path.parent != ROOT]
    twice = sorted({name for name in stems if stems.count(name) > 1 or name in packages})
    assert not twice, f"several modules are called {', '.join(twice)}"


MEMORY = re.compile(r"^_?[A-Z_]*(BYTES|ELEMENTS|WORKSPACE|CHUNK|BLOCK|BUDGET)[A-Z_]*$")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_memory_is_budgeted_in_one_place(path):
    """A constant that is named as memory, or is a shift or a product of numbers of 1 << 18 and more."""
    if path.name == "budgets.py" or part(path) == "compiled":
        return
    for node in parsed(path).body:
        target = (
            node.targets[0] if isinstance(node, ast.Assign) else node.target if isinstance(node, ast.AnnAssign) else 0
        )
        if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            budget = is_large(node.value) or MEMORY.match(target.id) is not None
            assert not budget, f"{path}: {target.id} is a budget of memory: take one of `budgets`"


def is_large(value: ast.expr) -> bool:
    plain = (ast.BinOp, ast.Constant, ast.LShift, ast.Mult)
    computed = isinstance(value, ast.BinOp) and all(isinstance(node, plain) for node in ast.walk(value))
    return computed and eval(ast.unparse(value)) >= 1 << 18


def test_the_drawing_is_the_order_that_is_held():
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.search(r"```text\n(compiled.*?)```", page, re.DOTALL)
    assert drawn is not None
    assert [set(re.split(r" {2,}", line)[0].split()) for line in drawn[1].splitlines()] == list(LAYERS)
    rooms = re.findall(r"`([a-z_/]+/|[a-z_/]+\.py)`", page.split("## Where a concept is found")[1])
    inside = {"admissible.py": "index", "top_k.py": "index", "brute_force.py": "index"}
    assert len(rooms) > 15
    assert not [room for room in rooms if not (ROOT / inside.get(room, "") / room).exists()]


def test_no_module_is_named_for_what_it_is_not():
    assert not [path for path in modules() if path.stem in {"utils", "helpers", "common", "misc"}]


def code_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of its body without the docstring; the signature is counted as arguments, not as code."""
    first = function.body[1] if ast.get_docstring(function) is not None and len(function.body) > 1 else function.body[0]
    assert function.end_lineno is not None
    return function.end_lineno - first.lineno + 1


def test_files_and_functions_are_short():
    """Files up to 350 lines; functions under 50, without their docstrings."""
    places = [*modules(), *Path(__file__).parent.glob("*.py")]
    assert not [path.name for path in places if len(path.read_text(encoding="utf-8").splitlines()) > 350]
    functions = [
        (node.name, code_of(node))
        for path in modules()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [name for name, lines in functions if lines >= 50]
