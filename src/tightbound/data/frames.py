"""Tables of mixed columns: what each column is, how its cells become sites, and how sites become cells again.

pandas, polars and pyarrow tables are read through narwhals; nothing of them is imported here. A cell u of a real column
becomes x = (u − shift)/scale, of a positive one x = (log u − shift)/scale: single precision then keeps its digits, and
log |dx/du| goes with the sites, so that densities are per unit of u. Numbers that were rounded, and values that occur again
and again, have probabilities instead. What a model is told of scales comes from its training rows, as for arrays; shift and
scale here are units, not statistics, and round numbers.
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from functools import cache, cached_property
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import narwhals.stable.v2 as nw
import numpy as np
from pydantic import Field

from tightbound.data.arrays import Dataset
from tightbound.data.held import LIBRARIES, as_word, categories, described, empty_columns, made, scattered
from tightbound.data.raw import MARKERS
from tightbound.errors import DataError
from tightbound.schema import Kind, Part, Sites
from tightbound.spec import Spec

__all__ = [
    "CODE",
    "Cells",
    "Column",
    "LeftOut",
    "TableSchema",
    "alike",
    "as_frame",
    "infer",
    "overruled",
    "plain",
    "seconds_or_days",
]

ColumnKind = Literal["real", "positive", "count", "boolean", "category", "ordinal"]
LEFT_OUT = "left-out"
CATEGORIES = ("Categorical", "Enum")
LEVELLED = ("category", "ordinal", "boolean")
SITE: dict[str, Kind] = {
    "real": "real", "positive": "real", "count": "count", "boolean": "binary", "category": "category", "ordinal": "levels",
}  # fmt: skip

FEW_LEVELS = 10  # whole numbers with so few values, all small, are taken as levels in order
MORE_LEVELS, LARGEST_LEVEL = 20, 20
LARGEST_COUNT = 2.0**24
LARGEST_COUNT_SUGGESTED = 1000
FEWEST_AT_ATOM, SHARE_AT_ATOM = 20, 0.005  # rows, and share of rows, that an atom has
OUTSTANDING = 5.0  # how much more often than the two values on either side
MOST_ATOMS = 8
REPEATED = 0.2  # share of different values below which numbers of few decimals are taken as rounded
MOST_DECIMALS = 4
IDENTIFIER = 0.9  # share of different values from which on text tells rows apart and nothing else
FEWEST_FOR_IDENTIFIER = 20  # rows
SKEWED = 1.0  # skewness above which the logarithm of a positive column is looked at
LARGEST_LOG = 80.0  # logarithms are cut off there on their way back: the largest double is e^709
FEWEST_TO_STRAY = 5  # numbers: of one or two new rows it is no surprise if they are the largest so far
EXACT_PLACES = 15  # of a decimal, beyond which Arrow makes another double of it than the nearest
DAY = 86_400.0  # seconds
SAME = 1e-6  # steps by which a number may be off a multiple of the step
FINEST_STEP = 2.0**-60  # in scales: beyond, single precision has nothing for it
SINGLE = 2.0**-22  # what single precision keeps of a site of a few units, with a bit to spare
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST, LATEST = ((end - EPOCH.date()).days for end in (date.min, date.max))  # that a calendar has: draws may lie beyond
# What moments may all be multiples of, by their type and in its unit, the largest first.
WHOLE = {"Date": {1.0: "days"}, "Datetime": {DAY: "days", 3600.0: "hours", 60.0: "minutes", 1.0: "seconds"}}
UNITS = {"Date": "days since 1970-01-01", "Datetime": "seconds since 1970-01-01"}
NO_CELLS = ("List", "Array", "Struct", "Map", "Binary", "Duration", "Unknown")  # types that are neither numbers, text nor dates
# How text begins that is made of digits and yet no number: 01234, 0x1F, +4912345, long keys.
CODE = r"[+-]?0[\dxX]|\+\d{7}|\d{17}"
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"  # as text
SIDES = {"0": "False", "1": "True", "False": "0", "True": "1"}  # of booleans, as one library or another writes them


class Column(Spec):
    """A column of a table, and how its cells become one site.

    ``values`` are those of categories, of levels in order and of the two sides of a boolean, as text, in the order of their
    codes. Numbers of a real column with a ``step`` are multiples of it, and stand for all numbers that are rounded to them.
    ``atoms`` are numbers that occur far more often than those beside them, such as zeros and caps. ``low`` and ``high`` are the
    smallest and the largest number that were seen. ``dtype`` is the type that the cells had; ``unit`` says what a real number
    counts where they were dates.
    """

    kind: ColumnKind
    name: str
    values: tuple[str, ...] = ()
    shift: float = 0.0
    scale: float = Field(default=1.0, gt=0)
    step: float = Field(default=0.0, ge=0)
    atoms: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None
    dtype: str = ""

    @property
    def unit(self) -> str:
        """What a number of the column counts, where the cells were dates."""
        return UNITS.get(_type_name(self.dtype), "")

    @property
    def offset(self) -> float:
        """log |dx/du| at x = 0; 0 for numbers that have a probability."""
        return 0.0 if self.step else -math.log(self.scale) - (self.shift if self.kind == "positive" else 0.0)

    @property
    def slope(self) -> float:
        """How log |dx/du| changes with x: by −scale under a logarithm."""
        return -self.scale if self.kind == "positive" else 0.0

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """Return sites for numbers in the user's units; what the column cannot hold becomes NaN."""
        if self.kind == "count":
            return np.where((numbers >= 0) & (np.floor(numbers) == numbers) & (numbers <= LARGEST_COUNT), numbers, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            t = np.log(numbers) if self.kind == "positive" else numbers
        return np.where(np.isfinite(t), (t - self.shift) / self.scale, np.nan)

    @property
    def atom_codes(self) -> tuple[float, ...]:
        """The sites of the atoms, as single precision holds them."""
        with np.errstate(over="ignore"):
            return tuple(self.encode(np.array(self.atoms)).astype(np.float32).tolist())

    def decode(self, sites: np.ndarray) -> np.ndarray:
        """Return numbers in the user's units, of a column that has no ``values``; counts and steps are rounded."""
        if self.kind == "count":
            return np.round(np.asarray(sites, np.float64))
        t = self.shift + self.scale * np.asarray(sites, np.float64)
        numbers = np.exp(np.clip(t, -LARGEST_LOG, LARGEST_LOG)) if self.kind == "positive" else t
        if self.step:
            numbers = np.round(numbers / self.step) * self.step
        for atom, code in zip(self.atoms, self.atom_codes, strict=True):
            numbers = np.where(np.asarray(sites, np.float32) == np.float32(code), atom, numbers)
        return numbers

    def multiple(self, number: float, rounding: Callable[[float], int]) -> float:
        """Return the multiple of the step at a number, or that above or below; the number itself where there is no step."""
        steps = number / self.step if self.step else math.inf
        if not math.isfinite(steps) or number in self.atoms:
            return number
        same = max(SAME, 4 * math.ulp(steps))
        return (round(steps) if abs(steps - round(steps)) <= same else rounding(steps)) * self.step

    @property
    def steps(self) -> str:
        """What a step is, in words; nothing where there is none."""
        whole = WHOLE.get(_type_name(self.dtype), {}).get(self.step, "")
        return f"whole {whole}" if whole else f"in steps of {self.step:g}" if self.step else ""

    @property
    def ends(self) -> tuple[float, float]:
        """The sites of the smallest and the largest number that were seen, as single precision holds them."""
        if self.low is None or self.high is None:
            return -math.inf, math.inf
        low, high = self.encode(np.array([self.low, self.high])).astype(np.float32).tolist()
        return low, high

    def within(self, sites: np.ndarray, ends: tuple[float, float] | None = None) -> np.ndarray:
        """Return sites (n,) with those beyond the numbers that were seen, or other ends, at the nearest of them."""
        return np.clip(np.asarray(sites, np.float32), *(ends or self.ends))

    def strays(self, sites: np.ndarray) -> bool:
        """Whether most sites (n,) are beyond the numbers that were seen, as in other units; later dates are no surprise."""
        within = self.within(sites)
        return not self.unit and len(sites) >= FEWEST_TO_STRAY and bool(np.mean(within != sites.astype(np.float32)) > 0.5)

    def log_units(self, sites: np.ndarray) -> np.ndarray:
        """Return log |dx/du| of sites; 0 where the column has probabilities instead of densities."""
        if SITE[self.kind] != "real":
            return np.zeros(len(sites))
        codes = np.array(self.atom_codes, np.float32)
        return np.where(np.isin(np.asarray(sites, np.float32), codes), 0.0, self.offset + self.slope * sites)

    @property
    def code_of(self) -> dict[str, float]:
        """The site of every value by its word; a side of a boolean may also be called as another library writes it."""
        own = {word: float(number) for number, word in enumerate(self.values)}
        if self.kind != "boolean":
            return own
        sides = {alike(word, tuple(SIDES)): code for word, code in own.items()}
        return {SIDES[word]: code for word, code in sides.items() if word in SIDES} | own

    def codes(self, cells: Cells) -> np.ndarray:
        """Return the sites (n,) of cells; NaN where a cell is missing or holds what the column does not know."""
        if self.values:
            return cells.looked_up(self.code_of)
        if cells.numbers is None:
            wanted = f"dates such as {self.moment(self.low or 0.0)}" if self.unit else f"numbers ({self.kind})"
            raise DataError(f"column '{self.name}' holds text such as {cells.no_number()!r}, expected {wanted}")
        _refuse_infinite(self.name, cells.numbers)
        return self.encode(cells.numbers * self._per(cells))

    def _per(self, cells: Cells) -> float:
        """Return what a number of cells is in numbers of the column: days and seconds are told apart."""
        own, given = self.unit[:4], UNITS.get(cells.type_name, "")[:4]
        if bool(own) != bool(given) and cells.seen.any():
            names = ("dates", "numbers") if given else ("numbers", "dates")
            raise DataError(f"column '{self.name}' holds {names[0]}, training saw {names[1]}")
        return 1.0 if own == given else DAY if given == "days" else 1.0 / DAY

    def cells(self, sites: np.ndarray, like: Cells | None = None) -> list[Any]:
        """Return cells for sites (n,), of the type of ``like`` or else of that which training saw; NaN becomes None."""
        known, dtype = np.isfinite(sites), self.dtype if like is None else like.dtype
        try:
            if self.values:
                if like is not None and like.is_moment and all(re.fullmatch(NUMBER, word) for word in self.values):
                    raise ValueError  # 3 would become a day of 1970
                own = {} if like is None else like.by_word
                typed = [own[word] if word in own else _typed(word, dtype) for word in self.values]
                return [typed[round(float(code))] if seen else None for code, seen in zip(sites, known, strict=True)]
            per = 1.0 if like is None else self._per(like)
            numbers = self._rounded(np.where(known, self.decode(sites), 0.0)) / per
            return [_typed(number, dtype) if seen else None for number, seen in zip(numbers.tolist(), known, strict=True)]
        except ValueError:
            raise DataError(f"column '{self.name}' is of type {dtype}, which cannot hold what it held in training") from None

    def _rounded(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers (n,) without the digits that single precision made up; what training saw as it is stays exact."""
        size = np.abs(numbers)
        kept = SINGLE * self.scale * (size if self.kind == "positive" else np.ones(len(numbers)))
        exact = np.full(len(numbers), bool(self.unit)) | (numbers == 0.0) | np.isin(numbers, self.atoms)
        for end in (self.low, self.high):
            if end is not None:  # rounded, a number next to it might lie beyond what was seen
                numbers = np.where(beside := np.abs(numbers - end) <= kept, end, numbers)
                exact |= beside
        with np.errstate(divide="ignore", invalid="ignore"):
            digits = np.clip(np.ceil(np.log10(size / kept)), 7, 15)
        if self.step or self.kind == "count":
            digits[:] = 15
        rounded = numbers.copy()
        for at in np.flatnonzero(~exact):
            rounded[at] = float(f"{numbers[at]:.{int(digits[at])}g}")
        return rounded

    def moment(self, number: float, *, minutes: bool = False) -> str:
        """Return what a number of the column stands for, where the cells were dates: the day, or the minute of a time."""
        in_utc = self.dtype.partition(", time_zone=")[0]  # as conditions are
        return str(_typed(number, in_utc))[: 16 if minutes else 10]


class LeftOut(Spec):
    """A column that no model sees, and why; a column of one ``value`` gets it back on the way out."""

    kind: Literal["left-out"] = "left-out"
    name: str
    reason: str
    value: str | None = None
    dtype: str = ""


class TableSchema(Spec):
    """What the columns of a table are: those that a model sees, those left out, and the ``order`` in which they stood.

    ``markers`` are the words that stand for a missing cell, besides null and NaN, whatever their case. ``library`` is the one
    whose table it was, and ``types`` those of its columns, as :func:`~tightbound.data.held.described` has them.
    """

    kind: Literal["table"] = "table"
    columns: tuple[Column, ...] = Field(min_length=1)
    left_out: tuple[LeftOut, ...] = ()
    order: tuple[str, ...]
    markers: tuple[str, ...] = MARKERS
    library: str = "pyarrow"
    types: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns that a model sees."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """Return a column by its name; raise :class:`DataError` when the model sees none of that name."""
        for column in self.columns:
            if column.name == name:
                return column
        reason = next((f": it was left out, {out.reason}" for out in self.left_out if out.name == name), "")
        raise DataError(f"there is no column '{name}'{reason}; the model sees {', '.join(map(repr, self.names))}")

    def sites(self, *, units: bool = True) -> Sites:
        """Return the sites of one row: a part for each kind; columns with many levels stand apart from those with few.

        Without ``units`` densities are per unit of x, and tables that differ in their scales alone have equal sites.
        """
        return Sites(kind="mixed", shape=(len(self.columns),), parts=tuple(self._parts(units)), missing=True)

    def log_units(self, data: Dataset) -> np.ndarray:
        """Return log |dx/du| of rows (n,) in nats, over the cells that are seen: log p(u) = log p(x) + this."""
        each = np.stack([column.log_units(x) for column, x in zip(self.columns, data.x.T, strict=True)], axis=1)
        return np.sum(each if data.observed is None else np.where(data.observed, each, 0.0), axis=1)

    def _parts(self, units: bool) -> Iterator[Part]:
        groups: dict[tuple[Kind, int, bool], list[int]] = {}
        for number, column in enumerate(self.columns):
            kind = SITE[column.kind]
            # Sites of a part are padded to its largest number of levels, or atoms: at most to twice as many as they have.
            levelled = kind in ("category", "levels")
            width = math.ceil(math.log2(max(len(column.values), 2))) if levelled else _padding(column.atoms)
            groups.setdefault((kind, width, column.step > 0), []).append(number)
        for (kind, width, _), members in groups.items():
            columns = [self.columns[number] for number in members]
            sizes = tuple(len(column.values) for column in columns) if width and kind != "real" else ()
            own = Sites(kind=kind, shape=(len(members),), levels=max(sizes, default=0), sizes=sizes)
            more: dict[str, Any] = {}
            if kind == "real":
                more["width"] = tuple(column.step / column.scale for column in columns)
                more["atoms"] = tuple(column.atom_codes for column in columns)
                if units:
                    more |= {name: tuple(getattr(column, name) for column in columns) for name in ("offset", "slope")}
            yield Part(columns=tuple(members), sites=own, **more)

    def encode(self, table: Any, *, source: str = "table", labels: Any = None, units: bool = True) -> Dataset:
        """Return the rows of a table as a data set, columns found by name, whatever their order.

        A cell that is missing, a category that the schema does not have and a number that the column's kind cannot hold
        are not observed; ``notes`` say how many of the latter there are. Raises :class:`DataError` for a column that is
        not there, text where numbers are expected, and infinite values.
        """
        frame = as_frame(table)
        absent = [name for name in self.names if name not in frame.columns]
        if absent:
            raise DataError(
                f"the table has no column{'s' * (len(absent) > 1)} {', '.join(map(repr, absent))}; it has "
                f"{', '.join(map(repr, frame.columns))}; what is not known may be a column of missing cells"
            )
        x, notes = np.zeros((len(frame), len(self.columns))), []
        observed = np.zeros(x.shape, bool)
        for number, column in enumerate(self.columns):
            cells = Cells(frame[column.name], self.markers)
            codes = column.codes(cells)
            known = np.isfinite(codes)
            x[known, number], observed[:, number] = codes[known], known
            if column.strays(codes[known]):
                saw = f"{column.low:g} … {column.high:g}"
                notes.append(
                    f"column '{column.name}': most numbers are beyond {saw}, which training saw; are the units the same?"
                )
            notes += _zone_notes(column, cells)
            strange = cells.seen & ~known
            if strange.any():
                count, word = int(strange.sum()), cells.word(int(np.argmax(strange)))
                told = f"1 cell, {word}, is" if count == 1 else f"{count:,} cells, such as {word}, are"
                notes.append(f"column '{column.name}': {told} nothing that training saw, and taken as missing")
        sites = self.sites(units=units)
        return Dataset(x, sites, observed, labels=labels, names=self.names, source=source, notes=tuple(notes))

    def decode(self, x: np.ndarray, *, like: Any = None, library: str | None = None) -> Any:
        """Return rows of sites (n, D) as a table in the user's units, with the columns in their order and their types.

        NaN stands for a missing cell. The table is one of the library that training saw, of ``library``, or of that of
        ``like``. A column of one value has it again; other columns that were left out are not there.
        """
        library = library or (self.library if like is None else as_frame(like).implementation.value)
        if library not in LIBRARIES:
            raise DataError(f"there are tables of {', '.join(LIBRARIES)}, not of {library!r}")
        cells = {column.name: column.cells(x[:, number]) for number, column in enumerate(self.columns)}
        cells |= {out.name: [_typed(out.value, out.dtype)] * len(x) for out in self.left_out if out.value is not None}
        types = empty_columns(self.types, library)
        dtypes = {column.name: column.dtype for column in self.columns} | {out.name: out.dtype for out in self.left_out}
        series = {name: made(name, cells[name], library, types.get(name), dtypes[name]) for name in self.order if name in cells}
        return nw.from_dict(series).to_native()

    def within(self, x: np.ndarray, ends: Mapping[int, tuple[float, float]] = MappingProxyType({})) -> np.ndarray:
        """Return rows of sites (n, D), numbers beyond those that training saw at the nearest of them.

        The tails of a density never end: of many draws some are further out than anything that was measured, below zero
        where nothing can be. Draws that people are given end where the data did, or at the ``ends`` of a column by its number.
        """
        columns = enumerate(zip(self.columns, np.asarray(x).T, strict=True))
        return np.stack([column.within(cells, ends.get(number)) for number, (column, cells) in columns], axis=1)

    def holes(self, table: Any) -> int:
        """Return the number of missing cells in the columns that a model sees."""
        frame = as_frame(table)
        return sum(_holes(frame[name], self.markers) for name in self.names)

    def unfilled(self, table: Any) -> list[str]:
        """Return what to tell people of holes that :meth:`fill` leaves: those in columns that no model sees."""
        frame, notes = as_frame(table), []
        for out in self.left_out:
            holes = _holes(frame[out.name], self.markers) if out.name in frame.columns else 0
            if holes:
                stay = "1 hole stays" if holes == 1 else f"{holes:,} holes stay"
                notes.append(f"column '{out.name}' was left out, {out.reason}: its {stay}")
        return notes

    def fill(self, table: Any, x: np.ndarray) -> Any:
        """Return a table with its missing cells filled from sites (n, D), ends as by :meth:`within`, all else as it stands.

        Columns keep their types, unless these cannot hold a number that is filled in, as int8 cannot hold 1,000.
        """
        frame = as_frame(table)
        filled, library = [], frame.implementation.value
        types = empty_columns(self.types, library)
        for number, column in enumerate(self.columns):
            series, typed = frame[column.name], types.get(column.name)
            cells = Cells(series, self.markers)
            holes = np.flatnonzero(~cells.seen)
            sites = column.within(x[holes, number])
            if not cells.seen.any():  # its type says nothing of what it holds
                filled.append(made(column.name, column.cells(sites), library, typed, column.dtype))
            elif len(holes):
                filled.append(scattered(series, holes, column.cells(sites, cells), typed))
        return frame.with_columns(*filled).to_native() if filled else frame.to_native()

    def lines(self) -> list[tuple[str, str, str]]:
        """Return (column, kind, what it holds) for people, in the order of the table."""
        shown: dict[str, tuple[str, str, str]] = {}
        shown |= {column.name: (column.name, column.kind, _contents(column)) for column in self.columns}
        shown |= {out.name: (out.name, "left out", out.reason) for out in self.left_out}
        return [shown[name] for name in self.order]


Override = str | Mapping[str, Any]


def infer(
    table: Any, *, columns: Mapping[str, Override] | None = None, markers: Sequence[str] = MARKERS, leave: Sequence[str] = ()
) -> TableSchema:
    """Return what the columns of a table are; ``columns`` overrules, by name, what their values suggest.

    The first line that fits decides:

    ==========================================================  ==========================
    cells                                                       kind
    ==========================================================  ==========================
    none seen, or one value only                                left out
    true/false, or numbers 0 and 1 only                         ``boolean``
    dates and times                                             ``real``, with their unit
    text, nearly every value different                          left out: identifier-like
    text                                                        ``category``
    whole numbers 0…20 with at most ten values                  ``ordinal``
    whole numbers, each different, one after another            left out: identifier-like
    others that vary less than a Poisson                        ``ordinal`` up to 20, or ``real``
    whole numbers from 0 on to 1,000, none often by itself      ``count``
    positive and skewed, less so after the logarithm            ``positive``
    other numbers                                               ``real``
    ==========================================================  ==========================

    Numbers that occur five times as often as those beside them, in one row of two hundred or more, become ``atoms``; so do
    all that are in twenty rows, where a real column has up to twenty different numbers. Real numbers of few decimals that
    repeat, and whole ones, get a ``step``. Text that is a number everywhere else than in ``markers`` is taken as a number,
    but numbers that a library holds as categories stay such. An override is a kind, ``"left-out"``, or a mapping with
    ``kind`` and, for categories and ordinals, ``values`` in their order, for numbers ``atoms`` and ``step``. ``leave``
    names columns that the table may have and no model is to see. Raises :class:`DataError` for names that occur twice,
    infinite cells, or an override that the cells contradict.

    >>> import pyarrow
    >>> schema = infer(pyarrow.table({"age": [31.5, 40.2, None], "sex": ["F", "M", "F"]}))
    >>> [(column.name, column.kind) for column in schema.columns]
    [('age', 'real'), ('sex', 'category')]
    """
    frame = as_frame(table)
    if not len(frame):
        raise DataError("the table has no rows, expected at least one")
    overrides, words = overruled(columns, markers)
    unknown = sorted(set(overrides) - set(frame.columns))
    if unknown:
        raise DataError(f"columns names what the table does not have: {', '.join(unknown)}; it has {', '.join(frame.columns)}")
    names = [name for name in frame.columns if name not in leave]
    found = [_infer(name, Cells(frame[name], words), **overrides.get(name, {})) for name in names]
    kept = tuple(column for column in found if isinstance(column, Column))
    left_out = tuple(column for column in found if isinstance(column, LeftOut))
    if not kept:
        raise DataError(
            "no column of the table can be modelled: " + "; ".join(f"'{out.name}': {out.reason}" for out in left_out)
        )
    own = [
        column.name for column in kept if column.kind in LEVELLED or frame[column.name].dtype not in (nw.Categorical, nw.Enum)
    ]
    made_again = own + [out.name for out in left_out if out.value is not None]
    return TableSchema(
        columns=kept,
        left_out=left_out,
        order=tuple(names),
        markers=words,
        library=frame.implementation.value,
        types=described(frame.select(made_again)),
    )


def overruled(
    columns: Mapping[str, Override] | None, markers: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Return what people say of columns, by name, and the words for missing cells; raise :class:`DataError` for neither."""
    markers = plain(markers)
    if isinstance(markers, str) or not isinstance(markers, Sequence) or not all(map(_is_word, markers)):
        raise DataError(f"markers are a list of words that stand for a missing cell, got {markers!r}")
    if not isinstance(columns, Mapping | None) or not all(isinstance(name, str) for name in columns or ()):
        raise DataError(f"columns says by name what a column is, such as 'real' for 'age', got {columns!r}")
    words = tuple(as_word(marker) for marker in markers)
    return {name: _override(name, given, words) for name, given in (columns or {}).items()}, words


def as_frame(table: Any) -> nw.DataFrame[Any]:
    """Return a pandas, polars or pyarrow table for reading; raise :class:`DataError` for what is none, or has a name twice."""
    try:
        frame = nw.from_native(table, eager_only=True)
    except TypeError:
        raise DataError(f"expected a pandas, polars or pyarrow table, got {type(table).__name__}") from None
    except (ValueError, nw.exceptions.NarwhalsError) as error:
        raise DataError(f"the table cannot be read: {error}") from None
    names = list(frame.columns)
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"column names occur more than once: {', '.join(map(repr, twice))}; rename them")
    if not all(isinstance(name, str) for name in names):
        number = next(name for name in names if not isinstance(name, str))
        raise DataError(f"column names must be text, got {number!r}; in pandas X.rename(columns=str) gives such names")
    return frame


def _holes(series: nw.Series[Any], markers: tuple[str, ...]) -> int:
    """Return the number of missing cells in a column; text is counted by its library, a million identifiers in no time."""
    if series.dtype == nw.String and markers and not _numbers_among(markers):
        with contextlib.suppress(NotImplementedError):  # of pyarrow, for its newest types of text
            words = series.drop_nulls().str.strip_chars().str.to_lowercase()
            return series.null_count() + int(words.is_in([marker.lower() for marker in markers]).sum())
    return int((~Cells(series, markers).seen).sum())


def _padding(atoms: tuple[float, ...]) -> int:
    """Return a number that columns share whose numbers of atoms differ by a factor of two at most."""
    return math.ceil(math.log2(len(atoms))) + 1 if atoms else 0


class Cells:
    """The cells of a column: numbers, text, or text that is numbers, and which are seen."""

    numbers: np.ndarray | None
    text: np.ndarray | None = None

    def __init__(self, series: nw.Series[Any], markers: tuple[str, ...]) -> None:
        self.series = series
        dtype = series.dtype
        self.dtype, self.seen = str(dtype), ~series.is_null().to_numpy().astype(bool)
        if dtype in (nw.Object, nw.Unknown):
            cells = series.drop_nulls().to_list()
            self.dtype = _of_objects(cells, self.dtype)
            if self.dtype.startswith("Datetime") and len({cell.tzinfo is None for cell in cells}) > 1:
                raise DataError(f"column '{series.name}' has moments with a zone and without one; give all of them one")
        elif dtype == nw.Decimal:
            self.dtype = _of_objects(series.drop_nulls().head(1).to_list(), self.dtype)  # all have as many places
        if self.dtype == "Boolean":
            self.numbers = self._each(series, float)
        elif dtype.is_numeric() or self.dtype.startswith(("Int64", "Float64", "Decimal")):
            self.numbers = self._as_doubles(series)
            self.seen &= ~(np.isnan(self.numbers) | np.isin(self.numbers, [*_numbers_among(markers)]))
        elif self.is_moment:
            self.numbers = self._each(series, seconds_or_days)
        else:
            self.text = self._words(series)
            self.seen &= ~np.isin(np.char.lower(self.text.astype(str)), [word.lower() for word in markers])
            if own := _numbers_among(markers):  # -999.0 is as missing as -999
                gone = {word for word in set(self.text.tolist()) if re.fullmatch(NUMBER, word) and float(word) in own}
                self.seen &= [word not in gone for word in self.text]
            self.numbers = _as_numbers(self.text, self.seen)
        if self.numbers is not None:
            self.numbers = np.where(self.seen, self.numbers, np.nan)

    def _words(self, series: nw.Series[Any]) -> np.ndarray:
        if known := categories(series):  # as such: in a list, a single hole makes floats of whole numbers
            return np.array([*(str(category).strip() for category in known[0]), ""], object)[known[1]]
        return np.array(
            [str(cell).strip() if seen else "" for cell, seen in zip(series.to_list(), self.seen, strict=True)], object
        )

    def _as_doubles(self, series: nw.Series[Any]) -> np.ndarray:
        places = re.fullmatch(r"Decimal\(scale=(\d+)\)", self.dtype)
        if series.dtype in (nw.Object, nw.Unknown) or (places and int(places[1]) > EXACT_PLACES):
            return self._each(series, float)
        try:
            numbers = series.cast(nw.Float64).to_numpy()
        except ValueError:  # of pyarrow, whole numbers that a double does not hold exactly
            return self._each(series, float)
        # Columns of pandas with a missing value of their own come as objects.
        return self._each(series, float) if numbers.dtype == object else numbers.astype(np.float64)

    def as_words(self) -> Cells:
        """Return text as text, although it may be numbers; other cells as they are."""
        if self.text is None:
            return self
        words = copy.copy(self)
        words.numbers = None
        return words

    @cached_property
    def by_word(self) -> dict[str, Any]:
        """The cells themselves by their words, where they are no numbers: what stands for a word may be of any type."""
        if self.text is None:
            return {}
        if known := categories(self.series):
            return {str(category).strip(): category for category in known[0]}
        cells = self.series.to_list()
        return {self.text[row]: cells[row] for row in np.flatnonzero(self.seen)[::-1]}

    def _each(self, series: nw.Series[Any], number: Callable[[Any], float]) -> np.ndarray:
        return np.array([number(cell) if seen else math.nan for cell, seen in zip(series.to_list(), self.seen, strict=True)])

    @property
    def type_name(self) -> str:
        """The name of the type of the cells, without unit, zone or categories."""
        return _type_name(self.dtype)

    @property
    def is_moment(self) -> bool:
        """Whether the cells are dates or times."""
        return self.type_name in UNITS

    @property
    def boolean(self) -> bool:
        """Whether all cells are true or false, 1 or 0."""
        sides: set[Any] = {"False", "True"} if self.numbers is None else {0.0, 1.0}
        return self.dtype == "Boolean" or set(self.distinct()[:3]) <= sides

    def distinct(self) -> list[Any]:
        """Return the different values that are seen, in order: that of numbers for words that are numbers, such as 9 and 10."""
        if self.numbers is not None:
            return self.counted[0].tolist()
        assert self.text is not None
        words = sorted(set(self.text[self.seen].tolist()))
        try:
            return sorted(words, key=float)
        except ValueError:
            return words

    @cached_property
    def counted(self) -> tuple[np.ndarray, np.ndarray]:
        """The different numbers that are seen, in order, and how often."""
        assert self.numbers is not None
        return np.unique(self.numbers[self.seen], return_counts=True)

    def looked_up(self, codes: dict[str, float]) -> np.ndarray:
        """Return the code of every cell's word, NaN where it has none or is missing."""
        found = np.full(len(self.seen), math.nan)
        if self.numbers is not None:
            known = {self.as_written(word): code for word, code in codes.items()} | codes
            different, places = np.unique(self.numbers, return_inverse=True)
            found = np.array([known.get(self.word_of(number), math.nan) for number in different])[places]
        if self.text is not None:
            found = np.array([codes.get(word, code) for word, code in zip(self.text, found, strict=True)])
        return np.where(self.seen, found, np.nan)

    def as_written(self, word: str) -> str:
        """Return a word as cells that are numbers or moments have it: 9.5 for 9.50, the day for its midnight."""
        try:
            if self.numbers is None or self.dtype == "Boolean":
                return word
            if self.is_moment and not re.fullmatch(NUMBER, word):
                return _iso(_seconds(word))
            short: Any = {"Float32": np.float32, "Float16": np.float16}.get(self.dtype, float)
            return self.word_of(float(short(word)))
        except ValueError:
            return word

    def no_number(self) -> str:
        """Return a word that is no number, of cells that are not all numbers."""
        words = self.distinct()
        return next((word for word in words if re.match(CODE, word) or not re.fullmatch(NUMBER, word)), words[0])

    def first(self) -> str:
        """Return the first cell that is seen as text, whole numbers with all of their digits."""
        row = int(np.argmax(self.seen))
        cell = self.series[row] if self.text is None else None
        return str(cell) if isinstance(cell, Integral) and self.dtype != "Boolean" else self.word(row)

    def word(self, row: int) -> str:
        """Return a cell as text."""
        return str(self.text[row]) if self.text is not None else self.word_of(self.numbers[row])  # type: ignore[index]

    def word_of(self, value: Any) -> str:
        """Return a value of the column as the word that its cells have."""
        if self.numbers is not None and math.isfinite(value):
            if self.dtype == "Boolean":
                return str(bool(value))
            if self.is_moment:
                return _iso(value * (1.0 if self.dtype.startswith("Datetime") else DAY))
        return as_word(value)


def _of_objects(cells: list[Any], otherwise: str) -> str:
    """Return the type of the cells themselves, where a library has none for them, as pandas for days and exact decimals."""
    kinds = {type(cell) for cell in cells}
    if kinds in ({date}, {time}):
        return "Date" if kinds == {date} else "Time"
    if kinds and kinds <= {bool, np.bool_}:
        return "Boolean"
    if kinds and all(issubclass(kind, datetime) for kind in kinds):
        return f"Datetime(time_unit='us', time_zone={None if cells[0].tzinfo is None else str(cells[0].tzinfo)!r})"
    if kinds == {Decimal}:
        places = [-exponent for cell in cells if isinstance(exponent := cell.as_tuple().exponent, int)]
        return f"Decimal(scale={max(places, default=0)})"
    if kinds and all(issubclass(kind, (Real, Decimal)) and kind is not bool for kind in kinds):
        return "Int64" if all(issubclass(kind, Integral) for kind in kinds) else "Float64"
    return otherwise


def seconds_or_days(cell: date | datetime) -> float:
    """Return what a real column holds for a moment, seconds since 1970, or for a day, days since then."""
    if isinstance(cell, datetime):
        return (cell if cell.tzinfo else cell.replace(tzinfo=UTC)).timestamp()
    return float((cell - date(1970, 1, 1)).days)


def _as_numbers(text: np.ndarray, seen: np.ndarray) -> np.ndarray | None:
    numbers = np.full(len(text), np.nan)
    try:
        numbers[seen] = [float(cell) for cell in text[seen]]
    except ValueError:
        return None
    return None if any("_" in cell or re.match(CODE, cell) for cell in text[seen]) else numbers


def alike(word: str, words: Sequence[str]) -> str:
    """Return the one of some words that is a word, or the same number: 1.0 for 1; the word itself where none is."""
    if word in words or not re.fullmatch(NUMBER, word):
        return word
    return next((known for known in words if re.fullmatch(NUMBER, known) and float(known) == float(word)), word)


def _numbers_among(words: Sequence[str]) -> set[float]:
    """Return the numbers among words, NaN left out."""
    found = set()
    for word in words:
        with contextlib.suppress(ValueError):
            found.add(float(word))
    return {number for number in found if not math.isnan(number)}


def _type_name(dtype: str) -> str:
    """Return the name of a type without unit, zone or categories."""
    return dtype.partition("(")[0]


def _typed(value: float | str | Decimal, dtype: str) -> Any:
    """Return a number or a word as a value of a type, by the name that narwhals gives it; raise ValueError if it is none."""
    name = _type_name(dtype)
    if name == "Boolean":
        if isinstance(value, str) and value not in SIDES:
            raise ValueError
        return value in ("True", "1") if isinstance(value, str) else bool(value)
    if isinstance(value, str) and name in UNITS and not re.fullmatch(NUMBER, value):
        value = _seconds(value) / (1.0 if name == "Datetime" else DAY)
    if isinstance(value, str) and re.fullmatch(r"U?Int\d+", name) and re.fullmatch(r"-?\d+", value):
        return int(value)
    if isinstance(value, str) and name == "Decimal" and re.fullmatch(NUMBER, value):
        value = Decimal(value)  # a double would not hold its digits
    if isinstance(value, str) and name not in ("String", "Categorical", "Enum", "Object", "Time"):
        value = float(SIDES.get(value, value) if value in ("True", "False") else value)
    match name:
        case _ if re.fullmatch(r"U?Int\d+", name):
            return round(value)  # type: ignore[arg-type]
        case _ if re.fullmatch(r"Float\d+", name):
            return value
        case "Decimal":
            places = re.search(r"scale=(\d+)", dtype)
            return Decimal(f"{value:.{places[1]}f}" if places else str(value))
        case "Date":
            return EPOCH.date() + timedelta(days=min(max(round(value), EARLIEST), LATEST))  # type: ignore[arg-type]
        case "Datetime":
            return _moment(float(value), dtype)
        case "Time":
            return time.fromisoformat(str(value))
        case _:
            return as_word(value)


def _seconds(word: str) -> float:
    """Return a moment that was written as text, in UTC unless it says otherwise, as seconds since 1970."""
    return seconds_or_days(datetime.fromisoformat(word))


def _iso(seconds: float) -> str:
    """Return seconds since 1970 as text, without the time of day where it is midnight: days and moments are then alike."""
    text = _moment(seconds, "").isoformat(" ")
    return text.removesuffix(" 00:00:00")


def _moment(seconds: float, dtype: str) -> datetime:
    """Return seconds since 1970 as a moment, to the unit that a type of moments holds."""
    unit = re.search(r"time_unit='(\w+)'", dtype)
    places = {"s": 0, "ms": 3}.get(unit[1] if unit else "", 6)
    latest = DAY * (LATEST + 1) - max(10.0**-places, 1e-4)  # nearer to its end a double has the next day
    moment = EPOCH + timedelta(seconds=round(min(max(seconds, DAY * EARLIEST), latest), places))
    zone = re.search(r"time_zone='(.+?)'", dtype)
    if not zone:
        return moment.replace(tzinfo=None)
    with contextlib.suppress(OverflowError):  # in the first and last hours of the calendar
        return moment.astimezone(_zone(zone[1]))
    return moment


@cache
def _zone(name: str) -> tzinfo:
    """Return a zone by the name that Python gives it, of a place or of hours beside UTC; UTC where it has another one."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        beside = re.fullmatch(r"(?:UTC)?([+-]\d\d:\d\d)", name)
        return datetime.fromisoformat(f"1970-01-01T00:00{beside[1]}").tzinfo or UTC if beside else UTC


def _zone_notes(column: Column, cells: Cells) -> list[str]:
    """Return a note where moments have a zone and those of training had none, or the other way round."""
    if {cells.type_name, _type_name(column.dtype)} != {"Datetime"} or not cells.seen.any():
        return []
    before, now = ("time_zone='" in dtype for dtype in (column.dtype, cells.dtype))
    told = ("has a zone, in training it had none", "has no zone, in training it had one")[before]
    return [f"column '{column.name}' {told}: moments without a zone are taken as UTC"] if before != now else []


def _refuse_infinite(name: str, numbers: np.ndarray) -> None:
    if np.isinf(numbers).any():
        raise DataError(f"column '{name}' has infinite values; replace them, or mark them as missing")


def _override(name: str, given: Override, markers: Sequence[str]) -> dict[str, Any]:
    if not isinstance(given, str | Mapping):
        raise DataError(f"column '{name}': expected a kind or a table with kind, values, atoms and step, got {given!r}")
    fields: dict[str, Any] = {"kind": given} if isinstance(given, str) else {key: plain(value) for key, value in given.items()}
    unknown, kinds = sorted(set(fields) - {"kind", "values", "atoms", "step"}), (*get_args(ColumnKind), LEFT_OUT)
    if unknown:
        raise DataError(f"column '{name}': unknown {', '.join(unknown)}; a column has kind, values, atoms and step")
    if fields.get("kind") not in kinds:
        told = f"unknown kind '{fields['kind']}'" if "kind" in fields else "it has no kind"
        raise DataError(f"column '{name}': {told} (allowed: {', '.join(kinds)})")
    if fields.keys() & {"atoms", "step"}:
        _check_measured(name, **fields)
    if "values" in fields:
        _check_values(name, markers, **fields)
    return fields


def plain(value: Any) -> Any:
    """Return numbers of numpy, arrays and columns as Python's own numbers and lists."""
    for way in ("tolist", "to_list"):
        if hasattr(value, way):
            return getattr(value, way)()
    return [plain(cell) for cell in value] if isinstance(value, list | tuple) else value


def _check_values(name: str, markers: Sequence[str], kind: str, values: Any, **_: Any) -> None:
    if kind not in LEVELLED:
        raise DataError(f"column '{name}' of kind '{kind}' has no values to name; {', '.join(LEVELLED)} have")
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(v, str | int | float) for v in values):
        raise DataError(f"column '{name}': values are a list of words or numbers, got {values!r}")
    words = [as_word(value) for value in values]
    _refuse_twice(name, words)
    missing = [word for word in words if word.strip().lower() in [marker.lower() for marker in markers]]
    if missing:
        raise DataError(f"column '{name}': values has {missing[0]!r}, which stands for a missing cell; see markers")


