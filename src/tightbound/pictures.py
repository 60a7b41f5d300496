"""Pictures as PNG: the sheets of a run (reconstructions, samples, latent space, training), q(z|x) over p(z|x), and sweeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from tightbound.files import write_with
from tightbound.schema import Sites

__all__ = [
    "Coloured",
    "Place",
    "Plane",
    "PosteriorPlane",
    "Sheets",
    "bins_of",
    "curves",
    "draw",
    "image_grid",
    "latent_map",
    "latent_sizes",
    "loss_curves",
    "marginals",
    "picture_map",
    "plane",
    "posterior_map",
    "rate_distortion",
    "reconstructed_images",
    "recovered",
    "region_levels",
    "save",
    "scatter_map",
    "sheet",
    "tiles",
]

# Petroff's ten colours (2021), made to stay apart under the common kinds of colour blindness.
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
INK, PALE = "#333333", "#d8d8d8"
MASSES = (0.5, 0.9, 0.99)  # of the regions that a map of a posterior shows
REGIONS = ("#b3d2f0", "#6faade", "#2f74b5")  # from the widest region to the narrowest
COLUMNS = 12  # columns of a table that are shown, at most
PICTURED = 20  # pictures side by side on a map of them
LARGEST_PICTURED = 56  # pixels to a side, above which some are left out
DPI = 150
SPREAD = "(spread out to be seen)"  # the second direction of a map of one latent
SHADES = (0.5, 99.5)  # percentiles of real numbers that are black and white


@dataclass(frozen=True)
class Sheets:
    """What the pictures of a run are made of: evaluated rows and what the model makes of them, and draws from it.

    ``means`` (m, L) are those of q(z|x) for rows of all parts, with their labels; ``decoded`` are E[x|z] for z drawn
    from the prior; ``records`` those of the training; ``part`` names the part that ``rows`` are from, ``kept`` the step
    whose weights are kept, if they were chosen.
    """

    sites: Sites
    rows: np.ndarray
    observed: np.ndarray | None
    labels: np.ndarray | None
    names: tuple[str, ...]
    reconstructions: np.ndarray
    means: np.ndarray
    mean_labels: np.ndarray | None
    samples: np.ndarray
    decoded: np.ndarray
    records: list[dict[str, Any]]
    part: str
    kept: int | None = None


def draw(sheets: Sheets, folder: Path) -> list[Path]:
    """Write every sheet that suits the data into ``folder`` and return the paths."""
    image = sheets.sites.is_image
    drawn: dict[str, Callable[[Sheets], Figure]] = {
        "reconstructions": reconstructed_images if image else recovered,
        "samples": _sampled_images if image else marginals,
        "latents": latent_map,
        "training": loss_curves,
    }
    return [save(picture(sheets), folder / f"{name}.png") for name, picture in drawn.items()]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all; the same figure gives the same bytes."""
    write_with(path, lambda temporary: figure.savefig(temporary, dpi=DPI, format="png", metadata={"Software": None}))
    return path


def tiles(rows: np.ndarray, sites: Sites, *, span: tuple[float, float] | None = None) -> np.ndarray:
    """Return rows (n, D) as pictures (n, height, width, 3) in [0, 1]; levels run from black to white.

    Real numbers and counts run over most of what the rows have, or over ``span``.
    """
    images = np.asarray(rows, np.float64).reshape(-1, *sites.shape)
    if sites.kind in ("levels", "category"):
        images = images / (sites.levels - 1)
    elif sites.kind != "binary":
        low, high = np.percentile(images, SHADES) if span is None else span
        images = (images - low) / max(high - low, 1e-12)
    if images.shape[-1] == 2:
        images = images.mean(axis=-1, keepdims=True)
    images = images[..., :3] if images.shape[-1] >= 3 else np.repeat(images, 3, axis=-1)
    return np.clip(images, 0.0, 1.0)


