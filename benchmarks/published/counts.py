"""Counts of 10,000 cells: negative binomial, Poisson and a Gaussian on log counts under one measure, beside scvi-tools.

    TIGHTBOUND_DATA=folder TIGHTBOUND_PEERS=folder python benchmarks/published/counts.py KEPT [--seeds 1] [--only METHOD]

The folder holds ``counts/mouse_brain_10k_csr.npz``, 1,000 genes. Cells in which none of them was read are left out; of the
others the seed draws 1,000 for validation and 1,000 for the test. Every model is given the library size of a cell, the sum of
its counts, ours as the exposure (in units of the median), SCVI as its observed library size. Reported is log p(x | library
size) of the test cells in nats per cell, from below, by importance sampling from q(z|x) and, for ours, from proposals refined
for each cell, too. All are probabilities of the whole numbers: the Gaussian on log(1 + x) has the mass of the numbers that
round to x (``log_counts.py``). Our settings were chosen by the validation ELBO of seed 0. SCVI (``contestant_scvi.py``) is
trained with early stopping, once as its defaults have it and once as near to ours as its options allow: r predicted by the
decoder, and the weight of the KL at 1 after WARMUP_EPOCHS epochs in place of 400. What was estimated of every cell is kept in
the folder KEPT and made only where it is not there yet, so that a run may be interrupted; times are those of when it was made.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))

from common import data_folder, markdown, write
from peers import TORCH, peer_python

import tightbound as tb

SCVI = (*TORCH, "scvi-tools==1.4.2")
HELD_OUT = 1000  # cells for validation, and as many for the test
DRAWS, REFINED_DRAWS = 1000, 100
WARMUP_EPOCHS = 50
NETWORK = tb.MLP(hidden=(128,))
PARTS: dict[str, Any] = {"latent": 10, "encoder": NETWORK, "decoder": NETWORK}
PLAN = tb.Plan(epochs=40, learning_rate=2e-3, patience=15)
LIKELIHOODS: dict[str, Any] = {
    "negative binomial": tb.NegativeBinomial(dispersion="predicted"),
    "Poisson": tb.Poisson(),
    "Gaussian on log counts": tb.Custom(target="log_counts:build"),
}
RIVALS: dict[str, dict[str, Any]] = {
    "SCVI, defaults": {"model": {}, "train": {}},
    "SCVI, r predicted, KL weight 1 in time": {
        "model": {"dispersion": "gene-cell"},
        "train": {"plan_kwargs": {"n_epochs_kl_warmup": WARMUP_EPOCHS}},
    },
}


class Cells(NamedTuple):
    """Counts (n, genes), and which rows are for what."""

    counts: np.ndarray
    parts: tb.Split

    @property
    def data(self) -> tb.Dataset:
        library = self.counts.sum(axis=1)
        return tb.from_arrays(self.counts, kind="count", exposure=library / np.median(library), source="mouse brain")


class Scores(NamedTuple):
    """Estimates for every test cell, in nats: the bound from q(z|x), that from refined proposals if any, and the ELBO."""

    log_evidence: np.ndarray
    elbo: np.ndarray
    refined: np.ndarray
    told: dict[str, Any]


def read(seed: int, count: int | None = None, held_out: int = HELD_OUT) -> Cells:
    """Return the cells that have any count, the first ``count`` of them, and their parts."""
    with np.load(data_folder("counts") / "mouse_brain_10k_csr.npz", allow_pickle=False) as file:
        rows = np.repeat(np.arange(len(file["indptr"]) - 1), np.diff(file["indptr"]))
        counts = np.zeros(file["shape"], np.int32)
        counts[rows, file["indices"]] = file["data"]
    counts = counts[counts.any(axis=1)][:count]
    validation, test, train = np.split(np.random.default_rng(seed).permutation(len(counts)), [held_out, 2 * held_out])
    return Cells(counts, tb.Split(*map(np.sort, (train, validation, test))))


def trained(cells: Cells, likelihood: Any, plan: tb.Plan, parts: dict[str, Any] = PARTS) -> tuple[tb.Model, dict[str, Any]]:
    data = cells.data
    train, validation = data.take(cells.parts.train), data.take(cells.parts.validation)
    started = time.perf_counter()
    model = tb.VAE(sites=data.sites, likelihood=likelihood, **parts).build(jax.random.key(plan.seed), train.statistics())
    *_, end = tb.train(model, tb.ELBO(), train, plan, validation=validation)
    told = {"seconds": time.perf_counter() - started, "epochs": end.latest.epoch, "validation": end.validation_elbo}
    return end.model, {**told, "best_step": end.best_step, "steps": end.step}


def evaluated(
    model: tb.Model, test: tb.Dataset, draws: int = DRAWS, refined_draws: int = REFINED_DRAWS, haste: bool = False
) -> tuple[np.ndarray, ...]:
    """Return the bound on log p(x) from q(z|x), the ELBO, and the bound from refined proposals, (n,) each."""
    plain = tb.importance(model, test, draws=draws, haste=haste)
    refined = tb.importance(model, test, draws=refined_draws, proposal=tb.Proposal("refined"), haste=haste)
    return plain.log_evidence, plain.elbo, refined.log_evidence


def ours(method: str, cells: Cells, seed: int) -> Scores:
    model, told = trained(cells, LIKELIHOODS[method], PLAN.replace(seed=seed))
    return Scores(*evaluated(model, cells.data.take(cells.parts.test)), told)


def theirs(method: str, cells: Cells, seed: int) -> Scores:
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "cells.npz", Path(folder) / "scores.npz"
        np.savez(given, counts=cells.counts, **cells.parts._asdict())
        script = Path(__file__).with_name("contestant_scvi.py")
        command = [peer_python("scvi", SCVI), script, given, out, str(seed), str(DRAWS), json.dumps(RIVALS[method])]
        run = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"}
        )
        with np.load(out, allow_pickle=False) as file:
            empty = np.full(len(file["elbo"]), np.nan)
            return Scores(file["log_evidence"], file["elbo"], empty, json.loads(run.stdout.splitlines()[-1]))


METHODS = {**dict.fromkeys(LIKELIHOODS, ours), **dict.fromkeys(RIVALS, theirs)}


def kept(method: str, seed: int, folder: Path) -> Scores:
    """Return the scores of a method as they were kept; without them, make and keep them."""
    path = folder / f"{method}-{seed}.npz"
    told = path.with_suffix(".json")
    if not told.exists():
        found = METHODS[method](method, read(seed), seed)
        np.savez(path, log_evidence=found.log_evidence, elbo=found.elbo, refined=found.refined)
        told.write_text(json.dumps(found.told))
    with np.load(path, allow_pickle=False) as file:
        return Scores(file["log_evidence"], file["elbo"], file["refined"], json.loads(told.read_text()))


def stated(values: np.ndarray) -> dict[str, float]:
    """Return the mean over cells and its standard error; nothing of what was not estimated."""
    if np.isnan(values).any():
        return {}
    return {"mean": float(values.mean()), "se": float(values.std(ddof=1) / len(values) ** 0.5)}


def shown(values: np.ndarray) -> str:
    found = stated(values)
    return f"{found['mean']:.2f} ± {found['se']:.2f}".replace("-", "−") if found else ""


def compared(scores: dict[str, Scores]) -> dict[str, dict[str, float]]:
    """Return differences of the same cells, row minus column: of refined bounds where both have them."""
    found = {}
    for one, other in itertools.combinations(scores, 2):
        both = scores[one].refined - scores[other].refined
        plain = scores[one].log_evidence - scores[other].log_evidence
        found[f"{one} − {other}"] = stated(plain if np.isnan(both).any() else both)
    return found


def report(seed: int, scores: dict[str, Scores]) -> str:
    """Return the two tables of one seed: every method, and the methods in pairs."""
    head = [
        f"log p(x) ≥, seed {seed}",
        f"q(z|x), k = {DRAWS:,}",
        f"refined, k = {REFINED_DRAWS:,}",
        "ELBO",
        "epochs",
        "seconds",
    ]
    rows = [
        [
            method,
            shown(of.log_evidence),
            shown(of.refined),
            shown(of.elbo),
            f"{of.told['epochs']:.0f}",
            f"{of.told['seconds']:.0f}",
        ]
        for method, of in scores.items()
    ]
    pairs = [[pair, f"{of['mean']:.2f} ± {of['se']:.2f}".replace("-", "−")] for pair, of in compared(scores).items()]
    told = [f"{method}: {of.told}" for method, of in scores.items()]
    return "\n\n".join([markdown(head, rows), markdown(["nats per cell", "first − second"], pairs), "\n".join(told)])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("kept", type=Path)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--only", choices=METHODS, action="append", help="these methods alone; the rest may follow")
    arguments = options.parse_args()
    arguments.kept.mkdir(parents=True, exist_ok=True)
    measured: dict[str, Any] = {}
    for seed in range(arguments.seeds):
        scores = {method: kept(method, seed, arguments.kept) for method in arguments.only or METHODS}
        print(report(seed, scores), flush=True)
        measured[str(seed)] = {
            "methods": {
                method: {name: stated(getattr(of, name)) for name in ("log_evidence", "refined", "elbo")} | of.told
                for method, of in scores.items()
            },
            "differences": compared(scores),
        }
    settings = {"parts": {name: str(part) for name, part in PARTS.items()}, "plan": PLAN.model_dump(mode="json")}
    settings["likelihoods"] = {method: likelihood.model_dump(mode="json") for method, likelihood in LIKELIHOODS.items()}
    write("../../published/results/counts", {"seeds": measured, "settings": settings, "rivals": RIVALS, "packages": SCVI})


if __name__ == "__main__":
    main()
