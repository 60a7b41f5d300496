"""A data set in memory: rows of sites, what is observed of them, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from tightbound.errors import DataError
from tightbound.schema import Sites, Statistics

__all__ = ["Dataset", "Split"]


class Split(NamedTuple):
    """Row numbers of the three parts, each sorted and disjoint from the others."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows x of shape (n, D) in a compact type, with what is known about them.

    ``x`` holds admissible values only: a cell that is not observed holds a valid placeholder. With
    ``binarise`` the sites are binary and ``x`` holds grey levels 0…255 whose value/255 is the probability of a one,
    drawn anew every time a row is used.
    """

    x: np.ndarray
    sites: Sites
    observed: np.ndarray | None = None
    exposure: np.ndarray | None = None
    labels: np.ndarray | None = None
    names: tuple[str, ...] = ()
    source: str = "array"
    binarise: bool = False
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.x)