def image_grid(pictures: np.ndarray, columns: int, *, gap: int | None = None) -> np.ndarray:
    """Return pictures (n, height, width, 3) as one, ``columns`` in a row, on white, enlarged without blur."""
    count, height, width, _ = pictures.shape
    zoom = max(1, round(56 / max(height, width)))
    pictures = pictures.repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width = height * zoom, width * zoom
    gap = max(2, width // 14) if gap is None else gap
    rows = math.ceil(count / columns)
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def reconstructed_images(sheets: Sheets, columns: int = 12, bands: int = 3) -> Figure:
    """Evaluated images, each above the mean that the model gives it back."""
    count = min(len(sheets.rows), columns * bands)
    columns, chosen = min(columns, max(count, 6)), _one_of_each(sheets.labels, len(sheets.rows), count)
    strips = []
    for row in np.split(chosen, range(columns, count, columns)):
        for part, space in ((_shown(sheets), 0.05), (sheets.reconstructions, 0.3)):
            strip = image_grid(tiles(part[row], sheets.sites), columns)
            strips += [strip, np.ones((round(space * strip.shape[0]), *strip.shape[1:]))]
    title = f"{sheets.part} images (above) and their reconstructions E[x | z], z the mean of q(z | x) (below)"
    return _picture_figure([(np.concatenate(strips[:-1]), title[0].upper() + title[1:])])


def _sampled_images(sheets: Sheets, side: int = 8) -> Figure:
    """Draws from the model: x itself with the noise of its likelihood, and means E[x|z]."""
    panels = []
    for rows, title in ((sheets.samples, "Draws x ~ p(x)"), (sheets.decoded, "Means E[x | z], z ~ p(z)")):
        panels.append((image_grid(tiles(rows[: side * side], sheets.sites), side), title))
    return _picture_figure(panels)


def sheet(rows: np.ndarray, sites: Sites, columns: int) -> Figure:
    """Return rows (n, D) as one picture of images, ``columns`` in a row."""
    return _picture_figure([(image_grid(tiles(rows, sites), columns), "")])


def _picture_figure(panels: list[tuple[np.ndarray, str]]) -> Figure:
    height, width = panels[0][0].shape[:2]
    inches = 9.0 / len(panels)
    figure = Figure(figsize=(9.0, inches * height / width + 0.3), layout="constrained")
    for axes, (sheet, title) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        axes.imshow(sheet, interpolation="nearest")
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.set_axis_off()
    return figure


def _shown(sheets: Sheets) -> np.ndarray:
    """Return the evaluated rows with unobserved pixels in the middle of the scale."""
    if sheets.observed is None:
        return sheets.rows
    middle = (sheets.sites.levels - 1) / 2 if sheets.sites.levels else float(np.mean(sheets.rows[sheets.observed]))
    return np.where(sheets.observed, sheets.rows, middle)


def _one_of_each(labels: np.ndarray | None, rows: int, count: int) -> np.ndarray:
    """Return row numbers, one of every label in turn, so that a sheet does not show one class only."""
    if labels is None or len(np.unique(labels)) > count:
        return np.arange(count)
    within = np.zeros(rows, int)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        within[where] = np.arange(len(where))
    return np.lexsort((labels, within))[:count]


def latent_map(sheets: Sheets) -> Figure:
    """The means of q(z|x) in two dimensions: as they are, or their first two principal components."""
    points, names, *_ = plane(sheets.means)
    labels = sheets.mean_labels
    return scatter_map(points, names, None if labels is None else Coloured("label", labels, np.ones(len(labels), bool)))


class Coloured(NamedTuple):
    """What colours points: its ``name``, the ``values`` (n,) of the points, words or numbers, and which are ``known`` (n,).

    ``word`` says a number in words, where it stands for something else, such as a date.
    """

    name: str
    values: np.ndarray
    known: np.ndarray
    word: Callable[[float], str] | None = None


def scatter_map(points: np.ndarray, names: tuple[str, str], coloured: Coloured | None) -> Figure:
    """Rows as points (n, 2) of the plane, whose directions have names."""
    figure, axes = _map_axes(names)
    _scatter(axes, points, coloured)
    axes.set_title(f"Latent space: means of q(z | x) for {len(points):,} rows", fontsize=10, loc="left", color=INK)
    return figure


def _map_axes(names: tuple[str, str]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(names[0], color=INK)
    axes.set_ylabel(names[1], color=INK)
    _plain(axes)
    if names[1] == SPREAD:
        axes.set_yticks([])
    return figure, axes


def picture_map(
    points: np.ndarray, names: tuple[str, str], proportion: float, pictures: Callable[[np.ndarray], np.ndarray]
) -> Figure:
    """Rows as their pictures, in as many places of the plane as do not cover each other.

    The plane is cut into cells of the ``proportion`` of a picture, width over height; a cell shows the row nearest to its
    middle, of those within. ``pictures`` makes those (m, height, width, 3) of the rows that are shown.
    """
    ends = np.percentile(points, [0.5, 99.5], axis=0)
    low, size = ends[0], np.maximum(ends[1] - ends[0], 1e-12)
    across, up = PICTURED, max(2, round(PICTURED * 5 / 6 * proportion))  # the axes are about six wide and five high
    places = (points - low) / size * [across, up]
    inside = np.flatnonzero(((places >= 0) & (places < [across, up])).all(axis=1))
    off = np.abs(places[inside] % 1 - 0.5).max(axis=1)
    order = inside[np.argsort(off, kind="stable")]
    right, above = places[order].astype(int).T
    cells, first = np.unique((up - 1 - above) * across + right, return_index=True)
    shown = pictures(order[first])
    step = math.ceil(max(shown.shape[1:3]) / LARGEST_PICTURED)
    shown = shown[:, ::step, ::step]
    sheet = np.ones((across * up, *shown.shape[1:]))
    sheet[cells] = shown
    figure, axes = _map_axes(names)
    extent = (low[0], low[0] + size[0], low[1], low[1] + size[1])
    axes.imshow(image_grid(sheet, across, gap=2), extent=extent, aspect="auto", interpolation="nearest")
    return figure


class Plane(NamedTuple):
    """A map of the latents: the ``points`` (n, 2) of rows, ``names`` of its directions, and z = middle + point @ axes."""

    points: np.ndarray
    names: tuple[str, str]
    middle: np.ndarray
    axes: np.ndarray


def plane(means: np.ndarray) -> Plane:
    """Return the map on which rows with these means (n, L) of q(z|x) lie widest: two latents, or principal components."""
    latents = means.shape[1]
    if latents == 1:
        jitter = np.random.Generator(np.random.Philox(0)).uniform(-0.5, 0.5, len(means))
        points = np.column_stack([means[:, 0], jitter])
        return Plane(points, ("latent 0", SPREAD), np.zeros(1), np.array([[1.0], [0.0]]))
    if latents == 2:
        return Plane(means, ("latent 0", "latent 1"), np.zeros(2), np.eye(2))
    middle = means.mean(axis=0)
    centred = means - middle
    if len(centred) < 2:
        centred = np.repeat(centred, 2, axis=0)
    left, sizes, right = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    # A direction and its opposite are equally good: without a rule the map would be mirrored from one machine to the next.
    sign = np.where(right[np.arange(len(right)), np.abs(right).argmax(axis=1)] < 0, -1.0, 1.0)
    left, right = left * sign, right * sign[:, None]
    share = sizes**2 / max(float(np.sum(sizes**2)), 1e-300)
    names = tuple(f"principal component {i + 1} of {latents} latents ({share[i]:.0%} of the variance)" for i in (0, 1))
    return Plane(left[: len(means), :2] * sizes[:2], (names[0], names[1]), middle, right[:2])


def _scatter(axes: Axes, points: np.ndarray, coloured: Coloured | None) -> None:
    style: dict[str, Any] = {"s": 10 if len(points) > 500 else 20, "linewidths": 0, "alpha": 0.85}
    if coloured is None:
        axes.scatter(*points.T, color=COLOURS[0], **style)
        return
    known = coloured.known
    if not known.all():
        axes.scatter(*points[~known].T, color=PALE, label="not known", **style)
    points, labels = points[known], coloured.values[known]
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) > len(COLOURS) and labels.dtype.kind in "iuf":
        _shaded(axes, points, labels.astype(np.float64), coloured, style)
        return
    shown = np.sort(classes[np.argsort(-counts, kind="stable")[: len(COLOURS)]])
    other = ~np.isin(labels, shown)
    if other.any():
        axes.scatter(*points[other].T, color=PALE, label="others", **style)
    for label, colour in zip(shown, COLOURS, strict=False):
        axes.scatter(*points[labels == label].T, color=colour, label=_word(label), **style)
    # The label at the middle of its class: colour is not the only thing that tells classes apart.
    for label in shown:
        middle = np.median(points[labels == label], axis=0)
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        axes.annotate(_word(label), middle, ha="center", va="center", fontsize=9, weight="bold", color=INK, bbox=box)
    title = None if coloured.name == "label" else coloured.name[:24]
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "markerscale": 1.6}
    axes.legend(title=title, title_fontsize=8, frameon=False, fontsize=8, **place)


