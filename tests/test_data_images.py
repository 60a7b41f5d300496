"""Folders of images: what is read, in which order, and which folders and images are refused."""

import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_checks import REPEATABLE, refused
from tightbound.data.load import load
from tightbound.errors import DataError

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
FRAMES = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]


def save(path: Path, pixels: np.ndarray = GREY, mode: str | None = None, **options: Any) -> Path:
    """Write an image, converted to ``mode``, and return the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path.parent


def png(width: int, height: int, body: bytes) -> bytes:
    """A PNG file whose header claims a size, whatever the body holds."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", body), (b"IEND", b""))
    parts = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("suffix", "pixels", "mode", "options", "wanted"),
    [
        ("png", GREY, None, {}, GREY[..., None]),
        ("png", COLOUR, None, {}, COLOUR),
        ("png", GREY, "LA", {}, GREY[..., None]),
        ("png", COLOUR, "RGBA", {}, COLOUR),
        ("png", GREY, "P", {}, np.repeat(GREY[..., None], 3, axis=2)),
        ("png", GREY // 10 % 2 * np.uint8(255), "1", {}, GREY[..., None] // 10 % 2 * 255),
        ("PNG", COLOUR, None, {"grey": True}, np.asarray(Image.fromarray(COLOUR).convert("L"))[..., None]),
        ("bmp", COLOUR, None, {}, COLOUR),
        ("pgm", GREY, None, {}, GREY[..., None]),
        ("tiff", COLOUR, None, {}, COLOUR),
        ("gif", GREY, None, {}, np.repeat(GREY[..., None], 3, axis=2)),
    ],
)
def test_modes_become_one_or_three_channels(
    tmp_path: Path, suffix: str, pixels: np.ndarray, mode: str | None, options: dict[str, Any], wanted: np.ndarray
) -> None:
    data = load(save(tmp_path / f"a.{suffix}", pixels, mode), **options)
    assert data.sites.shape == wanted.shape and data.sites.kind == "levels" and data.sites.levels == 256
    assert np.array_equal(data.x.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_formats_that_lose_detail(tmp_path: Path, suffix: str) -> None:
    smooth = np.repeat(GREY[..., None], 3, axis=2)
    data = load(save(tmp_path / f"a.{suffix}", smooth, quality=100))
    assert data.sites.shape == (4, 6, 3) and np.abs(data.x.reshape(smooth.shape) - smooth.astype(int)).max() < 9


@pytest.mark.parametrize("first", ["grey", "colour"])
def test_grey_images_among_coloured_ones_become_coloured(tmp_path: Path, first: str) -> None:
    second = "z"
    save(tmp_path / f"{'a' if first == 'grey' else second}.png", GREY)
    data = load(save(tmp_path / f"{'a' if first == 'colour' else second}.png", COLOUR))
    rows = data.x.reshape(2, 4, 6, 3)
    assert np.array_equal(rows[int(first == "colour")], np.repeat(GREY[..., None], 3, axis=2))
    assert np.array_equal(rows[int(first == "grey")], COLOUR)


def test_images_are_sorted_whatever_the_directory_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{digit}/{name}.png" for digit in ("cat", "dog", "Emu") for name in ("1", "10", "2")]
    shuffled = random.Random(1).sample(names, len(names))
    for name in shuffled:
        save(tmp_path / name, np.full((2, 2), sorted(names).index(name) * 20, np.uint8))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    in_order, entries = load(tmp_path), Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(entries(path), reverse=True))
    for data in (in_order, load(tmp_path)):
        assert data.labels.tolist() == ["Emu"] * 3 + ["cat"] * 3 + ["dog"] * 3
        assert data.x[:, 0].tolist() == [rank * 20 for rank in range(9)]
        assert data.notes[0] == "other files left out: 1"


def test_images_of_several_sizes_are_resized_on_request(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    folder = save(tmp_path / "b.png", GREY[:, :3])
    with refused("'a.png' is 4×6", "'b.png' is 4×3", "--resize 4×6"):
        load(folder)
    data = load(folder, resize=(2, 3))
    assert data.sites.shape == (2, 3, 1)
    assert np.allclose(data.x[0].mean(), GREY.mean(), atol=2)


@pytest.mark.parametrize("size", [(0, 3), (3,), (2, 3, 4)])
def test_sizes_that_are_none(tmp_path: Path, size: Any) -> None:
    with refused("resize=", "height and width"):
        load(save(tmp_path / "a.png"), resize=size)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"text", ("no images", ".png")),
        ("a.png", b"", ("a.png", "cannot be read as an image")),
        ("a.png", b"GIF89a garbage", ("a.png", "cannot be read as an image", "remove or replace")),
        ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ("a.png", "cannot be read as an image")),
        ("a.png", png(4, 4, b"not deflated"), ("a.png", "cannot be read as an image")),
        ("a.png", png(4, 4, zlib.compress(b"\0")), ("a.png", "cannot be read as an image")),
        ("a.png", png(10_000, 10_000, zlib.compress(b"\0" * 99)), ("a.png", "too large")),
        ("a.png", png(100_000, 100_000, zlib.compress(b"\0" * 99)), ("a.png", "too large")),
    ],
)
def test_images_that_are_refused(tmp_path: Path, name: str, content: bytes, words: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(content)
    with refused(*words):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "pixels", "options", "words"),
    [
        ("a.png", GREY.astype(np.uint16) * 1000, {}, ("a.png", "more than 8 bits", "I;16")),
        ("a.tiff", GREY.astype(np.float32), {}, ("a.tiff", "more than 8 bits")),
        ("a.tiff", GREY.astype(np.int32), {}, ("a.tiff", "more than 8 bits")),
        ("a.gif", GREY, {"save_all": True, "append_images": FRAMES}, ("a.gif", "several frames")),
        ("a.tiff", GREY, {"save_all": True, "append_images": FRAMES}, ("a.tiff", "several frames")),
    ],
)
def test_deep_and_moving_images(tmp_path: Path, name: str, pixels: Any, options: Any, words: tuple[str, ...]) -> None:
    with refused(*words):
        load(save(tmp_path / name, pixels, **options))


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with refused("no images", ".jpeg, .jpg"):
        load(tmp_path)
    save(tmp_path / "train" / "cat" / "a.png")
    with refused("no images", f"did you mean '{tmp_path / 'train'}'?"):
        load(tmp_path)
    save(tmp_path / "b.png")
    save(tmp_path / "dog" / "a.png")
    with refused("beside sub-folders"):
        load(tmp_path)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    os.truncate(tmp_path / "b.png", 60)
    with refused("b.png", "cannot be read as an image"):
        load(folder)


@given(edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4), cut=st.integers(0, 2000))
@settings(REPEATABLE, max_examples=60)
@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "jpg", "tiff", "webp", "pgm"])
def test_damaged_images_are_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, edits: list[tuple[int, int]], cut: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged header may claim any size
    file = tmp_path / f"a.{suffix}"
    save(file, COLOUR if suffix != "pgm" else GREY)
    content = bytearray(file.read_bytes())
    for position, byte in edits:
        content[position % len(content)] = byte
    file.write_bytes(content[: cut or None])
    try:
        data = load(tmp_path)
    except DataError:
        return
    assert len(data) == 1 and data.x.dtype == np.uint8
