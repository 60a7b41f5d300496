"""Writing files so that they are whole or absent: a temporary name in the same folder, then a rename."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tightbound.errors import FormatError, OutputExistsError, StoreError

__all__ = ["read_json", "refuse_existing", "remove", "write_bytes", "write_folder", "write_json", "write_with"]


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """Make errors of the system those of this package."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot write {path}: {error.strerror or error}; nothing was left behind") from error


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file under a temporary name, flush it to disk and rename it to ``path``.

    Raises :class:`StoreError` when the disk is full or the folder cannot be written; nothing is left behind then.
    """
    path = Path(path)
    with _said(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder under a temporary name and rename it to ``path``: all of its files are there, or none.

    Raises :class:`OutputExistsError` when the path exists, and :class:`StoreError` when it cannot be written.
    """
    path = Path(path)
    refuse_existing(path)
    with _said(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            write(temporary)
            temporary.chmod(0o777 & ~_umask())
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes so that the file is whole or absent."""
    write_with(path, lambda temporary: _put(temporary, content))


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, indented for people, so that the file is whole or absent."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON; raise :class:`FormatError` when the file is absent, truncated or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist; is this a run folder?") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"cannot read {path}: {error}") from None


def refuse_existing(path: Path) -> None:
    """Raise :class:`OutputExistsError` when the path exists."""
    if Path(path).exists():
        raise OutputExistsError(f"{path} exists and is left as it is; choose another name or remove it first")


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing happens when there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
