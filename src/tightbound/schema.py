"""What x is: a vector of conditionally independent *sites* of one kind, their shape and their admissible values.

====================  =======================================  ====================
kind                  admissible values of a site              densities are w.r.t.
====================  =======================================  ====================
``binary``            0 or 1                                   counting measure
``levels``            0, 1, …, ``levels`` − 1, in order        counting measure
``category``          0, 1, …, ``levels`` − 1, without order   counting measure
``count``             0, 1, 2, …                               counting measure
``real``              any finite number                        Lebesgue measure
====================  =======================================  ====================

Numbers of bits or nats compare only between models of the same sites under the same measure.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from pydantic import Field, model_validator

from tightbound.errors import SupportError
from tightbound.spec import Spec

__all__ = ["Kind", "Measure", "Sites", "Statistics"]

Kind = Literal["binary", "levels", "category", "count", "real"]
Measure = Literal["counting", "lebesgue", "mixed"]


class Statistics(NamedTuple):
    """What a model is told of its training rows, in the units of x.

    ``mean`` (D,) and ``scale`` (D,) are of single sites (with an exposure: of rates); ``examples`` (m, D) are rows for
    parts that start at data.
    """

    mean: np.ndarray
    scale: np.ndarray
    examples: np.ndarray | None = None


class Sites(Spec):
    """The shape and kind of one example.

    ``shape`` is ``(D,)`` for a row and ``(height, width, channels)`` for an image; the number of sites D is its
    product. ``levels`` is the number of values of a ``levels`` or ``category`` site. ``missing`` says that sites may be
    unobserved; ``exposure`` says that every row of counts comes with an exposure (a library size, a time at risk).

    >>> Sites(shape=(8, 8, 1), kind="levels", levels=17).count
    64
    """

    kind: Kind
    shape: tuple[int, ...] = Field(min_length=1, max_length=3)
    levels: int = Field(default=0, ge=0, le=65536)
    missing: bool = False
    exposure: bool = False

    @model_validator(mode="after")
    def _levels_fit_kind(self) -> Self:
        if min(self.shape) < 1:
            raise ValueError(f"every entry of shape must be at least 1, got {self.shape}")
        if self.kind in ("levels", "category") and self.levels < 2:
            raise ValueError(f"sites of kind '{self.kind}' need levels ≥ 2, got {self.levels}")
        if self.kind not in ("levels", "category") and self.levels:
            raise ValueError(f"sites of kind '{self.kind}' have no levels; leave the field out")
        if self.exposure and self.kind != "count":
            raise ValueError("only counts have an exposure")
        return self

    @property
    def count(self) -> int:
        """D, the number of sites."""
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        """Whether the sites lie on a (height, width, channels) grid."""
        return len(self.shape) == 3

    @property
    def measure(self) -> Measure:
        """The measure that densities of these sites are taken against."""
        return "lebesgue" if self.kind == "real" else "counting"

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of what a network sees of one example: the last axis carries one-hot codes and missing marks."""
        channels = (self.levels if self.kind == "category" else 1) + self.missing
        *grid, last = self.shape
        return (*grid, last * channels)

    def features(
        self, x: Float[Array, "D"], observed: Bool[Array, "D"] | None, mean: Float[Array, "D"], scale: Float[Array, "D"]
    ) -> Array:
        """Return what a network sees of one example, of shape ``feature_shape``.

        Sites are centred and divided by the training scale (counts after log(1 + x)), categories become one-hot codes;
        an unobserved site reads 0 in every code and 1 in its missing mark, whatever its cell held.
        """
        if self.kind == "category":
            codes = jax.nn.one_hot(x.astype(jnp.int32), self.levels)
        elif self.kind == "count":
            codes = jnp.log1p(x)[:, None]
        else:
            codes = ((x - mean) / scale)[:, None]
        if observed is not None:
            codes = jnp.where(observed[:, None], codes, 0.0)
        if self.missing:
            seen = jnp.ones(self.count, bool) if observed is None else observed
            codes = jnp.concatenate([codes, 1.0 - seen[:, None].astype(codes.dtype)], axis=1)
        return codes.reshape(self.feature_shape)

    def check(self, x: np.ndarray, observed: np.ndarray | None = None, names: tuple[str, ...] = ()) -> None:
        """Raise :class:`SupportError`, naming columns and values, when a row has a value that these sites cannot take."""
        rows = np.asarray(x).reshape(len(x), -1)
        if rows.shape[1] != self.count:
            raise SupportError(f"the rows have {rows.shape[1]} sites, expected {self.count} ({'×'.join(map(str, self.shape))})")
        bad = ~self._admissible(rows)
        if observed is not None:
            bad &= np.asarray(observed).reshape(rows.shape)
        if bad.any():
            raise SupportError(_bad_values(self, rows, bad, names))

    def _admissible(self, rows: np.ndarray) -> np.ndarray:
        if rows.dtype == bool:
            return np.ones(rows.shape, bool)
        whole = np.ones(rows.shape, bool) if rows.dtype.kind in "iu" else np.isfinite(rows) & (np.floor(rows) == rows)
        match self.kind:
            case "real":
                return np.isfinite(rows)
            case "binary":
                return (rows == 0) | (rows == 1)
            case "count":
                return whole & (rows >= 0)
            case _:
                return whole & (rows >= 0) & (rows < self.levels)

    def describe(self) -> str:
        """Return one line for people: how many sites, of which kind."""
        grid = "×".join(map(str, self.shape))
        values = {
            "binary": "values 0 or 1",
            "levels": f"{self.levels} ordered levels 0…{self.levels - 1}",
            "category": f"{self.levels} categories",
            "count": "counts 0, 1, 2, …",
            "real": "real numbers",
        }[self.kind]
        extras = [word for word, on in (("with missing cells", self.missing), ("with exposure", self.exposure)) if on]
        return ", ".join([f"{self.count} sites ({grid})" if len(self.shape) > 1 else f"{self.count} sites", values, *extras])


def _bad_values(sites: Sites, rows: np.ndarray, bad: np.ndarray, names: tuple[str, ...]) -> str:
    columns = np.flatnonzero(bad.any(axis=0))
    shown = []
    for column in columns[:5]:
        values = rows[bad[:, column], column]
        examples = ", ".join(f"{value:g}" for value in np.unique(values)[:3])
        name = f"'{names[column]}'" if names else str(column)
        shown.append(f"column {name} has {examples} ({len(values)} {'row' if len(values) == 1 else 'rows'})")
    more = f", and {len(columns) - 5} more columns" if len(columns) > 5 else ""
    return f"expected {sites.describe()}, but " + "; ".join(shown) + more
