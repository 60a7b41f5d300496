"""Rows on their way into a model: from a data set in memory to blocks of float32 examples on the device.

Everything that runs over many rows (training, evidence, embedding) gets them here, so that there is one place where
rows are padded, cast and binarised. Shapes are few: blocks have one size, the last is padded with rows of weight 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tightbound.errors import DataError
from tightbound.schema import Sites

__all__ = [
    "Batch",
    "Row",
    "RowSource",
    "Rows",
    "blocks",
    "both_ways",
    "bucket",
    "example",
    "hasty",
    "in_blocks",
    "in_haste",
    "over_blocks",
    "place",
    "require_fixed",
    "require_sites",
]


Program = TypeVar("Program", bound=Callable[..., Any])


class RowSource(Protocol):
    """What is asked of a data set: :class:`tightbound.data.arrays.Dataset` has it."""

    @property
    def x(self) -> np.ndarray: ...  # noqa: D102
    @property
    def sites(self) -> Sites: ...  # noqa: D102
    @property
    def observed(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def exposure(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def binarise(self) -> bool: ...  # noqa: D102


class Row(NamedTuple):
    """One example as a model sees it, or many with a leading axis: what is None stays None under ``vmap``."""

    x: Float[Array, "D"]
    observed: Bool[Array, "D"] | None = None
    exposure: Float[Array, ""] | None = None


class Batch(NamedTuple):
    """Some rows as a model sees them; ``weight`` is 0 for padding."""

    x: Float[Array, "B D"]
    observed: Bool[Array, "B D"] | None
    exposure: Float[Array, "B"] | None
    weight: Float[Array, "B"]

    @property
    def rows(self) -> Row:
        """The rows with a leading axis (B,), to be mapped over."""
        return Row(self.x, self.observed, self.exposure)


class Rows(eqx.Module):
    """A data set, whole or from row ``first`` on, in its compact type, padded so that few shapes are compiled."""

    x: Array
    observed: Bool[Array, "N D"] | None
    exposure: Float[Array, "N"] | None
    binarise: bool = eqx.field(static=True)
    first: Int[Array, ""] | None = None

    def batch(self, index: Int[Array, "B"], key: Array) -> Batch:
        """Return the rows of ``index``, −1 standing for padding; dynamic binarisation draws its bits with ``key``."""
        row = jnp.maximum(index if self.first is None else index - self.first, 0)
        x = self.x[row]
        x = _draw_bits(x, key) if self.binarise else x.astype(jnp.float32)
        return Batch(
            x,
            None if self.observed is None else self.observed[row],
            None if self.exposure is None else self.exposure[row],
            (index >= 0).astype(jnp.float32),
        )


def _draw_bits(grey: Array, key: Array) -> Float[Array, "B D"]:
    """Draw x_d ~ Bernoulli(grey_d / 255): a 16-bit integer below 257 · grey has probability grey/255 to within 1.6e-5.

    Two 16-bit integers come from every 32-bit word: random bits are what dynamic binarisation costs.
    """
    rows, columns = grey.shape
    words = jax.random.bits(key, (rows, -(-columns // 2)), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(rows, -1)[:, :columns]
    # 257 · 255 = 65535: grey 0 is never a one; a white pixel would miss one draw in 65536, so it is set outright.
    return ((halves < grey.astype(jnp.uint16) * 257) | (grey == 255)).astype(jnp.float32)


# Fusion emitters make faster programs and take longer to do so, whatever the level.
HASTE = {
    "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True, "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}  # fmt: skip
WORTH_OPTIMISING = 20_000_000  # cells of all draws


def hasty(data: RowSource, draws: int) -> bool:
    """Whether to run ``draws`` per row through a model takes less time without XLA's optimiser than the optimiser does."""
    return data.x.size * draws < WORTH_OPTIMISING


