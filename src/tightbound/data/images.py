"""Folders of images, read by Pillow into one array (n, height, width, channels) of bytes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from tightbound.data.raw import IMAGE_SUFFIXES, Raw
from tightbound.errors import DataError

__all__ = ["read_images"]

_GREY_MODES = {"1", "L", "LA", "La"}
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP")  # no format that runs another program
_DEEP_MODES = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}


def read_images(path: Path, resize: tuple[int, int] | None = None, grey: bool = False) -> Raw:
    """Return the images of a folder, sorted by name, with the names of sub-folders as labels.

    Grey images have one channel, all others become RGB, and a grey image among coloured ones becomes RGB, too.
    Transparency is dropped. ``resize`` is (height, width).
    """
    files, ignored = _image_files(path)
    _check_size(resize)
    notes = [f"other files left out: {ignored:,}"] if ignored else []
    x = _read_all(path, files, resize, grey)
    if any(len(file.parts) > 1 for file in files):
        return Raw(x, np.array([file.parts[0] for file in files]), notes=tuple(notes))
    return Raw(x, notes=tuple(notes))


def _image_files(path: Path) -> tuple[list[Path], int]:
    """Return the images as relative paths, in sub-folders if the folder itself has none, and how many were ignored."""
    inside = {"": path, **{entry.name: entry for entry in path.iterdir() if entry.is_dir() and entry.name[0] != "."}}
    names = {
        sub: [entry.name for entry in folder.iterdir() if entry.is_file() and entry.name[0] != "."]
        for sub, folder in inside.items()
    }
    files = [Path(sub, name) for sub in names for name in names[sub] if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        deeper = [str(file.parent.parent) for file in path.glob("*/*/*") if file.suffix.lower() in IMAGE_SUFFIXES]
        hint = f"did you mean '{min(deeper)}'?" if deeper else f"expected {', '.join(sorted(IMAGE_SUFFIXES))}"
        raise DataError(f"'{path}' and its sub-folders hold no images; {hint}")
    if len({len(file.parts) for file in files}) > 1:
        raise DataError(f"'{path}' holds images beside sub-folders of images; put every image into a sub-folder, or none")
    return sorted(files, key=lambda file: file.parts), sum(map(len, names.values())) - len(files)


def _check_size(resize: tuple[int, int] | None) -> None:
    if resize is not None and (len(resize) != 2 or min(resize) < 1):
        raise DataError(f"resize={resize}, expected two positive whole numbers: height and width")


def _read_all(folder: Path, files: list[Path], resize: tuple[int, int] | None, grey: bool) -> np.ndarray:
    x = np.empty((0, 0, 0, 0), np.uint8)
    for row, file in enumerate(files):
        picture = _read_one(folder / file, resize, grey)
        if row == 0:
            x = np.empty((len(files), *picture.shape), np.uint8)
        elif picture.shape[:2] != x.shape[1:3]:
            raise DataError(_sizes_differ(folder, files[0], x.shape[1:3], file, picture.shape[:2]))
        elif picture.shape[2] > x.shape[3]:
            x = np.repeat(x, 3, axis=3)
        x[row] = picture
    return x


def _sizes_differ(folder: Path, first: Path, size: tuple[int, ...], other: Path, different: tuple[int, ...]) -> str:
    return (
        f"the images of '{folder}' differ in size: '{first}' is {size[0]}×{size[1]} and '{other}' is "
        f"{different[0]}×{different[1]} (height×width); pass resize, such as --resize {size[0]}×{size[1]}"
    )


def _read_one(file: Path, resize: tuple[int, int] | None, grey: bool) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                _check_form(image, file)
                plain = image.convert("L" if grey or image.mode in _GREY_MODES else "RGB")
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"'{file}' is too large to be opened safely ({error})") from None
    except Exception as error:  # a damaged image fails in as many ways as there are formats
        raise DataError(f"'{file}' cannot be read as an image ({error}); remove or replace it") from None
    if resize is not None:
        plain = plain.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
    return np.asarray(plain).reshape(plain.height, plain.width, -1)


def _check_form(image: Image.Image, file: Path) -> None:
    if image.mode in _DEEP_MODES:
        raise DataError(f"'{file}' has more than 8 bits per channel (mode {image.mode}); convert it to 8 bits")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise DataError(f"'{file}' has several frames; save each as an image of its own")
