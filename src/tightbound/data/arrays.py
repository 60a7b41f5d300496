"""A data set in memory: rows of sites, what is observed of them, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from tightbound.data.columns import Missing, flatten, mark_missing, observed_cells, regrid
from tightbound.data.draws import bits, part_sizes, permutation, sample
from tightbound.data.fields import compact, exposures, label_column, mask, read_only, row_numbers, unique_names
from tightbound.data.moments import check_precision, global_scale, moments
from tightbound.data.support import Support, decide, value_notes
from tightbound.errors import DataError, SpecError
from tightbound.schema import Kind, Sites, Statistics

__all__ = ["Binarisation", "Dataset", "Missing", "Split", "from_arrays"]

Binarisation = Literal["dynamic", "fixed", "threshold"]

_EXAMPLES = 1000


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

    ``x`` is uint8 for bits, grey levels and up to 256 levels or categories, int32 for more levels and for counts,
    float32 for real numbers. ``observed`` (n, D) is true where a cell is known, ``exposure`` (n,) is the exposure of
    each row of counts, ``labels`` (n,) are never seen by a model. All arrays are read-only. A data set may have no
    rows, such as the empty part of a split.

    Raises :class:`DataError` when the fields do not fit together, :class:`SupportError` when x has values that the
    sites cannot take.

    >>> Dataset(np.array([[0, 3], [2, 1]]), Sites(shape=(2,), kind="levels", levels=4)).x.dtype
    dtype('uint8')
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

    def __post_init__(self) -> None:
        x = np.asarray(self.x)
        if x.ndim != 2 or x.shape[1] != self.sites.count:
            raise DataError(f"x has shape {x.shape}, expected (n, {self.sites.count}) for {self.sites.describe()}")
        observed = mask(self.observed, x.shape, self.sites)
        names = unique_names(self.names, x.shape[1])
        checked = {
            "x": compact(x, self.sites, observed, names, self.binarise),
            "observed": observed,
            "exposure": exposures(self.exposure, len(x), self.sites),
            "labels": label_column(self.labels, len(x)),
            "names": names,
            "notes": tuple(self.notes),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, read_only(value))

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Any) -> Self:
        """Return the rows with the given numbers (or where a mask is true), in the given order, repetitions included.

        Raises :class:`DataError` when a number lies outside 0…n − 1.

        >>> data = from_arrays([[0.5], [1.5], [2.5]], labels=["a", "b", "c"])
        >>> data.take([2, 0]).labels.tolist()
        ['c', 'a']
        """
        index = row_numbers(rows, len(self))
        parts = {name: getattr(self, name) for name in ("x", "observed", "exposure", "labels")}
        return replace(self, **{name: part[index] for name, part in parts.items() if part is not None})

    def statistics(self) -> Statistics:
        """Return mean and scale (D,) of every site over the observed cells, and examples; float32, in the units of x.

        Real sites are scaled one by one, by their standard deviation (1 for a constant site). Bits, levels and counts share
        one scale, the standard deviation over all cells (1 when that is 0), so that a pixel that is nearly always dark is not
        blown up. Under ``binarise`` these are the moments of the bits: mean x/255, variance m(1 − m) with m the mean over all
        cells. The codes of categories have no moments: mean 0, scale 1. A site that is never observed has mean 0 and, if real,
        scale 1. Cells at the atoms of a real site do not count. Counts with an exposure give moments of rates, Σx / Σe.
        ``examples`` are up to 1,000 rows, with the mean (a category: code 0) where a cell is missing, and x/255 under
        ``binarise``.

        Raises :class:`DataError` when there are no rows.

        >>> from_arrays([[0.5, 7.5], [1.5, 7.5]]).statistics().scale.tolist()
        [0.5, 1.0]
        """
        if not len(self):
            raise DataError("the data set has no rows, so its sites have no mean; pass the training part")
        mean, scale = (part.astype(np.float32) for part in self._moments())
        rows = sample(len(self), _EXAMPLES)
        examples = self.x[rows] / np.float32(255 if self.binarise else 1)
        if self.observed is not None:
            examples = np.where(self.observed[rows], examples, mean)
        return Statistics(mean, scale, examples.astype(np.float32))

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        if self.sites.parts:
            return self._moments_of_parts()
        width = self.x.shape[1]
        if self.sites.kind == "category":
            return np.zeros(width), np.ones(width)
        summary = moments(self.x, self.observed, self.exposure)
        if self.sites.kind == "real":
            return summary.mean, np.where(summary.constant, 1.0, summary.std)
        scale = np.full(width, global_scale(summary, self.binarise))
        return summary.mean / (255 if self.binarise else 1), scale

    def _moments_of_parts(self) -> tuple[np.ndarray, np.ndarray]:
        mean, scale = np.empty(self.sites.count), np.empty(self.sites.count)
        for part in self.sites.parts:
            observed = None if self.observed is None else self.observed[:, part.at]
            if part.atom_table.size:
                observed = ~part.at_atoms(self.x[:, part.at]) & (True if observed is None else observed)
            own = Dataset(self.x[:, part.at], part.sites.replace(missing=self.sites.missing), observed=observed)
            mean[part.at], scale[part.at] = own._moments()
        return mean, scale

    def split(self, validation: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
        """Return row numbers of training, validation and test parts, drawn by a permutation that only the seed decides.

        A part with a positive fraction gets at least one row as soon as there are three; one or two rows all go to
        training and the other parts are empty. Raises :class:`DataError` unless fractions are ≥ 0 with a sum below 1.

        >>> [len(part) for part in from_arrays(np.eye(10)).split()]
        [8, 1, 1]
        """
        if not (validation >= 0 and test >= 0 and validation + test < 1):
            raise DataError(
                f"validation={validation} and test={test}, expected fractions of at least 0 whose sum is less than 1"
            )
        order = permutation(len(self), seed)
        held_out, tested, train = np.split(order, np.cumsum(part_sizes(len(self), (validation, test))))
        return Split(np.sort(train), np.sort(held_out), np.sort(tested))

    def binarised(self, seed: int = 0) -> Self:
        """Return the data set with its bits drawn once, 1 with probability x/255, and ``binarise`` off.

        Raises :class:`DataError` unless ``binarise`` is on.
        """
        if not self.binarise:
            raise DataError("bits are drawn from a data set with binarise=True; use with_binarisation('fixed', seed)")
        note = f"bits drawn once from the grey levels, seed {seed}"
        return replace(self, x=bits(self.x, seed), binarise=False, notes=(*self.notes, note))

    def with_binarisation(self, mode: Binarisation, seed: int = 0) -> Self:
        """Return grey levels turned into binary sites.

        ``dynamic`` draws a bit with probability level/(levels − 1) anew at every use (x becomes grey levels 0…255),
        ``fixed`` draws the bits once from the seed, ``threshold`` sets those above half of the largest level. Numbers
        in nats compare only between models whose bits were made in the same way.

        Raises :class:`DataError` unless the sites are ``levels``.

        >>> data = from_arrays([[0, 1], [2, 3]], kind="levels", levels=4)
        >>> data.with_binarisation("threshold").x.tolist()
        [[0, 0], [1, 1]]
        """
        if mode not in get_args(Binarisation):
            raise DataError(f"binarisation '{mode}' is unknown; expected one of {', '.join(get_args(Binarisation))}")
        if self.sites.kind != "levels":
            raise DataError(_not_grey(self.sites))
        sites = self.sites.replace(kind="binary", levels=0)
        top = self.sites.levels - 1
        if mode == "threshold":
            note = f"bits set where a level exceeds {top / 2:g}"
            return replace(self, x=self.x > top / 2, sites=sites, notes=(*self.notes, note))
        grey = np.round(np.arange(top + 1) * 255 / top).astype(np.uint8)[self.x]
        greys = replace(self, x=grey, sites=sites, binarise=True)
        if mode == "fixed":
            return greys.binarised(seed)
        return replace(greys, notes=(*self.notes, "bits drawn anew from the grey levels at every use"))

    def describe(self) -> str:
        """Return lines for people: rows, sites, share of missing cells, labels and notes.

        >>> print(from_arrays([[True, False]]).describe())
        1 row from array
        2 sites, values 0 or 1
        note: taken as binary, because the values are true or false; pass kind to change
        """
        lines = [f"{len(self):,} {'row' if len(self) == 1 else 'rows'} from {self.source}", self.sites.describe()]
        if self.observed is not None and self.observed.size:
            whole = int(self.observed.all(axis=1).sum())
            lines.append(f"{1 - self.observed.mean():.1%} of the cells missing, {whole:,} rows complete")
        if self.labels is not None:
            lines.append(f"labels with {len(np.unique(self.labels)):,} different values")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def from_arrays(
    x: Any,
    *,
    kind: Kind | None = None,
    levels: int | None = None,
    observed: Any = None,
    exposure: Any = None,
    labels: Any = None,
    names: tuple[str, ...] = (),
    missing: Missing = "refuse",
    source: str = "array",
    shape: tuple[int, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Return a data set from an array of shape (n, D), (n, height, width) or (n, height, width, channels).

    Without ``kind`` the first line that fits the observed cells decides, and ``notes`` says so:

    =======================================================  =======================
    values                                                   kind
    =======================================================  =======================
    true/false, or only 0 and 1                              ``binary``
    whole numbers 0…16 in pictures or unsigned bytes         ``levels``, largest + 1
    whole numbers 0…255 in pictures or unsigned bytes        ``levels``, 256
    whole numbers in a table, the largest exactly 255        ``levels``, 256
    whole numbers 0…16,777,216                               ``count``
    anything else                                            ``real``
    =======================================================  =======================

    The type of the array plays no other part: 3.0 is a whole number. Categories are never guessed. ``levels`` alone
    means kind ``levels``; ``exposure`` alone means kind ``count``. A data frame lends its column names.

    A NaN (or a cell that a masked array hides) is refused unless ``missing="mask"``, which marks it as not observed;
    ``observed`` marks cells itself, and what they hold is never read. ``shape`` gives flat rows the shape of an image.
    The arrays are copied, never changed. ``source`` and ``notes`` are what the data set says of itself.

    Raises :class:`DataError`, with columns and rows named, for text, complex or infinite values, NaN, a wrong number of
    dimensions, an empty array, and real columns whose spread single precision would lose; :class:`SupportError` when
    values contradict ``kind``.

    >>> from_arrays([[0, 3], [2, 1]]).sites.kind
    'count'
    >>> from_arrays([[0.5, float("nan")]], missing="mask").observed.tolist()
    [[True, False]]
    """
    if missing not in get_args(Missing):
        raise DataError(f"missing='{missing}' is unknown; expected one of {', '.join(get_args(Missing))}")
    rows = flatten(x)
    rows = rows._replace(names=unique_names(tuple(names) or rows.names, rows.cells.shape[1]))
    seen = mark_missing(rows, observed, missing)
    cells = observed_cells(rows, seen)
    grid = rows.shape if shape is None else regrid(rows.shape, shape)
    support = decide(cells, kind, levels, image=len(grid) == 3, exposed=exposure is not None)
    sites = _sites(grid, support, missing=seen is not None or missing == "mask", exposed=exposure is not None)
    summary = check_precision(cells, seen, rows.names) if sites.kind == "real" else moments(cells, seen)
    told = (*notes, *([support.note] if support.note else []), *value_notes(cells, sites, summary, rows.names))
    values = compact(cells, sites, seen, rows.names, binarise=False)
    return Dataset(
        x=values.copy() if np.may_share_memory(values, rows.cells) else values,
        sites=sites,
        observed=seen,
        exposure=exposure,
        labels=labels,
        names=rows.names,
        source=source,
        notes=told,
    )


def _sites(grid: tuple[int, ...], support: Support, *, missing: bool, exposed: bool) -> Sites:
    try:
        return Sites(shape=grid, kind=support.kind, levels=support.levels, missing=missing, exposure=exposed)
    except SpecError as error:
        raise DataError(f"the data cannot be of kind '{support.kind}': {error}") from None


def _not_grey(sites: Sites) -> str:
    advice = {
        "binary": "they are bits already; leave binarisation out",
        "real": "pass whole grey levels, such as np.round(x * 255).astype(np.uint8) for x in [0, 1]",
        "count": "if these are grey levels, pass kind='levels' and levels=256",
        "category": "categories have no order to turn into a probability",
    }[sites.kind]
    return f"binarisation turns grey levels into bits, but these are {sites.describe()}; {advice}"
