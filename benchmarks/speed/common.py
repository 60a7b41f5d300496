"""Racing contestants in turns, and writing down what came out.

Every contestant is a process of its own that sets itself up and then waits. The race goes in rounds: one burst of about a
second each, one after the other, so that whatever else the machine does hits all of them alike; what is reported are
medians over the rounds, of rates and of ratios within a round.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from peers import PYTHAE, peer_python
from problems import Problem

HERE = Path(__file__).resolve().parent
PACKAGES = ("jax", "jaxlib", "equinox", "numpyro", "optax", "numpy")


class Contestant(NamedTuple):
    """What runs: its name in the table, its command, and what it needs in its environment."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = {}

    @property
    def whole_environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


def jax_contestant(name: str, kind: str, problem: Problem) -> Contestant:
    return Contestant(name, (sys.executable, str(HERE / "contestant_jax.py"), kind, json.dumps(problem._asdict())))


def torch_contestant(name: str, kind: str, problem: Problem) -> Contestant:
    # Two torch processes whose threads spin while they wait would slow each other down fifty times.
    python = str(peer_python("torch", PYTHAE))
    command = (python, str(HERE / "contestant_torch.py"), kind, json.dumps(problem._asdict()))
    return Contestant(name, command, {"OMP_WAIT_POLICY": "passive"})


class Runner:
    """A contestant's process: it reports once when it is set up, then once for every burst it is asked for."""

    def __init__(self, contestant: Contestant) -> None:
        self.name = contestant.name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            contestant.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env=contestant.whole_environment,
        )  # fmt: skip
        self.ready = self._report()

    def burst(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._report()

    def stop(self) -> None:
        self.process.communicate()

    def _report(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            sys.exit(f"{self.name} ended early, status {self.process.wait()}:\n{self.errors.read()[-3000:]}")
        return json.loads(line)


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Keep other timings off the machine: they share the lock file named by TIGHTBOUND_TIMING_LOCK, if there is one."""
    name = os.environ.get("TIGHTBOUND_TIMING_LOCK")
    if name is None:
        yield
        return
    with Path(name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def race(contestants: Iterable[Contestant], rounds: int, heats: int = 1) -> dict[str, list[float]]:
    """Return steps per second in every round of every heat, by contestant; what set-up took is printed to stderr.

    Every heat starts all processes anew: one may be several per cent slower than its twin for its whole life.
    """
    contestants = list(contestants)
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for _ in range(heats):
        for name, found in _heat(contestants, rounds).items():
            rates[name] += found
    return rates


def _heat(contestants: list[Contestant], rounds: int) -> dict[str, list[float]]:
    runners: list[Runner] = []
    try:
        for contestant in contestants:
            with turn():
                runners.append(Runner(contestant))
            print(f"{contestant.name}: set up in {runners[-1].ready['setup_seconds']:.1f} s", file=sys.stderr)
        rates: dict[str, list[float]] = {runner.name: [] for runner in runners}
        for _ in range(rounds):
            with turn():
                for runner in runners:
                    rates[runner.name].append(runner.burst()["steps_per_second"])
        return rates
    finally:
        for runner in runners:
            runner.stop()


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """Return the median over the rounds of the ratio within a round."""
    return median(a / b for a, b in zip(of, to, strict=True))


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def data_folder(part: str) -> Path:
    """Return a part of the data folder, or end with a word on how to name it."""
    folder = os.environ.get("TIGHTBOUND_DATA")
    if folder is None:
        sys.exit(f"set TIGHTBOUND_DATA to the folder that holds {part}/")
    return Path(folder) / part


def chromium(library: Any) -> Any:
    """Return a browser of playwright's: the Chromium on the path."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    return library.chromium.launch(executable_path=path, args=["--no-sandbox"])


def spread(values: Iterable[float | None], digits: int = 3) -> str:
    """Return mean ± standard deviation of what is known, nothing when that is nothing."""
    known = [value for value in values if value is not None]
    mean = sum(known) / max(len(known), 1)
    deviation = (sum((value - mean) ** 2 for value in known) / max(len(known), 1)) ** 0.5
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if known else ""


def write(name: str, measured: dict[str, Any]) -> None:
    """Write ``results/<name>.json``: what was measured, on what, with which versions."""
    record = {
        "measured": measured,
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "load": os.getloadavg(),
    }
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def earlier(name: str) -> dict[str, Any]:
    """Return what ``results/<name>.json`` says was measured, for rows that are not measured again."""
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))["measured"]


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
