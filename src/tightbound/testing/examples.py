"""Rows and statistics for sites of any kind."""

from __future__ import annotations

import numpy as np

from tightbound.data.arrays import Dataset
from tightbound.schema import Sites, Statistics

__all__ = ["example_rows", "example_statistics"]


def example_statistics(sites: Sites) -> Statistics:
    """Return statistics that rows of such sites may have."""
    if sites.parts:
        whole = Statistics(np.empty(sites.count, np.float32), np.empty(sites.count, np.float32))
        for part in sites.parts:
            whole.mean[part.at], whole.scale[part.at], _ = example_statistics(part.sites)
        return whole
    middle, spread = (sites.levels - 1) / 2, max(sites.levels / 4, 0.5)
    known = {"binary": (0.3, 0.5), "levels": (middle, spread), "count": (3.0, 2.0), "real": (1.0, 2.0)}
    mean, scale = known.get(sites.kind, (0.0, 1.0))
    tilt = np.linspace(0.8, 1.2, sites.count, dtype=np.float32)
    return Statistics(mean * tilt, np.full(sites.count, scale, np.float32))


def example_rows(sites: Sites, count: int, seed: int = 0) -> Dataset:
    """Return random rows that such sites can hold, some cells missing and exposures uneven where the sites say so."""
    rng, shape = np.random.default_rng(seed), (count, sites.count)
    observed = rng.random(shape) < 0.7 if sites.missing else None
    exposure = rng.uniform(0.5, 3.0, count) if sites.exposure else None
    return Dataset(_values(rng, sites, count), sites, observed=observed, exposure=exposure)


def _values(rng: np.random.Generator, sites: Sites, count: int) -> np.ndarray:
    shape = (count, sites.count)
    if sites.parts:
        x = np.empty(shape)
        for part in sites.parts:
            x[:, part.at] = _values(rng, part.sites, count)
        return x
    return {
        "binary": lambda: rng.integers(0, 2, shape),
        "count": lambda: rng.poisson(3.0, shape),
        "real": lambda: 1.0 + 2.0 * rng.standard_normal(shape),
    }.get(sites.kind, lambda: rng.integers(0, np.broadcast_to(sites.sizes or sites.levels, sites.count), shape))()
