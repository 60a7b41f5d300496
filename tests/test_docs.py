"""Every block of the documentation runs, its reference covers every public name, and every test that a page names exists."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

import tightbound as tb
from running import LEAN, call

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# On these pages the commands run as well, between the Python blocks, as a reader comes to them.
WALKED = [ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
FENCE = re.compile(r'^```(python|sh|toml)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NAMED_TEST = re.compile(r"\b(tests/\w+\.py)::(\w+)")
REFERENCE = re.compile(r"^::: tightbound\.(\w+)$", re.MULTILINE)

# What takes a while is run with smaller networks and for fewer epochs: the lines after it need a run, not a good one.
STAND_INS = {
    "make demo": "tightbound fit digits --out runs/digits --hidden 16 --epochs 3",
    (two := "tightbound fit digits --out runs/two --latent 2"): f"{two} --hidden 64 --epochs 20",
}
# Pictures are drawn in other tests, and few draws do unless a page says how many.
BRIEF = {"fit": (*LEAN, "--draws", "20")}
# What does not run here, and why.
ELSEWHERE = {
    "git clone": "the tests run in the checkout",
    "cd tightbound": "the tests run in the checkout",
    ". .venv/bin/activate": "the tests run in an environment",
    "pip install": "the tests install nothing",
    "make docs": "it builds the site, which needs an extra of its own",
    "export PYTHONPATH": "the path of this process is set in Python",
    "tightbound explore": "it serves until Ctrl-C; tests/test_browser.py walks through the page",
}


class Block(NamedTuple):
    language: str
    file: str | None  # what the reader puts the text into
    line: int
    text: str


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1] in languages:
            yield Block(match[1], match[2], text.count("\n", 0, match.start(3)), match[3])


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


WITH_PYTHON = [page for page in PAGES if any(blocks(page, "python"))]


def run_commands(text: str) -> None:
    """Run the lines of a shell block, with `> FILE` as the only thing that a shell does with them."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(STAND_INS.get(line, line), comments=True)
        if not words or any(line.startswith(start) for start in ELSEWHERE):
            continue
        assert words[0] == "tightbound", f"neither run nor excused: {line}"
        target = Path(words[-1]) if words[-2] == ">" else None
        command, *options = words[1:-2] if target else words[1:]
        outcome = call(command, *BRIEF.get(command, ()), *options)
        assert outcome.code == 0, f"{line}\n{outcome.err}"
        if target:
            target.write_text(outcome.out, encoding="utf-8")


@pytest.mark.parametrize("page", WITH_PYTHON, ids=label)
def test_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("__main__")  # as for a reader at the prompt: "__main__:Name" finds what a block defines
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python", *(["sh", "toml"] if page in WALKED else [])):
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            run_commands(block.text)
        else:  # shifted down so that a traceback names the line of the page
            exec(compile("\n" * block.line + block.text, label(page), "exec"), module.__dict__)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=label)
def test_pages_state_what_their_blocks_yield(page: Path) -> None:
    statements = [node for block in blocks(page, "python") for node in ast.walk(ast.parse(block.text))]
    assert any(isinstance(node, ast.Assert) for node in statements)


@pytest.mark.skipif(find_spec("zensical") is None, reason="Zensical is not installed; it comes with the extra docs")
def test_the_site_is_built_whole_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    for folder in ("docs", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    (tmp_path / "src").symlink_to(ROOT / "src")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "tools"), *sys.path])}
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = [page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("*.html")]
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md"))), "every page, and one for addresses that do not exist"
    assert not [found for page in pages for found in re.findall(r'(?:src|<link[^>]*href)="?https?://[^">]*', page)]
    equations = (tmp_path / "site" / "equations.html").read_text(encoding="utf-8")
    assert equations.count("<math") > 100 and "$" not in re.sub(r"<(code|script|style).*?</\1>", "", equations, flags=re.DOTALL)


def test_every_page_that_is_walked_has_blocks() -> None:
    assert set(WALKED) <= set(WITH_PYTHON)


def test_every_public_name_stands_once_in_the_reference() -> None:
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    names = [name for page in pages for name in REFERENCE.findall(page.read_text(encoding="utf-8"))]
    assert sorted(names) == sorted(tb.__all__)


def test_every_page_stands_in_the_navigation() -> None:
    listed = set(re.findall(r'"([\w/]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")))
    assert listed == {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}


@pytest.mark.parametrize("page", [page for page in PAGES if NAMED_TEST.search(page.read_text("utf-8"))], ids=label)
def test_tests_named_on_a_page_exist(page: Path) -> None:
    for file, name in set(NAMED_TEST.findall(page.read_text(encoding="utf-8"))):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body), f"{file}::{name}"
