"""The explorer: what its page can ask for, what it refuses, and that no request makes it fail."""

import asyncio
import base64
import functools
import io
import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

import tightbound as tb
from kinds import run_of
from running import LEAN, call, shared, start
from tightbound.errors import DataError
from tightbound.explorer.server import LARGEST_BODY, WAITING, _Busy, _Decoder, application
from tightbound.explorer.views import GIVEN, SIZES, Views
from tightbound.report.material import Material
from tightbound.store import read_run

TOKEN, PORT = "a-token", 8123
HOST = f"127.0.0.1:{PORT}"


@functools.cache
def views(kind: str) -> Views:
    stored = read_run(shared("run-plane", plane) / "run" if kind == "plane" else run_of(kind))
    return Views(Material(stored, stored.model()))


def plane(folder: Path) -> None:
    """A linear model with two latents, whose posterior is known."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(200, 5))
    np.save(folder / "x.npy", x)
    (folder / "linear.toml").write_text("[model.encoder]\nhidden = []\n[model.decoder]\nhidden = []\n")
    spec = ("--spec", folder / "linear.toml", "--latent", 2, "--likelihood", "gaussian")
    outcome = call("fit", folder / "x.npy", "--out", folder / "run", "--kind", "real", *spec, "--steps", 300, *LEAN)
    assert outcome.code == 0, outcome.err


@contextmanager
def client(kind: str) -> Iterator[TestClient]:
    with TestClient(application(views(kind), TOKEN, PORT), base_url=f"http://{HOST}/{TOKEN}/") as session:
        yield session


def asked(kind: str, name: str, given: Any) -> Any:
    with client(kind) as session:
        answer = session.post(name, json=given)
    assert answer.status_code == 200, answer.text
    return answer.json()


KINDS = ["images", "hierarchy", "table", "counts", "exposed", "plane"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_the_page_asks_for_is_there(kind: str) -> None:
    with client(kind) as session:
        facts, latents = session.get("facts").json(), session.get("map").json()
        count = len(facts["latents"])
        assert {latent["number"] for latent in facts["latents"]} == set(range(count))
        assert len(latents["points"][0]) == 2 and np.shape(latents["axes"]) == (2, count)
        z = session.post("prior", json={"seed": 3}).json()["z"]
        many = session.post("decode", json={"z": [z, latents["middle"]] * 20}).json()["looks"]
        assert len(many) == 40 and many[0] == many[2] != many[1]
        found = session.post("example", json={"row": 0}).json()
        assert np.shape(found["factor"]) == (2, count) and len(found["mean"]) == count
        bounds = session.post("evidence", json={"row": 0}).json()["bounds"]
        assert bounds[0]["k"] == 1 and bounds[-1]["nats"] > bounds[0]["nats"]
        for name, media in (("", "text/html"), ("explorer.js", "text/javascript"), ("explorer.css", "text/css")):
            answer = session.get(name)
            assert answer.status_code == 200 and answer.headers["content-type"].startswith(media)
            assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_place_on_the_map_is_the_z_that_it_shows() -> None:
    found = views("images")
    means = found.material.posteriors.mean
    back = np.array(found.map["middle"]) + np.array(found.map["points"]) @ np.array(found.map["axes"])
    assert np.linalg.norm(means - back) < np.linalg.norm(means - means.mean(axis=0))
    again = (back - found.map["middle"]) @ np.array(found.map["axes"]).T
    np.testing.assert_allclose(again, found.map["points"], atol=1e-3)


def test_pictures_are_the_decoded_means() -> None:
    found = views("images")
    z = np.asarray(found.material.prior_draws[: SIZES[-1] + 3])
    expected = tb.decode(found.model, z)
    for look, mean in zip(found.decode(z), expected, strict=True):
        pixels = np.frombuffer(base64.b64decode(look), np.uint8).reshape(8, 8, 3)
        np.testing.assert_allclose(pixels[..., 0].ravel() / 255, mean / 16, atol=0.51 / 255)


def test_columns_are_shares_of_draws() -> None:
    for kind in ("table", "counts"):
        found = views(kind)
        looks = found.decode(np.zeros((2, found.model.spec.latent)))
        assert len(looks[0]) == len(found.margins)
        np.testing.assert_allclose([sum(shares) for shares in looks[0]], 1.0, atol=1e-4)


def test_the_true_posterior_of_two_latents_is_shown_under_q() -> None:
    truth = asked("plane", "truth", {"row": 1})
    inside = np.array(truth["inside"])
    assert inside.shape == tuple(map(len, truth["axes"])) and set(np.unique(inside)) == {0, 1, 2, 3}
    bounds = asked("plane", "evidence", {"row": 1})["bounds"]
    exact = tb.exact(views("plane").model, views("plane").material.evaluated.take(np.array([1]))).log_evidence[0]
    assert truth["log_evidence"] == pytest.approx(exact, abs=0.01)
    assert abs(bounds[-1]["nats"] - exact) < 4 * bounds[-1]["se"] + 0.01
    # The highest densities lie around E[z|x]: of a linear model the middle of the region that holds half of the mass.
    grid = np.stack(np.meshgrid(*truth["axes"], indexing="ij"), axis=-1)
    row = views("plane").material.evaluated.x[1]
    weight, offset, noise = tb.evidence.exact.affine_decoder(views("plane").model)
    precision = np.eye(2) + weight.T @ (weight / noise[:, None])
    mean = np.linalg.solve(precision, weight.T @ ((row - offset) / noise))
    np.testing.assert_allclose(grid[inside == 3].mean(axis=0), mean, atol=0.05)


def test_one_latent_and_an_exposure_are_shown_too() -> None:
    truth = asked("exposed", "truth", {"row": 0})
    assert np.shape(truth["inside"]) == (len(truth["axes"][0]),) and max(truth["inside"]) == 3
    row = views("exposed").material.evaluated.take(np.array([0]))
    given = {"x": row.x[0].tolist(), "exposure": float(row.exposure[0])}
    assert asked("exposed", "truth", given) == truth
    assert asked("exposed", "truth", given | {"exposure": 2 * given["exposure"]}) != truth


def test_columns_can_be_fixed() -> None:
    found = asked("table", "given", {"text": "height=170..180"})
    number = [column["name"] for column in views("table").facts["columns"]].index("height")
    bins = np.array(views("table").facts["columns"][number]["bins"])
    inside = (bins[1:] > 170) & (bins[:-1] < 180)
    assert found["rows"] == GIVEN and np.sum(np.array(found["shares"][number])[inside]) == pytest.approx(1.0, abs=1e-4)


def test_a_file_of_ones_own_can_be_looked_at() -> None:
    with client("counts") as session:
        content = io.BytesIO()
        np.save(content, np.arange(1_234_560, 1_234_584).reshape(2, 12))
        found = session.post("upload?name=mine.npy", content=content.getvalue()).json()
        assert found["rows"] == 2 and found["row"]["x"] == list(range(1_234_560, 1_234_572))
        assert session.post("example", json=found["row"]).status_code == 200


def test_an_uploaded_row_is_the_same_row() -> None:
    """Also where a number is an atom, which it is to the last bit or not at all."""
    known, schema = views("table").material.evaluated, views("table").material.schema
    gain = schema.names.index("gain")
    at_atom = np.float32(known.x[:, gain]) == np.float32(schema.columns[gain].atom_codes[0])
    rows = int(np.argmax(at_atom)), int(np.argmin(known.observed.all(axis=1)))
    assert at_atom[rows[0]] and not known.observed[rows[1]].all()
    with client("table") as session:
        for row in rows:
            content = io.BytesIO()
            pyarrow.csv.write_csv(schema.decode(np.where(known.observed[[row]], known.x[[row]], np.nan)), content)
            uploaded = session.post("upload?name=mine.csv", content=content.getvalue()).json()["row"]
            assert not at_atom[row] or np.float32(uploaded["x"][gain]) == np.float32(schema.columns[gain].atom_codes[0])
            same = [session.post("evidence", json=given).json()["bounds"][-1]["nats"] for given in (uploaded, {"row": row})]
            assert same[0] == pytest.approx(same[1], abs=1e-3)


def test_a_picture_of_ones_own_can_be_looked_at() -> None:
    with client("images") as session:
        assert ".png" in session.get("facts").json()["accepts"]
        for size in ((8, 8), (30, 20)):
            content = io.BytesIO()
            Image.fromarray(np.full((size[1], size[0]), 200, np.uint8)).save(content, "PNG")
            answer = session.post("upload?name=my picture.PNG", content=content.getvalue())
            assert answer.status_code == 200 and answer.json()["row"]["x"] == [13.0] * 64, answer.text


REFUSED = {
    "a z of another length": ("decode", {"z": [[0.0]]}, 400, "a z has"),
    "too many": ("decode", {"z": [[0.0] * 8] * 65}, 422, "at most 64"),
    "none": ("decode", {"z": []}, 422, "at least 1"),
    "no number": ("decode", {"z": [["a"]]}, 422, "valid number"),
    "too far": ("decode", {"z": [[1e9] * 8]}, 422, "less than or equal"),
    "an unknown field": ("decode", {"z": [[0.0]], "path": "/etc/passwd"}, 422, "path"),
    "a row that is not there": ("example", {"row": 10**6}, 400, "there is no row"),
    "neither row nor x": ("example", {}, 400, "either a row"),
    "another length": ("evidence", {"x": [1.0]}, 400, "x has 1 numbers"),
    "what no pixel is": ("truth", {"x": [0.5] * 64}, 400, "levels"),
    "missing where nothing is": ("example", {"x": [None] * 64}, 400, "missing"),
    "no table": ("given", {"text": "a=1"}, 400, "not of a table"),
    "no posterior on a grid": ("truth", {"row": 0}, 400, "one or two"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_in_words(name: str) -> None:
    path, given, status, message = REFUSED[name]
    with client("images") as session:
        answer = session.post(path, json=given)
    assert answer.status_code == status and message in answer.json()["error"], answer.text


def test_only_the_page_itself_is_answered() -> None:
    app = application(views("counts"), TOKEN, PORT)
    with TestClient(app, base_url=f"http://{HOST}") as session:
        assert session.get(f"/{TOKEN}/facts").status_code == 200
        assert session.get(f"/{TOKEN}/facts", headers={"Origin": f"http://{HOST}"}).status_code == 200
        for path, headers in (
            ("/", {}), ("/facts", {}), ("/a-tokem/facts", {}), ("/a-token-and-more/facts", {}), ("/ä/facts", {}),
            (f"/{TOKEN}/facts", {"Host": "evil.example"}), (f"/{TOKEN}/facts", {"Host": "127.0.0.1:1"}),
            (f"/{TOKEN}/facts", {"Origin": "http://evil.example"}), (f"/{TOKEN}/facts", {"Origin": "null"}),
        ):  # fmt: skip
            assert session.get(path, headers=headers).status_code == 403
        for path in ("nothing", "../pyproject.toml", "%2e%2e/%2e%2e/etc/passwd", "views.py"):
            assert session.get(f"/{TOKEN}/{path}").status_code in (403, 404)
        assert session.get(f"/{TOKEN}/decode").status_code == 405


def test_bodies_and_files_have_limits() -> None:
    with client("counts") as session:
        assert session.post("decode", content=b"[" * (LARGEST_BODY + 1)).status_code == 413
        for name, content in (
            ("x.pkl", b"cos"),
            ("x.npy", b""),
            ("x.npy", b"\x93NUMPY\x01"),
            ("../../x", b"1"),
            ("x.csv", b"\0\xff"),
        ):
            answer = session.post("upload", params={"name": name}, content=content)
            assert answer.status_code == 400 and "tmp" not in answer.text, answer.text
        objects = io.BytesIO()
        np.save(objects, np.array([{"a": 1}], object), allow_pickle=True)
        assert session.post("upload?name=x.npy", content=objects.getvalue()).status_code == 400


def test_points_are_decoded_together_and_a_failure_is_that_of_its_own_block() -> None:
    async def scene() -> None:
        blocks: list[int] = []

        class Slow:
            def decode(self, z: np.ndarray) -> list[Any]:
                blocks.append(len(z))
                time.sleep(0.05)
                if np.isnan(z).any():
                    raise DataError("no number")
                return z[:, 0].tolist()

        decoder = _Decoder(cast(Any, Slow()))
        task = asyncio.create_task(decoder.run())
        first = asyncio.create_task(decoder.decode(np.array([[1.0]])))
        await asyncio.sleep(0.02)  # it is on its way
        others = [asyncio.create_task(decoder.decode(np.array([[float(i)], [-i]]))) for i in range(2, 6)]
        await asyncio.sleep(0)
        others[0].cancel()
        assert await first == [1.0] and [await other for other in others[1:]] == [[3, -3], [4, -4], [5, -5]]
        assert blocks == [1, 6]
        with pytest.raises(DataError):
            await decoder.decode(np.array([[np.nan]]))
        assert await decoder.decode(np.array([[7.0]])) == [7.0]
        many = [asyncio.create_task(decoder.decode(np.zeros((1, 1)))) for _ in range(WAITING + 2)]
        found = await asyncio.gather(*many, return_exceptions=True)
        assert any(isinstance(answer, _Busy) for answer in found) and [0.0] in found
        task.cancel()

    asyncio.run(scene())


def test_what_takes_too_long_is_given_up_and_what_breaks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tightbound.explorer.server.SECONDS", 0.2)
    for behaviour, status, words in ((lambda: time.sleep(0.5), 503, "longer"), (lambda: 1 / 0, 500, "terminal")):
        monkeypatch.setattr(Views, "evidence", lambda self, data, does=behaviour: does())
        with client("counts") as session:
            answer = session.post("evidence", json={"row": 0})
        assert answer.status_code == status and words in answer.json()["error"]


def test_the_command_serves_and_says_where() -> None:
    with start("explore", run_of("counts"), "--no-browser") as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split(": ")[0]
            with urllib.request.urlopen(address + "facts") as answer:
                assert json.load(answer)["name"] == "run"
            port = address.split("/")[2].split(":")[1]
            outcome = call("explore", run_of("counts"), "--no-browser", "--port", port)
            assert outcome.code == 2 and f"port {port}" in outcome.err
        finally:
            server.kill()


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
number = st.floats() | st.integers() | st.sampled_from([0, 1, 1e6, -1e6, 1e30, 1e300])


def lists(length: int) -> st.SearchStrategy[list[Any]]:
    """Lists that pass for what they should be, and others."""
    return st.lists(number | st.none(), max_size=3) | st.lists(number, min_size=length, max_size=length)


SITES, LATENTS = {"images": 64, "table": 5, "plane": 5}, {"images": 16, "table": 4, "plane": 2}
cells = st.sampled_from(list(SITES.values())).flatmap(lists)
latent = st.sampled_from(list(LATENTS.values())).flatmap(lists)
forms = {
    "decode": st.fixed_dictionaries({"z": st.lists(latent, max_size=3) | anything}),
    "prior": st.fixed_dictionaries({"seed": st.integers() | anything}),
    "example": st.fixed_dictionaries(
        {}, optional={"row": st.integers() | st.integers(0, 9), "x": cells | anything, "exposure": anything}
    ),
    "given": st.fixed_dictionaries(
        {"text": st.text(max_size=20) | st.sampled_from(["height=..", "=", "visits=1..2|3", "gain=nan"])}
    ),
}
forms |= {"evidence": forms["example"], "truth": forms["example"]}


@pytest.mark.parametrize("kind", SITES)
def test_no_request_makes_the_server_fail(kind: str) -> None:
    with client(kind) as session:
        assert len(session.get("facts").json()["latents"]) == LATENTS[kind]
        assert views(kind).model.spec.sites.count == SITES[kind]

        @settings(max_examples=150, deadline=None, derandomize=True)
        @given(
            st.sampled_from(sorted(forms)).flatmap(lambda name: st.tuples(st.just(name), forms[name] | anything)),
            st.binary(max_size=3),
        )
        def attacked(request: tuple[str, Any], tail: bytes) -> None:
            name, body = request
            content = json.dumps(body).encode() + tail
            assert session.post(name, content=content).status_code in (200, 400, 413, 422)

        attacked()
