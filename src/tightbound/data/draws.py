"""Random choices about data: how rows are split and which bits grey levels become. One seed, one answer, for good."""

from __future__ import annotations

import numpy as np

from tightbound.data.moments import chunks
from tightbound.errors import DataError

__all__ = ["bits", "part_sizes", "permutation", "sample"]

_PERMUTATION, _BITS = 1, 2  # every use of a seed has a stream of its own


def permutation(count: int, seed: int) -> np.ndarray:
    """Return the numbers 0…count − 1 in an order that only the seed decides."""
    return np.argsort(_words(seed, _PERMUTATION).random_raw(count), kind="stable")


def sample(count: int, size: int) -> np.ndarray:
    """Return at most ``size`` different row numbers, sorted, the same ones every time."""
    return np.sort(permutation(count, 0)[:size])


def part_sizes(count: int, fractions: tuple[float, ...]) -> list[int]:
    """Return the sizes of the held-out parts: rounded, at least 1 where a fraction is positive, and a row left over."""
    if count < 3:
        return [0 for _ in fractions]
    sizes = [max(1, int(count * fraction + 0.5)) if fraction > 0 else 0 for fraction in fractions]
    while sum(sizes) >= count:
        sizes[sizes.index(max(sizes))] -= 1
    return sizes


def bits(grey: np.ndarray, seed: int) -> np.ndarray:
    """Return ones with probability grey/255 (to within 2⁻³²) and zeros elsewhere, uint8, of the shape of ``grey``."""
    words = _words(seed, _BITS)
    # A uniform 32-bit word gives a one when it is at most last[grey]; grey 0 never does, 255 always.
    last = np.maximum(np.round(np.arange(256) * (2**32 / 255)) - 1, 0).astype(np.uint32)
    drawn = np.empty(grey.shape, np.uint8)
    width = grey.shape[1]
    for part in chunks(grey):
        cells = grey[part]
        raw = words.random_raw((len(cells), (width + 1) // 2))  # whole words per row: chunks do not change the bits
        uniform = raw.astype("<u8").view("<u4")[:, :width]
        drawn[part] = (uniform <= last[cells]) & (cells > 0)
    return drawn


def _words(seed: int, stream: int) -> np.random.Philox:
    # The raw words of a bit generator are the one random stream that numpy promises never to change.
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise DataError(f"seed={seed!r}, expected a whole number from 0 to 2⁶⁴ − 1")
    return np.random.Philox(key=np.array([seed, stream], np.uint64))
