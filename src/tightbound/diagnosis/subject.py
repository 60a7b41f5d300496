"""What is diagnosed: a model with its rows and its run, and the measurements that the checks share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tightbound.diagnosis import aggregate, measurements
from tightbound.errors import DataError
from tightbound.evidence.gaps import log_densities
from tightbound.evidence.importance import Importance, importance
from tightbound.model import Model
from tightbound.rows import RowSource, bucket, require_fixed
from tightbound.schema import Sites

__all__ = ["ACTIVE", "DRAWS", "ROWS", "Part", "Steps", "Subject"]

ROWS = 500  # of each part, at most, evenly spaced
DRAWS = 200  # importance samples of a row
ACTIVE = 0.01  # variance of the posterior mean, in units of the prior's, above which a latent is active (Burda et al. 2016)


class Steps(NamedTuple):
    """How many steps were planned and how many were made."""

    planned: int
    made: int


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a data set: what :class:`tightbound.rows.RowSource` asks for."""

    x: np.ndarray
    sites: Sites
    observed: np.ndarray | None = None
    exposure: np.ndarray | None = None
    binarise: bool = False


@dataclass(frozen=True, eq=False)
class Subject:
    """What is diagnosed; every measurement is made when it is first asked for, and once.

    ``training`` and ``held_out`` are rows with fixed x. ``records`` are lines of the run's metrics as dicts,
    ``objective`` the fields of the objective's spec, ``patience`` that of the plan. All but the model and its training
    rows may be left out: the checks that need them are then not applicable.

    Measurements raise :class:`~tightbound.errors.DataError` when there are no training rows or they do not fit the model.
    """

    model: Model
    training: RowSource
    held_out: RowSource | None = None
    records: tuple[Mapping[str, Any], ...] = ()
    objective: Mapping[str, Any] = field(default_factory=dict)
    steps: Steps | None = None
    patience: int | None = None

    @cached_property
    def rows(self) -> Part:
        """The training rows that are measured."""
        if not len(self.training.x):
            raise DataError("there are no training rows to diagnose the model on; pass some")
        return self._some(self.training, ROWS)

    @cached_property
    def held_out_rows(self) -> Part | None:
        """The held-out rows that are measured, None when there are none."""
        return None if self.held_out is None or not len(self.held_out.x) else self._some(self.held_out, ROWS)

    @cached_property
    def posteriors(self) -> measurements.Posteriors:
        """q(z|x) of the training rows."""
        return measurements.posteriors(self.model, self.rows)

    @cached_property
    def prior(self) -> measurements.Prior:
        """p(z), with the responsibilities of its components for one draw of q(z|x) of every training row."""
        return measurements.prior(self.model, self.posteriors.draw)

    @property
    def kl(self) -> float:
        """The mean KL(q(z|x) ‖ p(z)) of the training rows in nats."""
        return float(self.posteriors.kl.sum(axis=1, dtype=np.float64).mean())

    @property
    def latent_kl(self) -> np.ndarray | None:
        """The mean KL per latent (L,) in nats, None where the KL is no sum over latents."""
        kl = self.posteriors.kl
        return kl.mean(axis=0, dtype=np.float64) if kl.shape[1] == self.model.spec.latent else None

    @property
    def layer_kl(self) -> list[tuple[float, float]]:
        """The mean KL of every layer of a hierarchy in nats with its standard error, the top one first; none for one layer."""
        layers, kl = self.model.spec.layers, self.posteriors.kl.astype(np.float64)
        if len(layers) == 1:
            return []
        parts = [part.sum(axis=1) for part in np.split(kl, np.cumsum(layers)[:-1], axis=1)]
        return [(float(part.mean()), float(part.std() / len(part) ** 0.5)) for part in parts]

    @cached_property
    def activity(self) -> np.ndarray:
        """Var_x(E[z_l|x]) / Var(z_l) per latent (L,), the last under the prior: 1 for the standard normal."""
        spread: np.ndarray = self.posteriors.mean.var(axis=0, dtype=np.float64) / self.prior.variance
        return spread

    @property
    def active(self) -> int:
        """The number of active latents."""
        return int(np.sum(self.activity > ACTIVE))

    @cached_property
    def gap(self) -> aggregate.Gap:
        """The sharpest lower bound that the training rows give on the KL of the aggregate posterior from the prior."""
        q, gaussian, family = self.posteriors, self.prior.gaussian, measurements.gaussian_family(self.model)
        z, gaps, density = q.draw, [], None
        if family is not None:
            standard = np.stack([np.zeros(z.shape[1]), np.ones(z.shape[1])]) if gaussian is None else gaussian
            marginals, product = aggregate.marginals(z, q.mean, q.scale, standard)
            gaps += [] if gaussian is None else [marginals]
            density = product if family == "diagonal" else None
        if gaussian is not None:
            gaps += [gap for gap in [aggregate.moments(z, gaussian)] if gap is not None]
        if density is None:
            density = log_densities(self.model, self.rows, z)
        return aggregate.best(iter([*gaps, aggregate.joint(density, q.log_prior)]))

    @cached_property
    def evaluated(self) -> Part:
        """The training rows whose log p(x) is estimated: as many as fit into the program for the held-out rows."""
        rows, held_out = self.rows, self.held_out_rows
        return rows if held_out is None else self._some(rows, bucket(len(held_out.x)))

    @cached_property
    def evidence(self) -> tuple[Importance, Importance | None]:
        """Importance sampling on training rows and on the held-out rows."""
        held_out = self.held_out_rows
        return self._weigh(self.evaluated), None if held_out is None else self._weigh(held_out)

    def _weigh(self, rows: Part) -> Importance:
        return importance(self.model, rows, draws=DRAWS)

    def _some(self, data: RowSource, most: int) -> Part:
        """Return at most so many rows, evenly spaced, as neighbours may be alike."""
        require_fixed(self.model.spec.sites, data)
        index = np.linspace(0, len(data.x) - 1, min(len(data.x), most)).round().astype(int)

        def taken(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[index]

        return Part(data.x[index], data.sites, taken(data.observed), taken(data.exposure))
