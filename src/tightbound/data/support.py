"""What values are: the rule that decides the kind of the sites when the user does not, and what is worth a note."""

from __future__ import annotations

from typing import NamedTuple, get_args

import numpy as np

from tightbound.data.columns import column_list
from tightbound.data.moments import Moments, chunks
from tightbound.errors import DataError
from tightbound.schema import Kind, Sites

__all__ = ["LARGEST_COUNT", "Support", "decide", "value_notes"]

LARGEST_COUNT = 2**24  # every whole number up to here is a float32
_MOST_LEVELS = 65536


class Support(NamedTuple):
    """The kind of the sites, the number of levels (0 where the kind has none), and a note on what was not asked for."""

    kind: Kind
    levels: int = 0
    note: str | None = None


def decide(cells: np.ndarray, kind: Kind | None, levels: int | None, *, image: bool, exposed: bool) -> Support:
    """Return the support that was asked for, or else the one that the values suggest (see ``from_arrays``)."""
    if kind is None and levels is not None:
        kind = "levels"
    if kind is None and exposed:
        return Support("count", 0, "taken as count, because an exposure is given")
    if kind is None:
        return _infer(cells, image=image)
    if kind == "mixed":
        raise DataError("mixed sites have parts that an array cannot tell; build a Dataset with its sites")
    if kind not in get_args(Kind):
        raise DataError(f"kind '{kind}' is unknown; expected one of {', '.join(get_args(Kind))}")
    if levels is None and kind in ("levels", "category"):
        levels = _count_levels(cells) if kind == "levels" else max(2, int(cells.max()) + 1)
        why = f"as the largest value is {cells.max():g}"
        return Support(kind, levels, f"taken as {levels} {kind}, {why}; pass levels to change")
    return Support(kind, levels or 0)


def _infer(cells: np.ndarray, *, image: bool) -> Support:
    if cells.dtype == bool:
        return _suggest("binary", 0, "the values are true or false")
    low, high = cells.min(), cells.max()
    if low < 0 or not _all_whole(cells):
        return _suggest("real", 0, "some values are negative" if low < 0 else "some values are not whole numbers")
    if high <= 1:
        return _suggest("binary", 0, "every value is 0 or 1")
    if high <= 255 and (image or cells.dtype == np.uint8 or high == 255):
        what = "pictures" if image else "bytes" if cells.dtype == np.uint8 else "a table"
        return _suggest("levels", _count_levels(cells), f"the values are {what} of whole numbers up to {int(high)}")
    if high <= LARGEST_COUNT:
        return _suggest("count", 0, f"the values are whole numbers 0…{int(high):,}")
    return _suggest("real", 0, f"whole numbers up to {high:g} are too large for counts")


def _suggest(kind: Kind, levels: int, why: str) -> Support:
    size = f" with {levels} values" if levels else ""
    return Support(kind, levels, f"taken as {kind}{size}, because {why}; pass kind to change")


def _count_levels(cells: np.ndarray) -> int:
    largest = int(cells.max())
    if largest >= _MOST_LEVELS:
        raise DataError(f"a value is {largest:,}, but levels end at {_MOST_LEVELS - 1:,}; pass kind='count' or 'real'")
    return 256 if 16 < largest < 256 else max(2, largest + 1)


def _all_whole(cells: np.ndarray) -> bool:
    return cells.dtype.kind in "iu" or all((np.floor(cells[part]) == cells[part]).all() for part in chunks(cells))


def value_notes(cells: np.ndarray, sites: Sites, summary: Moments, names: tuple[str, ...]) -> list[str]:
    """Return what a careful colleague would point out about the values before training."""
    notes = []
    never = summary.weight == 0
    if where := column_list(never, names):
        notes.append(f"never observed: {where}")
    constant = summary.constant & ~never
    if len(cells) > 1 and constant.any():
        where = f"{constant.sum():,} of {sites.count:,} sites" if sites.is_image else column_list(constant, names)
        notes.append(f"constant: {where}")
    if sites.kind == "real" and _scaled_bytes(cells):
        notes.append(
            "the values look like bytes divided by 255: their densities do not compare with probabilities of levels; "
            "pass np.round(x * 255).astype(np.uint8) to model the levels"
        )
    if sites.kind == "levels" and sites.levels == 256 and _black_and_white(cells):
        notes.append("every value is 0 or 255: binarise by 'threshold' to model bits")
    return notes


def _scaled_bytes(cells: np.ndarray) -> bool:
    sample = cells[: max(1, 100_000 // cells.shape[1])].astype(np.float64)
    if sample.size < 64 or sample.min() < 0 or sample.max() > 1:
        return False
    return bool((np.abs(sample * 255 - np.round(sample * 255)) < 1e-3).all())


def _black_and_white(cells: np.ndarray) -> bool:
    return all(((cells[part] == 0) | (cells[part] == 255)).all() for part in chunks(cells))
