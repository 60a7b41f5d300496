"""Columns as libraries hold them: their types described in text, columns made of such types, holes of a column filled."""

from __future__ import annotations

import base64
import io
import warnings
from contextlib import suppress
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from tightbound.errors import DataError

__all__ = ["as_word", "described", "empty_columns", "made", "scattered"]

_PANDAS = b"pandas"  # metadata of a field: the name of its type there


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
            column = nw.from_arrow(table.select([field.name]), backend=backend)[field.name].to_native()
            own = (field.metadata or {}).get(_PANDAS, b"").decode()
            found[field.name] = _in_pandas(column, own, field.type) if own and backend == "pandas" else column
    return found


def made(name: str, values: list[Any], backend: Any, like: Any = None) -> nw.Series[Any]:
    """Return a column of the type of another one, if it can hold the values, else of one that the library chooses."""
    if like is not None:
        with suppress(Exception):
            column = nw.from_native(_of_type(name, values, backend, like), series_only=True)
            # Some types take what they cannot hold for missing, or missing truth values for false.
            if np.array_equal(column.is_null().to_numpy(), [value is None for value in values]):
                return column.alias(name)
    return nw.new_series(name, values, backend=backend)


def _of_type(name: str, values: list[Any], backend: Any, like: Any) -> Any:
    if backend == "pyarrow":
        import pyarrow as pa

        return pa.chunked_array([pa.array(values, like.type)])
    if backend == "polars":
        return type(like)(name=name, values=values, dtype=like.dtype)
    if hasattr(like, "cat"):  # categories of pandas may be of any type
        own = {as_word(category): category for category in like.cat.categories}
        values = [own.get(value, value) for value in values]
    return type(like)(values, name=name, dtype=like.dtype)


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
        empty = nw.from_dict({name: frame[name].head(0) for name in names})
        table, fields, arrays = empty.to_arrow(), [], []
        for name, column in zip(names, table.columns, strict=True):
            own = getattr(empty[name].to_native(), "dtype", None)
            told = {_PANDAS: str(own)} if frame.implementation.is_pandas() else {}
            fields.append(table.schema.field(name).with_metadata((table.schema.field(name).metadata or {}) | told))
            arrays.append(column.chunk(0) if column.num_chunks else pa.array([], column.type))
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, pa.schema(fields)) as stream:
            # A batch, though without rows, has the categories with it.
            stream.write_batch(pa.record_batch(arrays, schema=pa.schema(fields)))
        pa.ipc.open_stream(sink.getvalue()).read_all()
    except Exception:  # each library has errors of its own
        return None
    return sink.getvalue()


def _in_pandas(column: Any, own: str, kind: Any) -> Any:
    """Return a column of pandas in the type of pandas that had the name ``own``."""
    import pandas as pd

    if own.endswith("[pyarrow]"):
        return column.astype(pd.ArrowDtype(kind))
    return column if own == "category" else column.astype(own)
