"""Every Python block of the documentation runs, and every test that a page names exists."""

import ast
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED_TEST = re.compile(r"\b(tests/\w+\.py)::(\w+)")


def blocks(page: Path) -> Iterator[str]:
    """The Python blocks of a page, each shifted down so that a traceback names the line of the page."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield "\n" * text.count("\n", 0, match.start(1)) + match[1]


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=label)
def test_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("__main__")  # as for a reader at the prompt: "__main__:Name" finds what a block defines
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        exec(compile(block, label(page), "exec"), module.__dict__)


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=label)
def test_pages_state_what_their_blocks_yield(page: Path) -> None:
    statements = [node for block in blocks(page) for node in ast.walk(ast.parse(block))]
    assert any(isinstance(node, ast.Assert) for node in statements)


@pytest.mark.parametrize("page", [page for page in PAGES if NAMED_TEST.search(page.read_text("utf-8"))], ids=label)
def test_tests_named_on_a_page_exist(page: Path) -> None:
    for file, name in set(NAMED_TEST.findall(page.read_text(encoding="utf-8"))):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body), f"{file}::{name}"
