"""How long the tutorial takes from a clone to a slider that moves a picture, word for word, without the reading.

    python benchmarks/tutorial.py [REPOSITORY]

Clones the repository into a temporary folder, runs the commands of docs/tutorial.md there as they stand, in one shell, up to
the explorer, opens its address in Chromium, moves the first slider by the keyboard and waits until the picture changes. Prints
the seconds of every command. Needs the package playwright and a Chromium on the path; packages come from wherever pip gets
them, compiled programs from nowhere.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "speed"))

from common import chromium

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPLORER = "tightbound explore "
DONE = "--done--"


def commands(page: str) -> Iterator[str]:
    """Yield the commands of a page up to the explorer's, which is the last."""
    for block in BLOCK.findall(page):
        for line in block.splitlines():
            yield line
            if line.startswith(EXPLORER):
                return


def walk(clone: Path, cache: Path) -> None:
    """Run the commands in one shell, and print what each took."""
    apart = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    apart["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    shell = subprocess.Popen(["bash"], cwd=clone, env=apart, text=True, start_new_session=True, **pipes)
    assert shell.stdin is not None and shell.stdout is not None
    started = time.perf_counter()
    try:
        for command in commands((clone / "docs" / "tutorial.md").read_text(encoding="utf-8")):
            before = time.perf_counter()
            last = command.startswith(EXPLORER)
            shell.stdin.write(f"{command} --no-browser\n" if last else f"{command}\necho {DONE} $?\n")
            shell.stdin.flush()
            if last:
                address = next(line.split(": ")[0] for line in shell.stdout if line.startswith("http://"))
                print(f"{time.perf_counter() - before:6.1f} s  {command}", flush=True)
                slide(address)
                break
            end = next(line for line in shell.stdout if line.startswith(DONE))
            print(f"{time.perf_counter() - before:6.1f} s  {command}", flush=True)
            if end.split()[1] != "0":
                raise SystemExit(f"failed: {command}")
        print(f"{time.perf_counter() - started:6.1f} s  from the clone to a slider that has moved the picture")
    finally:
        os.killpg(shell.pid, signal.SIGKILL)


def slide(address: str) -> None:
    """Move the first slider of the explorer, and wait until another picture is there."""
    from playwright.sync_api import sync_playwright

    picture = "document.querySelector('#decoded canvas').toDataURL()"
    with sync_playwright() as library:
        browser = chromium(library)
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#decoded[data-z]")
        before = page.evaluate(picture)
        page.locator(".slider input").first.press("ArrowRight")
        page.wait_for_function(f"before => {picture} !== before", arg=before)
        browser.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("repository", nargs="?", default=str(Path(__file__).resolve().parents[1]))
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "tightbound"
        subprocess.run(["git", "clone", "--quiet", arguments.repository, str(clone)], check=True, stdout=sys.stderr)
        walk(clone, Path(folder) / "cache")


if __name__ == "__main__":
    main()
