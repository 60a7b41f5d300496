"""The source tree keeps its shape: which layer a module belongs to, what it may import, what it must never do."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tightbound

SOURCE = Path(__file__).parents[1] / "src" / "tightbound"
LAYERS = {
    0: {"errors", "spec", "files"},
    1: {"schema", "rows", "networks", "flows", "distributions"},
    2: {"posteriors", "priors", "likelihoods"},
    3: {"model", "hierarchy"},
    4: {"objectives", "evidence", "diagnosis", "training", "data", "store", "inference", "cite"},
    5: {"fitting", "sweeping", "holdout", "recipes", "settings", "outputs", "testing", "completion", "tabular"}
    | {"pictures", "report", "explorer", "compress", "estimators", "cli", "__main__"},
    6: {"__init__"},  # the public names, which nothing inside imports
}
LAYER = {unit: layer for layer, units in LAYERS.items() for unit in units}
TRAINING = (("training", unit) for unit in ("objectives", "store", "data"))
SIBLINGS = {("diagnosis", "evidence"), ("hierarchy", "model"), *TRAINING}
HEAVY = {"sklearn", "PIL", "pyarrow", "matplotlib", "typer", "rich", "starlette", "uvicorn", "constriction", "pandas"}
PICKLING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

TREES = {
    path.relative_to(SOURCE).with_suffix("").as_posix(): ast.parse(path.read_text(encoding="utf-8"), str(path))
    for path in sorted(SOURCE.rglob("*.py"))
}


def unit(module: str) -> str:
    """The module or package directly under tightbound that a file belongs to: a package counts as one unit."""
    return module.partition("/")[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Every name that the code imports, with dots: 'a.b' for ``import a.b``, 'a.b.c' for ``from a.b import c``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: own modules are imported by their full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.AST) -> set[str]:
    """The modules of tightbound that the code imports, as keys of TREES."""
    found = set()
    for name in imports(tree):
        parts = name.split(".")
        if parts[0] == "tightbound":
            prefixes = ("/".join(parts[1:end]) for end in range(len(parts), 1, -1))
            keys = (key for prefix in prefixes for key in (prefix, f"{prefix}/__init__"))
            found.add(next((key for key in keys if key in TREES), "__init__"))
    return found


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    yield from ((module, node) for module, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kind))


def test_every_module_has_a_layer() -> None:
    homeless = {unit(module) for module in TREES} - set(LAYER)
    assert not homeless, f"give {homeless} a layer in LAYERS, and say why in docs/decisions.md"


def test_modules_import_downward_only() -> None:
    edges = {(unit(module), unit(other)) for module, tree in TREES.items() for other in own_imports(tree)}
    for above, below in sorted(edges):
        free = above == below or LAYER[above] > LAYER[below] or (above, below) in SIBLINGS
        related = LAYER[above] == LAYER[below] and LAYER[above] not in (2, 4)
        assert free or related, f"{above} (layer {LAYER[above]}) imports {below} (layer {LAYER[below]})"


@pytest.mark.parametrize("name", [str, unit], ids=["modules", "units"])
def test_no_cycles(name: Callable[[str], str]) -> None:
    graph: dict[str, set[str]] = {}
    for module, tree in TREES.items():
        graph.setdefault(name(module), set()).update(map(name, own_imports(tree)))
    for node, others in graph.items():
        others.discard(node)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_own_modules_are_imported_at_the_top() -> None:
    hidden = [(module, f.name) for module, f in nodes(ast.FunctionDef | ast.AsyncFunctionDef) if own_imports(f)]
    assert not hidden
    by_name = {module for module, tree in TREES.items() if "import_module(" in ast.unparse(tree)}
    # Public names on first use, a fast --help, Custom targets, the reader that a file needs.
    assert by_name <= {"__init__", "cli", "spec", "data/load"}


def test_heavy_libraries_stay_in_the_faces_and_in_data() -> None:
    for module, tree in TREES.items():
        heavy = {name.partition(".")[0] for name in imports(tree)} & HEAVY
        allowed = unit(module) == "data" or LAYER[unit(module)] == 5
        assert allowed or not heavy, f"{module} imports {heavy}"


def test_the_core_loads_no_heavy_library() -> None:
    use = "import sys, tightbound as tb; tb.VAE, tb.train, tb.load, tb.importance"
    code = f"{use}; print(sorted({HEAVY!r} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(SOURCE.parent)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == "[]"


def test_nothing_pickles_or_evaluates_text() -> None:
    for module, tree in TREES.items():
        assert not {name.partition(".")[0] for name in imports(tree)} & PICKLING, module
    for module, call in nodes(ast.Call):
        assert not (isinstance(call.func, ast.Name) and call.func.id in ("eval", "exec")), (module, call.lineno)
        for keyword in call.keywords:
            refused = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            assert keyword.arg != "allow_pickle" or refused, (module, call.lineno)


def test_public_modules_say_what_they_are_and_what_they_offer() -> None:
    for module, tree in TREES.items():
        assert ast.get_docstring(tree), f"{module} has no docstring"
        assigned = {ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
        only_a_docstring = len(tree.body) == 1
        assert "__all__" in assigned or only_a_docstring or module == "__main__", f"{module} has no __all__"


@pytest.mark.parametrize("name", tightbound.__all__)
def test_public_names_are_documented(name: str) -> None:
    text = getattr(tightbound, name).__doc__
    assert text and not text.startswith(f"{name}("), f"{name} has no docstring of its own"
