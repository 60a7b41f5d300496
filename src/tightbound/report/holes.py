"""Cells that are known, hidden and filled again: how good a guess is, and whether its interval holds the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import binomtest

from tightbound.completion import latents_given
from tightbound.data.frames import TableSchema
from tightbound.pictures import COLOURS, INK, PALE
from tightbound.report.margins import seen_in
from tightbound.report.material import DRAWS, Material
from tightbound.report.parts import Panel, axes_of, labelled
from tightbound.report.programs import COUNT, drawn

__all__ = ["imputed"]

HIDDEN = 96  # rows, of each of which one cell is hidden
ENDS = (0.05, 0.95)  # of the interval: of 99 draws the 5th and the 95th, between which 90 of 100 places lie
SHOWN = 8  # examples of numbers, and of words


class Filled(NamedTuple):
    """A hidden cell: where it is, what it is, and draws (m,) of it given the rest of its row; all in sites."""

    row: int
    column: int
    truth: float
    draws: np.ndarray

    @property
    def interval(self) -> tuple[float, float, float]:
        """The ends of the interval around the median."""
        low, middle, high = np.quantile(self.draws, [ENDS[0], 0.5, ENDS[1]], method="inverted_cdf")
        return float(low), float(middle), float(high)

    @property
    def holds(self) -> bool:
        """Whether the interval holds the truth."""
        low, _, high = self.interval
        return low - 1e-6 <= self.truth <= high + 1e-6

    @property
    def guess(self) -> tuple[float, float]:
        """The value that most draws have, and their share."""
        values, counts = np.unique(self.draws, return_counts=True)
        return float(values[counts.argmax()]), float(counts.max() / len(self.draws))


def imputed(material: Material, schema: TableSchema) -> Iterator[Panel]:
    """Yield examples of cells filled from the rest of their row, and how many are right; nothing where rows have one cell."""
    cells = _filled(material)
    if not cells:
        return
    named = [bool(schema.columns[cell.column].values) for cell in cells]
    numbers, words = ([cell for cell, is_named in zip(cells, named, strict=True) if is_named == kind] for kind in (False, True))
    halves = [(kind[:SHOWN], draw) for kind, draw in ((numbers, _numbers), (words, _words)) if kind]
    count = max(len(kind) for kind, _ in halves)
    figure, grid = axes_of(4.4 * len(halves), 0.36 * count + 0.9, len(halves))
    for (kind, draw), axes in zip(halves, grid, strict=True):
        draw(material, schema, axes, kind)
    outcome = []
    if numbers:
        outcome.append(f"{_share([cell.holds for cell in numbers], 'numbers')} lie in their interval of 90 %")
    if words:
        outcome.append(f"{_share([cell.guess[0] == cell.truth for cell in words], 'words')} are the most probable one")
    caption = (
        f"One cell in each of {len(cells):,} {material.part} rows hidden and drawn {COUNT} times given the rest of its row: "
        f"{', '.join(outcome)}; in brackets how far these few cells tell. Bars are what the model says, dots the truth."
    )
    table: dict[str, list[Any]] = {name: [] for name in ("row", "column", "truth", "low", "guess", "high")}
    for cell, is_named in zip(cells, named, strict=True):
        sites = (cell.truth, None, cell.guess[0], None) if is_named else (cell.truth, *cell.interval)
        said = (None if site is None else _word(schema, cell, site) for site in sites)
        for column, value in zip(table.values(), (cell.row, material.names[cell.column], *said), strict=True):
            column.append(value)
    yield Panel("imputed", "Cells hidden and filled again", caption, figure, table)


def _filled(material: Material) -> list[Filled]:
    rows = material.judged.take(np.arange(min(len(material.judged), HIDDEN)))
    seen = np.ones(rows.x.shape, bool) if rows.observed is None else rows.observed.copy()
    width = seen.shape[1]
    places = []
    for row in range(len(seen)):  # columns in turn, the next one that is there
        there = [column % width for column in range(row, row + width) if seen[row, column % width]]
        if len(there) > 1:
            places.append((row, there[0]))
            seen[row, there[0]] = False
    z = latents_given(material.model, replace(rows, observed=seen), COUNT, draws=DRAWS)
    x = drawn(material.model, z.reshape(-1, z.shape[-1]), None)[0].reshape(*z.shape[:2], width)
    return [Filled(row, column, float(rows.x[row, column]), x[row, :, column]) for row, column in places]


def _share(right: Sequence[bool], what: str) -> str:
    """Return how many are right, and between which shares that leaves it, 19 times of 20 (Wilson 1927)."""
    between = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return f"{sum(right)} of {len(right)} {what} ({100 * between.low:.0f} to {100 * between.high:.0f} %)"


def _word(schema: TableSchema, cell: Filled, site: float) -> str:
    return str(schema.columns[cell.column].cells(np.array([site]))[0])[:18]


def _numbers(material: Material, schema: TableSchema, axes: Axes, cells: list[Filled]) -> None:
    """Intervals and truths by their place among the training rows, which all columns have in common."""
    for line, cell in enumerate(cells):
        ordered = np.sort(seen_in(material.training, cell.column))
        low, middle, high, truth = (_place(ordered, site) for site in (*cell.interval, cell.truth))
        axes.plot([low, high], [line, line], color=PALE, linewidth=6, solid_capstyle="butt")
        axes.plot([middle], [line], "|", color=INK, markersize=9)
        axes.plot([truth], [line], "o", color=COLOURS[0] if cell.holds else COLOURS[2], markersize=4)
        ends = [_word(schema, cell, site) for site in (*cell.interval, cell.truth)]
        axes.annotate(
            f"{ends[0]} … {ends[2]}, is {ends[3]}", (1.03, line), fontsize=6.5, color=INK, va="center", annotation_clip=False
        )
    _lines(material, axes, cells)
    labelled(axes, "place among the training rows", "", "Numbers: interval of 90 %")


def _words(material: Material, schema: TableSchema, axes: Axes, cells: list[Filled]) -> None:
    """The probability of the most probable value."""
    for line, cell in enumerate(cells):
        value, share = cell.guess
        axes.barh(line, share, color=PALE, height=0.6)
        axes.plot(
            [np.mean(cell.draws == cell.truth)], [line], "o", color=COLOURS[0 if value == cell.truth else 2], markersize=4
        )
        words = f"{_word(schema, cell, value)}, is {_word(schema, cell, cell.truth)}"
        axes.annotate(words, (1.03, line), fontsize=6.5, color=INK, va="center", annotation_clip=False)
    _lines(material, axes, cells)
    labelled(axes, "probability", "", "Words: the most probable one, and the truth")


def _lines(material: Material, axes: Axes, cells: list[Filled]) -> None:
    axes.set_yticks(range(len(cells)), [f"row {cell.row}: {material.names[cell.column][:14]}" for cell in cells], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)


def _place(ordered: np.ndarray, site: float) -> float:
    """Return the share of ordered values below a site, those equal to it by half."""
    left, right = (np.searchsorted(ordered, site, side=side) for side in ("left", "right"))
    return float(left + right) / 2 / len(ordered)
