"""Tables of mixed columns in files: CSV and Parquet, by pyarrow."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from tightbound.data.frames import as_frame
from tightbound.data.load import TABLE_SUFFIXES
from tightbound.data.raw import MARKERS
from tightbound.data.tables import decode_text, delimiter_of, is_header
from tightbound.errors import DataError
from tightbound.files import refuse_existing, write_with

__all__ = ["as_table", "read_table", "require_table_name", "stacked", "write_table"]

# pyarrow compares as it stands; what remains of the markers is found afterwards, whatever its case.
_SPELLINGS = [spelling for word in MARKERS for spelling in (word, word.upper(), word.capitalize())] + ["NaN"]
_LARGEST_BLOCK = 2**31 - 1
_SUPPORTED = ", ".join(TABLE_SUFFIXES)


def read_table(path: str | Path) -> Any:
    """Return the table in a file: see :func:`tightbound.read_table`."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        raise DataError(f"'{path}' {'is empty' if path.is_file() else 'does not exist'}; expected {_SUPPORTED}")
    require_table_name(path)
    try:
        table = pyarrow.parquet.read_table(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{path}' cannot be read: {str(error).splitlines()[0]}") from None
    if not table.num_rows or not table.num_columns:
        raise DataError(f"'{path}' has no rows{'' if table.num_columns else ' and no columns'}, expected at least one")
    return table


def write_table(path: str | Path, table: Any) -> None:
    """Write a pandas, polars or pyarrow table to .csv, .tsv or .parquet, whole or not at all.

    Raises :class:`DataError` for another suffix or what is no table, :class:`OutputExistsError` when the file exists, and
    :class:`StoreError` when it cannot be written.
    """
    path = Path(path)
    require_table_name(path)
    refuse_existing(path)
    table = as_frame(table).to_arrow()
    if path.suffix.lower() == ".parquet":
        write_with(path, lambda target: pyarrow.parquet.write_table(table, target))
        return
    options = pyarrow.csv.WriteOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",", quoting_style="needed")
    write_with(path, lambda target: pyarrow.csv.write_csv(table, target, options))


def require_table_name(path: Path) -> None:
    """Raise :class:`DataError` unless the name of a file ends as that of a table."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"'{path}' is no table; supported: {_SUPPORTED}")


def as_table(columns: dict[str, Any]) -> Any:
    """Return columns by name as a pyarrow table."""
    return pa.table(columns)


def stacked(tables: Sequence[Any], number: str) -> Any:
    """Return tables under one another, with a first column that counts them from 0."""
    counted = [table.add_column(0, number, pa.array([k] * table.num_rows, pa.int64())) for k, table in enumerate(tables)]
    return pa.concat_tables(counted, promote_options="permissive")


def _read_csv(path: Path) -> pa.Table:
    with path.open("rb") as file:
        head = decode_text(file.readline() + file.readline(), path)
    mark = delimiter_of(head)
    first = [line for line in islice(csv.reader(head.splitlines(), delimiter=mark, skipinitialspace=True), 2) if line]
    named = is_header(*first)
    names = [cell.strip() or f"column {j}" for j, cell in enumerate(first[0])] if named else _numbered(len(first[0]))

    def read(**more: Any) -> pa.Table:
        return pyarrow.csv.read_csv(
            path,
            pyarrow.csv.ReadOptions(column_names=names, skip_rows=int(named), **more),
            pyarrow.csv.ParseOptions(delimiter=mark, newlines_in_values=True),
            pyarrow.csv.ConvertOptions(null_values=_SPELLINGS, strings_can_be_null=True),
        )

    try:
        table = read()
    except pa.ArrowInvalid:
        _refuse_ragged(path, mark, len(names))
        # The first megabyte decides on types, and further down there is something else: look at all of it first.
        table = read(block_size=min(path.stat().st_size + 1, _LARGEST_BLOCK))
    columns = [_plain(column) for column in table.columns]
    return pa.table(columns, names=names)


def _refuse_ragged(path: Path, mark: str, width: int) -> None:
    """Raise :class:`DataError` with the number of the first line that has more or fewer cells: pyarrow does not say where."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=mark)
        for cells in reader:
            if cells and len(cells) != width:
                raise DataError(f"'{path}', line {reader.line_num}: {len(cells)} cells, expected {width} as in the first line")


def _numbered(count: int) -> list[str]:
    return [f"column {j}" for j in range(count)]


def _plain(column: Any) -> Any:
    """Return text without spaces around it, as numbers where all of it is numbers."""
    if not pa.types.is_string(column.type):
        return column
    stripped = pc.utf8_trim_whitespace(column)
    known = pc.if_else(pc.is_in(pc.utf8_lower(stripped), pa.array(MARKERS)), None, stripped)
    if known.null_count == len(known):
        return known
    for kind in (pa.int64(), pa.float64()):
        try:
            return pc.cast(known, kind)
        except pa.ArrowInvalid:
            continue
    return known
