"""Small runs of every kind that the faces show: images, a table, counts, counts with exposures and one latent, a hierarchy."""

import functools
from pathlib import Path

import numpy as np
import pyarrow as pa

import tightbound as tb
from running import LEAN, call, shared

MARKUP = "<script>alert(1)</script>"  # the name of a column: what stands in the data must not become part of a page
FLAGS = ("--hidden", 16, "--steps", 60, *LEAN)


def people(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    height = rng.normal(170, 9, rows)
    return pa.table({
        MARKUP: rng.choice(["F", "M"], rows), "height": np.where(rng.random(rows) < 0.1, np.nan, height),
        "visits": rng.poisson(30, rows), "since": np.datetime64("2019-01-01") + rng.integers(0, 900, rows),
        "gain": np.where(rng.random(rows) < 0.8, 0.0, height * 10),
    })  # fmt: skip


def few_digits(folder: Path) -> Path:
    """A file of a few of the handwritten digits."""
    np.save(folder / "digits.npy", tb.load("digits").x[:300].reshape(-1, 8, 8))
    return folder / "digits.npy"


def run_of(kind: str) -> Path:
    """A run that is never changed by a test."""
    return shared(f"run-{kind}", functools.partial(make, kind)) / "run"


def make(kind: str, folder: Path) -> None:
    if kind == "images":
        data, more = "digits", ()
    elif kind == "hierarchy":
        data, more = few_digits(folder), ("--latents", "2,3")
    elif kind == "table":
        tb.write_table(folder / "people.csv", people(300))
        data, more = folder / "people.csv", ()
    elif kind == "exposed":
        rng = np.random.default_rng(0)
        size = rng.uniform(1, 9, 200)
        cells = np.column_stack([rng.poisson(size[:, None] * np.geomspace(0.2, 5, 4)), size])
        np.savetxt(folder / "cells.csv", cells, "%.6g", ",", header="a,b,c,d,size", comments="")
        data, more = folder / "cells.csv", ("--kind", "count", "--exposure", "size", "--latent", 1)
    else:
        np.save(folder / "counts.npy", np.random.default_rng(0).poisson(np.geomspace(0.2, 20, 12), (200, 12)))
        data, more = folder / "counts.npy", ("--kind", "count")
    outcome = call("fit", data, "--out", folder / "run", *FLAGS, *more)
    assert outcome.code == 0, outcome.err
