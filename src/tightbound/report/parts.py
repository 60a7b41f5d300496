"""What a report is made of: sections of panels, each a picture with a caption and the numbers behind it."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tightbound.pictures import INK

__all__ = ["Panel", "Section", "axes_of", "labelled"]

# The same figure gives the same bytes: identifiers come from a fixed word, and no date is written.
_SVG: Any = {"svg.hashsalt": "tightbound"}
DPI = 110  # of pictures within a figure


@dataclass(frozen=True)
class Panel:
    """A picture, what to see in it, and its ``numbers`` as columns by name; ``name`` is that of their file."""

    name: str
    title: str
    caption: str
    figure: Figure
    numbers: Mapping[str, Sequence[Any] | np.ndarray]

    @property
    def source(self) -> str:
        """The picture as an address that holds it."""
        out = io.BytesIO()
        with matplotlib.rc_context(_SVG):
            self.figure.savefig(out, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
        return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode("ascii")

    @property
    def csv(self) -> bytes:
        """The numbers as a table."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.numbers)
        writer.writerows(zip(*(_cells(column) for column in self.numbers.values()), strict=True))
        return out.getvalue().encode()


@dataclass(frozen=True)
class Section:
    """A part of the page: ``words`` before the panels, and a table of ``facts`` (name, value)."""

    name: str
    title: str
    words: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    panels: tuple[Panel, ...] = ()
    code: tuple[tuple[str, str], ...] = ()


def _cells(column: Sequence[Any] | np.ndarray) -> list[Any]:
    values = column.tolist() if isinstance(column, np.ndarray) else list(column)
    return [f"{value:.6g}" if isinstance(value, float) else "" if value is None else value for value in values]


def axes_of(width: float = 6.4, height: float = 3.2, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes side by side, without frames."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = list(np.atleast_1d(figure.subplots(1, columns)).ravel())
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=INK)
    return figure, grid


def labelled(axes: Axes, across: str, up: str, title: str = "") -> None:
    """Name the axes, with their units."""
    axes.set_xlabel(across, color=INK, fontsize=9)
    axes.set_ylabel(up, color=INK, fontsize=9)
    if title:
        axes.set_title(title, color=INK, fontsize=9, loc="left")
