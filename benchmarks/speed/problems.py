"""What the contestants train: the data and the sizes of the network, and how a contestant talks to the script that races it.

Only numpy is needed, so that every contestant can import it in its own environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Problem(NamedTuple):
    """A data set and the variational autoencoder that is trained on it: D – hidden – latent – reversed hidden – D."""

    name: str
    rows: int
    sites: int
    hidden: tuple[int, ...]
    latent: int
    batch: int

    @classmethod
    def read(cls, text: str) -> Problem:
        fields = json.loads(text)
        return cls(**{**fields, "hidden": tuple(fields["hidden"])})

    @property
    def encoder(self) -> list[int]:
        return [self.sites, *self.hidden, 2 * self.latent]

    @property
    def decoder(self) -> list[int]:
        return [self.latent, *self.hidden[::-1], self.sites]

    @property
    def binary(self) -> bool:
        return self.name == "mnist"

    def data(self) -> np.ndarray:
        """Return the rows: thresholded digits as bytes, or a table of correlated real columns."""
        return digits(self.rows) if self.binary else table(self.rows, self.sites)


def digits(rows: int) -> np.ndarray:
    """Return thresholded digits as bytes, (rows, 784)."""
    return (mnist_levels(rows) > 127).astype(np.uint8)


def mnist_levels(rows: int) -> np.ndarray:
    """Return the grey levels of the first training digits, (rows, 784) bytes."""
    folder = os.environ.get("TIGHTBOUND_DATA")
    if folder is None:
        sys.exit("set TIGHTBOUND_DATA to the folder that holds mnist/mnist.npz with an array x_train")
    with np.load(Path(folder) / "mnist" / "mnist.npz", allow_pickle=False) as arrays:
        grey = arrays["x_train"][:rows]
    return grey.reshape(len(grey), -1)


def table(rows: int, columns: int) -> np.ndarray:
    random = np.random.default_rng(20261122)
    factors = random.normal(size=(rows, 3))
    bent = np.concatenate([factors, np.sin(2.0 * factors)], axis=1) @ random.normal(size=(6, columns))
    return (bent + 0.3 * random.normal(size=bent.shape)).astype(np.float32)


class Track:
    """The contestant's end of a race: say when set up, wait for the word, report a burst."""

    def __init__(self) -> None:
        # Libraries print what they like; only reports may reach the script at the other end of stdout.
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.started = time.perf_counter()

    def ready(self) -> None:
        self.report(setup_seconds=time.perf_counter() - self.started)

    def bursts(self) -> Iterator[None]:
        for _ in sys.stdin:
            yield

    def report(self, **numbers: Any) -> None:
        print(json.dumps(numbers), file=self.out, flush=True)

    def serve(self, steps: Callable[[], int], seconds: float = 1.0) -> None:
        """Set up by calling ``steps`` twice; then call it for about ``seconds`` per burst and report steps per second."""
        steps(), steps()
        self.ready()
        for _ in self.bursts():
            done, began = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - began) < seconds:
                done += steps()
            self.report(steps_per_second=done / elapsed)
