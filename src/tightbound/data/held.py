"""Columns as libraries hold them: their types described in text, columns made of such types, holes of a column filled."""

from __future__ import annotations

import base64
import io
import re
import warnings
from contextlib import suppress
from datetime import time
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from tightbound.errors import DataError

__all__ = ["as_word", "described", "empty_columns", "made", "scattered"]

# Metadata of a field: the name of its type in pandas, and that of its categories where these are intervals or periods.
_PANDAS, _CATEGORIES = b"pandas", b"categories"


def described(frame: nw.DataFrame[Any]) -> str:
    """Return the types of the columns of a table as text: an Arrow stream without rows, in base64.

    Unlike the names of types it has categories in their order, precisions, zones, and what types a library has of its own.
    Columns of types that Arrow does not know are not in it.
    """
    whole = _stream(frame, frame.columns)
    if whole is None:
        whole = _stream(frame, [name for name in frame.columns if _stream(frame, [name]) is not None])
    return "" if whole is None else base64.b64encode(whole).decode("ascii")


def empty_columns(types: str, backend: Any) -> dict[str, Any]:
    """Return by name the columns that :func:`described`, without rows, as those of a library that has their types."""
    import pyarrow as pa

    if not types:
        return {}
    table = pa.ipc.open_stream(base64.b64decode(types)).read_all()
    found = {}
    for field in table.schema:
        with suppress(Exception):  # each library has errors of its own
            if backend == "pandas" and _PANDAS in (field.metadata or {}):
                found[field.name] = _in_pandas(table[field.name], field)
            else:
                found[field.name] = nw.from_arrow(table.select([field.name]), backend=backend)[field.name].to_native()
    return found


def made(name: str, values: list[Any], backend: Any, like: Any = None, dtype: str = "") -> nw.Series[Any]:
    """Return a column of the type of another one, or else of that which narwhals names ``dtype``, if it can hold the values.

    If it cannot, the library chooses.
    """
    own = (lambda: _of_type(name, values, backend, like)) if like is not None else None
    named = (lambda: nw.new_series(name, values, _named(dtype), backend=backend)) if _named(dtype) else None
    for build in filter(None, (own, named)):
        with suppress(Exception):
            column = nw.from_native(build(), series_only=True)
            # Some types take what they cannot hold for missing, or missing truth values for false.
            if np.array_equal(column.is_null().to_numpy(), [value is None for value in values]):
                return column.alias(name)
    return nw.new_series(name, values, backend=backend)


def _named(dtype: str) -> Any:
    """Return the type that narwhals calls by a name, None where the name does not say all of it."""
    if moment := re.fullmatch(r"Datetime\(time_unit='(\w+)', time_zone=(?:None|'(.+)')\)", dtype):
        return nw.Datetime(moment[1], moment[2])  # type: ignore[arg-type]
    return getattr(nw, dtype) if re.fullmatch(r"(?:U?Int|Float)\d+|Boolean|Date|Time|String|Categorical", dtype) else None


def _of_type(name: str, values: list[Any], backend: Any, like: Any) -> Any:
    if backend == "pyarrow":
        import pyarrow as pa

        return pa.chunked_array([_encoded(values, like) if pa.types.is_dictionary(like.type) else pa.array(values, like.type)])
    if backend == "polars":
        return type(like)(name=name, values=values, dtype=like.dtype)
    if hasattr(like, "cat"):  # categories of pandas may be of any type
        own = {as_word(category): category for category in like.cat.categories}
        values = [own.get(value, value) for value in values]
    return type(like)(values, name=name, dtype=like.dtype)


def _encoded(values: list[Any], like: Any) -> Any:
    """Return values, or the words for them, as a dictionary of Arrow: that of ``like`` in its order, then what it has not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = like.type.value_type
    own = {word: _parsed(word, kind) for word in set(values) if isinstance(word, str)}
    cells = pa.array([own.get(value, value) for value in values], kind)
    known = like.chunk(0).dictionary if like.num_chunks else pa.array([], kind)
    new = cells.unique().drop_null()
    dictionary = pa.concat_arrays([known, new.filter(pc.invert(pc.is_in(new, known)))])
    codes = pc.index_in(cells, dictionary).cast(like.type.index_type)
    return pa.DictionaryArray.from_arrays(codes, dictionary, ordered=like.type.ordered)


def _parsed(word: str, kind: Any) -> Any:
    """Return a word as a value of an Arrow type."""
    import pyarrow as pa

    return time.fromisoformat(word) if pa.types.is_time(kind) else pa.scalar(word).cast(kind).as_py()


def scattered(series: nw.Series[Any], at: np.ndarray, values: list[Any]) -> nw.Series[Any]:
    """Return a column with other values at some rows, of its own type if that can hold them, else of one that can."""
    known = [number for number, value in enumerate(values) if value is not None]
    values, at, backend = [values[number] for number in known], at[known], series.implementation.value
    if not values:
        return series
    name, own = series.name, series.to_native()
    for build in (
        lambda: series.scatter(at, made(name, values, backend, own)),
        lambda: made(name, _replaced(series.to_list(), at, values), backend, own),
    ):
        with suppress(Exception), warnings.catch_warnings():
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
    if pa.types.is_dictionary(array.type) and isinstance(array.type.value_type, pa.ExtensionType):
        told[_CATEGORIES] = str(column.cat.categories.dtype)
        # A stream holds columns of such types, but no categories of them.
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
        categories = pd.Index(kind.__from_arrow__(column.chunk(0).dictionary))
        return pd.Series([], dtype=pd.CategoricalDtype(categories, field.type.ordered))
    if sparse := re.fullmatch(r"Sparse\[(\w+), (.+)\]", own):
        plain = np.dtype(sparse[1])
        fill = sparse[2] == "True" if plain.kind == "b" else plain.type(sparse[2]).item()
        return pd.Series([], dtype=pd.SparseDtype(plain, fill))
    return column.to_pandas() if own == "category" else column.to_pandas().astype(own)
