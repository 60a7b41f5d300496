"""What x is: a vector of conditionally independent *sites*, their kind, shape and admissible values.

====================  =======================================  ====================
kind                  admissible values of a site              densities are w.r.t.
====================  =======================================  ====================
``binary``            0 or 1                                   counting measure
``levels``            0, 1, …, ``levels`` − 1, in order        counting measure
``category``          0, 1, …, ``levels`` − 1, without order   counting measure
``count``             0, 1, 2, …                               counting measure
``real``              any finite number                        Lebesgue measure
``mixed``             those of the ``parts``, each of one kind  that of each part
====================  =======================================  ====================

Numbers of bits or nats compare only between models of the same sites under the same measure.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from pydantic import Field, model_validator

from tightbound.errors import SupportError
from tightbound.spec import Spec

__all__ = ["CODE", "MANY_LEVELS", "Kind", "Measure", "Part", "Sites", "Statistics"]

MANY_LEVELS = 128  # above, one number per level is too many: networks see codes of CODE numbers
CODE = 32

Kind = Literal["binary", "levels", "category", "count", "real", "mixed"]
Measure = Literal["counting", "lebesgue", "mixed"]


class Statistics(NamedTuple):
    """What a model is told of its training rows, in the units of x.

    ``mean`` (D,) and ``scale`` (D,) are of single sites (with an exposure: of rates); ``examples`` (m, D) are rows for
    parts that start at data.
    """

    mean: np.ndarray
    scale: np.ndarray
    examples: np.ndarray | None = None


class Part(Spec):
    """Those of the sites of one x that are of one kind: where they are in x, and what they are.

    A real site may be a change of units of what the user measured, u ↦ x; with log |dx/du| = ``offset`` + ``slope`` · x the
    density p(u) = p(x) |dx/du| is per unit of u. A real site of ``width`` w > 0 was rounded: x stands for all numbers within
    w/2 of it, and has their probability instead of a density. ``atoms`` are values of a real site that occur again and again,
    such as zeros and caps: each has a probability of its own.
    """

    columns: tuple[int, ...] = Field(min_length=1)
    sites: Sites
    offset: tuple[float, ...] = ()
    slope: tuple[float, ...] = ()
    width: tuple[float, ...] = ()
    atoms: tuple[tuple[float, ...], ...] = ()

    @property
    def at(self) -> np.ndarray:
        """The columns as an index into x."""
        return np.asarray(self.columns)

    @property
    def atom_table(self) -> np.ndarray:
        """The atoms as float32 (d, A), NaN where a site has fewer than another."""
        table = np.full((len(self.columns), max(map(len, self.atoms))), np.nan, np.float32)
        for row, atoms in zip(table, self.atoms, strict=True):
            row[: len(atoms)] = atoms
        return table

    def at_atoms(self, x: np.ndarray) -> np.ndarray:
        """Return which cells of x (n, d) of this part are at atoms."""
        return np.any(np.asarray(x, np.float32)[..., None] == self.atom_table, axis=-1)

    @model_validator(mode="before")
    @classmethod
    def _own_units(cls, given: Any) -> Any:
        columns = given.get("columns") if isinstance(given, dict) else None
        if not isinstance(columns, list | tuple):
            return given  # to be refused with the name of the field
        zeros = (0.0,) * len(columns)
        return {"offset": zeros, "slope": zeros, "width": zeros, "atoms": ((),) * len(columns), **given}

    @model_validator(mode="after")
    def _of_one_size(self) -> Self:
        count = len(self.columns)
        if self.sites.shape != (count,) or self.sites.kind == "mixed" or self.sites.missing or self.sites.exposure:
            raise ValueError(f"expected {count} plain sites of one kind, got {self.sites.describe()}")
        of_sites = (self.offset, self.slope, self.width, self.atoms)
        if any(len(values) != count for values in of_sites):
            raise ValueError(f"expected offset, slope, width and atoms for each of {count} columns")
        if self.sites.kind != "real" and any(map(any, (self.offset, self.slope, self.width, map(len, self.atoms)))):
            raise ValueError("only real sites have units, widths and atoms")
        if min(self.width) < 0:
            raise ValueError(f"a width is at least 0, got {min(self.width)}")
        if any(self.width) and not all(self.width):
            raise ValueError("the sites of a part are all rounded or none is; give the others a part of their own")
        if any(width and (offset or slope) for offset, slope, width in zip(*of_sites[:3], strict=True)):
            raise ValueError("a rounded site has a probability and no density, so that its offset and slope are 0")
        return self


class Sites(Spec):
    """The shape and kind of one example.

    ``shape`` is ``(D,)`` for a row and ``(height, width, channels)`` for an image; the number of sites D is its
    product. ``levels`` is the number of values of a ``levels`` or ``category`` site; ``sizes`` has that of each site where
    they differ, none above ``levels``. ``missing`` says that sites may be unobserved; ``exposure`` says that every row of
    counts comes with an exposure (a library size, a time at risk). Sites of kind ``mixed`` are the sites of their
    ``parts``.

    >>> Sites(shape=(8, 8, 1), kind="levels", levels=17).count
    64
    """

    kind: Kind
    shape: tuple[int, ...] = Field(min_length=1, max_length=3)
    levels: int = Field(default=0, ge=0, le=65536)
    missing: bool = False
    exposure: bool = False
    sizes: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()

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
        if self.sizes and (len(self.sizes) != self.count or min(self.sizes) < 1 or max(self.sizes) > self.levels):
            raise ValueError(f"expected sizes of {self.count} sites within 1…{self.levels}, got {self.sizes}")
        if (self.kind == "mixed") != bool(self.parts):
            raise ValueError("sites of kind 'mixed' have parts, and no others do")
        columns = sorted(column for part in self.parts for column in part.columns)
        if self.parts and columns != list(range(self.count)):
            raise ValueError(f"the columns of the parts are {columns}, expected each of 0…{self.count - 1} once")
        return self

    @property
    def pieces(self) -> tuple[Part, ...]:
        """The parts of mixed sites; sites of one kind are one part, by themselves."""
        return self.parts or (Part(columns=tuple(range(self.count)), sites=self._plain()),)

    @property
    def real(self) -> np.ndarray:
        """Which sites (D,) are real numbers."""
        found = np.zeros(self.count, bool)
        for part in self.pieces:
            found[part.at] = part.sites.kind == "real"
        return found

    def _plain(self) -> Sites:
        return self.replace(shape=(self.count,), missing=False, exposure=False)

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
        if self.parts:
            return "mixed"
        return "lebesgue" if self.kind == "real" else "counting"

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of what a network sees of one example: the last axis carries one-hot codes and missing marks."""
        if self.parts:
            atoms = sum(part.atom_table.size for part in self.parts)
            return (sum(part.sites.feature_shape[0] for part in self.parts) + atoms + self.count * self.missing,)
        codes = (self.levels if self.levels <= MANY_LEVELS else CODE) if self.kind == "category" else 1
        channels = codes + self.missing
        *grid, last = self.shape
        return (*grid, last * channels)

    def features(
        self, x: Float[Array, "D"], observed: Bool[Array, "D"] | None, mean: Float[Array, "D"], scale: Float[Array, "D"]
    ) -> Array:
        """Return what a network sees of one example, of shape ``feature_shape``.

        Sites are centred and divided by the training scale (counts after log(1 + x)), categories become one-hot codes, or
        random directions when they have many levels, of which the first layer makes an embedding;
        atoms of real sites have a mark each; an unobserved site reads 0 in every code and 1 in its missing mark, whatever its
        cell held.
        """
        if self.parts:
            return self._features_of_parts(x, observed, mean, scale)
        if self.kind == "category":
            many = self.levels > MANY_LEVELS
            level = x.astype(jnp.int32)
            codes = (
                jnp.take(jnp.asarray(directions(self.levels)), level, axis=0, mode="clip")
                if many
                else jax.nn.one_hot(level, self.levels)
            )
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

    def _features_of_parts(self, x: Array, observed: Array | None, mean: Array, scale: Array) -> Array:
        seen = jnp.ones(self.count, bool) if observed is None else observed
        features = [
            part.sites.features(x[part.at], None if observed is None else seen[part.at], mean[part.at], scale[part.at])
            for part in self.parts
        ]
        atoms = [jnp.ravel((x[part.at, None] == part.atom_table) & seen[part.at, None]) for part in self.parts]
        marks = [1.0 - seen.astype(jnp.float32)] if self.missing else []
        return jnp.concatenate([*features, *(atom.astype(jnp.float32) for atom in atoms), *marks])

    def check(self, x: np.ndarray, observed: np.ndarray | None = None, names: tuple[str, ...] = ()) -> None:
        """Raise :class:`SupportError`, naming columns and values, when a row has a value that these sites cannot take."""
        rows = np.asarray(x).reshape(len(x), math.prod(np.shape(x)[1:]))
        if rows.shape[1] != self.count:
            raise SupportError(f"the rows have {rows.shape[1]} sites, expected {self.count} ({'×'.join(map(str, self.shape))})")
        bad = ~self._admissible(rows)
        if observed is not None:
            bad &= np.asarray(observed).reshape(rows.shape)
        if bad.any():
            raise SupportError(_bad_values(self, rows, bad, names))

    def _admissible(self, rows: np.ndarray) -> np.ndarray:
        if self.parts:
            inside = np.empty(rows.shape, bool)
            for part in self.parts:
                inside[:, part.at] = part.sites._admissible(rows[:, part.at])
            return inside
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
                return whole & (rows >= 0) & (rows < np.asarray(self.sizes or self.levels))

    def describe(self) -> str:
        """Return one line for people: how many sites, of which kind."""
        grid = "×".join(map(str, self.shape))
        if self.parts:
            missing = ", any of which may be missing" if self.missing else ""
            return f"{self.count} sites: {'; '.join(part.sites.describe() for part in self.parts)}{missing}"
        values = {
            "binary": "values 0 or 1",
            "levels": f"{self.levels} ordered levels 0…{self.levels - 1}",
            "category": f"{self.levels} categories",
            "count": "counts 0, 1, 2, …",
            "real": "real numbers",
        }[self.kind]
        extras = [word for word, on in (("with missing cells", self.missing), ("with exposure", self.exposure)) if on]
        return ", ".join(
            [
                f"{self.count} sites ({grid})" if len(self.shape) > 1 else f"{self.count} site{'s' * (self.count > 1)}",
                values,
                *extras,
            ]
        )


Part.model_rebuild()


@functools.cache
def directions(count: int) -> np.ndarray:
    """Return fixed random vectors (count, CODE) of length near 1, no two of them alike: codes of many levels."""
    return (np.random.default_rng(0).standard_normal((count, CODE)) / math.sqrt(CODE)).astype(np.float32)


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
