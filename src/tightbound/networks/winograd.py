"""The convolution of :mod:`tightbound.networks.convolution` with 9 products for every 16, by sums of pixels and sums of taps.

A 4×4 kernel of stride 2 is a 2×2 kernel of stride 1 on cells of 2×2 pixels. Two outputs beside each other,

    y₀ = d₀ k₀ + d₁ k₁    and    y₁ = d₁ k₀ + d₂ k₁,

take four products of cells d and taps k, or three: with m₁ = (d₀ − d₁) k₀, m₂ = d₁ (k₀ + k₁) and m₃ = (d₁ − d₂) k₁ they are
m₁ + m₂ and m₂ − m₃. Along both axes of an image nine products make four outputs. The sums are of few numbers, so that
rounding hardly grows. With many channels, where products take the time, this is faster than patches.

Source: Winograd, "Arithmetic Complexity of Computations" (1980); Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (2016).
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["convolve", "convolve_transposed", "kernel_parts"]

Kernel = list[Float[Array, "inner 4*outer"]]


def kernel_parts(kernel: Float[Array, "inner taps*outer"]) -> Kernel:
    """Return the nine factors that belong to a kernel: k₀, k₀ + k₁, k₁ along both axes."""
    taps = kernel.reshape(len(kernel), 2, 2, 2, -1)
    return [part.reshape(len(kernel), -1) for rows in _taps(taps, 1) for part in _taps(rows, 2)]


def convolve(x: Float[Array, "n height width outer"], kernel: Kernel) -> Float[Array, "n height/2 width/2 inner"]:
    """Return K ∗ x."""
    n, height, width, channels = x.shape
    h, w = height // 2, width // 2
    tall, wide = -(-h // 2), -(-w // 2)
    room = jnp.zeros((n, 4 * tall + 2, 4 * wide + 2, channels), x.dtype)
    pairs = lax.dynamic_update_slice(room, x, (0, 1, 1, 0)).reshape(n, 2 * tall + 1, 2, 2 * wide + 1, 2 * channels)
    # The two rows of a cell one by one: their pixels are runs in memory, those of a cell are not.
    upper, lower = ([part for rows in _cells(pairs[:, :, a], 1) for part in _cells(rows, 2)] for a in (0, 1))
    cells = (jnp.stack(both, 3).reshape(n, tall, wide, 4 * channels) for both in zip(upper, lower, strict=True))
    products = [part @ taps.T for part, taps in zip(cells, kernel, strict=True)]
    return _twice(_outputs, products, 2, 1)[:, :h, :w]


def convolve_transposed(y: Float[Array, "n height width inner"], kernel: Kernel) -> Float[Array, "n 2*height 2*width outer"]:
    """Return the linear transpose of :func:`convolve` applied to y, step by step."""
    n, h, w, _ = y.shape
    y = jnp.pad(y, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    responses = (part for rows in _responses(y, 1) for part in _responses(rows, 2))
    products = [part @ taps for part, taps in zip(responses, kernel, strict=True)]
    cells = _twice(_overlaid, products, 2, 1)
    _, tall, wide, width = cells.shape
    pixels = cells.reshape(n, tall, wide, 2, width // 2).swapaxes(2, 3).reshape(n, 2 * tall, 2 * wide, width // 4)
    return pixels[:, 1 : 2 * h + 1, 1 : 2 * w + 1]


def _twice(join: Callable[..., Array], parts: list[Array], inner: int, outer: int) -> Array:
    return join(*(join(*parts[i : i + 3], inner) for i in (0, 3, 6)), outer)


def _taps(k: Array, axis: int) -> tuple[Array, Array, Array]:
    first, second = (lax.index_in_dim(k, i, axis, keepdims=False) for i in (0, 1))
    return first, first + second, second


def _cells(d: Array, axis: int) -> tuple[Array, Array, Array]:
    length = d.shape[axis]
    first, middle, last = (lax.slice_in_dim(d, i, length - 2 + i, 2, axis) for i in (0, 1, 2))
    return first - middle, middle, middle - last


def _outputs(m1: Array, m2: Array, m3: Array, axis: int) -> Array:
    return _interleave(m1 + m2, m2 - m3, axis)


def _responses(y: Array, axis: int) -> tuple[Array, Array, Array]:
    """The transpose of :func:`_outputs`."""
    first, second = (lax.slice_in_dim(y, i, None, 2, axis) for i in (0, 1))
    return first, first + second, -second


def _overlaid(d1: Array, d2: Array, d3: Array, axis: int) -> Array:
    """The transpose of :func:`_cells`: the last cell of a run of three is the first of the next."""
    both = _interleave(_padded(d1, 0, 1, axis) - _padded(d3, 1, 0, axis), _padded(d2 + d3 - d1, 0, 1, axis), axis)
    return lax.slice_in_dim(both, 0, both.shape[axis] - 1, axis=axis)


def _interleave(even: Array, odd: Array, axis: int) -> Array:
    shape = (*even.shape[:axis], 2 * even.shape[axis], *even.shape[axis + 1 :])
    return jnp.stack((even, odd), axis + 1).reshape(shape)


def _padded(x: Array, before: int, after: int, axis: int) -> Array:
    return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])
