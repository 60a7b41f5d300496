"""Small arrays joined into one: a compiled step pays about a microsecond for every array that it handles.

An optimiser that works entry by entry does not notice. One that asks what an array is as a matrix gets them as they are.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["Loose", "Packed", "Packing"]

SMALL = 16_384  # entries; above, to copy an array costs more than to handle it by itself


class Packed(NamedTuple):
    """The arrays of a pytree, the small ones joined: matrices into a matrix of one row, vectors into a vector."""

    large: tuple[Array, ...]
    joined: dict[str, Array]


class Packing:
    """How the arrays of a pytree are joined and taken apart again; made from any pytree with the same shapes.

    >>> tree = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3), "s": jnp.zeros(())}
    >>> {name: joined.shape for name, joined in Packing(tree).pack(tree).joined.items()}
    {'matrices': (1, 6), 'vectors': (4,)}
    """

    def __init__(self, like: Any) -> None:
        leaves, self.structure = jax.tree.flatten(like)
        self.shapes = [leaf.shape for leaf in leaves]
        small = [index for index, leaf in enumerate(leaves) if leaf.size <= SMALL]
        groups = {
            "matrices": [index for index in small if len(self.shapes[index]) > 1],
            "vectors": [index for index in small if len(self.shapes[index]) <= 1],
        }
        self.groups = {name: members for name, members in groups.items() if members}
        self.large = [index for index, leaf in enumerate(leaves) if leaf.size > SMALL]

    def pack(self, tree: Any) -> Packed:
        """Join the arrays of a pytree."""
        leaves = jax.tree.leaves(tree)
        joined = {
            name: jnp.concatenate([leaves[index].reshape(-1) for index in members]) for name, members in self.groups.items()
        }
        if "matrices" in joined:
            joined["matrices"] = joined["matrices"][None]
        return Packed(tuple(leaves[index] for index in self.large), joined)

    def unpack(self, packed: Packed) -> Any:
        """Return the pytree that was packed."""
        leaves = dict(zip(self.large, packed.large, strict=True))
        for name, members in self.groups.items():
            joined, start = packed.joined[name].reshape(-1), 0
            for index in members:
                stop = start + math.prod(self.shapes[index])
                leaves[index] = joined[start:stop].reshape(self.shapes[index])
                start = stop
        return jax.tree.unflatten(self.structure, [leaves[index] for index in range(len(self.shapes))])


class Loose:
    """No packing, for an optimiser that has to see each matrix by itself."""

    def pack(self, tree: Any) -> Any:
        """Return the pytree."""
        return tree

    unpack = pack
