"""Tables of numbers in text files: comma, semicolon or tab between cells, quoted or not, with a header or without."""

from __future__ import annotations

import csv
import io
import re
from array import array as compact_list
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tightbound.data.raw import Raw
from tightbound.errors import DataError

__all__ = ["read_table"]

_DELIMITERS = ("\t", ";", ",")
_MISSING = {"", "na", "n/a", "nan", "null", "?"}
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_Lines = Iterator[tuple[int, list[str]]]


def read_table(path: Path, label: str | None = None) -> Raw:
    """Return the numbers of a table; the column ``label`` (its name, or its number from 0) becomes the labels.

    Empty cells, NA, N/A, NaN, null and ? are missing. The first line is a header when a column has text there and a
    number below, when all of it is text, or when it counts 0, 1, 2, …; a first column without a name that counts the rows
    is left out.
    """
    text = _decode(path)
    lines = _Table(path, text)
    header, rows = lines.header()
    width = len(header) if header else len(rows[0][1])
"""
