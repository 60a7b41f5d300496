"""Columns as libraries hold them: their types described in text, columns made of such types, holes of a column filled."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import time
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from tightbound.errors import DataError, FormatError

__all__ = ["LIBRARIES", "as_word", "categories", "described", "empty_columns", "in_arrow", "made", "scattered"]

LIBRARIES = ("pandas", "polars", "pyarrow")

# Metadata of a field: the names of its type in pandas, and of that of its categories.
_PANDAS, _CATEGORIES = b"pandas", b"categories"


@contextmanager
def _tried() -> Iterator[None]:
    """Let nothing out but an interrupt: each library has errors of its own, polars some that are no exceptions even."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException:
        return


def described(frame: nw.DataFrame[Any]) -> str:
    """Return the types of the columns of a table as text: an Arrow stream without rows, in base64.

    Unlike the names of types it has categories in their order, precisions, zones, and what types a library has of its own.
    Columns of types that Arrow does not know are not in it.
    """
    whole = _stream(frame, frame.columns)
    if whole is None:
        whole = _stream(frame, [name for name in frame.columns if _stream(frame, [name]) is not None])
    return "" if whole is None else base64.b64encode(whole).decode("ascii")


@lru_cache(maxsize=8)  # asked for by every call of a method, for a schema that stays the same
def empty_columns(types: str, backend: Any) -> Mapping[str, Any]:
    """Return by name the columns that :func:`described`, without rows, as those of a library that has their types."""
    import pyarrow as pa

    if not types:
        return MappingProxyType({})
    try:
        table = pa.ipc.open_stream(base64.b64decode(types)).read_all()
    except (ValueError, OSError) as error:
        raise FormatError(f"the types of the columns in a stored schema are damaged: {error}") from None
    found = {}
    for field in table.schema:
        with _tried():
            if backend == "pandas" and _PANDAS in (field.metadata or {}):
                found[field.name] = _in_pandas(table[field.name], field)
            else:
                found[field.name] = nw.from_arrow(table.select([field.name]), backend=backend)[field.name].to_native()
    return MappingProxyType(found)


def made(name: str, values: list[Any], backend: Any, like: Any = None, dtype: str = "", trained: Any = None) -> nw.Series[Any]:
    """Return a column of the type of another one, or else of that which narwhals names ``dtype``, if it can hold the values.

    If it cannot, the library chooses; :class:`DataError` where it has nothing that can. Categories that ``like`` does not have
    stand among its own as in ``trained``.
    """
    own = (lambda: _of_type(name, values, backend, like, trained)) if like is not None else None
    named = (lambda: nw.new_series(name, values, _named(dtype), backend=backend)) if _named(dtype) else None
    for build in filter(None, (own, named)):
        with _tried():
            column = nw.from_native(build(), series_only=True)
            # Some types take what they cannot hold for missing, or missing truth values for false.
            if np.array_equal(column.is_null().to_numpy(), [value is None for value in values]):
                return column.alias(name)
    with _tried():
        return nw.new_series(name, values, backend=backend)
    raise DataError(f"column '{name}' cannot be one of {backend}: it has nothing that holds cells such as {values[0]!r}")


def _named(dtype: str) -> Any:
    """Return the type that narwhals calls by a name, None where the name does not say all of it."""
    if moment := re.fullmatch(r"Datetime\(time_unit='(\w+)', time_zone=(?:None|'(.+)')\)", dtype):
        return nw.Datetime(moment[1], moment[2])  # type: ignore[arg-type]
    return getattr(nw, dtype) if re.fullmatch(r"(?:U?Int|Float)\d+|Boolean|Date|Time|String|Categorical", dtype) else None


def _of_type(name: str, values: list[Any], backend: Any, like: Any, trained: Any) -> Any:
    if backend == "pyarrow":
        import pyarrow as pa

        encoded = pa.types.is_dictionary(like.type)
        return pa.chunked_array([_encoded(values, like, trained) if encoded else pa.array(values, like.type)])
    if _has_categories(like):
        values = _as_categories(values, like)
    dtype, known = like.dtype, _levels(like)
    if known is not None and len(wanted := _widened(known, values, _levels(trained) or [])) > len(known):
        dtype = type(dtype)(wanted, *([dtype.ordered] if backend == "pandas" else []))
    return type(like)(name=name, dtype=dtype, **{"data" if backend == "pandas" else "values": values})


def _levels(column: Any) -> list[Any] | None:
    """Return what a column of categories of pandas, or of an enumeration of polars, can hold; None of any other one."""
    if _has_categories(column):
        return list(column.cat.categories)
    dtype: Any = getattr(column, "dtype", None)
    return dtype.categories.to_list() if type(dtype).__name__ == "Enum" else None


