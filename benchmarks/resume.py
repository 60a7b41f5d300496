"""Kill the digits demo twenty times at random moments, resume it every time, and compare the model files.

    python benchmarks/resume.py [--kills 20] [--seed 0]

writes benchmarks/results/resume.md. A run that survives to its end is compared with one that was never interrupted;
then the next run is started, until all kills are spent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "resume.md"


class Kill(NamedTuple):
    """What was there when a process was killed, and after how long."""

    run: int
    seconds: float
    state: str
    step: int


def command(run: Path, *more: str) -> list[str]:
    """The demo, with a checkpoint every second."""
    return [
        sys.executable,
        "-m",
        "tightbound",
        "fit",
        "digits",
        "--out",
        str(run),
        "--checkpoint-seconds",
        "1",
        "--json",
        *more,
    ]


def start(run: Path, *more: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(command(run, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def sha256(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def state_of(run: Path) -> tuple[str, int]:
    """Say where a run stands, and the step of its last record."""
    if run.exists():
        return "whole", 0
    partial = run.with_name(run.name + ".partial")
    if not partial.exists():
        return "nothing yet", 0
    lines = (partial / "metrics.jsonl").read_text().splitlines() if (partial / "metrics.jsonl").exists() else []
    step = max([json.loads(line)["step"] for line in lines[:-1]] or [0])
    if (partial / "model.safetensors").exists():
        return "finishing", step
    return ("training" if (partial / "checkpoint.safetensors").exists() else "before the first checkpoint"), step


def one_run(folder: Path, number: int, whole_seconds: float, kills: int, moments: random.Random) -> tuple[list[Kill], str]:
    """Run the demo to its end with up to ``kills`` kills on the way; return them and the hash of the model."""
    run, done, resume = folder / f"run{number}", [], []
    while True:
        process = start(run, *resume)
        moment = moments.uniform(0.05, 0.7) * whole_seconds
        try:
            _, err = process.communicate(timeout=moment if len(done) < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done.append(Kill(number, moment, *state_of(run)))
            resume = ["--resume"] if run.with_name(run.name + ".partial").exists() else []
            if run.exists():
                return done, sha256(run)
            continue
        if process.returncode:
            raise SystemExit(f"run {number} failed: {err.decode()}")
        return done, sha256(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    moments, kills, hashes = random.Random(wanted.seed), [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.monotonic()
        whole = start(folder / "whole")
        whole.communicate()
        seconds, expected = time.monotonic() - started, sha256(folder / "whole")
        while len(kills) < wanted.kills:
            # At most seven kills a run, so that several runs come to their end.
            done, digest = one_run(folder, len(hashes) + 1, seconds, min(7, wanted.kills - len(kills)), moments)
            kills += done
            hashes.append(digest)
            print(
                f"run {len(hashes)}: {len(done)} kills, {'the same file' if digest == expected else 'ANOTHER FILE'}",
                flush=True,
            )
    write(kills, hashes, expected, wanted.seed)
    sys.exit(0 if set(hashes) == {expected} else 1)


def write(kills: list[Kill], hashes: list[str], expected: str, seed: int) -> None:
    same = sum(digest == expected for digest in hashes)
    lines = [
        "# Killed and resumed",
        "",
        f"Made by `python benchmarks/resume.py --kills {len(kills)} --seed {seed}`: `tightbound fit digits` with a",
        "checkpoint every second, killed by SIGKILL at random moments and resumed.",
        "",
        f"{len(kills)} kills over {len(hashes)} runs; {same} of {len(hashes)} model files have the sha256 of an",
        f"uninterrupted run (`{expected[:16]}…`).",
        "",
        "| kill | run | seconds after start | state of the run | last record: step |",
        "|---:|---:|---:|---|---:|",
        *(f"| {i} | {kill.run} | {kill.seconds:.1f} | {kill.state} | {kill.step} |" for i, kill in enumerate(kills, 1)),
    ]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
