"""The oracle: what estimators say of a table whose model is linear and Gaussian, beside its closed form.

    python benchmarks/tables/oracle.py [--seeds 5]

Rows of six columns, each in units of its own, follow from two latents and noise; three cells of ten are missing at random.
``VAEDensity`` with an affine encoder and decoder learns them, holes and all. What it has learnt is a Gaussian, so that for
new rows with holes log p(row), the expectations of the missing cells and their variances are known in double precision. Each
is compared with what ``score_samples``, ``impute`` and ``impute_draws`` say, in the units of the table: the largest difference
of log p(row), also in the standard errors that are stated, the largest of the expectations in conditional deviations, and by
how much variances of 2,000 draws are off, of which 3.2 % are chance. The last column asks another question: how far the
Gaussian that was learnt is from the one that the rows were drawn from.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))

from common import markdown, spread, write

import tightbound as tb
from tightbound.evidence.exact import affine_decoder
from tightbound.evidence.proposals import WARY
from tightbound.testing.linear import conditional_normal, log_normal

ROWS, NEW, COLUMNS, LATENT, MISSING = 5000, 200, 6, 2, 0.3
UNITS, ZEROS = np.array([1.0, 1000.0, 0.01, 20.0, 5.0, 0.3]), np.array([0.0, 50_000.0, 1.0, -300.0, 7.0, 0.0])
DRAWS, IMPUTED = 20_000, 2000


def moments(estimator: tb.VAEDensity) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (D,) and covariance (D, D) of the rows that a linear model describes, in the units of the table."""
    weight, offset, noise = affine_decoder(estimator.model_)
    scale, shift = np.array(estimator.schema_.scale), np.array(estimator.schema_.shift)
    weight, offset, noise = weight[:COLUMNS], offset[:COLUMNS], noise[:COLUMNS]
    return shift + scale * offset, scale[:, None] * (weight @ weight.T + np.diag(noise)) * scale


def compared(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    weight = UNITS[:, None] * rng.normal(size=(COLUMNS, LATENT))
    true = weight @ weight.T + np.diag((0.5 * UNITS) ** 2)
    whole = rng.multivariate_normal(ZEROS, true, ROWS + NEW)
    holed = np.where(rng.random(whole.shape) < MISSING, np.nan, whole)
    rows, new = holed[:ROWS], holed[ROWS:]
    affine = {"hidden": (), "likelihood": tb.Gaussian(noise="site")}
    estimator = tb.VAEDensity(latent=LATENT, **affine, steps=5000, draws=DRAWS, random_state=seed).fit(rows)
    mean, covariance = moments(estimator)

    log_p, filled = estimator.score_samples(new), estimator.impute(new)
    error = tb.importance(estimator.model_, estimator.dataset(new), draws=DRAWS, proposal=WARY, shared_noise=True).se
    drawn = np.stack(estimator.impute_draws(new, IMPUTED, random_state=seed))
    nats, errors, means, variances = [], [], [], []
    for row, cells in enumerate(new):
        seen, unseen = np.flatnonzero(~np.isnan(cells)), np.flatnonzero(np.isnan(cells))
        exact = log_normal((cells[seen] - mean[seen])[None], covariance[np.ix_(seen, seen)])[0] if len(seen) else 0.0
        nats.append(abs(log_p[row] - exact))
        errors.append(nats[-1] / error[row] if error[row] else 0.0)
        expected, spreads = conditional_normal(mean, covariance, cells, unseen, seen)
        means += list(np.abs(filled[row, unseen] - expected) / np.sqrt(np.diag(spreads)))
        variances += list(drawn[:, row, unseen].var(axis=0) / np.diag(spreads))
    inverse = np.linalg.inv(covariance)
    apart = 0.5 * (np.trace(inverse @ true) - COLUMNS - np.linalg.slogdet(inverse @ true)[1])
    apart += 0.5 * (ZEROS - mean) @ inverse @ (ZEROS - mean)
    return {
        "log p(row), nats": float(max(nats)), "in standard errors": float(max(errors)), "means, deviations": float(max(means)),
        "variances, %, root mean square": 100.0 * float(np.sqrt(np.mean((np.array(variances) - 1.0) ** 2))),
        "variances, %, mean": 100.0 * float(np.mean(variances) - 1.0), "KL(true, learnt), nats": float(apart),
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=5)
    found = []
    for seed in range(options.parse_args().seeds):
        found.append(compared(seed))
        print(seed, found[-1], flush=True)
    names = list(found[0])
    row = ["mean ± sd", *(spread(run[name] for run in found) for name in names)]
    print(markdown(["differences from the closed form", *names], [row]))
    write("../../tables/results/oracle", {"runs": found})


if __name__ == "__main__":
    main()
