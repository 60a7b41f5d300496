"""Muon: descent along orthogonalised directions for the matrices of the networks, Adam's direction for all other numbers."""

from __future__ import annotations

from typing import Any

import jax
import optax
from jax.tree_util import keystr, tree_map_with_path
from jaxtyping import Array, Float
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from tightbound.training.adam import scale_by_adam

__all__ = ["scale_by_muon_or_adam"]

ADAM_LENGTH = 0.2  # root mean square of an entry of Adam's direction, about (Liu et al. 2025)
NETWORKS = ("encoder", "decoder")


def scale_by_muon_or_adam(beta1: Float[Array, ""], beta2: Float[Array, ""]) -> optax.GradientTransformation:
    r"""Return Muon's direction for the matrices of encoder and decoder, Adam's for biases and for all other parts.

    A gradient is a model, or a pytree with the names of its fields. For a matrix with averaged gradient G = U S Vᵀ the
    direction is about 0.2 √max(m, n) · U Vᵀ (Jordan et al. 2024), whose entries are as large as those of Adam's (Liu et al.
    2025), so that one learning rate and one weight decay serve both. The momentum is β₁, with Nesterov's correction.
    """
    orthogonal = optax.chain(scale_by_muon(beta=beta1, weight_dimension_numbers=_as_they_are), _lengthen())
    return optax.partition({"muon": orthogonal, "adam": scale_by_adam(beta1, beta2)}, _direction)


def _direction(tree: Any) -> Any:
    """Return for every array which direction it takes.

    Means and pseudo-inputs of priors are matrices only in how they are stored: their rows are points.
    """

    def of(path: Any, array: Array) -> str:
        part = keystr(path, simple=True, separator=".").partition(".")[0]
        return "muon" if part in NETWORKS and array.ndim == 2 else "adam"

    return tree_map_with_path(of, tree)


def _as_they_are(tree: Any) -> Any:
    return jax.tree.map(lambda _: MuonDimensionNumbers(), tree)


def _lengthen() -> optax.GradientTransformation:
    def scaled(array: Array) -> Array:
        return ADAM_LENGTH * max(array.shape) ** 0.5 * array

    return optax.stateless(lambda updates, _: jax.tree.map(scaled, updates))
