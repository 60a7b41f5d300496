"""Speed of importance sampling with k = 1,000, beside loops written out in JAX and pythae's ``get_nll``; and its memory.

    TIGHTBOUND_DATA=folder python benchmarks/evidence/speed.py [--memory]

Networks 784-400-20 and back, Bernoulli likelihood, random weights, thresholded MNIST digits: what a draw costs does not
depend on the weights. Every contestant has its own process, torch its own environment, and they take turns. With
``--memory`` no one races: fresh processes evaluate 64 rows and report the peak of their memory for rising k.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))

import common
from common import Contestant, markdown, race, ratio, write
from peers import PYTHAE, peer_python
from problems import Problem

HERE = Path(__file__).resolve().parent
ROUNDS = 5
DRAWS = 1_000
KS = (1_000, 10_000, 100_000)
PROBLEM = Problem("mnist", 64, 784, (400,), 20, 0)
ON_JAX = {
    "tightbound": "tightbound",
    "jax, one image at a time": "image",
    "jax, eight images side by side": "block",
    "jax, sixteen images, chunks of 100 draws": "chunk",
}
BATCHES = (100, 250, 500, 1_000)


def environment() -> dict[str, str]:
    """The contestants read the networks and the data where those of the training race have them."""
    return {"PYTHONPATH": os.pathsep.join([str(common.HERE), *filter(None, [os.environ.get("PYTHONPATH")])])}


def on_jax(name: str, kind: str, problem: Problem, draws: int) -> Contestant:
    command = (sys.executable, str(HERE / "draws_jax.py"), kind, json.dumps(problem._asdict()), str(draws))
    return Contestant(name, command, environment())


def on_torch(batch: int) -> Contestant:
    python = str(peer_python("torch", PYTHAE))
    # pythae takes one image at a time: a few are enough for a burst. Threads that spin while they wait slow others down.
    problem = json.dumps(PROBLEM._replace(rows=16)._asdict())
    command = (python, str(HERE / "draws_torch.py"), str(batch), problem, str(DRAWS))
    return Contestant(f"pythae get_nll, batch_size = {batch:,}", command, environment() | {"OMP_WAIT_POLICY": "passive"})


def speed() -> None:
    contestants = [on_jax(name, kind, PROBLEM, DRAWS) for name, kind in ON_JAX.items()]
    contestants += [on_torch(batch) for batch in BATCHES]
    rates = race(contestants, ROUNDS)
    ours = rates["tightbound"]
    lines = [
        {"name": name, "images_per_second": median(rate), "tightbound_is_faster_by": ratio(ours, rate)}
        for name, rate in rates.items()
    ]
    rows = [[line["name"], *(f"{number:,.2f}" for number in list(line.values())[1:])] for line in lines]
    print(f"\nImportance sampling, k = {DRAWS:,}, 784-400-20\n")
    print(markdown(["", "images/s", "tightbound ÷ this"], rows))
    # The writer's own folder is that of the training race.
    write("../../evidence/results/speed", {"draws": DRAWS, "lines": lines, "rounds": rates})


def memory() -> None:
    peaks = {}
    for draws in KS:
        contestant = on_jax("memory", "memory", PROBLEM, draws)
        # Reading a compiled program takes less memory than compiling it.
        alone = contestant.whole_environment | {"JAX_ENABLE_COMPILATION_CACHE": "0"}
        done = subprocess.run(contestant.command, env=alone, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"k = {draws:,} failed:\n{done.stderr[-2000:]}")
        peaks[draws] = json.loads(done.stdout)
    rows = [[f"{draws:,}", *(f"{peak[name]:,.0f}" for name in ("before", "after"))] for draws, peak in peaks.items()]
    print(f"\nPeak memory of a fresh process, {PROBLEM.rows} rows, MiB\n")
    print(markdown(["k", "before", "after the evaluation"], rows))
    write("../../evidence/results/memory", {"rows": PROBLEM.rows, "peak_mebibytes": peaks})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--memory", action="store_true", help="report the peak of memory for rising k; no race")
    if options.parse_args().memory:
        memory()
    else:
        speed()


if __name__ == "__main__":
    main()
