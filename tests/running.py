"""Tiny runs of the command line, shared by the tests of the faces and of the store."""

import contextlib
import fcntl
import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tightbound.cli import main

SOURCE = Path(__file__).parents[1] / "src"
LEAN = ("--no-pictures", "--no-report")
SMALL = ("--latent", "2", "--hidden", "8", "--batch-size", "16", "--draws", "10", "--no-report")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    def lines(self) -> list[dict[str, Any]]:
        """What was printed with --json."""
        return [json.loads(line) for line in self.out.splitlines()]


def call(*arguments: object) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    return Outcome(code, out.getvalue(), err.getvalue())


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a command in a process of its own, to be killed."""
    command = [sys.executable, "-m", "tightbound", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def table(path: Path, rows: int = 60, seed: int = 0) -> Path:
    """Write a table of three real columns and a label."""
    noise = np.random.default_rng(seed).normal(size=(rows, 3))
    columns = [noise[:, 0], noise[:, 0] + 0.1 * noise[:, 1], noise[:, 2]]
    lines = [",".join([*(f"{column[row]:.6f}" for column in columns), str(row % 2)]) for row in range(rows)]
    path.write_text("\n".join(["length,width,depth,sex", *lines]) + "\n")
    return path


def shared(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that one process of this run of the tests has filled; the others wait for it, and nobody changes it."""
    test_run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"tightbound-{test_run}" / name
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            folder.mkdir()
            try:
                make(folder)
            except BaseException:
                shutil.rmtree(folder)
                raise
    return folder


class Finished(NamedTuple):
    run: Path
    data: Path
    outcome: Outcome


@functools.cache
def finished() -> Finished:
    """A finished run on the table: made once per process, never changed by a test."""
    folder = Path(tempfile.mkdtemp(prefix="tightbound-tests-"))
    data = table(folder / "table.csv")
    outcome = call("fit", data, "--out", folder / "run", *fit_flags())
    assert outcome.code == 0, outcome.err
    return Finished(folder / "run", data, outcome)


def fit_flags(steps: int = 40) -> tuple[str, ...]:
    return (*SMALL, "--kind", "real", "--label", "sex", "--steps", str(steps), "--no-diagnosis")


def sha256(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