def in_haste(function: Program) -> Program:
    """Return a function compiled without XLA's optimiser, for what runs over few rows once and would mostly be compiled."""
    options: Any = {"compiler_options": HASTE}
    return cast(Program, eqx.filter_jit(function, **options))


def both_ways(function: Program) -> dict[bool, Program]:
    """Return a function compiled with care, and under ``True`` the same compiled in haste."""
    return {False: cast(Program, eqx.filter_jit(function)), True: in_haste(function)}


def bucket(count: int) -> int:
    """Return the row count that arrays are padded to: ``count`` rounded up to two binary digits and a half.

    >>> [bucket(n) for n in (1, 100, 1000, 1025, 50_000)]
    [64, 112, 1024, 1280, 57344]
    """
    step = 2 ** max(math.floor(math.log2(max(count, 1))) - 2, 4)
    return max(-(-count // step) * step, 64)


def require_sites(sites: Sites, data: RowSource) -> None:
    """Raise :class:`~tightbound.errors.DataError` when the data has other sites than a model is for."""
    if data.sites != sites:
        raise DataError(f"the data has {data.sites.describe()}, but the model is for {sites.describe()}")


def require_fixed(sites: Sites, data: RowSource) -> None:
    """Raise :class:`~tightbound.errors.DataError` for no rows, other sites, or bits that are not drawn yet."""
    require_sites(sites, data)
    if not len(data.x):
        raise DataError("the data set has no rows, expected at least one")
    if data.binarise:
        raise DataError("dynamic binarisation has no fixed x to evaluate: draw the bits once with data.binarised(seed)")


def example(data: RowSource, row: int) -> Row:
    """Return one row of a data set as a model sees it; negative numbers count from the end.

    Raises :class:`~tightbound.errors.DataError` when there is no such row.
    """
    if not -len(data.x) <= row < len(data.x):
        raise DataError(f"there is no row {row}: the data set has {len(data.x):,} rows")
    return Row(
        jnp.asarray(data.x[row], jnp.float32),
        None if data.observed is None else jnp.asarray(data.observed[row], bool),
        None if data.exposure is None else jnp.float32(data.exposure[row]),
    )


def place(data: RowSource) -> Rows:
    """Put a data set on the device."""
    return jax.tree.map(jnp.asarray, _padded(data, slice(None), bucket(len(data.x))))


def in_blocks(data: RowSource, size: int) -> Iterator[tuple[Rows, Any, int]]:
    """Yield a data set block by block as (rows, index, used), where ``index`` are the numbers of the rows in the whole.

    Programs then know the size of a block and not how many rows there are. What is called with a block puts it on the device.
    """
    for index, used in blocks(len(data.x), size):
        yield _padded(data, slice(index[0], index[0] + used), size, np.asarray(index[0])), index, used


def _padded(data: RowSource, part: slice, size: int, first: Any = None) -> Rows:
    """Return some rows, still on the host, the first repeated until there are ``size``."""

    def padded(array: np.ndarray | None, dtype: object = None) -> Any:
        if array is None:
            return None
        array = np.asarray(array[part], dtype)  # type: ignore[call-overload]
        missing = size - len(array)
        return np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array

    return Rows(padded(data.x), padded(data.observed, bool), padded(data.exposure, np.float32), data.binarise, first)


def blocks(count: int, size: int) -> Iterator[tuple[Any, int]]:
    """Yield (index, used) for consecutive blocks of ``size`` rows, the last padded with −1."""
    for start in range(0, count, size):
        index = np.arange(start, start + size, dtype=np.int32)
        used = min(size, count - start)
        index[used:] = -1
        yield index, used


def over_blocks(
    function: Callable[..., Any], parts: Iterable[tuple[Rows, Any, int]], *arguments: object
) -> tuple[np.ndarray, ...]:
    """Call ``function(rows, index, *arguments)`` on every block and return its arrays joined, padding removed."""
    found = []
    for rows, index, used in parts:
        outputs = function(rows, index, *arguments)
        found.append([np.asarray(output)[:used] for output in outputs])
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))
