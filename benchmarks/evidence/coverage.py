"""Estimates of log p(x) against exact values: every bound on its side, tighter with more work, standard errors that cover.

    python benchmarks/evidence/coverage.py [--seed 0]

Three models whose log p(x) is known: two linear-Gaussian ones with 2 and 10 latents (closed form) and a Bernoulli one with
two latents and a nonlinear decoder (quadrature). Decoders are random, with weights so large that p(z|x) is far from the
prior. Encoders are imperfect on purpose: the best affine map of x to z, its means off by 0.5 of the deviations that it
leaves and its scales 1.2 times them. All rows are drawn from the model. Annealing starts at the
prior, for the Bernoulli model also at refined proposals: for linear-Gaussian models these are p(z|x) already.

A bound keeps its side when the mean of estimate − truth is beyond 0 by no more than 3 of its standard errors; a setting is
as tight as the one before when the mean of their paired differences is worse than 0 by no more than that. Coverage is the
share of |estimate − truth| < 1.96 se, where se is the one stated with the row; 90–98 % is asked for wherever one is stated.
None is where the draws are too few, and for upper bounds, whose chains share their one exact draw. Last, the standard error
of the mean over rows drawn from the model is checked against the expectation of log p(x), which is minus the entropy of
the model. The rule by which an error is stated was set on seeds 0 to 3; another seed has other decoders, rows and draws,
and its result is written to a file of its own.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from common import markdown, write

import tightbound as tb
from tightbound.distributions import UNIT
from tightbound.evidence import annealed, exact, importance
from tightbound.model import Model

AFFINE = tb.MLP(hidden=())
OFF, WIDER = 0.5, 1.2
DRAWS = (1, 10, 100, 300, 1_000, 10_000)
TEMPERATURES = (10, 50, 200)
CHAINS, LEAPFROG = 64, 5
ROWS, REPETITIONS = 16, 200
BRACKETS, BRACKETED = 20, 16
SAMPLES, SAMPLED = 200, 64
NOMINAL, ALLOWED = 1.96, 3.0
ACCEPTED = (0.90, 0.98)
APART = 10_000  # between the seeds that one --seed uses and those of the next


class Case(NamedTuple):
    """A model with an imperfect encoder; ``table`` is the exact log p(x) of all x, in binary order, if x is binary."""

    name: str
    model: Model
    table: np.ndarray | None = None

    def rows(self, seed: int, count: int) -> tb.Dataset:
        """Return rows drawn from the model: the ones that ``bracket`` evaluates when given this seed."""
        return tb.Dataset(simulated(self.model, seed, count)[1], self.model.spec.sites)

    def truth(self, data: tb.Dataset) -> np.ndarray:
        """Return log p(x) of every row."""
        if self.table is None:
            return exact.linear_gaussian(self.model, data)
        return self.table[np.asarray(data.x, np.int64) @ (1 << np.arange(data.x.shape[1]))]

    @property
    def expectation(self) -> float:
        """E log p(x) over the model's own rows, in nats: minus its entropy."""
        if self.table is not None:
            return float(np.sum(np.exp(self.table) * self.table))
        weight, _, noise = exact.affine_decoder(self.model)
        _, logarithm = np.linalg.slogdet(2.0 * math.pi * math.e * (weight @ weight.T + np.diag(noise)))
        return -0.5 * float(logarithm)


