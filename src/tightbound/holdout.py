"""What a run is judged by: its data, told by a digest, the rows held out, and what a diagnosis looks at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tightbound.data.arrays import Dataset, Split
from tightbound.diagnosis.subject import Steps, Subject
from tightbound.model import Model
from tightbound.spec import canonical_json
from tightbound.training.plan import Plan

__all__ = ["data_digest", "held_out", "subject"]


def data_digest(data: Dataset) -> str:
    """Return the sha256 of what a model can see of a data set: sites, values, what is observed, exposures."""
    digest = hashlib.sha256(canonical_json([data.sites.model_dump(mode="json"), list(data.x.shape), data.binarise]).encode())
    for array in (data.x, data.observed, data.exposure):
        digest.update(b"|" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def held_out(data: Dataset, rows: np.ndarray, seed: int) -> Dataset:
    """Return rows that are evaluated on: under dynamic binarisation with bits that are drawn once for the whole set."""
    return (data.binarised(seed) if data.binarise else data).take(rows)


def subject(
    model: Model,
    data: Dataset,
    split: Split,
    plan: Plan,
    objective: dict[str, Any],
    records: Sequence[dict[str, Any]],
    steps: Steps,
) -> Subject:
    """Return what the diagnosis of a run looks at: its model, its training and test rows, and how training went."""
    training, test = (held_out(data, rows, plan.seed) for rows in (split.train, split.test))
    return Subject(model, training, test, tuple(records), objective, steps, plan.patience)