def _refuse_twice(name: str, words: Sequence[Any], what: str = "values has") -> None:
    twice = sorted({word for word in words if words.count(word) > 1})
    if twice:
        raise DataError(f"column '{name}': {what} {', '.join(map(repr, twice))} more than once")


def _check_measured(name: str, kind: str, atoms: Any = (), step: Any = 0.0, **_: Any) -> None:
    if kind not in (("real", "positive") if not step else ("real",)):
        raise DataError(f"column '{name}' of kind '{kind}' has no {'step' if step else 'atoms'}; real numbers have")
    if not isinstance(atoms, Sequence) or isinstance(atoms, str) or not all(map(_is_finite, atoms)):
        raise DataError(f"column '{name}': atoms are a list of numbers, got {atoms!r:.100}")
    _refuse_twice(name, list(map(float, atoms)), "atoms has")
    if not _is_finite(step) or step < 0:
        raise DataError(f"column '{name}': a step is a number, 0 for none, got {step!r:.100}")


def _is_word(value: Any) -> bool:
    """Whether it is a word, or a number that may stand for one."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return _is_word(value) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def _infer(name: str, cells: Cells, kind: str | None = None, values: Sequence[Any] = (), **numbers: Any) -> Column | LeftOut:
    if kind in LEVELLED:
        cells = cells.as_words()
    found = cells.distinct()
    if found and cells.type_name in NO_CELLS:
        reason = f"its cells, of type {cells.dtype}, are neither numbers, text nor dates"
        if kind not in (None, LEFT_OUT):
            raise DataError(f"column '{name}' cannot be of kind '{kind}': {reason}")
        return LeftOut(name=name, reason=reason, dtype=cells.dtype)
    one = cells.first() if len(found) == 1 else None
    if kind == LEFT_OUT:
        return LeftOut(name=name, reason="as asked for", value=one, dtype=cells.dtype)
    if len(found) < 2 and not values:
        reason = f"it has one value only, {one}" if found else "none of its cells is known"
        return LeftOut(name=name, reason=reason, value=one, dtype=cells.dtype)
    if cells.numbers is not None:
        _refuse_infinite(name, cells.numbers)
    chosen = kind or _suggest(cells, found)
    if not kind and chosen not in LEVELLED and cells.type_name in CATEGORIES:
        chosen = _suggest(cells.as_words(), found)  # whoever made categories of numbers wants no others
    if chosen in LEVELLED:  # 1.0 stays 1.0 where it is text
        cells = cells.as_words()
        found = cells.distinct()
    if chosen is None:
        count = int(cells.seen.sum())
        reason = f"it looks like an identifier, {len(found):,} values in {count:,} rows"
        return LeftOut(name=name, reason=reason, dtype=cells.dtype)
    return _column(name, chosen, cells, found, [as_word(value) for value in values], numbers)


def _suggest(cells: Cells, values: list[Any]) -> ColumnKind | None:
    """Return the kind that the values suggest; None for an identifier."""
    count = int(cells.seen.sum())
    if cells.boolean:
        return "boolean"
    if cells.numbers is None:
        tells_apart = count >= FEWEST_FOR_IDENTIFIER and len(values) >= IDENTIFIER * count
        return None if tells_apart else "category"
    if cells.is_moment:
        return "real"
    numbers = cells.numbers[cells.seen]
    if values[0] >= 0 and np.all(np.floor(numbers) == numbers):
        if len(values) <= FEW_LEVELS and values[-1] <= LARGEST_LEVEL:
            return "ordinal"
        if count >= FEWEST_FOR_IDENTIFIER and len(values) == count == values[-1] - values[0] + 1:
            return None
        if _is_narrow(numbers):
            return "ordinal" if len(values) <= MORE_LEVELS and values[-1] <= LARGEST_LEVEL else "real"
        if values[-1] <= LARGEST_COUNT_SUGGESTED and not _outstanding(*cells.counted):
            return "count"
    if values[0] > 0 and _skewness(numbers) > max(SKEWED, abs(_skewness(np.log(numbers)))):
        return "positive"
    return "real"


def _is_narrow(numbers: np.ndarray) -> bool:
    """Whether whole numbers vary less than a Poisson does, by more than chance makes its ratio of variance and mean vary."""
    return float(numbers.var()) < float(numbers.mean()) * (1.0 - 3.0 * math.sqrt(2.0 / len(numbers)))


def _atoms(values: np.ndarray, often: np.ndarray) -> tuple[float, ...]:
    """Return the values with a probability of their own: of few values all that are not rare, else those that stand out."""
    if len(values) <= MORE_LEVELS:
        return tuple(values[often >= _enough(often)].tolist())
    return _outstanding(values, often)


def _enough(often: np.ndarray) -> float:
    """Return the number of rows that an atom has at least."""
    return max(FEWEST_AT_ATOM, SHARE_AT_ATOM * float(often.sum()))


def _outstanding(values: np.ndarray, often: np.ndarray) -> tuple[float, ...]:
    """Return the values that stand out: often by themselves, and far more often than the values beside them."""
    padded = np.pad(often.astype(np.float64), 2, constant_values=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a single value has nothing beside it
        beside = np.nanmean([padded[:-4], padded[1:-3], padded[3:-1], padded[4:]], axis=0)
    outstanding = (often >= _enough(often)) & (often >= OUTSTANDING * beside)
    chosen = np.argsort(np.where(outstanding, -often, 1), kind="stable")[: min(MOST_ATOMS, int(outstanding.sum()))]
    return tuple(np.sort(values[chosen]).tolist())


def _step(values: np.ndarray, often: np.ndarray) -> float:
    """Return the power of ten that all numbers are multiples of, if they are whole or repeat as rounded numbers do; else 0."""
    repeat = len(values) <= REPEATED * often.sum()
    for decimals in range(MOST_DECIMALS + 1 if repeat else 1):
        if np.allclose(values, np.round(values, decimals), rtol=1e-12, atol=0.0):
            return 10.0**-decimals
    return 0.0


def _moment_step(values: np.ndarray, steps: Iterable[float]) -> float:
    """Return the first of the steps that all moments are multiples of; else 0."""
    return next((step for step in steps if not np.any(values % step)), 0.0)


def _skewness(numbers: np.ndarray) -> float:
    numbers = numbers / (np.abs(numbers).max() or 1.0)
    centred = numbers - numbers.mean()
    return float(np.mean(centred**3) / max(np.mean(centred**2) ** 1.5, 1e-300))


def _column(name: str, kind: Any, cells: Cells, found: list[Any], named: list[str], measured: Mapping[str, Any]) -> Column:
    given: dict[str, Any] = {"kind": kind, "name": name, "dtype": cells.dtype}
    if kind not in LEVELLED and cells.type_name in CATEGORIES:
        given["dtype"] = "Float64"  # of which few are among the categories
    if kind in LEVELLED:
        words = tuple(cells.word_of(value) for value in found)
        if cells.boolean:
            named = [word.capitalize() if word.lower() in ("true", "false") else word for word in named]
        named = [alike(cells.as_written(word), words) for word in named]
        _refuse_twice(name, named)
        strange = sorted(set(words) - set(named))
        if named and strange:
            raise DataError(f"column '{name}' has {', '.join(map(repr, strange[:5]))}, which values does not name")
        _refuse_what_no_cell_holds(name, named, cells.dtype)
        words = tuple(named) or words
        if kind == "boolean" and len(words) != 2:
            raise DataError(f"column '{name}' has {len(words)} different values, a boolean has two")
        return Column(values=words, **given)
    if cells.numbers is None:
        raise DataError(f"column '{name}' holds text such as {cells.no_number()!r}, and cannot be of kind '{kind}'")
    numbers = np.repeat(*cells.counted)  # sums in one order, whatever that of the rows
    if kind == "count":
        if found[0] < 0 or found[-1] > LARGEST_COUNT or np.any(np.floor(numbers) != numbers):
            raise DataError(f"column '{name}' is not of counts: it has {found[0]:g} … {found[-1]:g}")
        return Column(low=found[0], high=found[-1], **given)
    atoms = measured["atoms"] if "atoms" in measured else _atoms(*cells.counted)
    given["atoms"] = tuple(sorted(map(float, atoms)))
    if kind == "positive":
        if found[0] <= 0:
            raise DataError(f"column '{name}' is not positive: it has {found[0]:g}; choose kind 'real'")
        if any(atom <= 0 for atom in given["atoms"]):
            raise DataError(f"column '{name}' is of positive numbers, so that {given['atoms'][0]:g} cannot be an atom")
    else:
        values, often = cells.counted
        given["step"] = _moment_step(values, WHOLE[cells.type_name]) if cells.is_moment else _step(values, often)
        if "step" in measured:
            given["step"] = float(measured["step"])
            if given["step"] * (1.0 - SAME) > values[-1] - values[0]:
                raise DataError(f"column '{name}': a step of {given['step']:g} is wider than all of its numbers")
    others = numbers[~np.isin(numbers, given["atoms"])]
    usual = others if len(others) and np.ptp(others) > 0 else numbers
    shift, scale = _units(np.log(usual) if kind == "positive" else usual)
    if given.get("step", 0.0) < FINEST_STEP * scale:
        given["step"] = 0.0
    column = Column(shift=shift, scale=scale, low=found[0], high=found[-1], **given)
    return column.replace(atoms=_apart(column, named="atoms" in measured))


def _apart(column: Column, *, named: bool) -> tuple[float, ...]:
    """Return the atoms that single precision tells apart; raise :class:`DataError` where people named others."""
    atoms: dict[float, float] = {}
    for atom, code in zip(column.atoms, column.atom_codes, strict=True):
        atoms.setdefault(code, atom)
        if named and (not math.isfinite(code) or atoms[code] != atom):
            told = f"{atoms[code]!r} and {atom!r} cannot be told apart" if atoms[code] != atom else f"{atom!r} is too far out"
            raise DataError(f"column '{column.name}': among its numbers, atoms {told}")
    return tuple(atoms.values())


def _refuse_what_no_cell_holds(name: str, words: Sequence[str], dtype: str) -> None:
    """Raise :class:`DataError` for a level that the type of a column cannot hold, or holds as another number."""
    whole = np.iinfo(dtype.lower()) if re.fullmatch(r"U?Int(?:8|16|32|64)", dtype) else None
    for word in words:
        try:
            cell = _typed(word, dtype)
            if isinstance(cell, int | float | Decimal) and not isinstance(cell, bool) and cell != type(cell)(word):
                raise ValueError
            if whole and not whole.min <= cell <= whole.max:
                raise ValueError
        except (ValueError, ArithmeticError):
            raise DataError(f"column '{name}' is of type {dtype}, which cannot hold {word!r}") from None


def _units(numbers: np.ndarray) -> tuple[float, float]:
    """Return a shift and a scale near mean and deviation: a power of two and a multiple of it.

    They are exact in binary, and hardly ever change with the rows, so that folds of one table share compiled programs.
    """
    largest = float(np.abs(numbers).max()) or 1.0  # squares of very large numbers would be infinite
    deviation = float((numbers / largest).std()) * largest or 1.0
    scale = 2.0 ** min(max(round(math.log2(deviation)), -1000), 1000)
    return round(float((numbers / largest).mean()) * largest / scale) * scale, scale


def _contents(column: Column) -> str:
    if column.values:
        shown = ", ".join(column.values[:5]) + (", …" if len(column.values) > 5 else "")
        return f"{len(column.values):,} values: {shown}"
    text = {"real": "real numbers", "positive": "positive numbers, by their logarithm", "count": "0, 1, 2, …"}[column.kind]
    atoms = f"often {', '.join(f'{atom:g}' for atom in column.atoms)}" if column.atoms else ""
    return "; ".join(part for part in (text, column.unit, column.steps, atoms) if part)
