"""The explorer in a real browser. Needs the package playwright and a Chromium on the path; skipped without them."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tightbound as tb
from kinds import run_of
from running import start

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@contextmanager
def serving(kind: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The address of an explorer in a process of its own."""
    server = start("explore", run_of(kind), "--no-browser")
    try:
        assert server.stdout is not None
        told = server.stdout.readline()
        assert told.startswith("http://127.0.0.1:"), told + server.communicate()[1]
        yield told.split(": ")[0], server
    finally:
        server.kill()
        server.wait()


@contextmanager
def page(address: str, width: int = 1280, height: int = 900) -> Iterator[Any]:
    """The explorer's page, loaded; whatever it asks another address for, or complains about, fails the test."""
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": height})
        asked: list[str] = []
        complaints: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.goto(address)
        shown.wait_for_selector("body[data-ready]")
        shown.wait_for_selector("#decoded[data-z]")
        yield shown
        assert not complaints
        assert all(url.startswith((address, "data:")) for url in asked), asked
        browser.close()


def kept(shown: Any, name: str) -> None:
    """Keep a picture of the page where ``TIGHTBOUND_SCREENSHOTS`` says."""
    folder = os.environ.get("TIGHTBOUND_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        shown.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


LOOKS = "(document.querySelector('#decoded canvas')?.toDataURL() ?? document.querySelector('#decoded').innerHTML)"


def looks(shown: Any) -> str:
    """What is decoded, a picture or bars, as text that changes with it."""
    return str(shown.evaluate(f"() => {LOOKS}"))


def changed(shown: Any, before: str) -> None:
    shown.wait_for_function(f"before => {LOOKS} !== before", arg=before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_opens_from_disk_and_asks_for_nothing_else(tmp_path: Path, scheme: str) -> None:
    path = tb.write_report(run_of("table"), tmp_path / "page.html")
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 400, "height": 900}, color_scheme=scheme)
        asked: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(path.as_uri())
        shown.wait_for_function("() => [...document.images].every(image => image.complete)")
        assert shown.evaluate("[...document.images].filter(image => image.naturalWidth === 0).length") == 0
        assert shown.evaluate("document.documentElement.scrollWidth") <= 400
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        kept(shown, f"report-{scheme}")
        browser.close()


@pytest.mark.parametrize("kind", ["images", "table"])
def test_a_hand_on_the_page(kind: str) -> None:
    with serving(kind) as (address, _), page(address) as shown:
        before = looks(shown)
        slider = shown.locator("#sliders input").first
        box = slider.bounding_box()
        shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        shown.mouse.down()
        shown.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=5)
        shown.mouse.up()
        changed(shown, before)
        shown.locator("#map").click(position={"x": 120, "y": 100})
        shown.wait_for_selector("#kept li")
        assert shown.locator("#kept li").count() == 1
        shown.locator("#map").drag_to(
            shown.locator("#map"), source_position={"x": 60, "y": 200}, target_position={"x": 300, "y": 120}
        )
        shown.wait_for_function("() => document.querySelectorAll('#kept li').length === 10")
        before = looks(shown)
        shown.click("#draw")
        changed(shown, before)
        shown.click("#reset")
        shown.click("#pick button[type=submit]")
        shown.wait_for_function("() => document.querySelector('#bound').textContent.includes('log p(x)')")
        shown.locator("#draws").fill("9")
        assert "512" in shown.text_content("#bound")
        shown.check("#noise")
        kept(shown, kind)


def test_a_file_is_looked_at(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.arange(24).reshape(2, 12))
    with serving("counts") as (address, _), page(address) as shown:
        shown.set_input_files("#file", str(tmp_path / "mine.npy"))
        shown.wait_for_function("() => document.querySelector('#example-note').textContent === 'mine.npy, row 0 of 2'")
        assert "11" in shown.text_content("#original")
        kept(shown, "counts")


def test_columns_are_fixed() -> None:
    with serving("table") as (address, _), page(address) as shown:
        shown.fill("#given", "height=170..175")
        shown.click("#fix button")
        shown.wait_for_selector("#fixed svg")
        shown.fill("#given", "nothing=1")
        shown.click("#fix button")
        shown.wait_for_function("() => document.querySelector('#given-note').textContent.includes('there is no column')")


def test_the_keyboard_reaches_everything() -> None:
    with serving("images") as (address, _), page(address) as shown:
        shown.focus("#map")
        before = looks(shown)
        for _ in range(4):
            shown.keyboard.press("ArrowRight")
        changed(shown, before)
        shown.keyboard.press("Enter")
        shown.wait_for_selector("#kept li")
        shown.keyboard.press("l")
        shown.keyboard.press("ArrowUp")
        shown.keyboard.press("l")
        shown.wait_for_function("() => document.querySelectorAll('#kept li').length === 10")
        reached = set()
        for _ in range(60):
            shown.keyboard.press("Tab")
            reached.add(shown.evaluate("document.activeElement.id"))
        assert reached >= {"draw", "keep", "reset", "row", "any", "file"}
        assert any(name.startswith("latent-") for name in reached)
        shown.focus("#sliders input")
        before = looks(shown)
        for _ in range(5):
            shown.keyboard.press("ArrowRight")
        changed(shown, before)


def test_all_controls_have_names_and_a_narrow_window_is_enough() -> None:
    with serving("table") as (address, _), page(address, width=400) as shown:
        assert shown.evaluate("document.documentElement.scrollWidth") <= 400
        nameless = shown.evaluate(
            "[...document.querySelectorAll('input, button, canvas[tabindex]')].filter("
            "control => !(control.labels?.length || control.ariaLabel || control.textContent.trim())).length"
        )
        assert nameless == 0
        kept(shown, "narrow")


def test_a_wrong_token_is_refused_and_a_server_that_has_gone_is_said() -> None:
    with serving("images") as (address, server), page(address) as shown:
        wrong = shown.request.get(re.sub(r"/[^/]+/$", "/wrong/", address))
        assert wrong.status == 403 and "token" in wrong.json()["error"]
        server.kill()
        server.wait()
        shown.click("#draw")
        shown.wait_for_function("() => document.querySelector('#trouble').textContent.includes('The server has gone')")
        assert shown.is_visible("#trouble")