def _ticks(coloured: Coloured) -> FuncFormatter | None:
    word = coloured.word
    return None if word is None else FuncFormatter(lambda number, _: word(number))


def _word(label: Any) -> str:
    return f"{label:g}" if isinstance(label, np.floating) else str(label)[:22]


def _shaded(axes: Axes, points: np.ndarray, numbers: np.ndarray, coloured: Coloured, style: dict[str, Any]) -> None:
    """Points coloured by a number, over most of what it runs over: single values far off must not take all of the scale."""
    low, high = np.percentile(numbers, [1.0, 99.0])
    drawn = axes.scatter(points[:, 0], points[:, 1], c=numbers.tolist(), cmap="cividis", vmin=low, vmax=high, **style)
    axes.figure.colorbar(drawn, ax=axes, label=coloured.name[:40], extend="both", format=_ticks(coloured))


@dataclass(frozen=True)
class PosteriorPlane:
    """The posteriors of one example in the plane of two latents, in plain arrays.

    ``axes`` (two, ascending and evenly spaced) and ``log_density``, log p(z|x) on their product up to a constant, first
    latent first, are those of :func:`~tightbound.evidence.exact.posterior_grid`; ``mean`` (2,) and ``covariance`` (2, 2)
    those of q(z|x). ``log_evidence`` and ``elbo`` are in nats. ``draws`` (n, 2) come from p(z|x), ``picture``
    (height, width, 3) is what x looks like, and ``name`` heads the panel.
    """

    axes: tuple[np.ndarray, np.ndarray]
    log_density: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float
    elbo: float
    draws: np.ndarray | None = None
    picture: np.ndarray | None = None
    name: str = ""


