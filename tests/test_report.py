"""The report: one page that holds what it shows, from the run folder alone, with the numbers behind every picture."""

import base64
import csv
import functools
import html
import json
import re
import shutil
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import html5lib
import numpy as np
import pytest

import tightbound as tb
import tightbound.fitting
from kinds import MARKUP, people, run_of
from running import call, sha256, shared, table
from tightbound.errors import DataError, FormatError, OutputExistsError
from tightbound.report.colouring import colouring, information
from tightbound.report.flat import flat
from tightbound.report.margins import margins
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
    "images": {"pictured", "traversals", "interpolation", "reconstructions", "samples", "hardest"},
    "table": {"responses", "margins", "associations", "calibration", "imputed", "odd_rows"},
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
    html5lib.HTMLParser(strict=True).parse(made(kind).page)  # raises at the first error of the standard
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
        assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"
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


LENGTH = ("--latent", 2, "--hidden", 8, "--batch-size", 16, "--draws", 10, "--kind", "real", "--label", "sex", "--steps", 20)


def test_a_fit_ends_with_the_page_and_killed_while_it_is_written_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table(tmp_path / "table.csv")
    outcome = call("fit", data, "--out", tmp_path / "run", *LENGTH, "--no-pictures", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.lines()[-1]["report"] == str(tmp_path / "run" / "report.html")
    page, numbers = tmp_path / "run" / "report.html", tmp_path / "run" / "report"
    shutil.move(page, tmp_path / "first.html")
    shutil.rmtree(numbers)
    assert call("report", tmp_path / "run").code == 0
    assert page.read_bytes() == (tmp_path / "first.html").read_bytes()

    def killed(material: Material, path: Path) -> Path:
        (path.parent / ".report.abc").mkdir()
        path.with_suffix("").mkdir()
        raise KeyboardInterrupt

    again = ("fit", data, "--out", tmp_path / "again", *LENGTH, "--no-pictures")
    with monkeypatch.context() as patched:
        patched.setattr(tightbound.fitting, "write_page", killed)
        assert call(*again).code == 130 and not (tmp_path / "again").exists()
    outcome = call(*again, "--resume")
    assert outcome.code == 0 and "one page to look at" in " ".join(outcome.out.split()), outcome.err
    assert sha256(tmp_path / "again") == sha256(tmp_path / "run")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {path.name for path in (tmp_path / "run").iterdir()}


def test_a_run_from_python_has_a_page_from_its_rows(tmp_path: Path) -> None:
    data = tb.from_arrays(np.random.default_rng(0).normal(size=(40, 3)))
    small = tb.MLP(hidden=(4,))
    spec = tb.VAE(sites=data.sites, latent=1, encoder=small, decoder=small, likelihood=tb.Gaussian())
    fitted = tb.fit(data, spec, plan=tb.Plan(steps=5), out=tmp_path / "run", draws=5, pictures=False, diagnosis=False)
    assert fitted.page is not None and "trained from Python" in fitted.page.read_text()
    again = tb.write_report(tmp_path / "run", tmp_path / "again.html", data=data)
    assert again.read_text().replace("again/", "report/") == fitted.page.read_text()
    with pytest.raises(DataError, match="pass what fit was given"):
        tb.write_report(tmp_path / "run", tmp_path / "other.html", data=tb.from_arrays(data.x + 1.0))


def material(kind: str, **more: Any) -> Material:
    run = tb.read_run(run_of(kind))
    return Material(run, run.model(), **more)


def test_the_map_of_a_table_is_coloured_by_a_column() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2000, 2))
    told, chance = np.where(points[:, 0] > 0, "a", "b"), rng.integers(0, 40, 2000)
    known = rng.random(2000) < 0.9
    assert 0.95 < information(points, told, known) <= 1.0 and abs(information(points, chance, known)) < 0.05
    assert information(points, told, np.zeros(2000, bool)) == 0.0
    page = made("table").page
    assert f"The colour is the column {html.escape(MARKUP)}" in page
    one = material("table", colour="height")
    coloured, words = colouring(one, points[:300])
    assert coloured is not None and "the column height, as asked for" in words
    rows = people(300)["height"].to_numpy()
    np.testing.assert_allclose(coloured.values[coloured.known], rows[~np.isnan(rows)], atol=1e-3)
    coloured, _ = colouring(material("table", colour="since"), points)
    assert coloured is not None and coloured.word is not None and coloured.word(0.0) == "1970-01-01"
    assert colouring(material("counts"), points) == (None, "")
    outcome = call("report", run_of("table"), "--colour", "weight")
    assert outcome.code == 2 and "there is no column 'weight' to colour the map by; there are" in outcome.err


