"""The idx files of MNIST and its relatives: ``train-images-idx3-ubyte``, its labels beside it, also as .gz."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from tightbound.data.raw import Raw
from tightbound.errors import DataError

__all__ = ["read_idx", "read_idx_folder"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_LARGEST_EXPANSION = 1100  # deflate cannot expand further
_IMAGES = re.compile(r"^(?P<part>.*)images(?P<dash>.)idx3-ubyte(?P<gz>\.gz)?$")


def read_idx_folder(path: Path, array: str | None = None) -> Raw:
    """Return the images of a folder whose file name begins with ``array``, or else with ``train``, or the only ones."""
    names = sorted(entry.name for entry in path.iterdir() if _IMAGES.match(entry.name))
    fitting = [name for name in names if name.startswith(array if array is not None else "train")]
    if array is None and len(names) == 1:
        fitting = names
    if not fitting:
        held = ", ".join(names) or "no …images-idx3-ubyte"
        raise DataError(f"'{path}': which images? It holds {held}; choose by array=…")
    return read_idx(path / fitting[0])


def read_idx(path: Path) -> Raw:
    """Return the array of an idx file, with the labels of the file beside it whose name says that they belong to it."""
    x = _read(path)
    beside = _labels_beside(path)
    if beside is None:
        return Raw(x)
    labels = _read(beside)
    if labels.shape != (len(x),):
        raise DataError(f"'{beside}' has shape {labels.shape}, expected ({len(x)},): a label per image of '{path.name}'")
    return Raw(x, labels)


def _labels_beside(path: Path) -> Path | None:
    parts = _IMAGES.match(path.name)
    if parts is None:
        return None
    stem = f"{parts['part']}labels{parts['dash']}idx1-ubyte"
    return next((path.with_name(name) for name in (stem, f"{stem}.gz") if path.with_name(name).exists()), None)


def _read(path: Path) -> np.ndarray:
    packed = path.suffix == ".gz"
    room = path.stat().st_size * (_LARGEST_EXPANSION if packed else 1)
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            head = stream.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES:
                raise DataError(f"'{path}' does not begin like an idx file (bytes {head.hex(' ')}); download it again")
            dtype = np.dtype(_TYPES[head[2]])
            sizes = stream.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise DataError(f"'{path}' is truncated within its header; download it again")
            shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
            size = math.prod(shape) * dtype.itemsize
            content = stream.read(size + 1) if size <= room else b""
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' is damaged or truncated ({error}); download it again") from None
    if len(content) != size:
        there = "more" if len(content) > size else f"{len(content):,}"
        raise DataError(f"'{path}' is truncated or damaged: {size:,} bytes of {shape} announced, {there} there")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
