"""The latent space: what each latent carries, whether the prior lies where the posteriors do, and what it looks like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tightbound.data.moments import moments
from tightbound.inference import embed
from tightbound.pictures import COLOURS, INK, PALE, image_grid, picture_map, scatter_map, tiles
from tightbound.report.colouring import colouring
from tightbound.report.flat import Flat, flat
from tightbound.report.material import Material
from tightbound.report.parts import Panel, Section, axes_of, labelled

__all__ = ["latents"]

SHOWN = 8  # latents with a panel of their own
STEPS = 11
REACH = 2.5  # how many deviations of the aggregate posterior a traversal goes to each side


def latents(material: Material) -> Section:
    """Return what is in the latent space."""
    return Section("latents", "The latent space", (), (), tuple(_panels(material)))


def _panels(material: Material) -> Iterator[Panel]:
    if material.posteriors.kl.shape[1] == material.model.spec.latent:
        yield _carried(material)
    yield _aggregate(material)
    shown = flat(material.posteriors.mean)
    yield _map(material, shown)
    if material.data.sites.is_image:
        yield _pictured(material, shown)
        yield _traversals(material)
        if len(material.evaluated) > 1:
            yield _interpolation(material)
    else:
        yield _responses(material)


def _carried(material: Material) -> Panel:
    order, of_rows = material.order, material.posteriors.kl
    kl, errors = of_rows.mean(axis=0), of_rows.std(axis=0) / len(of_rows) ** 0.5
    figure, (axes,) = axes_of(6.4, 2.4)
    axes.bar(np.arange(len(order)), kl[order], color=COLOURS[0])
    ticks = np.arange(0, len(order), max(1, len(order) // 25))
    axes.set_xticks(ticks, [str(latent) for latent in order[ticks]])
    labelled(axes, "latent, the fullest first", "KL, nats")
    total, error = kl.sum(), of_rows.sum(axis=1).std() / len(of_rows) ** 0.5
    most = np.searchsorted(np.cumsum(kl[order]), 0.9 * total) + 1
    caption = (
        f"Mean KL of each latent over {len(of_rows):,} rows of all parts, {total:.2f} ± {error:.2f} nats in all; {most} of "
        f"{len(order)} carry nine tenths. A latent at 0 is not used."
    )
    numbers = {"latent": order, "kl_nats": kl[order], "se": errors[order]}
    return Panel("kl_per_latent", "What each latent carries", caption, figure, numbers)


def _aggregate(material: Material) -> Panel:
    found, order = material.posteriors, material.order[: SHOWN // 2]
    figure, grid = axes_of(8.4, 2.2, len(order))
    columns: dict[str, np.ndarray] = {}
    for axes, latent in zip(grid, order, strict=True):
        drawn, prior = found.draw[:, latent], material.prior_draws[:, latent]
        low, high = np.percentile(np.concatenate([drawn, prior]), [0.5, 99.5])
        bins = np.linspace(low, high, 31)
        counted = [np.histogram(np.clip(z, low, high), bins)[0] / len(z) / np.diff(bins) for z in (prior, drawn)]
        axes.stairs(counted[0], bins, fill=True, color=PALE, label="prior p(z)")
        axes.stairs(counted[1], bins, color=COLOURS[0], linewidth=1.4, label="aggregate posterior q(z)")
        labelled(axes, f"latent {latent}", "density" if axes is grid[0] else "")
        columns |= {f"z_{latent}": bins[:-1], f"prior_{latent}": counted[0], f"aggregate_{latent}": counted[1]}
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    caption = (
        "Draws from the posteriors of all rows together over draws from the prior, for the fullest latents. Where the prior "
        "has mass and the posteriors have none, samples come from places that the decoder never learnt."
    )
    return Panel("aggregate", "Prior and aggregate posterior", caption, figure, columns)


def _map(material: Material, shown: Flat) -> Panel:
    means = material.posteriors.mean
    coloured, words = colouring(material, shown.points)
    caption = f"Each point is the mean of q(z | x) of one row: rows that lie together look alike to the model. {shown.words}"
    numbers: dict[str, Any] = {f"mean_{latent}": means[:, latent] for latent in range(means.shape[1])}
    numbers |= {"across": shown.points[:, 0], "up": shown.points[:, 1]}
    if coloured is not None:
        caption += f" {words}"
        numbers[coloured.name] = [
            value if seen else None for value, seen in zip(coloured.values.tolist(), coloured.known, strict=True)
        ]
    figure = scatter_map(shown.points, shown.names, coloured)
    for collection in figure.axes[0].collections:
        collection.set_rasterized(True)
    return Panel("map", "A map of the rows", caption, figure, numbers)


def _pictured(material: Material, shown: Flat) -> Panel:
    rows, sites = material.mapped.x, material.data.sites
    figure = picture_map(shown.points, shown.names, sites.shape[1] / sites.shape[0], lambda chosen: tiles(rows[chosen], sites))
    caption = (
        "The same map with the images themselves, as many as have room: what changes from one side to the other is what the "
        "directions mean."
    )
    numbers = {"across": shown.points[:, 0], "up": shown.points[:, 1]}
    return Panel("pictured", "The map in pictures", caption, figure, numbers)


def _moved(material: Material, latent: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places along a latent, and points there, the others at the middle of the aggregate posterior."""
    means = material.posteriors.draw
    middle, spread = means.mean(axis=0), means[:, latent].std()
    along = middle[latent] + REACH * spread * np.linspace(-1.0, 1.0, STEPS)
    z = np.repeat(middle[None], STEPS, axis=0)
    z[:, latent] = along
    return along, z


