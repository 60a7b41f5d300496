"""Contracts that every part keeps, for the library's own tests and for parts of your own.

A part that passes may be trusted in any combination: its densities sum or integrate to 1, its draws come from the density
it reports, what is not observed has no influence, and every trained number gets a gradient. The checks are plain
functions that raise :class:`AssertionError` with what was measured and what was expected; they need no test framework.

Every statistical comparison is made at a false-alarm rate of 1e-6 for a right part over the choice of the seed. The seed
is fixed, so that a verdict does not change from run to run.

>>> from tightbound import Bernoulli, Sites, StandardNormal
>>> check_prior(StandardNormal())
>>> check_likelihood(Bernoulli(), Sites(kind="binary", shape=(3,)))
"""

from __future__ import annotations

from tightbound.testing.comparisons import FALSE_ALARM
from tightbound.testing.estimates import check_estimate, check_objective
from tightbound.testing.examples import example_rows, example_statistics
from tightbound.testing.latents import check_posterior, check_prior
from tightbound.testing.linear import LinearGaussian, linear_gaussian, posterior_moments
from tightbound.testing.sites import check_likelihood

__all__ = [
    "FALSE_ALARM",
    "LinearGaussian",
    "check_estimate",
    "check_likelihood",
    "check_objective",
    "check_posterior",
    "check_prior",
    "example_rows",
    "example_statistics",
    "linear_gaussian",
    "posterior_moments",
]
