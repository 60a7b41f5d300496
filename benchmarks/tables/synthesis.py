"""Synthetic rows of Adult: what classifiers learn from them, beside CTGAN's TVAE, and how faithful the rows are.

    TIGHTBOUND_DATA=folder TIGHTBOUND_PEERS=folder python benchmarks/tables/synthesis.py ROWS [--seeds 5] [--only METHOD]

The folder holds ``tables/adult-train.csv`` and ``adult-test.csv``. A model of the 32,561 training rows, the income among their
columns, gives as many rows; gradient boosting and logistic regression learn the income from them, and are judged on the real
test rows by the F1 of incomes above 50,000. tightbound is ``VAEDensity`` with what stands in SETTINGS, TVAE that of the
package ctgan with its defaults (six to eight minutes per seed); both take "?" for a category. Rows are kept in the folder
ROWS and made only where they are not there yet, so that a run may be interrupted, and judged again; times are those of when
they were made. Fidelity is that of sdmetrics: of columns and of pairs of columns, 1 at best. The last column is the median
distance of a synthetic row to the nearest training row, over that of a test row: far below 1 the rows are copies.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))

from common import data_folder, markdown, spread, write
from peers import TORCH, peer_python

import tightbound as tb

NAMES = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital", "occupation", "relationship", "race", "sex", "gain",
    "loss", "hours", "country", "income",
)  # fmt: skip
SETTINGS: dict[str, Any] = {
    "batch_size": 256, "epochs": 45, "learning_rate": 3e-3, "weight_decay": 0.01, "latent": 16,
    "prior": tb.VampPrior(components=200, weighted=True), "beta": 0.5, "validation": 0.0,
}  # fmt: skip
SYNTHESIS = (*TORCH, "ctgan==0.11.1", "sdmetrics==0.22.0")
UNKNOWN = "unknown"  # "?", in words that are no marker of a hole
COMPARED = 2000  # synthetic and test rows whose nearest training row is sought


def read(name: str) -> pd.DataFrame:
    table = pd.read_csv(
        data_folder("tables") / name, header=None, names=NAMES, skipinitialspace=True, na_values=[], keep_default_na=False
    )
    return table.assign(income=table["income"].str.rstrip("."))


def ours(train: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, float]:
    started = time.perf_counter()
    density = tb.VAEDensity(**SETTINGS, random_state=seed).fit(train.replace("?", UNKNOWN))
    seconds = time.perf_counter() - started
    rows = density.sample(len(train), random_state=seed)
    return rows.reindex(columns=train.columns).replace(UNKNOWN, "?"), seconds


def theirs(train: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, float]:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "train.csv", Path(folder) / "rows.csv"
        train.to_csv(given, index=False)
        found = peer("fit", str(given), str(made), str(seed))
        return pd.read_csv(made, keep_default_na=False), found["seconds"]


METHODS = {"tightbound": ours, "TVAE": theirs}


def kept(method: str, train: pd.DataFrame, seed: int, folder: Path) -> tuple[pd.DataFrame, float]:
    """Return the rows of a method and the seconds that learning took, as they were kept; without them, make and keep them."""
    path = folder / f"{method}-{seed}.csv"
    took = path.with_suffix(".json")
    if not took.exists():
        rows, seconds = METHODS[method](train, seed)
        rows.to_csv(path, index=False)
        took.write_text(json.dumps(seconds))
    return pd.read_csv(path, keep_default_na=False), json.loads(took.read_text())


def peer(*command: str) -> dict[str, float]:
    python = peer_python("synthesis", SYNTHESIS)
    done = subprocess.run(
        [python, Path(__file__).with_name("contestant_tvae.py"), *command], check=True, capture_output=True, text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def learnt(rows: pd.DataFrame, test: pd.DataFrame) -> dict[str, float]:
    """Return the F1 of each classifier on the real test rows."""
    numbers = [name for name in rows if name != "income" and pd.api.types.is_numeric_dtype(test[name])]
    words = [name for name in rows if name not in numbers and name != "income"]
    rows = rows.assign(**{name: rows[name].fillna("?") for name in words})
    one_hot = make_column_transformer((StandardScaler(), numbers), (OneHotEncoder(handle_unknown="ignore"), words))
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    trees = make_column_transformer(("passthrough", numbers), (codes, words))
    models = {
        "boosting": make_pipeline(trees, HistGradientBoostingClassifier(random_state=0)),
        "logistic": make_pipeline(one_hot, LogisticRegression(max_iter=500)),
    }
    truth = test["income"] == ">50K"
    return {
        name: float(f1_score(truth, model.fit(rows, rows["income"] == ">50K").predict(test))) for name, model in models.items()
    }


def distance(rows: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame) -> float:
    """Return the median distance of rows to the nearest training row, over that of test rows; numbers count by rank."""
    numbers = [name for name in train if pd.api.types.is_numeric_dtype(train[name])]
    words = [name for name in train if name not in numbers]
    encoder = OneHotEncoder(handle_unknown="ignore").fit(train[words])
    ordered = {name: np.sort(train[name].to_numpy()) for name in numbers}

    def codes(table: pd.DataFrame) -> np.ndarray:
        ranks = [np.searchsorted(ordered[name], table[name]) / len(train) for name in numbers]
        return np.column_stack([*ranks, encoder.transform(table[words].fillna("?")).toarray() / 2**0.5])

    nearest = NearestNeighbors(n_neighbors=1).fit(codes(train))
    medians = [np.median(nearest.kneighbors(codes(table[:COMPARED]))[0]) for table in (rows, test)]
    return float(medians[0] / medians[1])


def judged(rows: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{name}.csv") for name in ("real", "rows")]
        for table, path in zip((train, rows), paths, strict=True):
            table.to_csv(path, index=False)
        fidelity = peer("report", *paths)
    return {**learnt(rows, test), **fidelity, "distance": distance(rows, train, test)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("rows", type=Path)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--only", choices=METHODS, help="make the rows of one method, and judge none")
    arguments = options.parse_args()
    arguments.rows.mkdir(parents=True, exist_ok=True)
    train, test = read("adult-train.csv"), read("adult-test.csv")
    if arguments.only:
        for seed in range(arguments.seeds):
            print(arguments.only, seed, kept(arguments.only, train, seed, arguments.rows)[1], flush=True)
        return
    measured: dict[str, list[dict[str, float]]] = {"real rows": [{**learnt(train, test), "seconds": 0.0}]}
    for method in METHODS:
        for seed in range(arguments.seeds):
            rows, seconds = kept(method, train, seed, arguments.rows)
            measured.setdefault(method, []).append({**judged(rows, train, test), "seconds": seconds})
            print(method, seed, measured[method][-1], file=sys.stderr, flush=True)
    keys = ("boosting", "logistic", "columns", "pairs", "distance", "seconds")
    rows = [[method, *(spread([run[key] for run in runs if key in run]) for key in keys)] for method, runs in measured.items()]
    print(markdown(["F1 on real test rows, fidelity", *keys], rows))
    settings = {name: str(value) for name, value in SETTINGS.items()}
    write("../../tables/results/synthesis", {"runs": measured, "settings": settings})


if __name__ == "__main__":
    main()