def _widened(known: list[Any], values: list[Any], trained: list[Any]) -> list[Any]:
    """Return levels and what else is among the values: where training had it, or last if the order there was another one."""
    had = set(known)
    new = {value: None for value in values if value is not None and value not in had}
    together = [level for level in trained if level in had or level in new]
    in_order = len(together) == len(known) + len(new) and [level for level in together if level in had] == known
    return together if in_order else [*known, *new]


def categories(series: nw.Series[Any]) -> tuple[list[Any], np.ndarray] | None:
    """Return the categories of a column of pandas, which may be of any type, and their numbers (n,), −1 for none."""
    column = series.to_native()
    return (list(column.cat.categories), column.cat.codes.to_numpy()) if _has_categories(column) else None


def _has_categories(column: Any) -> bool:
    """Whether it is a column of categories in pandas; what polars calls so are words."""
    return hasattr(getattr(column, "cat", None), "categories")


def _as_categories(values: list[Any], like: Any) -> list[Any]:
    """Return values with the categories of a column of pandas in place of the words for them."""
    known = list(like.cat.categories)[::-1]  # of those that differ in spaces only the first
    own = {as_word(category): category for category in known} | {str(category).strip(): category for category in known}
    own |= {f"{category.normalize():f}": category for category in known if isinstance(category, Decimal)}
    kind = type(known[0]) if known else str

    def category(word: str) -> Any:
        if word not in own and kind not in (bool, np.bool_):  # bool("False") is true
            with _tried():
                return kind(word)
        return own.get(word, word)

    return [category(value) if isinstance(value, str) else value for value in values]


def _encoded(values: list[Any], like: Any, trained: Any) -> Any:
    """Return values, or the words for them, as a dictionary of Arrow: that of ``like``, what it lacks as in ``trained``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = like.type.value_type
    own = {word: _parsed(word, kind) for word in set(values) if isinstance(word, str)}
    cells = pa.array([own.get(value, value) for value in values], kind)
    known, new = _dictionary(like), cells.unique().drop_null()
    dictionary = pa.concat_arrays([known, new.filter(pc.invert(pc.is_in(new, known)))])
    if trained is not None and trained.type == like.type:
        together = _dictionary(trained)
        together = together.filter(pc.is_in(together, dictionary))
        if len(together) == len(dictionary) and together.filter(pc.is_in(together, known)).equals(known):
            dictionary = together
    codes = pc.index_in(cells, dictionary).cast(like.type.index_type)
    return pa.DictionaryArray.from_arrays(codes, dictionary, ordered=like.type.ordered)


def _lacks(column: Any, values: list[Any]) -> bool:
    """Whether a column of Arrow is a dictionary that does not have all of the values."""
    import pyarrow as pa

    return pa.types.is_dictionary(column.type) and not set(values) <= set(_dictionary(column).to_pylist())


def _dictionary(column: Any) -> Any:
    """Return the values of a column of Arrow that is a dictionary."""
    import pyarrow as pa

    return column.unify_dictionaries().chunk(0).dictionary if column.num_chunks else pa.array([], column.type.value_type)


def _parsed(word: str, kind: Any) -> Any:
    """Return a word as a value of an Arrow type."""
    import pyarrow as pa

    return time.fromisoformat(word) if pa.types.is_time(kind) else pa.scalar(word).cast(kind).as_py()


def scattered(series: nw.Series[Any], at: np.ndarray, values: list[Any], typed: Any = None) -> nw.Series[Any]:
    """Return a column with other values at some rows, of its own type if that can hold them, else of one that can.

    Categories that it does not have are those of ``typed``, and stand among its own as there.
    """
    known = [number for number, value in enumerate(values) if value is not None]
    values, at, backend = [values[number] for number in known], at[known], series.implementation.value
    if not values:
        return series
    name, own = series.name, series.to_native()
    if _has_categories(typed):
        values = _as_categories(values, typed)
    builds = [
        lambda: series.scatter(at, made(name, values, backend, own)),
        lambda: made(name, _replaced(series.to_list(), at, values), backend, own, trained=typed),
    ]
    if backend == "pyarrow" and _lacks(own, values):  # a scatter would put what is new last
        builds.reverse()
    for build in builds:
        with _tried(), warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            built = build()
            if not built.is_null().to_numpy()[at].any():  # as where polars cannot hold a number
                return built
    raise DataError(f"column '{name}' is of type {series.dtype}, which cannot hold a cell such as {values[0]!r}")


def as_word(value: Any) -> str:
    """Return a value as the word that its cells have: whole numbers without a decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _replaced(cells: list[Any], at: np.ndarray, values: list[Any]) -> list[Any]:
    for row, value in zip(at.tolist(), values, strict=True):
        cells[row] = value
    return cells