def _traversals(material: Material) -> Panel:
    order, sites = material.order[:SHOWN], material.data.sites
    places, pictures = [], []
    for latent in order:
        along, z = _moved(material, int(latent))
        places.append(along)
        pictures.append(tiles(material.decode(z), sites))
    figure, (axes,) = axes_of(7.2, 0.62 * len(order) + 0.5)
    sheet = image_grid(np.concatenate(pictures), STEPS)
    axes.imshow(sheet, interpolation="nearest", aspect="equal")
    height = sheet.shape[0] / len(order)
    axes.set_yticks([(row + 0.5) * height for row in range(len(order))], [f"latent {latent}" for latent in order])
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    labelled(axes, f"from −{REACH:g} to +{REACH:g} deviations of the aggregate posterior", "")
    caption = "One latent moves along each row, the others stay in the middle: what that latent does to the picture."
    numbers = {f"latent_{latent}": along for latent, along in zip(order, places, strict=True)}
    return Panel("traversals", "One latent at a time", caption, figure, numbers)


def _interpolation(material: Material) -> Panel:
    rows = material.evaluated
    count = min(len(rows) // 2, 5)
    means = embed(material.model, rows.take(np.arange(2 * count))).mean
    share = np.linspace(0.0, 1.0, STEPS)[:, None]
    lines = [(1.0 - share) * means[2 * k] + share * means[2 * k + 1] for k in range(count)]
    pictures = np.concatenate([tiles(material.decode(line), rows.sites) for line in lines])
    figure, (axes,) = axes_of(7.2, 0.62 * len(lines) + 0.4)
    axes.imshow(image_grid(pictures, STEPS), interpolation="nearest")
    axes.set_axis_off()
    caption = "Between the means of two rows, left and right, in equal steps: smooth changes say that all of it is used."
    numbers = {"pair": np.repeat(np.arange(len(lines)), STEPS), "share": np.tile(share[:, 0], len(lines))}
    return Panel("interpolation", "From one row to another", caption, figure, numbers)


def _responses(material: Material) -> Panel:
    """How the expected values of columns answer to the fullest latents, in deviations of each column."""
    order = material.order[: SHOWN // 2]
    figure, grid = axes_of(8.4, 2.6, len(order))
    rows = material.training
    _, middle, spread, constant = moments(rows.x, rows.observed, rows.exposure)
    spread = np.where(constant, 1.0, spread)
    ordered = np.ones(material.data.sites.count, bool)
    for part in material.data.sites.pieces:
        ordered[part.at] = part.sites.kind != "category"
    columns: dict[str, np.ndarray] = {}
    for axes, latent in zip(grid, order, strict=True):
        along, z = _moved(material, int(latent))
        answers = np.where(ordered, (material.decode(z) - middle) / spread, 0.0)
        most = [column for column in np.argsort(-np.ptp(answers, axis=0))[:5] if ordered[column]]
        columns[f"latent_{latent}"] = along
        for column, colour in zip(most, COLOURS, strict=False):
            name = material.names[column]
            axes.plot(along, answers[:, column], color=colour, linewidth=1.4, label=name[:18])
            columns[f"latent_{latent}: {name}"] = answers[:, column]
        axes.legend(frameon=False, fontsize=6.5, labelcolor=INK)
        labelled(axes, f"latent {latent}", "E[column | z], in its deviations" if axes is grid[0] else "")
    caption = (
        "The five columns that answer most to each of the fullest latents, the other latents in the middle, in deviations of "
        "the training rows (positive columns by their logarithm); categories, which have no expected value, are left out."
    )
    return Panel("responses", "One latent at a time", caption, figure, columns)
