"""The report: one page that holds what it shows, from the run folder alone, with the numbers behind every picture."""

import base64
import csv
import functools
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import tightbound as tb
from kinds import MARKUP, run_of
from running import call, shared
from tightbound.errors import DataError, FormatError, OutputExistsError
from tightbound.report.material import Material
from tightbound.report.overview import overview
from tightbound.report.page import render


class Made(NamedTuple):
    run: Path
    page: str
    numbers: Path


@functools.cache
def made(kind: str) -> Made:
    """A run and its report, never changed by a test: of images, of a table, of counts."""
    run = shared(f"report-{kind}", functools.partial(make, kind)) / "run"
    return Made(run, (run / "report.html").read_text(), run / "report")


def make(kind: str, folder: Path) -> None:
    shutil.copytree(run_of(kind), folder / "run")
    outcome = call("report", folder / "run")
    assert outcome.code == 0, outcome.err


PANELS = {
    "images": {"traversals", "interpolation", "reconstructions", "samples", "hardest"},
    "table": {"responses", "margins", "associations", "calibration", "odd_rows"},
    "counts": {"responses", "margins", "associations", "calibration", "odd_rows", "counts"},
}
ALWAYS = {"curves", "learning_rate", "kl_per_latent", "aggregate", "map"}


class Page(HTMLParser):
    """Collects identifiers, addresses and open tags."""

    VOID = ("meta", "img", "link", "br", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.pictures_without_words = 0
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.addresses += [given[name] for name in ("href", "src") if given.get(name)]
        self.pictures_without_words += tag == "img" and not given.get("alt")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", PANELS)
def test_a_page_is_whole_asks_for_nothing_and_has_its_numbers_beside_it(kind: str) -> None:
    """One test, so that one process makes the page."""
    page_is_whole(kind)
    pictures_are_drawings(kind)
    numbers_lie_beside(kind)


def page_is_whole(kind: str) -> None:
    page = Page()
    page.feed(made(kind).page)
    assert not page.open and len(set(page.ids)) == len(page.ids) and not page.pictures_without_words
    assert set(page.ids) >= ALWAYS | PANELS[kind]
    outside = [address for address in page.addresses if not address.startswith(("#", "data:", "report/"))]
    assert not outside and "@import" not in made(kind).page and "<script" not in made(kind).page
    assert (html.escape(MARKUP) in made(kind).page) == (kind == "table")
    assert all((made(kind).run / address).exists() for address in page.addresses if address.startswith("report/"))
    assert len(made(kind).page) < 3_000_000


def pictures_are_drawings(kind: str) -> None:
    drawings = [
        base64.b64decode(found).decode() for found in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", made(kind).page)
    ]
    assert len(drawings) == len(ALWAYS | PANELS[kind])
    for drawing in drawings:
        assert drawing.rstrip().endswith("</svg>")
        assert not [address for address in re.findall(r'href="([^"]+)"', drawing) if not address.startswith(("#", "data:"))]


def numbers_lie_beside(kind: str) -> None:
    for name in ALWAYS | PANELS[kind]:
        with (made(kind).numbers / f"{name}.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert rows and all(len(row) == len(header) for row in rows)
    facts = json.loads((made(kind).numbers / "overview.json").read_text())
    summary = json.loads((made(kind).run / "summary.json").read_text())
    assert f"{summary['elbo']['value']:.2f}" in facts["ELBO, test rows"]


def test_the_numbers_are_those_of_the_run() -> None:
    numbers = made("images").numbers
    run = tb.read_run(made("images").run)
    with (numbers / "curves.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == [record["step"] for record in run.metrics()]
    with (numbers / "map.csv").open(newline="") as file:
        found = np.array([[float(row[f"mean_{latent}"]) for latent in range(16)] for row in csv.DictReader(file)])
    np.testing.assert_allclose(found, tb.embed(run.model(), tb.load("digits")).mean, atol=1e-4)


@pytest.mark.parametrize("status", ["ok", "problem"])
def test_the_verdict_of_the_diagnosis_is_there_in_words(tmp_path: Path, status: str) -> None:
    shutil.copytree(made("table").run, tmp_path / "run", ignore=shutil.ignore_patterns("report*"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for finding in summary["diagnosis"]:
        finding["status"] = status if finding["code"] == "TB003" else "ok"
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    run = tb.read_run(tmp_path / "run")
    page = render(run, (overview(Material(run, run.model())),), "report")
    third = next(finding for finding in summary["diagnosis"] if finding["code"] == "TB003")
    assert ("TB003, KL in one latent" in page and html.escape(third["change"]) in page) == (status == "problem")
    assert ("found no problem: all" in page) == (status == "ok")


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    again = tb.write_report(made("table").run, tmp_path / "again.html").read_text()
    assert again.replace("again/", "report/") == made("table").page


def test_what_cannot_be_reported_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError):
        tb.write_report(made("table").run)
    with pytest.raises(FormatError):
        tb.write_report(tmp_path / "none")
    shutil.copytree(made("counts").run, tmp_path / "run")
    training = json.loads((tmp_path / "run" / "training.json").read_text())
    training["loaded"]["path"] = str(tmp_path / "changed.npy")
    (tmp_path / "run" / "training.json").write_text(json.dumps(training))
    np.save(tmp_path / "changed.npy", np.zeros((5, 12), int))
    with pytest.raises(DataError, match="has changed"):
        tb.write_report(tmp_path / "run", tmp_path / "page.html")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "changed.npy"}