def _stream(frame: nw.DataFrame[Any], names: list[str]) -> bytes | None:
    """Return columns without rows as an Arrow stream, without index and attributes of their table; None if Arrow cannot."""
    import pyarrow as pa  # slow to import, and wanted by tables only

    try:
        fields, arrays = zip(*(_without_rows(name, frame[name]) for name in names), strict=True)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, pa.schema(fields)) as stream:
            # A batch, though without rows, has the categories with it.
            stream.write_batch(pa.record_batch(list(arrays), schema=pa.schema(fields)))
        pa.ipc.open_stream(sink.getvalue()).read_all()
    except Exception:  # each library has errors of its own
        return None
    return sink.getvalue()


def _without_rows(name: str, series: nw.Series[Any]) -> tuple[Any, Any]:
    """Return a column without rows, as a field of Arrow and its array."""
    import pyarrow as pa

    if series.implementation.is_pandas():
        return _from_pandas(name, series.head(0).to_native())
    if series.implementation.is_pyarrow():
        series = nw.from_native(series.to_native().unify_dictionaries(), series_only=True)
    table = nw.from_dict({name: series.head(0)}).to_arrow()
    column = table.column(0)
    return table.schema.field(0), column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _from_pandas(name: str, column: Any) -> tuple[Any, Any]:
    """Return a column of pandas without rows, as a field of Arrow that knows its type there, and its array."""
    import pyarrow as pa

    told = {_PANDAS: str(column.dtype)}
    array = pa.Array.from_pandas(column.sparse.to_dense() if hasattr(column, "sparse") else column)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if _has_categories(column):
        told[_CATEGORIES] = str(column.cat.categories.dtype)
        if isinstance(array.type.value_type, pa.ExtensionType):  # a stream holds columns of such types, but no categories
            array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.storage, ordered=array.type.ordered)
    return pa.field(name, array.type, metadata=told), array


def _in_pandas(column: Any, field: Any) -> Any:
    """Return a column without rows in the type of pandas that it had, as :func:`_from_pandas` told it."""
    import pandas as pd

    own = field.metadata[_PANDAS].decode()
    if own.endswith("[pyarrow]"):
        return column.to_pandas().astype(pd.ArrowDtype(field.type))
    if _CATEGORIES in field.metadata:
        kind: Any = pd.api.types.pandas_dtype(field.metadata[_CATEGORIES].decode())
        known = column.chunk(0).dictionary
        known = kind.__from_arrow__(known) if hasattr(kind, "__from_arrow__") else known.to_pandas()
        return pd.Series([], dtype=pd.CategoricalDtype(pd.Index(known, dtype=kind), field.type.ordered))
    if sparse := re.fullmatch(r"Sparse\[(\w+), (.+)\]", own):
        plain = np.dtype(sparse[1])
        fill = sparse[2] == "True" if plain.kind == "b" else plain.type(sparse[2]).item()
        return pd.Series([], dtype=pd.SparseDtype(plain, fill))
    return column.to_pandas() if own == "category" else column.to_pandas().astype(own)


def in_arrow(frame: nw.DataFrame[Any]) -> Any:
    """Return a table for a file: sparse columns dense, and words for categories of types that only a library knows.

    Raises :class:`DataError` for a column that files have nothing for.
    """
    import pyarrow as pa

    frame = nw.maybe_reset_index(frame)  # no column of a file
    if frame.implementation.is_polars():  # which gives Arrow the addresses of Python's objects
        objects = (name for name, dtype in frame.schema.items() if dtype == nw.Object)
        words = [nw.new_series(name, _as_words(frame[name]), nw.String, backend="polars") for name in objects]
        frame = frame.with_columns(*words)
    with _tried():
        table = frame.to_arrow()  # with what a library notes of its types
        if not any(map(_is_of_a_library, table.schema.types)):
            return table
    return pa.table({name: _for_a_file(name, frame[name]) for name in frame.columns})


def _is_of_a_library(kind: Any) -> bool:
    import pyarrow as pa

    return isinstance(kind.value_type if pa.types.is_dictionary(kind) else kind, pa.ExtensionType)


def _for_a_file(name: str, series: nw.Series[Any]) -> Any:
    """Return a column of Arrow with the cells of another one, or the words for them."""
    import pyarrow as pa

    with _tried():
        column = series.to_frame().to_arrow().column(0)
        if not _is_of_a_library(column.type):
            return column
    with _tried():
        return pa.array(_cells(series))
    if series.dtype.is_numeric():
        raise DataError(f"column '{name}' is of type {series.dtype}, which files have nothing for")
    return pa.array(_as_words(series))


def _cells(series: nw.Series[Any]) -> list[Any]:
    """Return the cells of a column, None for those that are missing in one way or another."""
    return [None if gone else cell for cell, gone in zip(series, series.is_null(), strict=True)]


def _as_words(series: nw.Series[Any]) -> list[str | None]:
    return [None if cell is None else str(cell) for cell in _cells(series)]