def posterior_map(*planes: PosteriorPlane) -> Figure:
    """Return q(z|x) over the true posterior p(z|x) of one or several examples, side by side.

    Filled are the regions of highest density of p(z|x) that hold 50 %, 90 % and 99 % of its mass; the ellipses hold the
    same masses of q(z|x). Each panel says log p(x), the ELBO and what lies between them: KL(q(z|x) ‖ p(z|x)).
    """
    figure = Figure(figsize=(max(3.3 * len(planes), 4.2), 4.4), layout="constrained")
    grid = figure.subplots(1, len(planes), squeeze=False)[0]
    for axes, plane in zip(grid, planes, strict=True):
        _posterior_panel(axes, plane)
    masses = ", ".join(f"{100 * mass:g} %" for mass in MASSES)
    swatches: list[Any] = [Patch(color=REGIONS[-1], label=f"true posterior p(z | x): {masses} of its mass")]
    swatches.append(Line2D([], [], color=COLOURS[6], linewidth=1.6, label="q(z | x): the same masses"))
    if any(plane.draws is not None for plane in planes):
        dot: dict[str, Any] = {"marker": ".", "color": INK, "linestyle": "", "markersize": 4}
        swatches.append(Line2D([], [], label="draws from p(z | x)", **dot))
    columns = len(swatches) if len(planes) > 1 else 1
    figure.legend(handles=swatches, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def _posterior_panel(axes: Axes, plane: PosteriorPlane) -> None:
    log_density = np.asarray(plane.log_density, np.float64)
    levels = region_levels(log_density, MASSES)
    first, second = plane.axes
    axes.contourf(first, second, log_density.T, levels=[*levels[::-1], np.inf], colors=REGIONS)
    if plane.draws is not None:
        axes.plot(*plane.draws.T, ".", color=INK, markersize=1.6, alpha=0.7)
    outlines = [_ellipse(plane.mean, plane.covariance, mass) for mass in MASSES]
    for outline, width in zip(outlines, (1.9, 1.4, 1.0), strict=True):
        axes.plot(*outline.T, color=COLOURS[6], linewidth=width)
    inside = np.argwhere(log_density >= levels[-1])
    corners = [np.array([first[one], second[two]]) for one, two in (inside.min(axis=0), inside.max(axis=0))]
    shown = np.concatenate([corners, outlines[-1]])
    low, high = shown.min(axis=0), shown.max(axis=0)
    margin = 0.08 * (high - low)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_xlabel("latent 0", color=INK)
    axes.set_ylabel("latent 1", color=INK)
    axes.locator_params(nbins=5)
    _plain(axes)
    gap = f"KL(q(z | x) ‖ p(z | x)) = {plane.log_evidence - plane.elbo:.2f} nats"
    numbers = f"log p(x) = {plane.log_evidence:.2f} nats\nELBO = {plane.elbo:.2f} nats\n{gap}"
    numbers = numbers.replace("-", "−")
    axes.set_title(f"{plane.name}\n{numbers}" if plane.name else numbers, fontsize=9, loc="left", color=INK, y=1.0)
    if plane.picture is not None:
        corner = axes.inset_axes((0.79, 1.1, 0.21, 0.21))  # beside the title, where it covers nothing
        corner.imshow(plane.picture, interpolation="nearest")
        corner.set_anchor("SE")
        corner.set_xticks([])
        corner.set_yticks([])


def region_levels(log_density: np.ndarray, masses: Sequence[float]) -> list[float]:
    """Return the log-densities above which lie the given masses of a density on an even grid, highest density first."""
    descending = np.sort(np.asarray(log_density, np.float64), axis=None)[::-1]
    mass = np.cumsum(np.exp(descending - descending[0]))
    return [float(descending[np.searchsorted(mass, share * mass[-1])]) for share in masses]


def _ellipse(mean: np.ndarray, covariance: np.ndarray, mass: float) -> np.ndarray:
    """Return the outline (n, 2) of the region of highest density that holds a mass of a Gaussian in the plane."""
    angle = np.linspace(0.0, 2.0 * math.pi, 200)
    radius = math.sqrt(-2.0 * math.log1p(-mass))
    circle = radius * np.column_stack([np.cos(angle), np.sin(angle)])
    return np.asarray(mean) + circle @ np.linalg.cholesky(np.asarray(covariance, np.float64)).T


def loss_curves(sheets: Sheets) -> Figure:
    """The course of training, as :func:`curves` draws it."""
    return curves(sheets.records, "nats per image" if sheets.sites.is_image else "nats per row", sheets.kept)


def curves(records: list[dict[str, Any]], unit: str, kept: int | None) -> Figure:
    """The course of training: the bound on training and validation rows, its two terms, and the weight of the KL.

    A dotted line stands where another objective takes over; the step whose weights are ``kept`` is marked.
    """
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    bound, terms = figure.subplots(1, 2)
    _curve(bound, records, "bound", "training", COLOURS[0])
    _curve(bound, records, "validation_elbo", "validation ELBO", COLOURS[6])
    _mark_kept(bound, records, kept)
    bound.set_ylabel(f"lower bound on log p(x), {unit}", color=INK)
    _limit(bound, records, ("bound", "validation_elbo"), (5, 100))
    _curve(terms, records, "reconstruction", "reconstruction −log p(x | z)", COLOURS[4])
    _curve(terms, records, "kl", "KL(q(z | x) ‖ p(z))", COLOURS[1])
    terms.set_ylabel(unit, color=INK)
    _limit(terms, records, ("reconstruction", "kl"), (0, 97))
    weights = [record["beta"] for record in records if record.get("beta") is not None]
    if weights and (min(weights) != 1 or max(weights) != 1):
        right = terms.twinx()
        _curve(right, records, "beta", "β (right)", "#717581")
        right.set_ylabel("β, the weight of the KL", color=INK)
        right.set_ylim(0, max(weights) * 1.1 or 1.0)
        _legend(terms, right)
    else:
        _legend(terms)
    _legend(bound)
    for axes in (bound, terms):
        _mark_phases(axes, records)
        axes.set_xlabel("step", color=INK)
        _plain(axes)
    return figure


def _curve(axes: Axes, records: list[dict[str, Any]], name: str, label: str, colour: str) -> None:
    points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    if points:
        dot = "o" if len(points) == 1 else ""
        axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1.5, marker=dot)


