"""Single imputation of three tables of real numbers with half of their cells missing completely at random.

    TIGHTBOUND_DATA=folder TIGHTBOUND_PEERS=folder python benchmarks/tables/imputation.py [--seeds 5] [--but METHOD …] [--floor]

The folder holds ``tables/banknote_authentication.csv``, ``concrete.txt`` and ``winequality-red.csv``. As in the public notebook
of MIWAE's authors the class of the banknotes is left out, and all columns of the others are used. Columns are standardised,
every cell is hidden with probability ½, and each method sees the remaining cells of the whole table and fills the others.
Reported is the mean squared error over the hidden cells, mean ± standard deviation over seeds. tightbound is ``VAEImputer``
with what stands in SETTINGS, the same for all tables; the baselines are scikit-learn's, with its defaults but for the
iterations, and MIWAE itself, ``contestant_miwae.py``, on the same cells, for MIWAE_EPOCHS epochs. A process on each core takes
tables and seeds in turn. Of the methods after ``--but`` the errors are those of the result file.

With ``--floor`` it prints instead what regressors reach on banknote that are told more than any imputer: for every column
and every set of seen columns the best of several, learnt from rows without holes and judged on rows of other folds; with the
class as a fifth column, too.
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
from sklearn.ensemble import ExtraTreesRegressor
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
    "banknote": ("banknote_authentication.csv", ",", 4),
    "concrete": ("concrete.txt", None, 9),
    "red wine": ("winequality-red.csv", ",", 12),
}
MIWAE_EPOCHS, MIWAE_DRAWS = 600, 2000  # 10,000 to 15,000 steps with k = 20; ours are 20,000 with k = 5, five times
RESULT = "../../tables/results/imputation"
FOLDS = KFold(10, shuffle=True, random_state=0)  # the banknotes stand sorted by their class
# As published by Mattei & Frellsen (2019): means over five repetitions of their own masks.
PUBLISHED = {"banknote": 0.446, "concrete": 0.501, "red wine": 0.643}
SETTINGS: dict[str, Any] = {
    "hidden": (128, 128), "latent": 6, "likelihood": tb.Columns(real=tb.LogisticMixture(floor=0.2)), "steps": 20_000,
    "batch_size": 64, "weight_decay": 1e-3, "validation": 0.0, "k": 5, "draws": 1000, "members": 5,
}  # fmt: skip


def methods(seed: int) -> dict[str, Callable[[], Any]]:
    trees = ExtraTreesRegressor(n_estimators=30, random_state=seed, n_jobs=1)
    return {
        "tightbound VAEImputer": lambda: Ours(seed),
        "MIWAE": lambda: Miwae(seed),
        "mean": SimpleImputer,
        "KNNImputer": KNNImputer,
        "IterativeImputer, BayesianRidge": lambda: IterativeImputer(random_state=seed),
        "IterativeImputer, ExtraTrees": lambda: IterativeImputer(trees, random_state=seed, max_iter=10),
    }


class Ours(NamedTuple):
    """``VAEImputer`` on a table with named columns, as users have it, so that values which repeat get atoms."""

    seed: int

    def fit_transform(self, x: np.ndarray) -> np.ndarray:
        columns = pd.DataFrame(x, columns=[f"column {number}" for number in range(x.shape[1])])
        return tb.VAEImputer(**SETTINGS, random_state=self.seed).fit_transform(columns).to_numpy(float)


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


def table(name: str, whole: bool = False) -> np.ndarray:
    file, mark, columns = TABLES[name]
    x = np.loadtxt(data_folder("tables") / file, delimiter=mark)
    x = x if whole else x[:, :columns]
    return (x - x.mean(axis=0)) / x.std(axis=0)


def floor(x: np.ndarray) -> float:
    """Return the mean over columns and sets of seen columns, which are all equally probable, of the cross-validated error.

    Of several regressors the best one is taken for each set, after the fact: too low if anything.
    """
    regressors = [
        ExtraTreesRegressor(100, min_samples_leaf=3, random_state=0, n_jobs=2),
        *(KNeighborsRegressor(count) for count in (5, 10, 20)),
        *(KernelRidge(kernel="rbf", alpha=alpha, gamma=gamma) for alpha in (0.1, 1.0) for gamma in (0.3, 1.0, 3.0)),
    ]
    errors = []
    for column, count in itertools.product(range(x.shape[1]), range(x.shape[1])):
        others = [other for other in range(x.shape[1]) if other != column]
        for seen in itertools.combinations(others, count):
            guesses = [cross_val_predict(one, x[:, seen], x[:, column], cv=FOLDS) if seen else 0.0 for one in regressors]
            errors.append(min(float(np.mean((guess - x[:, column]) ** 2)) for guess in guesses))
    return float(np.mean(errors))


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
    hidden = np.random.default_rng(seed).random(x.shape) < 0.5
    found = {}
    for method, make in methods(seed).items():
        if method in but:
            continue
        started = time.perf_counter()
        filled = make().fit_transform(np.where(hidden, np.nan, x))
        found[method] = float(np.mean((filled - x)[hidden] ** 2)), time.perf_counter() - started
        print(f"{name}, seed {seed}: {method} {found[method][0]:.3f}", file=sys.stderr, flush=True)
    return found


def paired(errors: dict[str, dict[str, list[float]]]) -> str:
    """Return by how much MIWAE's errors are above ours on the same cells, mean ± standard error over seeds."""
    told = []
    for name in TABLES:
        above = np.subtract(errors["MIWAE"][name], errors["tightbound VAEImputer"][name])
        told.append(f"{name} {above.mean():.3f} ± {above.std(ddof=1) / len(above) ** 0.5:.3f}")
    return "MIWAE − tightbound: " + ", ".join(told)


def measured(seeds: int, but: Sequence[str]) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    """Return the errors of every method by table and seed, and its seconds; of those in ``but`` what was measured earlier."""
    errors: dict[str, dict[str, list[float]]] = {method: {name: [] for name in TABLES} for method in methods(0)}
    seconds = dict.fromkeys(errors, 0.0)
    if but:
        known = earlier(RESULT)
        errors |= {method: known["errors"][method] for method in but}
        seconds |= {method: known["seconds"][method] for method in but}
    if "MIWAE" not in but:
        peer_python("torch", TORCH)  # made here once, not by two processes at the same time
    pairs = [(name, seed) for seed in range(seeds) for name in TABLES]
    with workers() as pool:
        told = pool.map(compared, *zip(*pairs, strict=True), itertools.repeat(but))
        for (name, _), found in zip(pairs, told, strict=True):
            for method, (error, took) in found.items():
                errors[method][name].append(error)
                seconds[method] += took
    return errors, seconds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--but", choices=methods(0), nargs="+", default=[])
    options.add_argument("--floor", action="store_true")
    arguments = options.parse_args()
    if arguments.floor:
        for whole, columns in ((False, "without the class"), (True, "all")):
            print(f"banknote, {columns}: floor {floor(table('banknote', whole)):.3f}", flush=True)
        return
    errors, seconds = measured(arguments.seeds, arguments.but)
    rows = [[method, *(spread(of[name]) for name in TABLES), f"{seconds[method]:.0f}"] for method, of in errors.items()]
    rows.append(["MIWAE, published", *(f"{error:.3f}" for error in PUBLISHED.values()), ""])
    print(markdown(["mean squared error", *TABLES, "seconds in all"], rows))
    print(paired(errors))
    settings = {name: value if isinstance(value, int | float) else str(value) for name, value in SETTINGS.items()}
    write(RESULT, {"errors": errors, "seconds": seconds, "settings": settings})


if __name__ == "__main__":
    main()
