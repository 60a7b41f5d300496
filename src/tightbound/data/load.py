"""One verb that reads anything: built-in sets, array files, tables, idx files and image folders."""

from __future__ import annotations

import importlib
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from tightbound.data.arrays import Binarisation, Dataset, Missing, from_arrays
from tightbound.data.raw import IMAGE_SUFFIXES, Raw
from tightbound.errors import DataError
from tightbound.schema import Kind

__all__ = ["BUILTIN", "TABLE_SUFFIXES", "load", "read_table"]


class _Reader(NamedTuple):
    """Where a reader lives and which options of :func:`load` it knows; its module is imported when it is needed."""

    target: str
    options: frozenset[str] = frozenset()

    def read(self, *given: Any, **options: Any) -> Raw:
        module, _, function = self.target.partition(":")
        raw: Raw = getattr(importlib.import_module(module), function)(*given, **options)
        return raw


_TABLE = _Reader("tightbound.data.tables:read_table", frozenset({"label", "exposure"}))
_IDX = _Reader("tightbound.data.idx:read_idx")
_IDX_FOLDER = _Reader("tightbound.data.idx:read_idx_folder", frozenset({"array"}))
_IMAGES = _Reader("tightbound.data.images:read_images", frozenset({"resize", "grey"}))
_TABLE_FILE = _Reader("tightbound.data.tablefiles:read_table")
_BUILTIN = {"digits": _Reader("tightbound.data.builtin:digits")}
_BY_SUFFIX = {
    ".npy": _Reader("tightbound.data.arrayfiles:read_npy"),
    ".npz": _Reader("tightbound.data.arrayfiles:read_npz", frozenset({"array", "label", "exposure"})),
    ".csv": _TABLE,
    ".tsv": _TABLE,
}
_IDX_NAME = re.compile(r"idx\d-ubyte(\.gz)?$")
_SUPPORTED = ".npy, .npz, .csv, .tsv, idx files (…-idx3-ubyte, also .gz), a folder of images or of idx files"

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
BUILTIN = tuple(_BUILTIN)
"""The names of the built-in sets."""


def load(
    source: Any,
    *,
    kind: Kind | None = None,
    levels: int | None = None,
    binarise: Binarisation | None = None,
    missing: Missing = "refuse",
    resize: tuple[int, int] | None = None,
    grey: bool = False,
    seed: int = 0,
    array: str | None = None,
    label: str | None = None,
    exposure: str | None = None,
    shape: tuple[int, ...] | None = None,
) -> Dataset:
    """Return the data set that a path, a built-in name or an array stands for.

    ================================  ==================================================================
    ``source``                        what is read
    ================================  ==================================================================
    ``"digits"``                      the built-in 8×8 digits, 17 levels (write ``./digits`` for a folder)
    ``.npy``                          one array
    ``.npz``                          ``array``, or else x, X, x_train, or the only array; labels from ``label`` or y…;
                                      exposures of counts from ``exposure``
    ``.csv``, ``.tsv``                numbers; the columns ``label`` and ``exposure`` (a name, or a number from 0) are
                                      set apart
    ``…idx3-ubyte``, ``….gz``         an idx file, with its labels when they lie beside it
    a folder of idx files             ``array`` chooses by its beginning, or else ``train``
    a folder of images                PNG, JPEG, …, sorted by name; sub-folders become labels; ``resize`` to (height,
                                      width), ``grey`` for one channel
    anything else                     an array, as in :func:`~tightbound.data.arrays.from_arrays`
    ================================  ==================================================================

    ``kind``, ``levels``, ``missing`` and ``shape`` go to :func:`~tightbound.data.arrays.from_arrays`, which infers the
    kind when it is not given; ``binarise`` and ``seed`` to :meth:`~tightbound.data.arrays.Dataset.with_binarisation`.
    Nothing depends on the order of a directory, and nothing that is pickled is ever loaded.

    Raises :class:`DataError` when the source does not exist, cannot be read or is not what it seems to be.

    >>> load("digits").sites.describe()
    '64 sites (8×8×1), 17 ordered levels 0…16'
    """
    options = {"array": array, "label": label, "resize": resize, "grey": grey or None, "exposure": exposure}
    raw, name = _read(source, {key: value for key, value in options.items() if value is not None})
    data = from_arrays(
        raw.x,
        kind=kind,
        levels=raw.levels if levels is None and kind is None else levels,
        labels=raw.labels,
        exposure=raw.exposure,
        names=raw.names,
        missing=missing,
        source=name,
        shape=shape,
        notes=raw.notes,
    )
    return data if binarise is None else data.with_binarisation(binarise, seed)


def read_table(path: str | Path) -> Any:
    """Return the table (pyarrow) in a .csv, .tsv or .parquet file, with the types of its columns, for :func:`tightbound.infer`.

    Text is stripped of spaces around it; cells that are empty or one of the usual marks (``?``, NA, null, …) are missing.
    Without a header the columns are called "column 0", "column 1", …. Raises :class:`DataError` for what does not exist, is
    empty, or is no table.
    """
    return _TABLE_FILE.read(path)


def _read(source: Any, options: dict[str, Any]) -> tuple[Raw, str]:
    if not isinstance(source, str | os.PathLike):
        _known(options, frozenset(), "an array")
        return Raw(source), "array"
    if source in _BUILTIN:
        _known(options, frozenset(), f"the built-in set '{source}'")
        return _BUILTIN[str(source)].read(), str(source)
    try:
        path = Path(source).expanduser()
        reader = _reader_of(path, source)
        _known(options, reader.options, f"'{source}'")
        return reader.read(path, **options), str(source)
    except MemoryError:
        raise DataError(f"'{source}' does not fit into memory; pass a part of it") from None
    except (OSError, EOFError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"'{source}' cannot be read: {reason}; supported: {_SUPPORTED}") from None


def _known(options: dict[str, Any], known: frozenset[str], what: str) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        usable = f"it takes {', '.join(sorted(known))}" if known else "it takes none of array, label, exposure, resize, grey"
        raise DataError(f"{' and '.join(unknown)} cannot be used with {what}: {usable}")


def _reader_of(path: Path, source: Any) -> _Reader:
    if not os.fspath(source) or "\0" in str(path) or not path.exists():
        raise DataError(_not_found(str(source)))
    if path.is_dir():
        return _IDX_FOLDER if any(_IDX_NAME.search(entry.name) for entry in path.iterdir()) else _IMAGES
    if not path.is_file():
        raise DataError(f"'{source}' is neither a file nor a folder; supported: {_SUPPORTED}")
    if path.stat().st_size == 0:
        raise DataError(f"'{source}' is empty (0 bytes); supported: {_SUPPORTED}")
    if _IDX_NAME.search(path.name):
        return _IDX
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        raise DataError(f"'{source}' is a single image; pass the folder that holds the images")
    if suffix not in _BY_SUFFIX:
        raise DataError(f"'{source}' has an unknown type '{suffix}'; supported: {_SUPPORTED}")
    return _BY_SUFFIX[suffix]


def _not_found(source: str) -> str:
    near = get_close_matches(source, BUILTIN, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    if Path(source).name != source or Path(source).suffix:
        return f"'{source}' does not exist (looked in {Path.cwd()}){hint}"
    return f"unknown data '{source}': no such file; built-in sets: {', '.join(BUILTIN)}{hint}"
