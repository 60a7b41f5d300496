"""Single columns as shares of bins, in the user's units: of rows, and of draws."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tightbound.pictures import bins_of
from tightbound.report.material import Material

__all__ = ["Margin", "margins", "seen"]

SHOWN = 40  # columns, at most


class Margin(NamedTuple):
    """How a column is shown: its ``levels`` in words, or the edges of ``bins`` (B + 1) in the user's units."""

    material: Material
    column: int
    name: str
    levels: tuple[str, ...]
    bins: np.ndarray

    def facts(self) -> dict[str, Any]:
        """What a page has to know of the column."""
        return {"name": self.name, "levels": list(self.levels), "bins": self.bins.tolist()}

    def shares(self, sites: np.ndarray) -> np.ndarray:
        """Return the share of sites (n,) of the column that falls into each bin; what is outside goes to the ends."""
        values = _in_units(self.material, self.column, np.asarray(sites, np.float64))
        return np.histogram(np.clip(values, self.bins[0], self.bins[-1]), self.bins)[0] / max(len(values), 1)

    def word(self, site: float) -> str:
        """Return a cell as text."""
        return self.levels[int(site)] if self.levels else f"{_in_units(self.material, self.column, np.array([site]))[0]:.6g}"


def margins(material: Material, most: int = SHOWN) -> list[Margin]:
    """Return the first columns of a run; bins span both its rows and draws from its model."""
    return [_margin(material, column) for column in range(min(material.data.sites.count, most))]


def _margin(material: Material, column: int) -> Margin:
    levels = _levels(material, column)
    real, drawn = (_in_units(material, column, x) for x in (seen(material, column), material.samples[:, column]))
    whole = bool(np.all(np.floor(real) == real))
    bins = np.arange(len(levels) + 1) - 0.5 if levels else bins_of(real, drawn, whole=whole)
    return Margin(material, column, material.names[column], levels, bins)


def seen(material: Material, column: int) -> np.ndarray:
    """Return the sites of a column that are seen in the evaluated rows."""
    rows = material.evaluated
    values = rows.x[:, column].astype(np.float64)
    return values if rows.observed is None else values[rows.observed[:, column]]


def _in_units(material: Material, column: int, sites: np.ndarray) -> np.ndarray:
    """Return what a column holds in the user's units; categories stay codes."""
    if material.schema is None or material.schema.columns[column].values:
        return sites
    return material.schema.columns[column].decode(sites)


def _levels(material: Material, column: int) -> tuple[str, ...]:
    """Return the values of a column in words, none for numbers."""
    if material.schema is not None:
        return material.schema.columns[column].values
    sites = material.data.sites
    return tuple(str(level) for level in range(sites.levels or 2)) if sites.kind in ("binary", "category", "levels") else ()
