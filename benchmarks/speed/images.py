"""What the convolutional contestants train: images and the sizes of the network. Only numpy is needed."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

import numpy as np


class ImageProblem(NamedTuple):
    """Binary images of shape (height, width, colours) and a variational autoencoder of 4×4 convolutions of stride 2."""

    shape: tuple[int, int, int]
    channels: tuple[int, ...]
    latent: int
    batch: int
    rows: int

    @classmethod
    def read(cls, text: str) -> ImageProblem:
        fields = json.loads(text)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    @property
    def sites(self) -> int:
        return math.prod(self.shape)

    @property
    def grid(self) -> tuple[int, int]:
        """The height and width behind the last convolution."""
        return self.shape[0] // 2 ** len(self.channels), self.shape[1] // 2 ** len(self.channels)

    def data(self) -> np.ndarray:
        """Return rows of binary images as bytes: what time a step takes does not depend on what they show."""
        return (np.random.default_rng(20261122).random((self.rows, *self.shape)) < 0.3).astype(np.uint8)