def simulated(model: Model, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (z, x) drawn from the model as ``bracket`` draws them."""
    z, x = annealed._simulate(model, jax.random.split(jax.random.key(seed), count))
    return np.asarray(z), np.asarray(x)


def imperfect(model: Model) -> Model:
    """Return the model with an encoder fitted by least squares to 20,000 pairs (z, x), then spoilt."""
    z, x = simulated(model, 1, 20_000)
    features = np.asarray(jax.vmap(lambda x: model.spec.sites.features(x, None, model.mean(), model.scale()))(x))
    inputs = np.concatenate([features.reshape(len(x), -1), np.ones((len(x), 1))], axis=1)
    map_, *_ = np.linalg.lstsq(inputs, z, rcond=None)
    deviation = np.std(z - inputs @ map_, axis=0)
    raw = np.log(np.expm1(WIDER * deviation)) - UNIT
    weight = np.concatenate([map_[:-1], np.zeros_like(map_[:-1])], axis=1)
    bias = np.concatenate([map_[-1] + OFF * deviation, raw])
    new = (jnp.asarray(weight, jnp.float32), jnp.asarray(bias, jnp.float32))
    return eqx.tree_at(lambda m: (m.encoder.output.weight, m.encoder.output.bias), model, new)


def linear(latent: int, sites: int, seed: int) -> Case:
    spec = tb.VAE(
        sites=tb.Sites(kind="real", shape=(sites,)), latent=latent, encoder=AFFINE, decoder=AFFINE,
        likelihood=tb.Gaussian(noise="fixed", scale=0.7),
    )  # fmt: skip
    model = spec.build(jax.random.key(latent + APART * seed))
    model = eqx.tree_at(lambda m: m.decoder.output.weight, model, replace_fn=lambda weight: 2.0 * weight)
    return Case(f"linear-Gaussian, {latent} latents, {sites} sites", imperfect(model))


def bernoulli(seed: int, sites: int = 8) -> Case:
    spec = tb.VAE(
        sites=tb.Sites(kind="binary", shape=(sites,)), latent=2, encoder=AFFINE,
        decoder=tb.MLP(hidden=(16,), activation="tanh"), likelihood=tb.Bernoulli(),
    )  # fmt: skip
    everything = tb.Dataset((np.arange(2**sites)[:, None] >> np.arange(sites) & 1).astype(np.uint8), spec.sites)
    model = spec.build(jax.random.key(APART * seed), everything.statistics())
    model = eqx.tree_at(
        lambda m: (m.decoder.hidden[0].linear.weight, m.decoder.output.weight), model, replace_fn=lambda weight: 2.0 * weight
    )
    model = imperfect(model)
    table = exact.exact(model, everything, tolerance=1e-5).log_evidence
    total = np.exp(table).sum()
    assert abs(total - 1.0) < 1e-4, f"the exact values of all x sum to a probability of {total}"
    return Case(f"Bernoulli, 2 latents, {sites} sites, tanh", model, table)


class Found(NamedTuple):
    """Errors (repetitions, rows) of one estimator at one setting, with the stated standard errors; +1 is an upper bound."""

    case: str
    estimator: str
    setting: int
    sign: int
    errors: np.ndarray
    stated: np.ndarray
    ess: float
    rows_repeat: bool


def by_importance(case: Case, seed: int) -> Iterator[Found]:
    data = case.rows(2 + APART * seed, ROWS)
    truth = case.truth(data)
    for draws in DRAWS:
        results = [importance.importance(case.model, data, draws=draws, seed=number) for number in repeated(seed, REPETITIONS)]
        errors = np.stack([result.log_evidence - truth for result in results])
        stated = np.stack([result.se for result in results])
        ess = float(np.median([result.ess for result in results]))
        yield Found(case.name, "importance, lower", draws, -1, errors, stated, ess, True)


def by_annealing(case: Case, seed: int) -> Iterator[Found]:
    truth = np.stack([case.truth(case.rows(number, BRACKETED)) for number in repeated(seed, BRACKETS)])
    found = []
    starts = ("prior",) if case.table is None else ("prior", "refined")
    for start, temperatures in itertools.product(starts, TEMPERATURES):
        walk = annealed.Walk(temperatures, CHAINS, LEAPFROG, start)
        both = [annealed.bracket(case.model, BRACKETED, walk, seed=number) for number in repeated(seed, BRACKETS)]
        for name, sign in (("lower", -1), ("upper", 1)):
            parts = [getattr(bracket, name) for bracket in both]
            errors = np.stack([part.log_evidence for part in parts]) - truth
            stated = np.stack([part.se for part in parts])
            ess = float(np.median([part.ess for part in parts]))
            found.append(Found(case.name, f"annealed from {start}, {name}", temperatures, sign, errors, stated, ess, False))
    yield from sorted(found, key=lambda part: (part.estimator, part.setting))


def repeated(seed: int, count: int) -> range:
    return range(APART * seed, APART * seed + count)


def mean_and_se(values: np.ndarray, rows_repeat: bool) -> tuple[float, float]:
    """Return the mean and its standard error; rows that are the same in all repetitions are averaged first."""
    independent = values.mean(axis=1) if rows_repeat else values.ravel()
    return float(independent.mean()), float(independent.std(ddof=1) / math.sqrt(independent.size))


def judged(found: Found, before: Found | None) -> dict[str, Any]:
    error, se = mean_and_se(found.errors, found.rows_repeat)
    line: dict[str, Any] = {
        "model": found.case, "estimator": found.estimator, "setting": found.setting, "error": error, "se": se,
        "kept": found.sign * error >= -ALLOWED * se, "ess": found.ess,
    }  # fmt: skip
    if before is not None:
        gain, gain_se = mean_and_se(found.sign * (before.errors - found.errors), found.rows_repeat)
        line |= {"gain": gain, "gain_se": gain_se, "tighter": gain >= -ALLOWED * gain_se}
    stated = np.isfinite(found.stated).all(axis=1)  # in each repetition for all rows or for none
    line["stated in"] = float(stated.mean())
    if stated.any():
        covered = np.abs(found.errors[stated]) < NOMINAL * found.stated[stated]
        line |= {"stated": float(np.median(found.stated[stated])), "coverage": float(covered.mean())}
        if found.rows_repeat:
            rows = covered.mean(axis=0)
            line |= {"rows": [float(rows.min()), float(np.median(rows)), float(rows.max())]}
        line["covered"] = ACCEPTED[0] <= line["coverage"] <= ACCEPTED[1]
    return line


def lines_of(case: Case, seed: int) -> Iterator[dict[str, Any]]:
    before = None
    found = [*by_importance(case, seed), *by_annealing(case, seed)]
    for part, following in zip(found, [*found[1:], None], strict=True):
        last = following is None or following.estimator != part.estimator
        yield judged(part, before)
        before = None if last else part


def of_the_mean(case: Case, seed: int, draws: int = 1_000) -> dict[str, Any]:
    """Check the standard error of the mean over rows: its interval against the expectation of log p(x)."""
    results = [
        importance.importance(case.model, case.rows(100 + number, SAMPLED), draws=draws, seed=number).bound()
        for number in repeated(seed, SAMPLES)
    ]
    covered = [abs(result.value - case.expectation) < NOMINAL * result.se for result in results]
    share = float(np.mean(covered))
    return {
        "model": case.name, "rows": SAMPLED, "draws": draws, "expectation": case.expectation,
        "mean": float(np.mean([result.value for result in results])), "se": float(np.median([r.se for r in results])),
        "coverage": share, "covered": ACCEPTED[0] <= share <= ACCEPTED[1],
    }  # fmt: skip


def cells(line: dict[str, Any]) -> Sequence[str]:
    def yes(name: str) -> str:
        return {True: "", False: " ✗", None: ""}[line.get(name)]

    gain = f"{line['gain']:.4f} ± {line['gain_se']:.4f}{yes('tighter')}" if "gain" in line else "–"
    coverage = f"{line['coverage']:.1%}{yes('covered')}" if "coverage" in line else "–"
    rows = f"{line['rows'][0]:.1%} – {line['rows'][2]:.1%}" if "rows" in line else "–"
    stated = f"{line['stated']:.4f} in {line['stated in']:.0%}" if "stated" in line else "–"
    error = f"{line['error']:+.4f} ± {line['se']:.4f}{yes('kept')}"
    return line["estimator"], f"{line['setting']:,}", error, gain, f"{line['ess']:.3g}", stated, coverage, rows


HEAD = ("estimator", "setting", "estimate − truth", "tighter by", "effective draws", "stated se", "coverage", "by row")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=0)
    seed = options.parse_args().seed
    lines, means = [], []
    for case in (linear(2, 5, seed), linear(10, 20, seed), bernoulli(seed)):
        lines += lines_of(case, seed)
        print(f"\n{case.name}\n")
        print(markdown(HEAD, [cells(line) for line in lines if line["model"] == case.name]), flush=True)
        means.append(of_the_mean(case, seed))
    print(f"\nThe mean over {SAMPLED} rows drawn from the model, {SAMPLES} times\n")
    head = ("model", "E log p(x)", "mean estimate", "stated se", "coverage")
    columns = ("expectation", "mean", "se")
    rows = [[mean["model"], *(f"{mean[name]:.3f}" for name in columns), f"{mean['coverage']:.1%}"] for mean in means]
    print(markdown(head, rows))
    failed = [line for line in [*lines, *means] if not all(line.get(name, True) for name in ("kept", "tighter", "covered"))]
    checks = sum(name in line for line in [*lines, *means] for name in ("kept", "tighter", "covered"))
    print(f"\n{checks} checks, {len(failed)} lines with a failure")
    # The writer's own folder is that of the speed benchmarks.
    name = f"coverage-{seed}" if seed else "coverage"
    write(f"../../evidence/results/{name}", {"lines": lines, "means": means, "checks": checks, "failed": len(failed)})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
