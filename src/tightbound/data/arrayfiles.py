"""numpy's .npy and .npz files, read without pickle and without believing sizes that a header only claims."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from tightbound.data.raw import Raw
from tightbound.errors import DataError

__all__ = ["read_npy", "read_npz"]

_X_NAMES = ("x", "X", "x_train")
_Y_NAMES = ("y", "Y", "labels", "label", "target")
_LARGEST_EXPANSION, _SAFE_BYTES = 200, 2**30
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npy(path: Path) -> Raw:
    """Return the array of a .npy file."""
    with path.open("rb") as stream:
        return Raw(_read_array(stream, path.stat().st_size, f"'{path}'"))


def read_npz(path: Path, array: str | None = None, label: str | None = None, exposure: str | None = None) -> Raw:
    """Return one array of a .npz file, the labels that belong to it, and the array ``exposure`` when one is named."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            name = _choose(list(members), array, path)
            x = _read_member(archive, members[name], path)
            labels, notes = _labels(archive, members, name, label, len(x) if x.ndim else 0, path)
            exposures = None if exposure is None else _named(archive, members, exposure, "exposures", path)
            return Raw(x, labels, notes=notes, exposure=exposures)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"'{path}' is damaged or not a .npz file ({error}); write it anew with np.savez") from None


def _choose(names: list[str], wanted: str | None, path: Path) -> str:
    if wanted is not None and wanted in names:
        return wanted
    arrays = [name for name in names if name not in _Y_NAMES]
    if wanted is None:
        for name in (*_X_NAMES, *(arrays if len(arrays) == 1 else ())):
            if name in names:
                return name
    problem = "which array is x?" if wanted is None else f"there is no array '{wanted}'"
    raise DataError(f"'{path}': {problem} It holds {', '.join(names) or 'nothing'}; choose by array=…")


def _labels(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, label: str | None, count: int, path: Path
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the labels that were asked for, or else those whose name and length fit x; never those of another part."""
    if label is not None:
        return _named(archive, members, label, "labels", path), ()
    part = name[1:] if name[:2] in ("x_", "X_") else ""
    partners = (f"y{part}", f"labels{part}", *(_Y_NAMES if part in ("", "_train") else ()))
    for partner in partners:
        if partner in members:
            try:
                values = _read_member(archive, members[partner], path)
            except DataError as error:
                return None, (f"labels left out: {error}",)
            if values.size == count:
                return values.reshape(count), ()
            return None, (f"'{partner}' left out: its shape {values.shape} does not fit {count:,} labels",)
    return None, ()


def _named(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, role: str, path: Path) -> np.ndarray:
    if name not in members:
        raise DataError(f"'{path}': there is no array '{name}' for {role}; it holds {', '.join(members)}")
    return _read_member(archive, members[name], path)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    if info.file_size > _SAFE_BYTES and info.file_size > _LARGEST_EXPANSION * info.compress_size:
        raise DataError(
            f"'{path}': '{info.filename}' would expand {info.file_size // max(1, info.compress_size):,}-fold to "
            f"{info.file_size / 2**30:.0f} GiB; if that is meant, save it as .npy"
        )
    with archive.open(info) as stream:
        return _read_array(stream, info.file_size, f"'{path}', array '{info.filename.removesuffix('.npy')}'")


def _read_array(stream: IO[bytes], available: int, what: str) -> np.ndarray:
    shape, dtype, start = _read_header(stream, what)
    if dtype.hasobject:
        raise DataError(f"{what} holds pickled Python objects, which are never loaded; save numbers: x.astype(float)")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > available - start:
        there = f"{claimed:,} bytes of {shape} {dtype} announced, {available - start:,} there"
        raise DataError(f"{what} is truncated: {there}; write it anew with np.save")
    stream.seek(0)
    try:
        return npy.read_array(stream, allow_pickle=False)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{what} cannot be read: {error}") from None


def _read_header(stream: IO[bytes], what: str) -> tuple[tuple[int, ...], np.dtype, int]:
    try:
        shape, _, dtype = _HEADERS[npy.read_magic(stream)](stream)
    except Exception as error:  # the header is a Python literal, so a damaged one fails in any way a literal can
        raise DataError(f"{what} is damaged or not a numpy array ({error}); write it anew with np.save") from None
    if any(size < 0 for size in shape):
        raise DataError(f"{what} announces the shape {shape}; write it anew with np.save")
    return shape, dtype, stream.tell()
