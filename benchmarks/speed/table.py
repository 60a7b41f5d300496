"""A small table: how long a training takes from shell to result, and how fast its steps are.

    python benchmarks/speed/table.py

1,000 rows of 10 real columns, two hidden layers of 64, 4 latents, Gaussian likelihood, batches of 64, 200 epochs. The whole
training runs in fresh processes, import and compilation included: with an empty folder for compiled programs, and again
with the folder that this has filled. Steps per second are those of long-running processes. The plain torch loop reads
batches from a DataLoader over a TensorDataset, as tutorials write it; the tuned one indexes a tensor and uses fused Adam.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from common import HERE, Contestant, jax_contestant, markdown, race, ratio, torch_contestant, turn, write
from problems import Problem

ROUNDS, TOTALS, EPOCHS = 7, 5, 200
PROBLEM = Problem("table", 1_000, 10, (64, 64), 4, 64)


def cached(folder: str, rows: Path) -> Contestant:
    """Return the whole training with compiled programs kept in ``folder``."""
    command = (sys.executable, str(HERE / "contestant_total.py"), json.dumps(PROBLEM._asdict()), str(EPOCHS), str(rows))
    everything = {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_ENABLE_COMPILATION_CACHE": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return Contestant("whole training", command, everything)


def seconds(contestant: Contestant) -> float:
    """Return the wall time of a process from its start to its end."""
    with turn():
        began = time.perf_counter()
        subprocess.run(contestant.command, env=contestant.whole_environment, check=True, capture_output=True)
        return time.perf_counter() - began


def totals() -> dict[str, list[float]]:
    """Return the wall times of whole trainings, an empty cache and a filled one in turns."""
    times: dict[str, list[float]] = {"empty cache": [], "filled cache": []}
    for _ in range(TOTALS):
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.npy"
            np.save(rows, PROBLEM.data())
            whole = cached(str(Path(folder) / "cache"), rows)
            for name in times:
                times[name].append(seconds(whole))
    return times


def main() -> None:
    whole = totals()
    print(f"\nWhole training, {EPOCHS} epochs, fresh process\n")
    print(markdown(["", "median s", "worst s"], [[n, f"{median(t):.2f}", f"{max(t):.2f}"] for n, t in whole.items()]))
    rates = race(
        [
            jax_contestant("tightbound", "tightbound", PROBLEM),
            jax_contestant("jax + optax, an epoch in scan", "jax", PROBLEM),
            torch_contestant("torch, data as one tensor, fused Adam", "tuned", PROBLEM),
            torch_contestant("torch, DataLoader, as in tutorials", "plain", PROBLEM),
        ],
        ROUNDS,
    )
    lines = {
        name: {"steps_per_second": median(rate), "tightbound_is_faster_by": ratio(rates["tightbound"], rate)}
        for name, rate in rates.items()
    }
    print("\nSteps\n")
    print(
        markdown(
            ["", "steps/s", "tightbound ÷ this"], [[n, *(f"{v:,.2f}" for v in line.values())] for n, line in lines.items()]
        )
    )
    write("table", {"whole_seconds": whole, "lines": lines, "rounds": rates})


if __name__ == "__main__":
    main()
