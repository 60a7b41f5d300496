"""Tables of numbers in text files: comma, semicolon or tab between cells, quoted or not, with a header or without."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from array import array as packed
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tightbound.data.raw import MARKERS, Raw
from tightbound.errors import DataError

__all__ = ["decode_text", "delimiter_of", "is_header", "read_table"]

_DELIMITERS = ("\t", ";", ",")
_LABEL_NAMES = {"label", "labels", "class", "target", "y"}
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+(,\d+)+\s*")


class _Line(NamedTuple):
    number: int
    cells: list[str]


class _Columns(NamedTuple):
    """The layout of a table: names of all columns (none without a header) and the number of the label column."""

    width: int
    names: tuple[str, ...]
    label: int | None

    def label_apart(self) -> tuple[str, ...]:
        return tuple(name for j, name in enumerate(self.names) if j != self.label)


def read_table(path: Path, label: str | None = None, exposure: str | None = None) -> Raw:
    """Return the numbers of a table; the column ``label`` (its name, or its number from 0) becomes the labels.

    The column ``exposure``, named in the same way, becomes the exposure of the rows.

    Empty cells, NA, N/A, NaN, null, none and ? are missing. The first line is a header when a column has text there and a
    number below, when all of it is text, or when it counts 0, 1, 2, …; a first column without a name that counts the
    rows, as data frames write it, is left out.
    """
    text = decode_text(path.read_bytes(), path)
    lines = _lines(text, delimiter_of(text), path)
    first = list(itertools.islice(lines, 2))
    header = first[0].cells if first and is_header(*(line.cells for line in first)) else []
    body = first[1:] if header else first
    if not body:
        raise DataError(f"'{path}' has no rows of numbers{' below its header' if header else ''}")
    columns = _columns(header, len(first[0].cells), label, path)
    # Python's float reads 1_5 as fifteen; the check costs time, so it is left out where no line can need it.
    convert = _plain_number if text.find("_", text.find("\n")) >= 0 else float
    x, labels = _numbers(itertools.chain(body, lines), columns, convert, path)
    raw = Raw(x, labels, columns.label_apart(), notes=tuple(_header_notes(header, columns)))
    return _without_row_numbers(raw if exposure is None else _exposure_apart(raw, columns, exposure, path))


def decode_text(content: bytes, path: Path) -> str:
    """Return the text of a file; raise :class:`DataError` when it is not in UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not text in UTF-8; save the table as 'CSV UTF-8'") from None


def delimiter_of(text: str) -> str:
    """Return the delimiter that gives the first lines one common width, or else one that the first line has."""
    sample = text[:65536].splitlines()[:20]
    widths = {mark: [len(cells) for cells in csv.reader(sample, delimiter=mark) if cells] for mark in _DELIMITERS}
    even = [mark for mark in _DELIMITERS if len(set(widths[mark])) == 1 and widths[mark][0] > 1]
    return (even or [mark for mark in _DELIMITERS if widths[mark] and widths[mark][0] > 1] or [","])[0]


def _lines(text: str, delimiter: str, path: Path) -> Iterator[_Line]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield _Line(reader.line_num, cells)
    except csv.Error as error:
        raise DataError(f"'{path}', line {reader.line_num}: {error}; check the quotes there") from None


def _plain_number(cell: str) -> float:
    if "_" in cell:
        raise ValueError
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        return not math.isnan(_plain_number(cell))
    except ValueError:
        return False


def _is_text(cell: str) -> bool:
    return not _is_number(cell) and cell.strip().lower() not in MARKERS


def is_header(first: list[str], second: list[str] | None = None, *, mixed: bool = False) -> bool:
    """Return whether the first line names the columns, by what stands in it and in the second.

    In a table of numbers text is a name. In a ``mixed`` one it may be a cell like others, if there are numbers beside it.
    """
    if first == [str(j) for j in range(len(first))] and len(first) > 2:
        return True
    if len(first) > 2 and first == ["", *(str(j) for j in range(len(first) - 1))]:
        return True
    texts = [_is_text(cell) for cell in first]
    if any(texts) and all(text or not cell.strip() for text, cell in zip(texts, first, strict=True)):
        return True
    if any(texts) and _are_years(first, texts) and not _are_years(second or [], texts):
        return True
    if any("." in cell and not text for text, cell in zip(texts, first, strict=True)):
        return False  # names may be whole numbers, such as years, but not 5.1
    if mixed and any(map(_is_number, first)):
        return False
    return any(text and _is_number(cell) for text, cell in zip(texts, second or (), strict=False))