def test_the_map_is_by_umap_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    means = np.random.default_rng(0).normal(size=(60, 5))

    class Folded:
        def __init__(self, **settings: int) -> None:
            assert settings == {"n_components": 2, "random_state": 0}

        def fit_transform(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, 3:]

    module = types.ModuleType("umap")
    module.UMAP = Folded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    np.testing.assert_array_equal(flat(means).points, means[:, 3:])
    assert "UMAP" in flat(means).names[0] and "UMAP" in flat(means).words
    assert "UMAP" not in flat(means[:, :2]).names[0] + flat(means[:, :2]).words
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    assert "principal component" in flat(means).names[0] and "principal components" in flat(means).words


def test_dates_are_shown_as_dates() -> None:
    (since,) = (margin for margin in margins(material("table")) if margin.name == "since")
    assert since.dates[0] < "2019-03-01" and since.dates[-1] > "2021-03-01" and list(since.dates) == sorted(since.dates)
    days = people(300)["since"].to_numpy()
    assert since.word(float(material("table").data.x[0, since.column])) == str(days[0])
    assert since.facts()["dates"] == list(since.dates)
    with (made("table").numbers / "margins.csv").open(newline="") as file:
        edges = [row["bin_from"] for row in csv.DictReader(file) if row["column"] == "since"]
    assert edges == list(since.dates[:-1])


def test_answers_to_latents_are_in_deviations_of_the_whole_column() -> None:
    """Mostly zeros: zeros belong to what an answer is measured by, or most answers lie twenty deviations below the mean."""
    with (made("table").numbers / "responses.csv").open(newline="") as file:
        answers = [float(value) for row in csv.DictReader(file) for name, value in row.items() if name.endswith(": gain")]
    assert answers and max(map(abs, answers)) < 3


def test_of_many_columns_those_that_vary_are_shown() -> None:
    one = material("counts")
    assert one.telling(12).tolist() == list(range(12))
    few = one.telling(6).tolist()
    assert len(few) == 6 and few == sorted(few) and min(few) >= 4  # the first columns are mostly zeros


def test_a_page_may_lie_beside_its_run_under_the_same_name(tmp_path: Path) -> None:
    shutil.copytree(made("table").run, tmp_path / "people")
    page = tb.write_report(tmp_path / "people", tmp_path / "people.html")
    assert "people-report/map.csv" in page.read_text() and (tmp_path / "people-report" / "map.csv").exists()
    with pytest.raises(OutputExistsError):
        tb.write_report(tmp_path / "people", page)


def test_hidden_cells_are_not_seen_by_what_fills_them() -> None:
    with (made("table").numbers / "imputed.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 30 and {cell["column"] for cell in cells} == {MARKUP, "height", "visits", "since", "gain"}
    rows = people(300).to_pylist()
    test = tb.read_run(made("table").run).split["test"]
    for cell in cells:
        assert str(rows[test[int(cell["row"])]][cell["column"]])[:5] == cell["truth"][:5]
    heights = [cell for cell in cells if cell["column"] == "height"]
    assert all(float(cell["low"]) < float(cell["guess"]) < float(cell["high"]) for cell in heights)
    assert np.mean([float(cell["high"]) - float(cell["low"]) for cell in heights]) > 20  # independent columns: nothing is known
