"""The checks that make the fields of a :class:`~tightbound.data.arrays.Dataset` fit together."""

from __future__ import annotations

from typing import Any

import numpy as np

from tightbound.data.moments import LARGEST_REAL, chunks
from tightbound.data.support import LARGEST_COUNT
from tightbound.errors import DataError, SupportError
from tightbound.schema import Sites

__all__ = ["compact", "exposures", "label_column", "mask", "read_only", "row_numbers", "unique_names"]


def read_only(value: Any) -> Any:
    """Return a view of an array that cannot be written through, and anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    view = value.view()
    view.flags.writeable = False
    return view


def mask(observed: Any, shape: tuple[int, ...], sites: Sites) -> np.ndarray | None:
    """Return the mask of observed cells, which has the shape of x."""
    if observed is None:
        return None
    seen = np.asarray(observed)
    if seen.shape != shape or seen.dtype != bool:
        raise DataError(f"observed has shape {seen.shape} and type {seen.dtype}, expected {shape} and bool, like x")
    if not sites.missing:
        raise DataError("observed is given, but the sites are never missing; use sites.replace(missing=True)")
    return seen


def exposures(exposure: Any, count: int, sites: Sites) -> np.ndarray | None:
    """Return the exposures: one positive number per row, present exactly when the sites have an exposure."""
    if (exposure is not None) != sites.exposure:
        given = "missing" if exposure is None else "given"
        raise DataError(f"an exposure is {given}, but the sites are {sites.describe()}; only counts can have one")
    if exposure is None:
        return None
    try:
        values = np.array(exposure, dtype=np.float32)
    except (ValueError, TypeError):
        raise DataError("exposure is not numeric, expected one positive number per row") from None
    if values.shape != (count,):
        raise DataError(f"exposure has shape {values.shape}, expected ({count},): one positive number per row")
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(wrong):
        raise DataError(f"the exposure of row {wrong[0]} is {values[wrong[0]]:g}, expected a positive, finite number")
    return values


def label_column(labels: Any, count: int) -> np.ndarray | None:
    """Return the labels, numbers or text, one per row."""
    if labels is None:
        return None
    try:
        values = np.array(labels)
    except ValueError:
        raise DataError(f"labels are not a plain list, expected {count} numbers or words") from None
    if values.shape != (count,):
        raise DataError(f"labels have shape {values.shape}, expected ({count},): one per row")
    if values.dtype.kind == "O":
        values = values.astype(str)
    if values.dtype.kind not in "buifUS":
        raise DataError(f"labels have type {values.dtype}, expected numbers or text")
    return values


def unique_names(names: Any, count: int) -> tuple[str, ...]:
    """Return the column names: none, or one for every column and no two alike."""
    words = tuple(str(name) for name in names)
    if words and len(words) != count:
        raise DataError(f"there are {len(words)} names for {count} columns; pass one per column, or none")
    twice = sorted({word for word in words if words.count(word) > 1}) if len(set(words)) < len(words) else []
    if twice:
        raise DataError(f"column names occur more than once: {', '.join(map(repr, twice[:5]))}; rename them")
    return words


def compact(x: np.ndarray, sites: Sites, observed: np.ndarray | None, names: tuple[str, ...], binarise: bool) -> np.ndarray:
    """Return x in the smallest type that holds every value of the sites; refuse values that they cannot take."""
    if binarise and sites.kind != "binary":
        raise DataError(f"binarise needs binary sites, got {sites.describe()}; use with_binarisation")
    values = Sites(shape=sites.shape, kind="levels", levels=256) if binarise else sites
    if not all(_admissible(x[part], values) for part in chunks(x)):
        values.check(x, observed, names)
        _refuse_the_rest(x, values, observed, names)
    return x.astype(_compact_type(values), copy=False)


def _compact_type(sites: Sites) -> type[np.generic]:
    if sites.kind in ("real", "mixed"):
        return np.float32
    return np.int32 if sites.kind == "count" or sites.levels > 256 else np.uint8


def _admissible(cells: np.ndarray, sites: Sites) -> bool:
    if cells.dtype.kind not in "buif":
        raise DataError(f"x has type {cells.dtype}, expected numbers; use from_arrays")
    if sites.parts:
        return all(_admissible(cells[:, part.at], part.sites) for part in sites.parts)
    if sites.kind == "real":
        return float(np.abs(cells).max(initial=0)) <= LARGEST_REAL
    largest = {"binary": 1, "count": LARGEST_COUNT}.get(sites.kind, np.asarray(sites.sizes or sites.levels) - 1)
    inside = cells.min(initial=0) >= 0 and np.all(cells.max(axis=0, initial=0) <= largest)
    return bool(inside and (cells.dtype.kind != "f" or (np.floor(cells) == cells).all()))


def _refuse_the_rest(x: np.ndarray, sites: Sites, observed: np.ndarray | None, names: tuple[str, ...]) -> None:
    """Say what is wrong with values that the sites could take: a bad placeholder, or too large for the compact type."""
    if observed is not None:
        try:
            sites.check(x, None, names)
        except SupportError as error:
            raise DataError(f"a cell that is not observed must hold a valid placeholder, such as 0: {error}") from None
    limit = f"{LARGEST_COUNT:,} for counts" if sites.kind == "count" else f"±{LARGEST_REAL:.2g} for real numbers"
    raise DataError(f"x has a value of {np.abs(x).max():g}, beyond what single precision holds ({limit}); rescale x")


def row_numbers(rows: Any, count: int) -> np.ndarray:
    """Return row numbers within 0…count − 1 from numbers or from a mask over all rows."""
    index = np.asarray(rows)
    if index.dtype == bool and index.shape == (count,):
        return np.flatnonzero(index)
    if index.size == 0:
        return np.zeros(0, np.intp)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise DataError(f"rows have shape {index.shape} and type {index.dtype}, expected numbers or a mask of {count}")
    if index.min() < 0 or index.max() >= count:
        raise DataError(f"row numbers run from {index.min()} to {index.max()}, expected 0…{count - 1}")
    return index
