"""Tables of mixed columns in files: CSV and Parquet, by pyarrow."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from tightbound.data.frames import CODE, as_frame
from tightbound.data.held import in_arrow
from tightbound.data.load import TABLE_SUFFIXES
from tightbound.data.raw import MARKERS
from tightbound.data.tables import decode_text, delimiter_of, is_header
from tightbound.errors import DataError
from tightbound.files import refuse_existing, write_with

__all__ = ["as_table", "read_table", "require_table_name", "stacked", "write_table"]

# pyarrow compares as it stands; what remains of the markers is found afterwards, whatever its case.
_SPELLINGS = [spelling for word in MARKERS for spelling in (word, word.upper(), word.capitalize())] + ["NaN"]
_LARGEST_BLOCK = 2**31 - 1
_BLOCK = 2**24  # bytes that are read together to be counted
_QUOTED = r'^\s+"((?:[^"]|"")*)"\s*$'  # a cell with a space before its quote, which is then no quote to pyarrow
_HEAD = 100  # lines in which the names and a first row are looked for, cells by which text is first judged
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
    table = in_arrow(as_frame(table))
    options = pyarrow.csv.WriteOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",", quoting_style="needed")

    def write(target: Path) -> None:
        try:
            if path.suffix.lower() == ".parquet":
                pyarrow.parquet.write_table(table, target)
            else:
                pyarrow.csv.write_csv(_without_blank_lines(table), target, options)
        except pa.ArrowException as error:
            raise DataError(f"'{path}' cannot hold this table: {str(error).splitlines()[0]}") from None

    write_with(path, write)


def _without_blank_lines(table: pa.Table) -> pa.Table:
    """Return a table whose only column has empty words for its holes: in quotes they are rows, and no blank lines."""
    if table.num_columns != 1 or not table.column(0).null_count:
        return table
    return pa.table({table.column_names[0]: pc.fill_null(pc.cast(table.column(0), pa.string()), "")})


def require_table_name(path: Path) -> None:
    """Raise :class:`DataError` unless the name of a file ends as that of a table."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(f"'{path}' is no table; supported: {_SUPPORTED}")


def as_table(columns: dict[str, Any]) -> Any:
    """Return columns by name, arrays of numbers and lists of words, as a pyarrow table; NaN is a missing cell there."""
    kinds = {name: pa.string() if isinstance(cells, list) else None for name, cells in columns.items()}
    return pa.table({name: pa.array(cells, kinds[name], from_pandas=True) for name, cells in columns.items()})


def require_free(table: Any, name: str) -> None:
    """Raise :class:`DataError` when a table has a column of a name that another one is to have."""
    if name in table.column_names:
        raise DataError(f"the table has a column '{name}', which is to tell several imputations apart; rename it")


