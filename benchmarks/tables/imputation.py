"""Single imputation of three tables of real numbers with half of their cells missing completely at random.

    TIGHTBOUND_DATA=folder TIGHTBOUND_PEERS=folder python benchmarks/tables/imputation.py
        [--seeds 5] [--tables TABLE …] [--but METHOD …] [--floor]

The folder holds ``tables/banknote_authentication.csv``, ``concrete.txt`` and ``winequality-red.csv``. All columns are used; of
the banknotes also those without their class, as in a public notebook of MIWAE's authors. Columns are standardised, a cell is
hidden with probability ½, and each method sees the remaining cells of the whole table and fills the others. Reported is the
mean squared error over the hidden cells, mean ± standard deviation over seeds. tightbound is the mean of two ``VAEImputer``, of
what stands in SETTINGS, the same for all tables. The baselines are scikit-learn's, with its defaults but for the iterations and
for random forests in the manner of missForest, and MIWAE itself, ``contestant_miwae.py``, for MIWAE_EPOCHS epochs. A process on
each core takes tables and seeds in turn. Of other tables than those after ``--tables``, and of the methods after ``--but``, the
errors are those of the result file.

With ``--floor`` it finds instead what regressors reach on the same cells of the banknotes that are told more than any imputer:
all other rows without holes. For every column and every set of seen columns it is the best of several, cross-validated.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))

from common import data_folder, earlier, markdown, spread, write
from peers import TORCH, peer_python

import tightbound as tb

# File, what stands between its columns, and how many of them are used.
TABLES = {
    "banknote": ("banknote_authentication.csv", ",", 5),
    "banknote, no class": ("banknote_authentication.csv", ",", 4),
    "concrete": ("concrete.txt", None, 9),
    "red wine": ("winequality-red.csv", ",", 12),
}
MIWAE_EPOCHS, MIWAE_DRAWS = 600, 2000  # 10,000 to 15,000 steps with k = 20
OURS = "tightbound VAEImputer"
RESULT = "../../tables/results/imputation"
FOLDS = KFold(10, shuffle=True, random_state=0)  # the banknotes stand sorted by their class
# As published by Mattei & Frellsen (2019): means over five repetitions of their own masks.
PUBLISHED = {
    "missForest": {"banknote": 0.676, "concrete": 0.510, "red wine": 0.697},
    "MIWAE": {"banknote": 0.446, "concrete": 0.501, "red wine": 0.643},
}
Errors = dict[str, dict[str, list[float]]]  # of every method, by table and seed
COMMON: dict[str, Any] = {"batch_size": 64, "weight_decay": 1e-3, "validation": 0.0, "k": 5, "draws": 1000}
# The first knows no cell finely and serves where rows are learnt by heart, the second where columns hang together closely.
SETTINGS: dict[str, dict[str, Any]] = {
    "blurred": COMMON | {
        "hidden": (128, 128), "latent": 6, "likelihood": tb.Columns(real=tb.LogisticMixture(floor=0.2)), "steps": 20_000,
        "members": 3,
    },
    "fine": COMMON | {
        "hidden": (64,) * 4, "latent": 10, "likelihood": tb.Columns(real=tb.Gaussian(noise="predicted", floor=0.05)),
        "steps": 30_000, "learning_rate": 0.003, "members": 2,
    },
}  # fmt: skip


def methods(seed: int) -> dict[str, Callable[[], Any]]:
    trees = ExtraTreesRegressor(n_estimators=30, random_state=seed, n_jobs=1)
    forest = RandomForestRegressor(n_estimators=50, max_features="sqrt", random_state=seed, n_jobs=1)
    return {
        OURS: lambda: Ours(seed),
        "MIWAE": lambda: Miwae(seed),
        "mean": SimpleImputer,
        "KNNImputer": KNNImputer,
        "IterativeImputer, BayesianRidge": lambda: IterativeImputer(random_state=seed),
        "IterativeImputer, ExtraTrees": lambda: IterativeImputer(trees, random_state=seed, max_iter=10),
        "IterativeImputer, random forests": lambda: IterativeImputer(forest, random_state=seed, max_iter=5),
    }


class Ours(NamedTuple):
    """Two ``VAEImputer`` on a table with named columns, as users have it, so that values which repeat get atoms."""

    seed: int

    def fit_transform(self, x: np.ndarray) -> np.ndarray:
        columns = pd.DataFrame(x, columns=[f"column {number}" for number in range(x.shape[1])])
        kinds = dict.fromkeys(columns, "real")  # the class, too: its expectation is asked for, not its more probable value
        imputers = [tb.VAEImputer(**one, columns=kinds, random_state=self.seed) for one in SETTINGS.values()]
        return np.mean([imputer.fit_transform(columns).to_numpy(float) for imputer in imputers], axis=0)


class Miwae(NamedTuple):
    """MIWAE in its own environment, with the method that the imputers have."""

    seed: int

    def fit_transform(self, x: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            given, out = Path(folder) / "given.npy", Path(folder) / "filled.npy"
            np.save(given, x)
            script = Path(__file__).with_name("contestant_miwae.py")
            settings = (self.seed, MIWAE_EPOCHS, MIWAE_DRAWS)
            command = [peer_python("torch", TORCH), script, given, out, *map(str, settings)]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            return np.load(out, allow_pickle=False)


def table(name: str) -> np.ndarray:
    file, mark, columns = TABLES[name]
    x = np.loadtxt(data_folder("tables") / file, delimiter=mark)[:, :columns]
    return (x - x.mean(axis=0)) / x.std(axis=0)


def holes(x: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(x.shape) < 0.5


def floor(x: np.ndarray, seeds: int) -> list[float]:
    """Return the error over the hidden cells of each seed of guesses from all other rows, complete.

    Of several regressors the best one is taken for each column and set of seen cells, after the fact: too low if anything.
    """
    regressors = [
        ExtraTreesRegressor(60, min_samples_leaf=3, random_state=0),
        *(KNeighborsRegressor(count) for count in (5, 10, 20)),
        *(KernelRidge(kernel="rbf", alpha=0.3, gamma=gamma) for gamma in (0.3, 1.0, 3.0)),
    ]
    hidden = np.array([holes(x, seed) for seed in range(seeds)])
    squares = np.zeros(seeds)
    for column, count in itertools.product(range(x.shape[1]), range(x.shape[1])):
        others = [other for other in range(x.shape[1]) if other != column]
        for seen in map(list, itertools.combinations(others, count)):
            tried = [cross_val_predict(one, x[:, seen], x[:, column], cv=FOLDS) for one in regressors if seen] or [0.0]
            guess = min([*tried, sum(tried) / len(tried)], key=lambda guess: np.mean((guess - x[:, column]) ** 2))
            alike = hidden[:, :, column] & (~hidden[:, :, others] == np.isin(others, seen)).all(axis=2)
            squares += np.where(alike, (guess - x[:, column]) ** 2, 0.0).sum(axis=1)
    return list(squares / hidden.sum(axis=(1, 2)))


def _alone(cores: Any) -> None:
    os.sched_setaffinity(0, {cores.get()})


def workers() -> ProcessPoolExecutor:
    """Return a pool with a process on each core, where the system lets one choose: two that share both slow each other down.

    They are spawned: a forked process would share the threads of JAX that it does not have.
    """
    context = get_context("spawn")
    if not hasattr(os, "sched_getaffinity"):
        return ProcessPoolExecutor(mp_context=context)
    available, cores = os.sched_getaffinity(0), context.SimpleQueue()
    for core in sorted(available):
        cores.put(core)
    return ProcessPoolExecutor(len(available), mp_context=context, initializer=_alone, initargs=(cores,))


def compared(name: str, seed: int, but: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the error and the seconds of every method on one table with the holes of one seed."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    x = table(name)
    hidden = holes(x, seed)
    found = {}
    for method, make in methods(seed).items():
        if method in but:
            continue
        started = time.perf_counter()
        filled = make().fit_transform(np.where(hidden, np.nan, x))
        found[method] = float(np.mean((filled - x)[hidden] ** 2)), time.perf_counter() - started
        print(f"{name}, seed {seed}: {method} {found[method][0]:.3f}", file=sys.stderr, flush=True)
    return found


def paired(errors: Errors) -> str:
    """Return by how much MIWAE's errors are above ours on the same cells, mean ± standard error over the seeds of both."""
    told = []
    for name, own in errors["MIWAE"].items():
        seeds = min(len(own), len(errors[OURS][name]))  # one of them may be of fewer seeds, the first ones
        above = np.subtract(own[:seeds], errors[OURS][name][:seeds])
        error = f" ± {above.std(ddof=1) / seeds**0.5:.3f}" if seeds > 1 else ""
        told.append(f"{name} {above.mean():.3f}{error}")
    return "MIWAE − tightbound: " + ", ".join(told)


