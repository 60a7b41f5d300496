"""Single columns as shares of bins, in the user's units: of rows, and of draws."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tightbound.data.arrays import Dataset
from tightbound.data.frames import DAY
from tightbound.pictures import bins_of
from tightbound.report.material import Material

__all__ = ["Margin", "margins", "seen", "seen_in"]

SHOWN = 40  # columns, at most


class Margin(NamedTuple):
    """How a column is shown: its ``levels`` in words, or the edges of ``bins`` (B + 1) in the user's units.

    ``dates`` are the edges in words, of columns of dates and times.
    """

    material: Material
    column: int
    name: str
    levels: tuple[str, ...]
    bins: np.ndarray
    dates: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What a page has to know of the column."""
        return {"name": self.name, "levels": list(self.levels), "bins": self.bins.tolist(), "dates": list(self.dates)}

    def shares(self, sites: np.ndarray) -> np.ndarray:
        """Return the share of sites (n,) of the column that falls into each bin; what is outside goes to the ends."""
        values = _in_units(self.material, self.column, np.asarray(sites, np.float64))
        return np.histogram(np.clip(values, self.bins[0], self.bins[-1]), self.bins)[0] / max(len(values), 1)

    def word(self, site: float) -> str:
        """Return a cell as text."""
        if self.levels:
            return self.levels[int(site)]
        number = float(_in_units(self.material, self.column, np.array([site]))[0])
        moments = self.material.moments(self.column)
        return f"{number:.6g}" if moments is None else moments.moment(number, minutes=True)


def margins(material: Material, most: int = SHOWN) -> list[Margin]:
    """Return the columns of a run, those that vary most where they are many; bins span its rows and draws from its model."""
    return [_margin(material, int(column)) for column in material.telling(most)]


def _margin(material: Material, column: int) -> Margin:
    levels = _levels(material, column)
    real, drawn = (_in_units(material, column, x) for x in (seen(material, column), material.samples[:, column]))
    whole = bool(np.all(np.floor(real) == real))
    bins = np.arange(len(levels) + 1) - 0.5 if levels else bins_of(real, drawn, whole=whole)
    return Margin(material, column, material.names[column], levels, bins, _dates(material, column, bins))


def _dates(material: Material, column: int, bins: np.ndarray) -> tuple[str, ...]:
    """Return the edges of the bins as days, or as times where the bins are not whole days; none for other columns."""
    moments = material.moments(column)
    if moments is None:
        return ()
    return tuple(moments.moment(edge, minutes=bool(bins[1] - bins[0] < DAY)) for edge in bins.tolist())


def seen(material: Material, column: int) -> np.ndarray:
    """Return the sites of a column that are seen in the evaluated rows."""
    return seen_in(material.evaluated, column)


def seen_in(rows: Dataset, column: int) -> np.ndarray:
    """Return the sites of a column that are seen in some rows."""
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
