"""The counts benchmark on few cells and few steps: one measure for all its likelihoods, and bounds that are in order."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import tightbound as tb

PUBLISHED = Path(__file__).parents[1] / "benchmarks" / "published"
FEW = tb.Plan(steps=30, batch_size=64)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark as a module; it and what it imports beside itself are let go of afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(PUBLISHED))
    import counts

    yield counts
    for name in {"counts", "log_counts", "common", "peers", "problems"} - before:
        sys.modules.pop(name, None)
    sys.path.remove(str(PUBLISHED.parent / "speed"))


def test_log_counts_are_the_masses_of_what_rounds_to_them(counts: ModuleType) -> None:
    from log_counts import LogCounts

    loc, scale = np.array([-3.0, 0.0, 0.5, 2.0, 4.0]), np.array([1.5, 0.3, 0.1, 0.8, 0.2])
    p = LogCounts(jnp.array(loc, jnp.float32), jnp.array(scale, jnp.float32))
    x = np.arange(2000)[:, None]
    mass = np.exp(np.asarray(p.log_prob(jnp.array(x, jnp.float32)), np.float64))
    assert np.allclose(mass.sum(axis=0), 1.0, atol=1e-5)
    edges = np.log(np.maximum(np.concatenate([x, [[2000]]]) + 0.5, 0.0))  # those of 0 and above, on the scale of log(1 + x)
    edges[0] = -np.inf
    twin = np.diff(stats.norm(loc, scale).cdf(edges), axis=0)
    assert np.allclose(mass, twin, atol=1e-5)


@pytest.mark.data
def test_bounds_of_all_likelihoods_are_in_order(counts: ModuleType) -> None:
    cells = counts.read(seed=0, count=300, held_out=40)
    assert cells.counts.sum(axis=1).min() > 0 and [len(part) for part in cells.parts] == [220, 40, 40]
    test = cells.data.take(cells.parts.test)
    for likelihood in counts.LIKELIHOODS.values():
        model, told = counts.trained(cells, likelihood, FEW)
        bound, elbo, refined = counts.evaluated(model, test, draws=60, refined_draws=20, haste=True)
        assert model.measure == "counting" and told["steps"] == 30
        assert np.isfinite([bound, elbo, refined]).all()
        assert (elbo <= bound + 1e-3).all()  # of the same draws, by Jensen's inequality
        assert (bound < 0).all() and (refined < 0).all()
