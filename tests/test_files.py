"""Files are whole or absent: nothing half-written is left by a full disk, a bad folder or a failing writer."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tightbound.errors import FormatError, OutputExistsError, StoreError
from tightbound.files import read_json, refuse_existing, write_bytes, write_json, write_with


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where the machine lets us make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a tiny file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_what_is_written_is_whole_and_replaces_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    for content in (b"first", b"second"):
        write_bytes(target, content)
        assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_a_file_gets_the_permissions_of_any_other_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_disk_that_is_full_leaves_nothing_behind(tiny_disk: Path) -> None:
    write_bytes(tiny_disk / "kept", b"kept")
    with pytest.raises(StoreError, match="No space left on device; nothing was left behind"):
        write_bytes(tiny_disk / "big", bytes(10**6))
    assert [path.name for path in tiny_disk.iterdir()] == ["kept"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*file: No space left on device"):
        write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*: (Not a directory|File exists)"):
        write_bytes(tmp_path / "file" / "inside", b"")


def test_an_error_of_the_writer_itself_passes_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        write_with(tmp_path / "file", fail)
    assert not list(tmp_path.iterdir())


def test_json_comes_back_and_damage_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"β": [1, None]})
    assert read_json(tmp_path / "x.json") == {"β": [1, None]}
    for content in (b"{", b"\xff"):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(FormatError, match="cannot read"):
            read_json(tmp_path / "x.json")
    with pytest.raises(FormatError, match="does not exist"):
        read_json(tmp_path / "y.json")


def test_what_exists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError, match="exists and is left as it is"):
        refuse_existing(tmp_path)
