"""A table of a million rows and twenty columns, and one of a column with ten thousand categories: time and memory of one epoch.

    python benchmarks/tables/million.py [--rows 1000000]

The Parquet file is made here: ten real columns (two of them skewed), four of counts, four of categories, a boolean and an
ordinal, all depending on three hidden numbers, a hundredth of the cells missing. ``tightbound fit`` reads it, decides what
the columns are, trains one epoch, evaluates the test rows with ten draws each and writes the run, without diagnosis, pictures
and report, in a process of its own: seconds are from shell to result, and those of training alone stand beside them. Memory is
the peak of that process, beside what the table takes in pyarrow's memory. The second table has 200,000 rows with a column of
10,000 categories beside five others.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))

from common import markdown, write

BATCH = 1000
COMMAND = (
    "--epochs", "1", "--batch-size", str(BATCH), "--draws", "10", "--no-diagnosis", "--no-pictures", "--no-report",
)  # fmt: skip
MIB = 2**20


def table(rows: int, categories: int, seed: int = 0) -> pyarrow.Table:
    """Return a table whose columns depend on three hidden numbers, the first category column with ``categories`` values."""
    random = np.random.default_rng(seed)
    hidden = random.standard_normal((rows, 3))
    mixed = hidden @ random.standard_normal((3, 20)) + 0.5 * random.standard_normal((rows, 20))
    columns: dict[str, Any] = {f"real_{j}": mixed[:, j] for j in range(8)}
    columns |= {f"income_{j}": np.exp(8 + mixed[:, 8 + j]) for j in range(2)}
    columns |= {f"visits_{j}": random.poisson(np.exp(1.0 + 0.3 * mixed[:, 10 + j])) for j in range(4)}
    for j, count in enumerate((categories, 5, 12, 30)):
        rank = np.argsort(np.argsort(mixed[:, 14 + j])) * count // rows
        columns[f"group_{j}"] = np.array([f"value {number:05d}" for number in range(count)], object)[rank]
    columns |= {"member": mixed[:, 18] > 0, "mark": np.clip(np.round(3 + mixed[:, 19]), 1, 5).astype(int)}
    arrays = {name: pyarrow.array(values, mask=random.random(rows) < 0.01) for name, values in columns.items()}
    return pyarrow.table(arrays)


def fitted(made: pyarrow.Table) -> dict[str, float]:
    """Return what an epoch on a table takes: seconds of the whole process, those of training, and the peak of its memory."""
    with tempfile.TemporaryDirectory() as folder:
        source, run = Path(folder) / "rows.parquet", Path(folder) / "run"
        pyarrow.parquet.write_table(made, source)
        started = time.perf_counter()
        command = [sys.executable, "-m", "tightbound", "fit", str(source), "--out", str(run), *COMMAND]
        subprocess.run(command, check=True, env=os.environ, stdout=sys.stderr)
        seconds = time.perf_counter() - started
        summary = json.loads((run / "summary.json").read_text())
    # The largest of all children so far: the tables are asked for in ascending order of what they need.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": seconds, "training": summary["training_seconds"], "peak MiB": peak, "table MiB": made.nbytes / MIB}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1_000_000)
    arguments = options.parse_args()
    wide = table(200_000, 10_000).select(["real_0", "real_1", "visits_0", "group_0", "group_1", "member"])
    found = {"200,000 × 6, 10,000 categories": fitted(wide)}
    del wide
    found[f"{arguments.rows:,} × 20"] = fitted(table(arguments.rows, 50))
    rows = [[name, *(f"{value:.0f}" for value in of.values())] for name, of in found.items()]
    print(markdown(["one epoch", *next(iter(found.values()))], rows))
    write("../../tables/results/million", {"tables": found, "command": COMMAND})


if __name__ == "__main__":
    main()
