"""The latents in a plane: two latents as they are, else by UMAP where it is installed, else principal components."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from tightbound.pictures import plane

__all__ = ["Flat", "flat"]

FEWEST = 50  # rows below which a neighbourhood says little


class Flat(NamedTuple):
    """Where rows lie in the plane (n, 2), what its directions are, and how it was made, in words."""

    points: np.ndarray
    names: tuple[str, str]
    words: str


def flat(means: np.ndarray) -> Flat:
    """Return means (n, L) of q(z|x) in the plane.

    UMAP (McInnes, Healy and Melville 2018) keeps the nearest rows of each row near it; its package, umap-learn, is optional.
    """
    if means.shape[1] > 2 and len(means) >= FEWEST:
        points = _by_neighbours(means)
        if points is not None:
            words = "The map is UMAP's: neighbours stay together, distances between groups and directions mean nothing."
            return Flat(points, ("UMAP, first direction", "UMAP, second direction"), words)
    points, names, *_ = plane(means)
    words = "" if means.shape[1] <= 2 else "The map is of the first two principal components of the means."
    return Flat(points, names, words)


def _by_neighbours(means: np.ndarray) -> np.ndarray | None:
    try:
        import umap
    except ImportError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that one seed means one thread, which is what is wanted
        return np.asarray(umap.UMAP(n_components=2, random_state=0).fit_transform(means), np.float64)
