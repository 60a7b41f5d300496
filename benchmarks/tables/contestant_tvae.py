"""CTGAN's TVAE and the report of sdmetrics, in their own environment: each command prints one line of JSON.

python contestant_tvae.py fit TRAIN.csv OUT.csv SEED     learn, write as many rows, print the seconds of learning
python contestant_tvae.py report REAL.csv ROWS.csv       fidelity of columns and of pairs of columns, between 0 and 1
"""

from __future__ import annotations

import json
import sys
import time

import pandas as pd


def fit(train: str, out: str, seed: str) -> dict[str, float]:
    import torch
    from ctgan import TVAE

    torch.manual_seed(int(seed))
    table = pd.read_csv(train)
    discrete = [name for name in table if table[name].dtype == object]
    started = time.perf_counter()
    model = TVAE(enable_gpu=False)
    model.fit(table, discrete)
    seconds = time.perf_counter() - started
    model.sample(len(table)).to_csv(out, index=False)
    return {"seconds": seconds}


def report(real: str, rows: str) -> dict[str, float]:
    from sdmetrics.reports.single_table import QualityReport

    tables = [pd.read_csv(path) for path in (real, rows)]
    kinds = {name: {"sdtype": "categorical" if tables[0][name].dtype == object else "numerical"} for name in tables[0]}
    found = QualityReport()
    found.generate(*tables, {"columns": kinds}, verbose=False)
    return dict(zip(("columns", "pairs"), found.get_properties()["Score"], strict=True))


if __name__ == "__main__":
    print(json.dumps({"fit": fit, "report": report}[sys.argv[1]](*sys.argv[2:])))