def _are_years(cells: list[str], texts: list[bool]) -> bool:
    """Whether the cells in columns that have no text are years in order, at least two of them."""
    years = [cell.strip() for text, cell in zip(texts, cells, strict=False) if not text]
    if len(years) < 2 or not all(re.fullmatch(r"(?:1[5-9]|20|21)\d\d", year) for year in years):
        return False
    return years in (sorted(set(years)), sorted(set(years), reverse=True))


def _columns(header: list[str], width: int, label: str | None, path: Path) -> _Columns:
    columns = _Columns(width, tuple(name.strip() or f"column {j}" for j, name in enumerate(header)), None)
    return columns if label is None else columns._replace(label=_find(columns, label, "labels", path))


def _find(columns: _Columns, wanted: str, role: str, path: Path) -> int:
    """Return the number of a column, which is asked for by name or by number."""
    width, names = columns.width, columns.names
    if wanted in names:
        return names.index(wanted)
    if re.fullmatch(r"-?\d+", wanted) and -width <= int(wanted) < width:
        return int(wanted) % width
    known = f"its columns are {', '.join(map(repr, names[:20]))}" if names else f"it has columns 0…{width - 1}, no names"
    raise DataError(f"'{path}' has no column '{wanted}' for {role}; {known}")


def _exposure_apart(raw: Raw, columns: _Columns, wanted: str, path: Path) -> Raw:
    column = _find(columns, wanted, "exposures", path)
    if column == columns.label:
        raise DataError(f"'{path}': column '{wanted}' cannot be both label and exposure")
    at = column - (columns.label is not None and columns.label < column)
    names = tuple(name for j, name in enumerate(raw.names) if j != at)
    return raw._replace(x=np.delete(raw.x, at, axis=1), names=names, exposure=raw.x[:, at])


def _header_notes(header: list[str], columns: _Columns) -> Iterator[str]:
    if any(not _is_text(cell) and cell.strip() for cell in header):
        yield f"the first line was taken as column names: {', '.join(header[:5])}{', …' if len(header) > 5 else ''}"
    for name in columns.names:
        if columns.label is None and name.lower() in _LABEL_NAMES:
            yield f"column '{name}' is taken as data; pass label='{name}' to set it apart"


def _numbers(
    lines: Iterable[_Line], columns: _Columns, convert: Callable[[str], float], path: Path
) -> tuple[np.ndarray, np.ndarray | None]:
    cells_read, labels = packed("d"), []
    text: dict[int, tuple[int, str]] = {}
    for number, cells in lines:
        if len(cells) != columns.width:
            raise DataError(f"'{path}', line {number}: {len(cells)} cells, expected {columns.width} as in the first line")
        if columns.label is not None:
            labels.append(cells.pop(columns.label).strip())
        try:
            cells_read.fromlist(list(map(convert, cells)))
        except ValueError:
            cells_read.fromlist([_number(cell, text, j, number) for j, cell in enumerate(cells)])
    if text:
        raise DataError(_text_found(path, text, columns.label_apart()))
    width = columns.width - (columns.label is not None)
    count = len(cells_read) // width if width else len(labels)
    x = np.frombuffer(cells_read, np.float64).reshape(count, width)
    return x, _label_values(labels) if columns.label is not None else None


def _number(cell: str, text: dict[int, tuple[int, str]], column: int, line: int) -> float:
    """Return the number in a cell, NaN for a missing one; keep the first text of every column for the message."""
    try:
        return _plain_number(cell)
    except ValueError:
        if cell.strip().lower() not in MARKERS:
            text.setdefault(column, (line, cell))
        return float("nan")


def _text_found(path: Path, text: dict[int, tuple[int, str]], names: tuple[str, ...]) -> str:
    found = [
        f"column {repr(names[j]) if names else j} (line {line}: {cell[:40]!r})" for j, (line, cell) in sorted(text.items())
    ]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    if any(_DECIMAL_COMMA.fullmatch(cell) for _, cell in text.values()):
        advice = "decimal commas and thousands separators are not supported, write 1234.5"
    else:
        advice = "encode or drop such columns, or set one apart as label"
    return f"'{path}': text in {', '.join(found[:5])}{more}, expected numbers; {advice}"


def _label_values(labels: list[str]) -> np.ndarray:
    words = np.array(labels)
    for dtype in (np.int64, np.float64):
        try:
            return words.astype(dtype)
        except (ValueError, OverflowError):
            continue
    return words


def _without_row_numbers(raw: Raw) -> Raw:
    counted = raw.x[:, 0] - raw.x[0, 0] if raw.x.size else raw.x
    if raw.names[:1] != ("column 0",) or len(raw.x) < 2 or not np.array_equal(counted, np.arange(len(raw.x))):
        return raw
    note = "the first column has no name and counts the rows; it was left out"
    return raw._replace(x=raw.x[:, 1:], names=raw.names[1:], notes=(*raw.notes, note))
