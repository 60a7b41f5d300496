"""Imputation of two tables of mixed columns, Adult and defaultCredit, with the masks of HI-VAE (Nazábal et al. 2020).

    TIGHTBOUND_DATA=folder python benchmarks/tables/heterogeneous.py [--sets Adult] [--masks 10_1,50_1] [--only METHOD]

The folder holds ``masked/<set>/data.csv``, ``data_types.csv`` and ``MissingP_d.csv``, whose lines are the hidden cells, row
and column from 1. The error of a column is, as there: the share of wrong values for categories, the mean absolute difference
of ranks over the number of levels for ordinals, and the root mean squared error over the range for numbers. Printed are means
over the columns of each kind, mean ± standard deviation over masks, and over all columns.

tightbound is ``VAEImputer`` with what stands in SETTINGS, told the kinds that data_types.csv states. The baselines see
categories as one-hot codes and numbers standardised; nearest neighbours are sought among 5,000 rows, because all pairs of rows
take minutes. For the iterative imputer the most frequent level has no code: with all of them each code is one less the others
of its category, which are hidden with it, and regression learns nothing else. Beside it: how often intervals from
``impute_draws``, 5 % to 95 % of 40 draws, contain the hidden numbers.

``--only`` measures one method again and keeps what the result file says of the others.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))

from common import data_folder, earlier, markdown, spread, write

import tightbound as tb

SETS = ("Adult", "defaultCredit")
MASKS = ("10_1", "10_2", "10_3", "20_1", "50_1")
KINDS = {"cat": "category", "ordinal": "ordinal", "count": "real", "pos": "real", "real": "real"}
SETTINGS: dict[str, Any] = {
    "latent": 16, "batch_size": 256, "epochs": 60, "learning_rate": 2e-3,
    "k": 1, "warmup": 0.5, "validation": 0.0, "draws": 200,
}  # fmt: skip
NEIGHBOURS_AMONG = 5000
DRAWS, INTERVAL_ROWS = 40, 2000


class Table(NamedTuple):
    """Codes (n, D) as the file has them, the kind of every column, its categories, and which cells exist at all."""

    codes: np.ndarray
    kinds: tuple[str, ...]
    known: np.ndarray


def read(name: str) -> Table:
    folder = data_folder("masked") / name
    codes = np.loadtxt(folder / "data.csv", delimiter=",")
    with (folder / "data_types.csv").open() as file:
        kinds = tuple(KINDS[line["type"]] for line in csv.DictReader(file))
    known = np.ones(codes.shape, bool)
    if (folder / "MissingTrue.csv").exists():
        known &= ~cells(folder / "MissingTrue.csv", codes.shape)
    return Table(codes, kinds, known)


def cells(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    pairs = np.loadtxt(path, delimiter=",", dtype=int, ndmin=2) - 1
    found = np.zeros(shape, bool)
    found[pairs[:, 0], pairs[:, 1]] = True
    return found


def ours(table: Table, hidden: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Return the filled codes, and the share of hidden numbers inside 90 % intervals, for a few thousand rows."""
    columns = {f"c{j}": column(table, hidden, j) for j in range(table.codes.shape[1])}
    frame = pd.DataFrame(columns)
    kinds = {f"c{j}": kind for j, kind in enumerate(table.kinds)}
    imputer = tb.VAEImputer(**SETTINGS, columns=kinds, random_state=0).fit(frame)
    filled = imputer.transform(frame)
    some = np.flatnonzero(hidden.any(axis=1))[:INTERVAL_ROWS]
    draws = [numbers(version) for version in imputer.impute_draws(frame.iloc[some], DRAWS)]
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    asked = hidden[some] & table.known[some] & (np.array(table.kinds) == "real")
    inside = (table.codes[some] >= low - 1e-6) & (table.codes[some] <= high + 1e-6)
    return numbers(filled), {"coverage": float(inside[asked].mean())}


def column(table: Table, hidden: np.ndarray, j: int) -> Any:
    seen = table.known[:, j] & ~hidden[:, j]
    if table.kinds[j] == "real":
        return np.where(seen, table.codes[:, j], np.nan)
    return [f"{int(code):05d}" if is_seen else None for code, is_seen in zip(table.codes[:, j], seen, strict=True)]


def numbers(frame: pd.DataFrame) -> np.ndarray:
    return frame.astype(np.float64).to_numpy()


class Baseline(NamedTuple):
    """What fills an array, and how many levels of a category, the most frequent first, have no code in it."""

    make: Any
    uncoded: int = 0