def _mark_kept(axes: Axes, records: list[dict[str, Any]], kept: int | None) -> None:
    for record in records:
        if kept is not None and record["step"] == kept and record.get("validation_elbo") is not None:
            axes.plot([kept], [record["validation_elbo"]], "o", color=COLOURS[6], markersize=5, label=f"kept: step {kept:,}")


def _mark_phases(axes: Axes, records: list[dict[str, Any]]) -> None:
    for before, after in pairwise(records):
        if before.get("phase", 0) != after.get("phase", 0):
            axes.axvline(before["step"], color=INK, linewidth=0.8, linestyle=":")


def _limit(axes: Axes, records: list[dict[str, Any]], names: tuple[str, ...], shown: tuple[float, float]) -> None:
    """Leave the first, steep part of the curves out of the scale, which would flatten the rest."""
    curves = [[record[name] for record in records if record.get(name) is not None] for name in names]
    ends = [np.percentile(curve, shown) for curve in curves if len(curve) > 10]
    if ends:
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
        margin = 0.1 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)


def marginals(sheets: Sheets) -> Figure:
    """Each column's distribution in the evaluated rows and in draws from the model."""

    def panel(axes: Axes, column: int) -> None:
        real = sheets.rows[:, column] if sheets.observed is None else sheets.rows[sheets.observed[:, column], column]
        drawn = sheets.samples[:, column]
        bins = bins_of(real, drawn, whole=sheets.sites.kind not in ("real", "mixed")).tolist()
        weights = [np.full(len(values), 1 / max(len(values), 1)) for values in (real, drawn)]
        axes.hist(np.clip(real, bins[0], bins[-1]), bins, weights=weights[0], color=PALE, label=f"{sheets.part} rows")
        axes.hist(
            np.clip(drawn, bins[0], bins[-1]), bins, weights=weights[1], histtype="step", color=COLOURS[0],
            linewidth=1.4, label="draws from the model",
        )  # fmt: skip
        axes.set_yticks([])

    return _panels(sheets, panel, f"Columns of the {sheets.part} rows and of draws x ~ p(x), share of rows")


