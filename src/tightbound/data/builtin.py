"""Data that come with the installation, for first steps and for tests."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from tightbound.data.raw import Raw

__all__ = ["digits"]


def digits() -> Raw:
    """Return 1,797 handwritten digits of 8×8 pixels in 17 grey levels, labelled 0…9 (Alpaydin and Kaynak, 1998)."""
    bunch = load_digits()
    return Raw(bunch.images.astype(np.uint8), labels=bunch.target, levels=17)