def measured(seeds: int, tables: Sequence[str], but: Sequence[str]) -> tuple[Errors, Errors]:
    """Return errors and seconds of every method by table and seed; of other tables and of ``but`` what was measured earlier."""
    if "MIWAE" not in but:
        peer_python("torch", TORCH)  # made here once, not by two processes at the same time
    pairs = [(name, seed) for seed in range(seeds) for name in tables]
    found: dict[str, list[Any]] = {name: [] for name in tables}
    with workers() as pool:
        for (name, _), of in zip(pairs, pool.map(compared, *zip(*pairs, strict=True), itertools.repeat(but)), strict=True):
            found[name].append(of)
    known = earlier(RESULT) if but or set(tables) != set(TABLES) else {"errors": {}, "seconds": {}}
    errors, seconds = ({method: known[what].get(method, {}) for method in methods(0)} for what in ("errors", "seconds"))
    for name, method in itertools.product(tables, (method for method in methods(0) if method not in but)):
        errors[method][name], seconds[method][name] = map(list, zip(*(of[method] for of in found[name]), strict=True))
    return errors, seconds


def row(method: str, errors: Errors, seconds: Errors) -> list[str]:
    """Return what a method reaches on each table, and its seconds for one of them, blank where nothing was measured."""
    took = [second for of in seconds[method].values() for second in of]
    shown = [spread(errors[method][name]) if name in errors[method] else "" for name in TABLES]
    return [method, *shown, f"{np.mean(took):.0f}" if took else ""]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--tables", choices=TABLES, nargs="+", default=list(TABLES))
    options.add_argument("--but", choices=methods(0), nargs="+", default=[])
    options.add_argument("--floor", action="store_true")
    arguments = options.parse_args()
    if arguments.floor:
        floors = {name: floor(table(name), arguments.seeds) for name in ("banknote", "banknote, no class")}
        print("\n".join(f"{name}, told all other rows: {spread(found)}" for name, found in floors.items()))
        write(f"{RESULT}-floor", {"errors": floors})
        return
    errors, seconds = measured(arguments.seeds, arguments.tables, arguments.but)
    rows = [row(method, errors, seconds) for method in errors]
    for method, known in PUBLISHED.items():
        rows.append([f"{method}, published", *(f"{known[name]:.3f}" if name in known else "" for name in TABLES), ""])
    print(markdown(["mean squared error", *TABLES, "seconds for one"], rows))
    print(paired(errors))
    settings = {
        kind: {name: value if isinstance(value, int | float) else str(value) for name, value in of.items()}
        for kind, of in SETTINGS.items()
    }
    write(RESULT, {"errors": errors, "seconds": seconds, "settings": settings})


if __name__ == "__main__":
    main()
