"""The page itself: sections and panels as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from tightbound.data.arrays import Dataset
from tightbound.errors import StoreError
from tightbound.files import refuse_existing, write_bytes, write_folder
from tightbound.outputs import check_output
from tightbound.report.colouring import check_colour
from tightbound.report.columns import columns
from tightbound.report.course import course
from tightbound.report.images import images
from tightbound.report.latents import latents
from tightbound.report.material import Material
from tightbound.report.overview import overview, reproduction
from tightbound.report.parts import Section
from tightbound.settings import require_own
from tightbound.store import Run, read_run

__all__ = ["PAGE", "render", "sections", "write_page", "write_report"]

PAGE = "report.html"  # in the folder of a run

_HYPHEN = re.compile(r"(?<![\w-])-(?=\d)")  # before a number, where a minus sign belongs


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    data: Dataset | None = None,
    colour: str | None = None,
    trust: Sequence[str] = (),
) -> Path:
    """Write a run as one page, ``report.html`` in its folder unless told otherwise, and return the path.

    The page is a function of the run folder and of the data that it names. It holds every picture itself and asks the network
    for nothing. The numbers behind each picture lie beside it as CSV, in a folder of the same name (``NAME-report`` for a page
    ``NAME.html`` beside the run ``NAME``). ``data`` is what the run
    was trained on, when it was trained from Python and does not say where that is; ``colour`` names the column whose values
    colour the map of the rows, "label" for their labels.

    Raises :class:`DataError` when the data has changed or is gone and for a column that is not there,
    :class:`OutputExistsError` when the page or the folder exists, :class:`StoreError` when they cannot be written, and the
    errors of :func:`tightbound.load_model`.
    """
    stored = read_run(run)
    path = Path(out) if out is not None else Path(run) / PAGE
    _check_free(path, stored)
    if data is not None:
        require_own(stored, data)
    return write_page(Material(stored, stored.model(trust=trust), given=data, colour=colour), path)


def _check_free(path: Path, run: Run) -> None:
    check_output(path, (".html",))
    refuse_existing(_numbers_of(path, run))


def _numbers_of(path: Path, run: Run) -> Path:
    """Return the folder of the numbers: called as the page is, but where the page lies beside its run and is called as that."""
    folder = path.with_suffix("")
    return folder.with_name(f"{folder.name}-report") if folder.absolute() == run.path.absolute() else folder


def write_page(material: Material, path: Path) -> Path:
    """Write the page and, beside it, the folder of its numbers; return the path."""
    _check_free(path, material.run)
    check_colour(material)
    numbers = _numbers_of(path, material.run)
    made = sections(material)
    page = render(material.run, made, numbers.name).encode()
    write_folder(numbers, lambda folder: _write_numbers(folder, made))
    try:
        write_bytes(path, page)
    except StoreError:
        shutil.rmtree(numbers)
        raise
    return path


def sections(material: Material) -> tuple[Section, ...]:
    """Return what the page shows."""
    rows = images if material.run.spec.sites.is_image else columns
    return tuple(section(material) for section in (overview, course, latents, rows, reproduction))


def render(run: Run, made: Sequence[Section], numbers: str) -> str:
    """Return the HTML; ``numbers`` is the folder of the CSV files, seen from the page."""
    template = files("tightbound.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["minus"] = lambda text: _HYPHEN.sub("−", text)
    return environment.from_string(template).render(name=run.name, sections=made, numbers=numbers)


def _write_numbers(folder: Path, made: Sequence[Section]) -> None:
    for section in made:
        if section.facts:
            facts = json.dumps(dict(section.facts), indent=2, ensure_ascii=False)
            write_bytes(folder / f"{section.name}.json", (facts + "\n").encode())
        for panel in section.panels:
            write_bytes(folder / f"{panel.name}.csv", panel.csv)
