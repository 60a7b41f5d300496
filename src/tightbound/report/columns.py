"""Pages for rows of columns: margins, associations, calibration, odd rows, and for counts their spread and zeros."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tightbound.data.arrays import Dataset
from tightbound.pictures import COLOURS, INK, PALE
from tightbound.report.holes import imputed
from tightbound.report.margins import margins, seen
from tightbound.report.material import DRAWS, Material
from tightbound.report.parts import Panel, Section, axes_of, labelled
from tightbound.report.programs import COUNT, replicated
from tightbound.tabular import surprise

__all__ = ["columns"]

SHOWN = 16  # columns with a panel of their own
PAIRED = 25  # columns whose pairs are compared
ODDEST = 10  # rows
PLACED = 30_000_000  # draws of cells, of all rows, that cells are compared with


def columns(material: Material) -> Section:
    """Return the panels that say how good a model of columns is."""
    words: tuple[str, ...] = ()
    if material.schema is not None:
        kept, out = len(material.schema.columns), len(material.schema.left_out)
        words = (f"The model sees {kept} columns of the table" + (f"; {out} were left out." if out else "."),)
    return Section("columns", "Columns", words, (), tuple(_panels(material)))


def _panels(material: Material) -> Iterator[Panel]:
    yield _margins(material)
    if material.data.sites.count > 1:
        yield _associations(material)
    yield _calibration(material)
    if material.data.sites.count > 1:
        if material.schema is not None:
            yield from imputed(material, material.schema)
        yield _odd(material)
    if material.data.sites.kind == "count":
        yield _counts(material)


def _margins(material: Material) -> Panel:
    shown = margins(material, SHOWN)
    across = min(4, len(shown))
    down = math.ceil(len(shown) / across)
    figure = Figure(figsize=(8.4, 1.75 * down + 0.4), layout="constrained")
    grid = np.atleast_1d(figure.subplots(down, across)).ravel()
    numbers: dict[str, list[float | str]] = {"column": [], "bin_from": [], "bin_to": [], "rows": [], "draws": []}
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    for margin, axes in zip(shown, grid, strict=False):
        bins, levels = margin.bins, margin.levels
        shares = [margin.shares(seen(material, margin.column)), margin.shares(material.samples[:, margin.column])]
        axes.stairs(shares[0], bins, fill=True, color=PALE, label=f"{material.part} rows")
        axes.stairs(shares[1], bins, color=COLOURS[0], linewidth=1.3, label="draws from the model")
        if levels and len(levels) <= 8:
            axes.set_xticks(range(len(levels)), [level[:9] for level in levels], rotation=40, ha="right")
        if margin.dates:
            chosen = np.linspace(0, len(bins) - 1, 3 if len(margin.dates[0]) <= 10 else 2).round().astype(int)
            axes.set_xticks(bins[chosen], [margin.dates[edge] for edge in chosen])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_yticks([])
        axes.tick_params(labelsize=6.5, colors=INK)
        axes.set_title(margin.name[:28], fontsize=8, color=INK, loc="left")
        numbers["column"] += [margin.name] * (len(bins) - 1)
        edges = margin.dates or bins.tolist()
        for key, values in zip(list(numbers)[1:], (edges[:-1], edges[1:], *shares), strict=True):
            numbers[key] += list(values)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    count = material.data.sites.count
    which = "" if count == len(shown) else f" (the {len(shown)} of {count:,} columns that vary most often)"
    caption = f"Share of rows and of draws x ~ p(x) in every column{which}, in its units: filled and outlined should agree."
    return Panel("margins", "Columns one by one", caption, figure, numbers)


def _associations(material: Material) -> Panel:
    """Rank correlations of all pairs, of rows and of draws; categories count by the order of their codes."""
    chosen = material.telling(PAIRED)
    names = [material.names[column] for column in chosen]
    matrices = [_rank_correlations(values[:, chosen].astype(np.float64)) for values in (material.cells, material.samples)]
    difference = matrices[1] - matrices[0]
    figure, grid = axes_of(9.0, 3.6, 3)
    for axes, matrix, title in zip(
        grid, (*matrices, difference), (f"{material.part} rows", "draws from the model", "difference"), strict=True
    ):
        drawn = axes.imshow(matrix, cmap="PuOr", vmin=-1, vmax=1)
        labelled(axes, "", "", title)
        short = [name[:14] for name in names]
        axes.set_xticks(range(len(chosen)), short, rotation=90, fontsize=5.5)
        axes.set_yticks(range(len(chosen)), short if axes is grid[0] else [""] * len(names), fontsize=5.5)
    figure.colorbar(drawn, ax=grid, shrink=0.7, label="rank correlation")
    first, second = np.triu_indices(len(chosen), 1)
    worst = int(np.argmax(np.nan_to_num(np.abs(difference[first, second]))))
    caption = (
        f"How columns go together. The mean difference is {np.nanmean(np.abs(difference[first, second])):.3f}; the largest, "
        f"{difference[first[worst], second[worst]]:+.2f}, is between {names[first[worst]]} and "
        f"{names[second[worst]]}. Categories count by the order of their codes."
    )
    numbers: dict[str, Any] = {
        "first": [names[k] for k in first], "second": [names[k] for k in second],
        "rows": matrices[0][first, second], "draws": matrices[1][first, second],
    }  # fmt: skip
    return Panel("associations", "Pairs of columns", caption, figure, numbers)


def _rank_correlations(values: np.ndarray) -> np.ndarray:
    from scipy import stats  # where it is used: every fit imports this module

    ranks = np.full(values.shape, np.nan)
    for column in range(values.shape[1]):
        known = np.isfinite(values[:, column])
        ranks[known, column] = stats.rankdata(values[known, column])
    masked = np.ma.masked_invalid(ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.ma.corrcoef(masked, rowvar=False).filled(np.nan)


def _calibration(material: Material) -> Panel:
    """Where each cell lies in its distribution given one z ~ q(z|x) of its row: evenly, if model and q are right."""
    positions = _positions(material)
    edges = np.linspace(0.0, 1.0, 21)
    numbers: dict[str, np.ndarray] = {"from": edges[:-1], "to": edges[1:]}
    figure, (axes,) = axes_of(5.6, 2.4)
    shares = np.histogram(positions[np.isfinite(positions)], edges)[0]
    density = shares / max(shares.sum(), 1) * len(shares)
    axes.stairs(density, edges, fill=True, color=COLOURS[0], alpha=0.75)
    axes.axhline(1.0, color=INK, linewidth=1.0, linestyle="--")
    labelled(axes, "P(smaller value) under p(x | z), z ~ q(z | x)", "density")
    numbers["density"] = density
    inside = np.where(np.isfinite(positions), (positions > 0.05) & (positions < 0.95), np.nan)
    held = np.nanmean(inside[np.isfinite(inside).any(axis=1)], axis=1)  # cells of a row are not independent, rows are
    share, error = 100 * held.mean(), 100 * held.std() / len(held) ** 0.5
    caption = (
        f"Where the cells of {len(positions):,} {material.part} rows lie in the distributions that the model gives them: flat "
        "is calibrated, a hump in the middle says that the distributions are too wide, high ends that they are too narrow. "
        f"Intervals of 90 % hold {share:.1f} ± {error:.1f} % of a row's cells."
    )
    return Panel("calibration", "Calibration", caption, figure, numbers)


def _placed(material: Material) -> Dataset:
    """Return the rows whose cells are compared with draws: fewer where there are very many columns."""
    most = max(PLACED // (COUNT * material.judged.x.shape[1]), 2)
    return material.judged.take(np.arange(min(len(material.judged), most)))


def _positions(material: Material) -> np.ndarray:
    """Return the share of draws below each cell (n, D), ties split at random; NaN where a cell is missing."""
    rows = _placed(material)
    drawn = replicated(material.model, rows)
    x = rows.x[None].astype(np.float32)
    below, same = (drawn < x).sum(axis=0), (drawn == x).sum(axis=0)
    split = np.random.default_rng(0).random(x.shape[1:])
    positions = (below + split * (same + 1)) / (len(drawn) + 1)
    observed = rows.observed
    return positions if observed is None else np.where(observed, positions, np.nan)


def _odd(material: Material) -> Panel:
    found, rows = material.evidence.log_evidence, material.judged
    order = np.argsort(found)[:ODDEST]
    odd = surprise(material.model, rows, rows, draws=DRAWS, haste=material.haste)[order]
    figure, (axes,) = axes_of(8.0, 0.26 * len(order) + 1.0)
    axes.barh(np.arange(len(order)), found[order] - np.median(found), color=COLOURS[0])
    axes.invert_yaxis()
    axes.set_yticks(range(len(order)), [f"row {row}" for row in order])
    blamed = []
    for place in range(len(order)):
        worst = np.argsort(-np.nan_to_num(odd[place], nan=-np.inf))[:2]
        blamed.append("; ".join(_blame(material, order[place], column, odd[place, column]) for column in worst))
        axes.annotate(blamed[-1], (0.0, place), xytext=(4, 0), textcoords="offset points", fontsize=7, color=INK, va="center")
    labelled(axes, f"log p(x) below the median row, {material.unit}", "")
    axes.margins(x=0.02)
    axes.set_xlim(right=0.9 * float(np.max(np.median(found) - found[order])))
    axes.set_xticks([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= 0.0])
    caption = (
        f"The least probable of {len(rows):,} {material.part} rows, and the cells to blame: by how many nats a cell is less "
        "expected, given the other cells of its row, than is usual in its column."
    )
    numbers: dict[str, Any] = {"row": order, "log_p_nats": found[order], "se": material.evidence.se[order], "blamed": blamed}
    return Panel("odd_rows", "The oddest rows", caption, figure, numbers)


def _blame(material: Material, row: int, column: int, nats: float) -> str:
    value = material.judged.x[row, column]
    if material.schema is not None:
        shown = str(material.schema.columns[column].cells(np.array([value], np.float64))[0])
    else:
        shown = f"{value:.4g}"
    return f"{material.names[column]} = {shown[:24]} ({nats:.1f})"


def _counts(material: Material) -> Panel:
    """Mean against variance, and zeros, of rows and draws."""
    rows, drawn = material.evaluated.x.astype(np.float64), material.samples.astype(np.float64)
    figure, (spread, zeros) = axes_of(8.0, 3.2, 2)
    moments = [(values.mean(axis=0), values.var(axis=0), (values == 0).mean(axis=0)) for values in (rows, drawn)]
    for (mean, variance, _), colour, label in zip(moments, (PALE, COLOURS[0]), (f"{material.part} rows", "draws"), strict=True):
        spread.loglog(np.maximum(mean, 1e-4), np.maximum(variance, 1e-4), ".", color=colour, label=label, markersize=4)
    spread.plot(*[np.geomspace(1e-3, max(moments[0][0].max(), 1.0), 20)] * 2, color=INK, linewidth=1.0, label="Poisson")
    spread.legend(frameon=False, fontsize=8)
    labelled(spread, "mean count of a column", "its variance")
    zeros.plot([0, 1], [0, 1], color=PALE)
    zeros.plot(moments[0][2], moments[1][2], ".", color=COLOURS[0], markersize=4)
    labelled(zeros, f"share of zeros in {material.part} rows", "in draws")
    caption = (
        "Left, the spread of every column against its mean: counts above the line vary more than a Poisson does. Right, "
        "how often a column is zero: points off the diagonal are columns whose zeros the model does not get right."
    )
    numbers: dict[str, Any] = {
        "column": list(material.names), "mean_rows": moments[0][0], "variance_rows": moments[0][1], "zeros_rows": moments[0][2],
        "mean_draws": moments[1][0], "variance_draws": moments[1][1], "zeros_draws": moments[1][2],
    }  # fmt: skip
    return Panel("counts", "Spread and zeros", caption, figure, numbers)