def bins_of(real: np.ndarray, drawn: np.ndarray, *, whole: bool) -> np.ndarray:
    """Return the edges of bins for two samples: as many ``whole`` numbers in each, else thirty bins over most of both."""
    both = np.concatenate([real, drawn]).astype(np.float64)
    if whole and both.size and both.max() - both.min() < 40:
        return np.arange(both.min() - 0.5, both.max() + 1.0)
    ends = [np.percentile(part, [0.5, 99.5]) for part in (real, drawn) if len(part)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if whole:
        return np.arange(low - 0.5, high + 1.0, math.ceil((high - low) / 30))
    margin = 0.1 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, 31)


def recovered(sheets: Sheets) -> Figure:
    """Each column's value in the evaluated rows against what the model gives back."""

    def panel(axes: Axes, column: int) -> None:
        seen = slice(None) if sheets.observed is None else sheets.observed[:, column]
        real, given = (
            sheets.rows[seen, column].astype(np.float64),
            sheets.reconstructions[seen, column].astype(np.float64),
        )
        if not len(real):
            return
        low, high = min(real.min(), given.min()), max(real.max(), given.max())
        axes.plot([low, high], [low, high], color=PALE, linewidth=1.5, zorder=0)
        axes.scatter(real, given, s=6, linewidths=0, alpha=0.5, color=COLOURS[0])
        if np.std(real) > 0 and np.std(given) > 0:
            correlation = float(np.corrcoef(real, given)[0, 1])
            axes.annotate(f"r = {correlation:.2f}", (0.04, 0.9), xycoords="axes fraction", fontsize=7, color=INK)

    return _panels(sheets, panel, f"{sheets.part} rows (across) and their reconstructions E[x | z] (up)")


def _panels(sheets: Sheets, panel: Callable[[Axes, int], None], title: str) -> Figure:
    count = min(sheets.rows.shape[1], COLUMNS)
    across = min(4, count)
    down = math.ceil(count / across)
    figure = Figure(figsize=(2.3 * max(across, 2), 2.0 * down + 0.6), layout="constrained")
    grid = np.atleast_1d(figure.subplots(down, across)).ravel()
    for column, axes in enumerate(grid[:count]):
        panel(axes, column)
        axes.locator_params(axis="x", nbins=5)
        axes.set_title(sheets.names[column] if sheets.names else f"column {column}", fontsize=8, color=INK)
        _plain(axes)
    for axes in grid[count:]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    more = f" (the first {count} of {sheets.rows.shape[1]} columns)" if count < sheets.rows.shape[1] else ""
    figure.suptitle(title[0].upper() + title[1:] + more, fontsize=9, color=INK)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)