def baseline(method: Baseline, table: Table, hidden: np.ndarray) -> np.ndarray:
    """Fill codes of categories and standardised numbers, and go back."""
    blocks, back = [], []
    for j, kind in enumerate(table.kinds):
        seen = table.known[:, j] & ~hidden[:, j]
        codes = table.codes[:, j]
        if kind == "category":
            values, counts = np.unique(codes[seen], return_counts=True)
            if method.uncoded:
                values = values[np.argsort(-counts, kind="stable")]
            blocks.append(np.where(seen[:, None], codes[:, None] == values[method.uncoded :], np.nan))
            back.append(values)
        else:
            mean, deviation = codes[seen].mean(), codes[seen].std()
            blocks.append(np.where(seen, (codes - mean) / deviation, np.nan)[:, None])
            back.append((mean, deviation))
    joined = np.concatenate(blocks, axis=1)
    filled = method.make(joined)
    out, start = np.empty(table.codes.shape), 0
    for j, block in enumerate(blocks):
        part = filled[:, start : start + block.shape[1]]
        if table.kinds[j] == "category":
            rest = 1.0 - part.sum(axis=1, keepdims=True)
            out[:, j] = back[j][np.concatenate([rest[:, : method.uncoded], part], axis=1).argmax(axis=1)]
        else:
            out[:, j] = part[:, 0] * back[j][1] + back[j][0]
        start += block.shape[1]
    return out


def nearest(joined: np.ndarray) -> np.ndarray:
    some = np.random.default_rng(0).permutation(len(joined))[:NEIGHBOURS_AMONG]
    return KNNImputer(n_neighbors=10).fit(joined[some]).transform(joined)


BASELINES = {
    "mean or most frequent": Baseline(lambda x: SimpleImputer().fit_transform(x)),
    "nearest neighbours": Baseline(nearest),
    "iterative, BayesianRidge": Baseline(lambda x: IterativeImputer(random_state=0).fit_transform(x), uncoded=1),
}
OURS = "tightbound"


def errors(table: Table, hidden: np.ndarray, filled: np.ndarray) -> dict[str, float]:
    """Return the mean error over the columns of each kind, and over all."""
    of: dict[str, list[float]] = {"category": [], "ordinal": [], "real": []}
    for j, kind in enumerate(table.kinds):
        asked = hidden[:, j] & table.known[:, j]
        truth, guess = table.codes[asked, j], filled[asked, j]
        levels = np.unique(table.codes[table.known[:, j], j])
        if kind == "category":
            error = float(np.mean(truth != guess))
        elif kind == "ordinal":
            error = float(np.mean(np.abs(truth - np.round(guess))) / len(levels))
        else:
            error = float(np.sqrt(np.mean((truth - guess) ** 2)) / (levels[-1] - levels[0]))
        of[kind].append(error)
    means = {kind: float(np.mean(found)) for kind, found in of.items() if found}
    return {**means, "all columns": float(np.mean([error for found in of.values() for error in found]))}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sets", default=",".join(SETS))
    options.add_argument("--masks", default=",".join(MASKS))
    options.add_argument("--only", choices=(OURS, *BASELINES))
    arguments = options.parse_args()
    for name in arguments.sets.split(","):
        table = read(name)
        result = f"../../tables/results/heterogeneous-{name}"
        found: dict[str, Any] = {} if arguments.only is None else {**earlier(result)["measured"], arguments.only: []}
        for mask in arguments.masks.split(","):
            hidden = cells(data_folder("masked") / name / f"Missing{mask}.csv", table.codes.shape)
            for method in (OURS, *BASELINES) if arguments.only is None else (arguments.only,):
                started = time.perf_counter()
                filled, more = ours(table, hidden) if method == OURS else (baseline(BASELINES[method], table, hidden), {})
                more["seconds"] = time.perf_counter() - started
                run = {**errors(table, hidden, filled), **more}
                found.setdefault(method, []).append(run)
                print(name, mask, method, {key: round(value, 4) for key, value in run.items()}, file=sys.stderr, flush=True)
        kinds = list(dict.fromkeys(key for runs in found.values() for key in runs[0]))
        rows = [[method, *(spread([run.get(kind) for run in runs]) for kind in kinds)] for method, runs in found.items()]
        print(f"\n{name}, masks {arguments.masks}\n\n{markdown(['error', *kinds], rows)}", flush=True)
        if arguments.masks.split(",") == list(MASKS):
            write(result, {"measured": found, "settings": SETTINGS})


if __name__ == "__main__":
    main()
