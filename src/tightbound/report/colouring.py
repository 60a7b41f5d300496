"""What colours the map of the rows: their labels, a column that the user names, or the one that the map tells most of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tightbound.data.frames import Column
from tightbound.errors import DataError
from tightbound.pictures import Coloured
from tightbound.report.material import Material

__all__ = ["check_colour", "colouring", "information"]

LABEL = "label"
PARTS = 6  # of each direction of the map, with as many rows in each


def colouring(material: Material, points: np.ndarray) -> tuple[Coloured | None, str]:
    """Return what colours the points (n, 2) of the mapped rows, None when there is nothing to choose from, and say so."""
    labels, wanted = material.mapped.labels, material.colour
    if wanted is not None and not (wanted == LABEL and labels is not None):
        return _asked_for(material, wanted)
    if labels is not None:
        return Coloured(LABEL, labels, np.ones(len(labels), bool)), "The colour is the label."
    found = [(information(points, *cells), name, cells) for name, cells in _categories(material)]
    if not found:
        return None, ""
    share, name, cells = max(found, key=lambda one: one[0])
    words = (
        f"The colour is the column {name}: of all columns of categories the place on the map tells most of it, "
        f"{share:.0%} of what there is to know."
    )
    return Coloured(name, *cells), words


def check_colour(material: Material) -> None:
    """Raise :class:`DataError` when the column that was asked for is not there: before any work is done."""
    name = material.colour
    if name is not None and name not in material.names and not (name == LABEL and material.mapped.labels is not None):
        known = [*([] if material.mapped.labels is None else [LABEL]), *material.names]
        more = f" and {len(known) - 20:,} more" if len(known) > 20 else ""
        raise DataError(f"there is no column '{name}' to colour the map by; there are {', '.join(known[:20])}{more}")


def _asked_for(material: Material, name: str) -> tuple[Coloured, str]:
    number = material.names.index(name)
    moments = material.moments(number)
    word = None if moments is None else moments.moment
    return Coloured(name, *_cells(material, number), word), f"The colour is the column {name}, as asked for."


def _categories(material: Material) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Yield the columns of the table that have names for values and no order."""
    for number, column in enumerate(() if material.schema is None else material.schema.columns):
        if column.kind in ("boolean", "category"):
            yield column.name, _cells(material, number)


def _cells(material: Material, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells (n,) of a column in the mapped rows, as words or numbers in the user's units, and which are known."""
    rows = material.mapped
    known = np.ones(len(rows.x), bool) if rows.observed is None else rows.observed[:, number]
    sites = rows.x[:, number].astype(np.float64)
    column: Column | None = None if material.schema is None else material.schema.columns[number]
    if column is None:
        return sites, known
    return (np.array(column.values)[sites.astype(int)] if column.values else column.decode(sites)), known


def information(points: np.ndarray, values: np.ndarray, known: np.ndarray) -> float:
    """Return how much of a value the place on the map tells: 0 for what chance would, at most 1.

    The mutual information of value and part of the map above its expectation by chance, over the smaller of their entropies
    (Vinh et al. 2010): without that, values of many kinds would seem to be told.
    """
    # Where it is used: every fit imports this module, and scikit-learn takes most of a second.
    from sklearn.metrics import adjusted_mutual_info_score

    if not known.any():
        return 0.0
    inner = np.arange(1, PARTS) / PARTS
    across, up = (np.searchsorted(np.quantile(line, inner), line) for line in points[known].T)
    return float(adjusted_mutual_info_score(across * PARTS + up, values[known], average_method="min"))
