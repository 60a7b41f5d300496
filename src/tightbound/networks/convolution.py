"""Convolution with a 4×4 kernel, stride 2 and zero padding 1, as matrix products.

A kernel K, an image x and an image y of half its sides define one trilinear form, ⟨y, K ∗ x⟩. Its three partial derivatives
are all that convolutional networks need: :func:`convolve` (with respect to y), :func:`convolve_transposed` (x) and
:func:`correlate` (K). Each is linear in its two arguments and has the other two as its derivatives, so that gradients of
any order, forward and reverse, stay among the three.

On processors each is one matrix product with the 4×4 patches of x: XLA's own convolution is several times slower there,
its gradients above all. The patches, sixteen times the image that they come from in entries per output pixel, are made for a
block of examples at a time and never kept. Between many channels the first two save products instead, see
:mod:`tightbound.networks.winograd`. On other devices XLA's convolution is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from tightbound.networks import winograd

__all__ = ["TAPS", "convolve", "convolve_transposed", "correlate"]

TAPS = 16
# The patches of a block of examples should stay in the processor's cache between being written and being read.
PATCH_BYTES = 2**22
# From so many channels of the larger image on, sums of pixels and taps cost less than the products that they save; they want
# blocks of this size, counted as if they held patches.
MANY_CHANNELS = 64
SUM_BYTES = 2**25


def convolve(
    x: Float[Array, "... height width outer"], kernel: Float[Array, "inner taps*outer"]
) -> Float[Array, "... height/2 width/2 inner"]:
    """Return K ∗ x for images of even sides: y[i, j, o] = Σ K[o, (a, b, c)] x[2i + a − 1, 2j + b − 1, c].

    The columns of the kernel run over (a, b, c): row a and column b of the 4×4 taps, then the channel c of x.

    >>> convolve(jnp.ones((4, 4, 1)), jnp.ones((1, 16)))[:, :, 0].tolist()
    [[9.0, 9.0], [9.0, 9.0]]
    """
    return _convolve.bind(x, kernel)


def convolve_transposed(
    y: Float[Array, "... height width inner"], kernel: Float[Array, "inner taps*outer"]
) -> Float[Array, "... 2*height 2*width outer"]:
    """Return the linear transpose of :func:`convolve` applied to y: ⟨x, convolve_transposed(y, K)⟩ = ⟨K ∗ x, y⟩."""
    return _convolve_transposed.bind(y, kernel)


def correlate(
    x: Float[Array, "... height width outer"], y: Float[Array, "... height/2 width/2 inner"]
) -> Float[Array, "inner taps*outer"]:
    """Return the derivative of Σ ⟨y, K ∗ x⟩ with respect to K, the sum being over all leading axes."""
    return _correlate.bind(x, y)


def _patches(x: Float[Array, "n height width outer"]) -> Float[Array, "n pixels taps*outer"]:
    n, height, width, channels = x.shape
    h, w = height // 2, width // 2
    # Two pixels beside each other are one run in memory: eight copies of whole runs make the sixteen taps.
    pairs = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(n, h + 1, 2, w + 1, 2 * channels)
    runs = [pairs[:, i : i + h, a, j : j + w] for i in (0, 1) for a in (0, 1) for j in (0, 1)]
    return jnp.stack(runs, axis=3).reshape(n, h * w, TAPS * channels)


def _overlay(patches: Float[Array, "n pixels taps*outer"], h: int, w: int) -> Float[Array, "n 2*h 2*w outer"]:
    """Return the linear transpose of :func:`_patches`: every patch is added where it came from."""
    n, channels = len(patches), patches.shape[-1] // TAPS
    blocks = patches.reshape(n, h, w, 2, 2, 2, 2 * channels)
    grid = sum(
        jnp.pad(blocks[:, :, :, i, :, j], ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1)
    )
    return jnp.swapaxes(grid, 2, 3).reshape(n, 2 * h + 2, 2 * w + 2, channels)[:, 1:-1, 1:-1]


def _convolve_block(x: Array, kernel: Array) -> Array:
    n, height, width, _ = x.shape
    return (_patches(x) @ kernel.T).reshape(n, height // 2, width // 2, -1)


def _convolve_transposed_block(y: Array, kernel: Array) -> Array:
    n, h, w, channels = y.shape
    return _overlay(y.reshape(n, h * w, channels) @ kernel, h, w)


def _correlate_block(x: Array, y: Array) -> Array:
    n, h, w, channels = y.shape
    # Examples and pixels as two summed axes: XLA then turns the small factor for the product, not the patches.
    return lax.dot_general(y.reshape(n, h * w, channels), _patches(x), (((0, 1), (0, 1)), ((), ())))


OfBlock = Callable[[Array, Any], Array]


def _blocks(examples: int, patch_bytes: int, most: int) -> int:
    """Return the smallest divisor of the number of examples that makes blocks of at most so many bytes of patches."""
    wanted = max(1, most // max(1, patch_bytes))
    return next(n for n in range(1, examples + 1) if examples % n == 0 and (examples // n <= wanted or n == examples))


def _flat(image: Array) -> Array:
    return image.reshape(math.prod(image.shape[:-3]), *image.shape[-3:])


def _split(images: Array, blocks: int) -> Array:
    # Block i holds the examples i, i + blocks, …: an axis that is spread over devices stays spread.
    return images.reshape(len(images) // blocks, blocks, *images.shape[1:])


def _in_blocks(few: OfBlock, many: OfBlock, images: Array, kernel: Any, out: ShapedArray) -> Array:
    """Return the images' convolution by one function between few channels, by the other between many."""
    flat = _flat(images)
    h, w = min(flat.shape[1], out.shape[-3]), min(flat.shape[2], out.shape[-2])
    patch_bytes = h * w * kernel.shape[1] * images.dtype.itemsize
    block, most = few, PATCH_BYTES
    if kernel.shape[1] >= TAPS * MANY_CHANNELS:
        block, most, kernel = many, SUM_BYTES, winograd.kernel_parts(kernel)
    blocks = _blocks(len(flat), patch_bytes, most) if len(flat) else 1
    if blocks == 1:
        return block(flat, kernel).reshape(out.shape)
    parts = _split(flat, blocks)

    def fill(i: Array, result: Array) -> Array:
        part = block(lax.dynamic_index_in_dim(parts, i, 1, keepdims=False), kernel)
        return lax.dynamic_update_index_in_dim(result, part, i, 1)

    result = jnp.zeros((len(flat) // blocks, blocks, *out.shape[-3:]), out.dtype)
    return lax.fori_loop(0, blocks, fill, result).reshape(out.shape)


def _convolve_shape(x: Any, kernel: Any) -> ShapedArray:
    *lead, height, width, _ = x.shape
    return ShapedArray((*lead, height // 2, width // 2, kernel.shape[0]), x.dtype)


def _convolve_transposed_shape(y: Any, kernel: Any) -> ShapedArray:
    *lead, height, width, _ = y.shape
    return ShapedArray((*lead, 2 * height, 2 * width, kernel.shape[1] // TAPS), y.dtype)


def _correlate_shape(x: Any, y: Any) -> ShapedArray:
    return ShapedArray((y.shape[-1], TAPS * x.shape[-1]), x.dtype)


def _convolve_on_processor(x: Array, kernel: Array) -> Array:
    return _in_blocks(_convolve_block, winograd.convolve, x, kernel, _convolve_shape(x, kernel))


def _convolve_transposed_on_processor(y: Array, kernel: Array) -> Array:
    out = _convolve_transposed_shape(y, kernel)
    return _in_blocks(_convolve_transposed_block, winograd.convolve_transposed, y, kernel, out)


def _correlate_on_processor(x: Array, y: Array) -> Array:
    images, responses = _flat(x), _flat(y)
    patch_bytes = TAPS * math.prod(responses.shape[1:3]) * images.shape[-1] * x.dtype.itemsize
    blocks = _blocks(len(images), patch_bytes, PATCH_BYTES) if len(images) else 1
    if blocks == 1:
        return _correlate_block(images, responses)
    parts = _split(images, blocks), _split(responses, blocks)

    def add(i: Array, total: Array) -> Array:
        return total + _correlate_block(*(lax.dynamic_index_in_dim(part, i, 1, keepdims=False) for part in parts))

    return lax.fori_loop(0, blocks, add, jnp.zeros((y.shape[-1], TAPS * x.shape[-1]), x.dtype))


def _convolve_by_xla(x: Array, kernel: Array) -> Array:
    images = _flat(x)
    taps = kernel.reshape(len(kernel), 4, 4, -1)
    dimensions = ("NHWC", "OHWI", "NHWC")
    y = lax.conv_general_dilated(images, taps, (2, 2), ((1, 1), (1, 1)), dimension_numbers=dimensions)
    return y.reshape(_convolve_shape(x, kernel).shape)


def _convolve_transposed_by_xla(y: Array, kernel: Array) -> Array:
    out = _convolve_transposed_shape(y, kernel)
    example = jax.ShapeDtypeStruct(out.shape, out.dtype)
    return jax.linear_transpose(lambda x: _convolve_by_xla(x, kernel), example)(y)[0]


def _correlate_by_xla(x: Array, y: Array) -> Array:
    out = _correlate_shape(x, y)
    example = jax.ShapeDtypeStruct(out.shape, out.dtype)
    return jax.linear_transpose(lambda kernel: _convolve_by_xla(x, kernel), example)(y)[0]


def _primitive(
    name: str,
    shape: Callable[[Any, Any], ShapedArray],
    on_processor: Callable[[Array, Array], Array],
    elsewhere: Callable[[Array, Array], Array],
) -> Primitive:
    primitive = Primitive(name)
    primitive.def_abstract_eval(shape)
    primitive.def_impl(jax.jit(primitive.bind))
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_processor, multiple_results=False), platform="cpu")
    return primitive


_convolve = _primitive("convolve_4x4", _convolve_shape, _convolve_on_processor, _convolve_by_xla)
_convolve_transposed = _primitive(
    "convolve_transposed_4x4", _convolve_transposed_shape, _convolve_transposed_on_processor, _convolve_transposed_by_xla
)
_correlate = _primitive("correlate_4x4", _correlate_shape, _correlate_on_processor, _correlate_by_xla)

ad.defbilinear(_convolve, lambda g, x, k: convolve_transposed(g, k), lambda g, x, k: correlate(x, g))
ad.defbilinear(_convolve_transposed, lambda g, y, k: convolve(g, k), lambda g, y, k: correlate(g, y))
ad.defbilinear(_correlate, lambda g, x, y: convolve_transposed(y, g), lambda g, x, y: convolve(x, g))

Arguments = Sequence[Array]
Axes = Sequence[int | None]


def _batch_images(primitive: Primitive, block: Callable[[Array, Array], Array]) -> None:
    """A batch of images is one more leading axis; a batch of kernels, an ensemble of networks, is mapped over plainly."""

    def rule(arguments: Arguments, axes: Axes) -> tuple[Array, int]:
        (images, kernel), (image_axis, kernel_axis) = arguments, axes
        if kernel_axis is None and image_axis is not None:
            return primitive.bind(jnp.moveaxis(images, image_axis, 0), kernel), 0

        def plain(images: Array, kernel: Array) -> Array:
            result = block(_flat(images), kernel)
            return result.reshape(*images.shape[:-3], *result.shape[1:])

        return jax.vmap(plain, in_axes=tuple(axes))(images, kernel), 0

    batching.primitive_batchers[primitive] = rule


def _batch_sums() -> None:
    def rule(arguments: Arguments, axes: Axes) -> tuple[Array, int]:
        return jax.vmap(lambda x, y: _correlate_block(_flat(x), _flat(y)), in_axes=tuple(axes))(*arguments), 0

    batching.primitive_batchers[_correlate] = rule


_batch_images(_convolve, _convolve_block)
_batch_images(_convolve_transposed, _convolve_transposed_block)
_batch_sums()