def _legend(*axes: Axes) -> None:
    """Put one legend for several pairs of axes above them, where it covers no curve."""
    entries = [one.get_legend_handles_labels() for one in axes]
    handles, labels = (
        [handle for part, _ in entries for handle in part],
        [label for _, part in entries for label in part],
    )
    if handles:
        place: dict[str, Any] = {"bbox_to_anchor": (0.0, 1.0), "ncols": 3, "columnspacing": 1.2, "handlelength": 1.4}
        axes[0].legend(handles, labels, loc="lower left", frameon=False, fontsize=8, **place)


class Place(NamedTuple):
    """Where the models of one weight of the KL and one number of latents stand, means over rows and seeds in nats.

    ``rate``, ``distortion`` and ``below``, the distance of log p(x) below the best number of latents at this weight, are
    (value, standard error); ``beta`` is None where the objective has no such weight, ``enough`` whether the verdict names
    this number of latents.
    """

    beta: float | None
    latent: int
    rate: tuple[float, float]
    distortion: tuple[float, float]
    below: tuple[float, float]
    enough: bool


def rate_distortion(places: Sequence[Place], unit: str) -> Figure:
    """The rate–distortion plane: a line for each number of latents, along the weights of the KL, and lines of equal ELBO."""
    figure = Figure(figsize=(6.0, 4.6), layout="constrained")
    axes = figure.subplots()
    sizes = sorted({place.latent for place in places})
    for latent, colour in zip(sizes, _colours(len(sizes)), strict=True):
        line = sorted((place for place in places if place.latent == latent), key=lambda place: place.rate[0])
        x, y = ([getattr(place, name) for place in line] for name in ("rate", "distortion"))
        _bars(axes, np.array(x), np.array(y), colour, f"{latent} latents")
        for place in line:
            if place.beta is not None:
                at = (place.rate[0], place.distortion[0])
                axes.annotate(f"β = {place.beta:g}", at, (5, 5), textcoords="offset points", fontsize=7, color=INK)
    _equal_elbo(axes)
    axes.set_xlabel(f"rate KL(q(z | x) ‖ p(z)), {unit}", color=INK)
    axes.set_ylabel("distortion −E log p(x | z)", color=INK)
    axes.set_title("bars: two standard errors; pale lines: equal ELBO", fontsize=8, color=INK, loc="right")
    _legend(axes)
    _plain(axes)
    return figure


def latent_sizes(places: Sequence[Place], unit: str) -> Figure:
    """What more latents are worth: log p(x) below that of the best number of them, and the rate; a ring marks the verdict."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    worth, rate = figure.subplots(1, 2)
    weights = sorted({place.beta for place in places}, key=lambda beta: -1.0 if beta is None else beta)
    for beta, colour in zip(weights, _colours(len(weights)), strict=True):
        line = sorted((place for place in places if place.beta == beta), key=lambda place: place.latent)
        x = np.array([(place.latent, 0.0) for place in line])
        label = "" if beta is None else f"β = {beta:g}"
        _bars(worth, x, np.array([(-place.below[0], place.below[1]) for place in line]), colour, label)
        _bars(rate, x, np.array([place.rate for place in line]), colour, label)
        ring: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgecolor": INK, "ls": ""}
        for place in line:
            if place.enough:
                worth.plot(place.latent, -place.below[0], **ring)
    for axes in (worth, rate):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({place.latent for place in places}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        axes.set_xlabel("latents", color=INK)
        _plain(axes)
    worth.axhline(0.0, color=PALE, linewidth=1.0, zorder=0)
    worth.set_ylabel(f"log p(x) less that of the best, {unit}", color=INK)
    rate.set_ylabel(f"rate KL(q(z | x) ‖ p(z)), {unit}", color=INK)
    if weights != [None]:
        _legend(worth)
    rate.set_title("bars: two standard errors, on the left of the difference", fontsize=8, color=INK, loc="right")
    return figure


def _bars(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str) -> None:
    """Points (n, 2) of value and standard error joined by a line, with bars of two standard errors in both directions."""
    style: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.4, "elinewidth": 0.8, "color": colour}
    axes.errorbar(x[:, 0], y[:, 0], xerr=2 * x[:, 1], yerr=2 * y[:, 1], label=label, **style)


def _equal_elbo(axes: Axes) -> None:
    """Lines on which rate + distortion, minus the ELBO, is the same, behind what is there."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for total in np.linspace(left + low, right + high, 9)[1:-1]:
        axes.plot([left, right], [total - left, total - right], color=PALE, linewidth=0.8, zorder=0)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]
