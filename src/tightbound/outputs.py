"""Arrays on their way out: rows, reconstructions and embeddings as .npy, .npz, .csv or a sheet of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tightbound.errors import StoreError
from tightbound.files import refuse_existing, write_with
from tightbound.inference import Embedding
from tightbound.pictures import save, sheet
from tightbound.schema import Sites

__all__ = ["check_output", "compact", "write_embedding", "write_rows"]

EMBEDDING_FORMATS = (".npz", ".npy", ".csv")
ROW_FORMATS = (".npy", ".csv")


def check_output(path: Path, formats: tuple[str, ...]) -> None:
    """Raise :class:`StoreError` when an output exists or has a type that cannot be written: before any work is done."""
    if path.suffix.lower() not in formats:
        *others, last = formats
        names = f"{', '.join(others)} or {last}" if others else last
        raise StoreError(f"cannot write '{path}': the name must end in {names}")
    refuse_existing(path)


def compact(rows: np.ndarray, sites: Sites) -> np.ndarray:
    """Return values of the sites themselves in their smallest type: uint8 for up to 256 levels, int64 for counts.

    >>> compact(np.array([[0.0, 1.0]]), Sites(kind="binary", shape=(2,))).dtype
    dtype('uint8')
    """
    if sites.kind in ("real", "mixed"):
        return rows.astype(np.float32)
    if sites.kind == "count":
        return rows.astype(np.int64)
    return rows.astype(np.uint8 if sites.levels <= 256 else np.int32)


def write_rows(path: Path, rows: np.ndarray, sites: Sites, names: tuple[str, ...] = ()) -> None:
    """Write rows (n, D): .npy in the shape of the examples, .csv with one line per row, .png as a sheet of images."""
    match path.suffix.lower():
        case ".npy":
            _write(path, lambda target: np.save(target, rows.reshape(-1, *sites.shape), allow_pickle=False))
        case ".csv":
            _write_csv(path, rows, names or tuple(f"x{column}" for column in range(rows.shape[1])))
        case _:
            side = max(1, math.isqrt(len(rows)))
            save(sheet(rows[: side * side], sites, side), path)


def write_embedding(path: Path, embedding: Embedding) -> None:
    """Write mean and standard deviation of q(z|x): .npz with ``mean`` and ``scale`` (n, L), .npy (2, n, L), or .csv."""
    match path.suffix.lower():
        case ".npz":
            _write(path, lambda target: np.savez(target, mean=embedding.mean, scale=embedding.scale))
        case ".npy":
            _write(path, lambda target: np.save(target, np.stack(embedding), allow_pickle=False))
        case _:
            latents = range(embedding.mean.shape[1])
            names = tuple(f"{part}{latent}" for part in ("mean", "scale") for latent in latents)
            _write_csv(path, np.concatenate(embedding, axis=1), names)


def _write(path: Path, write: Callable[[Path], None]) -> None:
    refuse_existing(path)
    write_with(path, write)


def _write_csv(path: Path, rows: np.ndarray, names: tuple[str, ...]) -> None:
    quoted = [f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names]
    pattern = "%.9g" if rows.dtype.kind == "f" else "%d"
    header = ",".join(quoted)
    _write(
        path,
        lambda target: np.savetxt(target, rows, fmt=pattern, delimiter=",", header=header, comments="", encoding="utf-8"),
    )