def stacked(tables: Sequence[Any], number: str) -> Any:
    """Return tables under one another, with a first column that counts them from 0."""
    counted = [table.add_column(0, number, pa.array([k] * table.num_rows, pa.int64())) for k, table in enumerate(tables)]
    return pa.concat_tables(counted, promote_options="permissive")


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let the csv module read cells of any length."""
    usual = csv.field_size_limit(_LARGEST_BLOCK)
    try:
        yield
    finally:
        csv.field_size_limit(usual)


@_long_cells()
def _read_csv(path: Path) -> pa.Table:
    with path.open("rb") as file:
        head = decode_text(b"".join(islice(file, _HEAD)), path)
    mark = delimiter_of("\n".join([line for line in head.splitlines() if line.strip()][:2]))
    first, skipped = _first_rows(head, mark)
    if not first:
        raise DataError(f"'{path}' has no rows and no columns, expected at least one")
    named = is_header(*first, mixed=True)
    names = [cell.strip() or f"column {j}" for j, cell in enumerate(first[0])] if named else _numbered(len(first[0]))

    def read(as_text: Sequence[str] = (), **more: Any) -> pa.Table:
        text = {"include_columns": as_text, "column_types": dict.fromkeys(as_text, pa.string())}
        return pyarrow.csv.read_csv(
            path,
            pyarrow.csv.ReadOptions(column_names=names, skip_rows=skipped if named else 0, **more),
            pyarrow.csv.ParseOptions(delimiter=mark, newlines_in_values=True),
            pyarrow.csv.ConvertOptions(null_values=_SPELLINGS, strings_can_be_null=True, **text),
        )

    try:
        table = read()
    except pa.ArrowInvalid:
        _refuse_strange(path, mark, len(names))
        # The first megabyte decides on types, and further down there is something else: look at all of it first.
        table = read(block_size=min(path.stat().st_size + 1, _LARGEST_BLOCK))
    if _lines_in(path) > table.num_rows + (skipped if named else 0):
        _refuse_strange(path, mark)
    if any(pa.types.is_binary(column.type) for column in table.columns):
        decode_text(path.read_bytes(), path)
    columns = dict(enumerate(table.columns))
    for name, column in zip(names, table.columns, strict=True):
        if mark != "," and pa.types.is_string(column.type) and _have_decimal_commas(column):
            raise DataError(f"'{path}': column '{name}' has decimal commas, such as {column.drop_null()[0]}; write 1234.5")
    # Digits that are no number, such as 01234, lose their form as numbers: these columns are looked at as text.
    numbers = [j for j, column in columns.items() if pa.types.is_integer(column.type) or pa.types.is_floating(column.type)]
    if len(set(names)) == len(names) and numbers:
        text = read([names[j] for j in numbers]).columns
        columns |= {j: written for j, written in zip(numbers, text, strict=True) if _are_codes(written)}
    return pa.table([_plain(column) for column in columns.values()], names=names)


def _first_rows(head: str, mark: str) -> tuple[list[list[str]], int]:
    """Return the cells of the first two rows that are not blank, and how many lines there are up to the end of the first."""
    rows, lines = [], 0
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=mark, skipinitialspace=True)
    for cells in reader:
        if len(cells) > 1 or (cells and cells[0].strip()):
            rows.append(cells)
            lines = lines or reader.line_num
            if len(rows) == 2:
                break
    return rows, lines


def _have_decimal_commas(text: Any) -> bool:
    known = text.drop_null()
    parts = (known[:_HEAD], known) if len(known) else ()  # most columns are found to have none by their first cells
    return bool(parts) and all(pc.all(pc.match_substring_regex(part, r"^\s*[+-]?\d+,\d+\s*$")).as_py() for part in parts)


def _are_codes(text: Any) -> bool:
    return bool(pc.any(pc.match_substring_regex(text, rf"^\s*(?:{CODE})")).as_py())


def _lines_in(path: Path) -> int:
    """Return the number of lines in a file, however they end, and whether or not the last one does; at times one too many."""
    last, count = b"\n", 0
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            last, count = block[-1:], count + block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
    return count + (last not in b"\r\n")


def _refuse_strange(path: Path, mark: str, width: int | None = None) -> None:
    """Raise :class:`DataError` with the line of a row with more or fewer cells than ``width``, which pyarrow does not say.

    So does a quote that is not closed before the next one, or never: such a cell swallows rows.
    """
    line, own = 1, list[str]()

    def read(file: TextIO) -> Iterator[str]:
        for text in file:
            own.append(text)
            yield text

    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for cells in csv.reader(read(file), delimiter=mark):
            if len(own) > 1 and not _is_strict("".join(own), mark):
                told = "a quote is opened there and not closed before the end of a cell"
                raise DataError(f"'{path}', line {line}: {told}")
            if width and cells and len(cells) != width:
                trimmed = list(csv.reader(io.StringIO("".join(own), newline=""), delimiter=mark, skipinitialspace=True))
                hint = "; after a space a quote is a character like others" if len(trimmed[0]) == width else ""
                raise DataError(f"'{path}', line {line}: {len(cells)} cells, expected {width} as in the first line{hint}")
            line += len(own)
            own.clear()


def _is_strict(text: str, mark: str) -> bool:
    """Whether every quoted cell ends with its quote, but for spaces."""
    text = re.sub(rf'"[ \t]+(?={re.escape(mark)}|[\r\n]|$)', '"', text)
    try:
        return bool(list(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)))
    except csv.Error:
        return False


def _numbered(count: int) -> list[str]:
    return [f"column {j}" for j in range(count)]


def _plain(column: Any) -> Any:
    """Return text without spaces around it, as numbers where all of it is numbers."""
    if not pa.types.is_string(column.type):
        return column
    quoted = pc.match_substring_regex(column, _QUOTED)
    if pc.any(quoted).as_py():
        plain = pc.replace_substring(pc.replace_substring_regex(column, _QUOTED, r"\1"), '""', '"')
        column = pc.if_else(quoted, plain, column)
    stripped = pc.utf8_trim_whitespace(column)
    known = pc.if_else(pc.is_in(pc.utf8_lower(stripped), pa.array(MARKERS)), None, stripped)
    if known.null_count == len(known):
        return known
    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = pc.cast(known, kind)  # ends at the first word, where to look for codes reads all of them
        except pa.ArrowInvalid:
            continue
        return known if _are_codes(known) else numbers
    return known
