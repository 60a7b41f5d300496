"""What a reader of files hands on: an array as it stood in the file, before its support has been decided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["IMAGE_SUFFIXES", "MARKERS", "Raw"]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
MARKERS = ("", "?", "na", "n/a", "nan", "null", "none")
"""Words that stand for a missing cell, whatever their case."""


class Raw(NamedTuple):
    """The content of a source; ``levels`` is given only where the source itself says how many there are.

    ``exposure`` is that of each row, when the source was asked for it.
    """

    x: np.ndarray
    labels: np.ndarray | None = None
    names: tuple[str, ...] = ()
    levels: int | None = None
    notes: tuple[str, ...] = ()
    exposure: np.ndarray | None = None
