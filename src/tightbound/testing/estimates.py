"""The contracts of objectives and of estimates of log p(x), on a model whose log p(x) is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from tightbound.data.arrays import Dataset
from tightbound.evidence.estimate import Estimate
from tightbound.model import Model, merge, trainable
from tightbound.objectives import Objective, ObjectiveSpec
from tightbound.rows import Batch
from tightbound.testing.comparisons import check_alive, check_finite, check_side, label, require, same_bits
from tightbound.testing.linear import linear_gaussian

__all__ = ["check_estimate", "check_objective"]


def check_objective(spec: ObjectiveSpec, *, repeats: int = 256, seed: int = 0) -> None:
    """Raise AssertionError unless a loss keeps the contract of an objective.

    On the linear-Gaussian model, whose log p(x) is known:

    - loss, terms and gradient are finite, and every trained array of the model gets a gradient;
    - rows of weight 0 have no influence on the loss or its gradient, bit for bit;
    - the terms' ``bound`` lies, averaged over ``repeats`` seeds and up to its standard error, at or below log p(x).

    False-alarm rate: 1e-6 for each comparison.
    """
    name, oracle = label(spec), linear_gaussian(exact=False)
    objective, x = spec.build(), oracle.dataset(8, seed).x
    weight = (np.arange(8) < 5).astype(np.float32)
    other = np.where(weight[:, None] > 0, x, 50.0)
    keys = jax.random.split(jax.random.key(seed), repeats)
    (loss, gradient), bounds = _examine_objective(objective, oracle.model, x, weight, keys)
    check_finite(name, (loss, gradient))
    check_alive(name, gradient)
    (padded_loss, padded), _ = _examine_objective(objective, oracle.model, other, weight, keys)
    require(
        same_bits((loss, gradient), (padded_loss, padded)),
        f"{name}: rows of weight 0 change the loss or its gradient; divide by the sum of the weights of the batch",
    )
    check_side(name, bounds, "lower", float(np.mean(oracle.log_evidence(x[:5]))))


def check_estimate(
    estimate: Callable[[Model, Dataset, int], Estimate], *, repeats: int = 64, rows: int = 5, tolerance: float = 2e-3
) -> None:
    """Raise AssertionError unless an estimator of log p(x), called as ``estimate(model, data, seed)``, keeps its promise.

    On the linear-Gaussian model, whose log p(x) is known:

    - the mean over ``repeats`` seeds is on the side of the truth that the record names, up to its standard error;
    - where q(z|x) is the true posterior, the value is log p(x) for 1, 7, 16, 17 and 33 rows, within ``tolerance`` or
      five standard deviations of the seeds: no row is dropped, counted twice or divided by the wrong number;
    - the record names the model's measure, the number of rows, and a standard error that is not negative.

    False-alarm rate: 1e-6 for each comparison.
    """
    oracle = linear_gaussian(exact=False)
    data = oracle.dataset(rows, seed=1)
    records = [estimate(oracle.model, data, seed) for seed in range(repeats)]
    name, values = records[0].method, np.array([record.value for record in records])
    require(np.isfinite(values).all(), f"{name}: a value is not finite")
    check_side(name, values, records[0].side, float(np.mean(oracle.log_evidence(data.x))))
    tight = linear_gaussian(exact=True)
    for count in (1, 7, 16, 17, 33):
        data = tight.dataset(count, seed=2)
        record, truth = estimate(tight.model, data, 0), float(np.mean(tight.log_evidence(data.x)))
        allowed = tolerance + 5 * float(np.std(values)) * (record.side != "lower")
        require(
            abs(record.value - truth) <= allowed,
            f"{name}: {record.value:.5f} for {count} rows where log p(x) is {truth:.5f} and q is the true posterior",
        )
        require(
            record.measure == tight.model.measure and record.examples == count and not record.se < 0,
            f"{name}: the record says measure {record.measure}, {record.examples} examples and se {record.se}; expected "
            f"{tight.model.measure}, {count} and a standard error",
        )


@eqx.filter_jit
def _examine_objective(
    objective: Objective, model: Model, x: ArrayLike, weight: ArrayLike, keys: Array
) -> tuple[tuple[Array, Any], Array]:
    """Return loss and gradient of a batch with the first key, and the bound averaged over rows with every key."""
    trained, rest = trainable(model)
    batch = Batch(jnp.asarray(x, jnp.float32), None, None, jnp.asarray(weight))

    def loss(part: Model) -> Array:
        return objective(merge(part, rest), batch, keys[0], jnp.int32(1_000_000)).value

    def bound(key: Array) -> Array:
        return objective(model, batch, key, jnp.int32(1_000_000)).terms.bound

    return jax.value_and_grad(loss)(trained), jax.lax.map(bound, keys)
