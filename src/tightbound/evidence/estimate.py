"""The record of an estimate: no number without its unit, its side of the truth and its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tightbound.schema import Measure

__all__ = ["Estimate", "delta_error", "mean_estimate", "stated_error"]

ENOUGH = 50.0  # effective draws from which on the delta method's error holds

Side = Literal["lower", "upper", "exact", "none"]


@dataclass(frozen=True)
class Estimate:
    """A mean over examples, in nats per example.

    ``side`` says where its expectation lies: a ``lower`` or ``upper`` bound, ``exact``, or ``none`` (neither is
    guaranteed). ``se`` is the standard error of the mean over ``examples``; it holds both the spread between examples
    and the noise of the draws. ``ess`` is the median effective sample size of the draws of an example.
    """

    value: float
    se: float
    side: Side
    method: str
    draws: int
    examples: int
    measure: Measure
    ess: float | None = None
    given: Literal["data", "simulated"] = "data"

    def bits_per_dimension(self, sites: int) -> tuple[float, float]:
        """Return −value and se in bits per site, for data with a counting measure."""
        return -self.value / (sites * math.log(2)), self.se / (sites * math.log(2))

    def __str__(self) -> str:
        side = {"lower": "lower bound", "upper": "upper bound", "exact": "exact", "none": "no bound"}[self.side]
        examples = f"{self.examples:,} example" + ("s" if self.examples != 1 else "")
        return f"{self.value:.2f} ± {self.se:.2f} nats per example ({side} in expectation, {self.method}, {examples})"


def delta_error(ess: Array, draws: Array | int) -> Array:
    """Return the standard error of log (1/k) Σ w in nats by the delta method, from the effective sample size of the weights.

    var(log mean w) ≈ var(w) / (k mean(w)²) = (k / ess − 1) / (k − 1), unbiased in var(w); NaN for a single draw.
    """
    return jnp.sqrt(jnp.maximum(draws / ess - 1.0, 0.0) / (draws - 1.0))


def stated_error(se: np.ndarray, ess: np.ndarray) -> np.ndarray:
    """Return the standard errors of the rows (n,), or NaN where the draws are too few for any: nothing beats a wrong number.

    Errors are stated for all rows or for none, by the median of their effective sample sizes. A rule per row would keep the
    rows whose largest weights happen not to have been drawn, whose errors are the most understated; a row by itself has
    no other rule.
    """
    return se if np.median(ess) >= ENOUGH else np.full_like(se, np.nan)


def mean_estimate(
    values: np.ndarray, *, side: Side, method: str, draws: int, measure: Measure, ess: np.ndarray | None = None
) -> Estimate:
    """Return the mean of per-example values with its standard error (NaN for a single example)."""
    values = np.asarray(values, np.float64)
    se = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    typical = None if ess is None else float(np.median(ess))
    return Estimate(float(values.mean()), se, side, method, draws, len(values), measure, typical)
