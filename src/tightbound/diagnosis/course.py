"""How a run went, read from the lines of its metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["LAST_PARTS", "Rise", "cause_of_skips", "finite", "last_phase", "learning_rate_left", "rise"]

LAST_PARTS = {"tenth": 1 / 10, "third": 1 / 3}  # of a run: the second where the first holds too few records
FEWEST = 5  # points that a slope is fitted to
JUMP = 10.0  # times the usual loss: a loss that is running away
START = 0.1  # of a run, in which the learning rate is rising or at its highest

Records = Sequence[Mapping[str, Any]]


class Rise(NamedTuple):
    """How fast a quantity rises over the last part of a run, in nats per epoch, with the standard error of the slope."""

    slope: float
    se: float
    of: str
    part: str


def finite(record: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a record, None when it is missing or not finite."""
    value = record.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def rise(records: Records) -> Rise | None:
    """Return how the validation ELBO, or else the training bound, rises at the end of a run; None with too few records."""
    records, last = last_phase(records), max((record["step"] for record in records), default=0)
    for part, share in LAST_PARTS.items():
        tail = [record for record in records if record["step"] > (1 - share) * last]
        for name, words in (("validation_elbo", "validation ELBO"), ("bound", "training bound")):
            values = [(finite(record, "epoch"), finite(record, name)) for record in tail]
            points = np.array([point for point in values if None not in point], np.float64)
            if len(points) >= FEWEST and np.ptp(points[:, 0]) > 0:
                return Rise(*_slope(points[:, 0], points[:, 1]), words, part)
    return None


def last_phase(records: Records) -> Records:
    """Return the records under the objective that a run ended with: bounds of different objectives are not compared."""
    return [record for record in records if record.get("phase", 0) == records[-1].get("phase", 0)]


def learning_rate_left(records: Records) -> float:
    """Return the last learning rate as a share of the highest; 1 when it was not recorded."""
    rates = [rate for record in records if (rate := finite(record, "learning_rate")) is not None]
    return rates[-1] / max(rates) if rates and max(rates) > 0 else 1.0


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    centred = x - x.mean()
    scatter = float(np.sum(centred**2))
    slope = float(np.sum(centred * y)) / scatter
    residual = y - y.mean() - slope * centred
    return slope, math.sqrt(float(np.sum(residual**2)) / (len(x) - 2) / scatter)


def cause_of_skips(records: Records, on_floor: bool) -> str:
    """Return in words why steps had no finite gradient, as far as the metrics and the noise scale tell."""
    if on_floor:
        return "the likely cause is a noise scale on its floor, where densities and gradients overflow"
    first = next(number for number, record in enumerate(records) if record.get("skipped"))
    before = [loss for record in records[:first] if (loss := finite(record, "loss")) is not None]
    now = finite(records[first], "loss")
    if now is None or (before and abs(now) > JUMP * max(float(np.median(np.abs(before))), 1.0)):
        return "the loss was running away when they came: the likely cause is too high a learning rate"
    if records[first]["step"] <= START * records[-1]["step"]:
        return "they came at the start, before the weights had settled: the likely cause is too high a learning rate"
    return "they came while the loss was steady: the likely cause is extreme values in single rows"
