"""Pages for images: what goes in and comes out, draws with the training rows next to them, the hardest and the easiest."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

from tightbound.pictures import image_grid, reconstructed_images, tiles
from tightbound.report.material import Material
from tightbound.report.parts import Panel, Section, axes_of

__all__ = ["images"]

ACROSS = 12
SEARCHED = 20_000  # training rows among which the nearest to a draw is looked for


def images(material: Material) -> Section:
    """Return the pictures that say how good a model of images is."""
    panels = (_reconstructions(material), _nearest(material), _judged(material))
    return Section("images", "Images", (), (), panels)


def _reconstructions(material: Material) -> Panel:
    rows, given = material.evaluated.x.astype(np.float64), material.reconstructions
    errors = np.sqrt(np.mean((rows - given) ** 2, axis=1))
    caption = "What is lost on the way through the latents: every image above, and below it what the model gives back."
    numbers = {"row": np.arange(len(rows)), "root_mean_squared_error": errors}
    return Panel("reconstructions", "Images and their reconstructions", caption, reconstructed_images(material.sheets), numbers)


def _nearest(material: Material) -> Panel:
    drawn, training = material.samples[: 2 * ACROSS], material.training.x[:SEARCHED].astype(np.float64)
    own = material.evaluated.x[: len(drawn)].astype(np.float64)
    found = [cdist(images, training) for images in (drawn, own)]
    nearest, distances = found[0].argmin(axis=1), [distance.min(axis=1) for distance in found]
    rows = []
    for start in range(0, len(drawn), ACROSS):
        rows += [drawn[start : start + ACROSS], training[nearest[start : start + ACROSS]]]
    figure = _strips(material, rows)
    caption = (
        "Draws from the model, and below each the training image nearest to it: if they are the same, the model copies. The "
        f"median distance, in units of a pixel, is {np.median(distances[0]):.3g}; that of {material.part} images to the "
        f"training images is {np.median(distances[1]):.3g}."
    )
    numbers = {"draw": np.arange(len(drawn)), "nearest_training_row": nearest, "distance": distances[0]}
    return Panel("samples", "Draws from the model and their nearest training images", caption, figure, numbers)


def _judged(material: Material) -> Panel:
    found = material.evidence.log_evidence
    order = np.argsort(found)
    x = material.judged.x.astype(np.float64)
    count = min(ACROSS, len(x))
    figure = _strips(material, [x[order[:count]], x[order[::-1][:count]]])
    caption = (
        f"Above the {material.part} images that the model finds least probable, below the most probable ones, of {len(x):,}: "
        f"log p(x) from {found.min():.1f} to {found.max():.1f} {material.unit} (lower bounds, {material.evidence.draws} draws)."
    )
    numbers = {"row": order, "log_p_nats": found[order], "se": material.evidence.se[order]}
    return Panel("hardest", "The hardest and the easiest images", caption, figure, numbers)


def _strips(material: Material, rows: list[np.ndarray]) -> Figure:
    sheets = [image_grid(tiles(row, material.data.sites), ACROSS) for row in rows]
    gap = np.ones((max(4, sheets[0].shape[0] // 6), sheets[0].shape[1], 3))
    pieces = [piece for number, sheet in enumerate(sheets) for piece in ((gap,) if number else ()) + (sheet,)]
    joined = np.concatenate(pieces)
    figure, (axes,) = axes_of(8.0, 8.0 * joined.shape[0] / joined.shape[1] + 0.1)
    axes.imshow(joined, interpolation="nearest")
    axes.set_axis_off()
    return figure
