"""What a report looks at: a run, its model, its rows, and what is computed of them once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from tightbound.data.arrays import Dataset
from tightbound.data.frames import Column, TableSchema
from tightbound.diagnosis.measurements import Posteriors, posteriors
from tightbound.evidence.importance import Importance, importance
from tightbound.inference import decode, prior_draws, reconstruct
from tightbound.model import Model
from tightbound.pictures import Sheets
from tightbound.report.programs import drawn
from tightbound.rows import hasty
from tightbound.settings import own_rows, recorded_table
from tightbound.store import Run

__all__ = ["Material"]

MAPPED = 2000  # rows on the map of the latent space, at most
LOOKED_AT = 1000  # rows of the evaluated part, and draws, that pictures show
JUDGED, DRAWS = 300, 200  # rows whose log p(x) is estimated, with so many draws
SEED = 0


@dataclass(frozen=True)
class Material:
    """A run with its model and its whole data set; everything else is computed when it is first asked for."""

    run: Run
    model: Model
    given: Dataset | None = None  # the data, when it need not be read again
    colour: str | None = None  # the column that colours the map; None: the one that it tells most of

    @cached_property
    def data(self) -> Dataset:
        """All rows, with fixed bits."""
        data = own_rows(self.run) if self.given is None else self.given
        return data.binarised(self.seed) if data.binarise else data

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.run.training["plan"]["seed"])

    @property
    def part(self) -> str:
        """The part that the final numbers are of."""
        return str(self.run.summary["evaluated_on"])

    @property
    def unit(self) -> str:
        """Nats, per what."""
        return str(self.run.summary["unit"])

    @cached_property
    def schema(self) -> TableSchema | None:
        """What the columns of the data are, when it is a table."""
        return recorded_table(self.run)

    def moments(self, number: int) -> Column | None:
        """Return a column whose numbers stand for dates or times, None for any other."""
        column = None if self.schema is None else self.schema.columns[number]
        return column if column is not None and column.unit else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sites."""
        return self.data.names or tuple(f"column {number}" for number in range(self.data.sites.count))

    def telling(self, most: int) -> np.ndarray:
        """Return at most so many columns, in their order: all, or those whose cells differ most often from the commonest."""
        count = self.data.sites.count
        if count <= most:
            return np.arange(count)
        return np.sort(self._changing[:most])

    @cached_property
    def _changing(self) -> np.ndarray:
        """All columns, the one first whose cells differ most often from the commonest."""
        commonest = [np.unique(column, return_counts=True)[1].max() for column in self.cells.T]
        return np.argsort(commonest, kind="stable")

    @cached_property
    def training(self) -> Dataset:
        """All training rows."""
        return self.data.take(self.run.split["train"])

    @cached_property
    def evaluated(self) -> Dataset:
        """Some of the rows that the final numbers are of."""
        return self.data.take(self.run.split["test" if self.part == "test" else "train"][:LOOKED_AT])

    @cached_property
    def cells(self) -> np.ndarray:
        """Those of the evaluated rows (n, D), NaN where one is missing."""
        rows = self.evaluated
        return rows.x if rows.observed is None else np.where(rows.observed, rows.x, np.nan)

    @cached_property
    def mapped(self) -> Dataset:
        """Rows of all parts."""
        order = np.random.default_rng(SEED).permutation(len(self.data))
        return self.data.take(np.sort(order[:MAPPED]))

    @cached_property
    def posteriors(self) -> Posteriors:
        """q(z|x) of the mapped rows."""
        return posteriors(self.model, self.mapped)

    @cached_property
    def reconstructions(self) -> np.ndarray:
        """E[x|z] at the means of q(z|x) of the evaluated rows."""
        return reconstruct(self.model, self.evaluated)

    @cached_property
    def exposure(self) -> float | None:
        """The median exposure of the evaluated rows, None where rows have none."""
        exposures = self.evaluated.exposure
        return None if exposures is None else float(np.median(exposures))

    @cached_property
    def samples(self) -> np.ndarray:
        """Rows drawn from p(x), at the median exposure if there are exposures."""
        exposure = None if self.exposure is None else np.full(LOOKED_AT, self.exposure)
        return drawn(self.model, self.prior_draws, exposure, seed=SEED)[0]

    @cached_property
    def prior_draws(self) -> np.ndarray:
        """Latents (n, L) drawn from p(z)."""
        return np.asarray(prior_draws(self.model, jax.random.split(jax.random.key(SEED), LOOKED_AT)))

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return E[x|z] for every row of z (n, L)."""
        return decode(self.model, z, haste=self.haste)

    @cached_property
    def decoded(self) -> np.ndarray:
        """E[x|z] at latents drawn from p(z)."""
        return self.decode(self.prior_draws)

    @cached_property
    def judged(self) -> Dataset:
        """Evaluated rows whose log p(x) is estimated."""
        return self.evaluated.take(np.arange(min(len(self.evaluated), JUDGED)))

    @property
    def haste(self) -> bool:
        """Whether programs of the report, of which judging rows is the longest, are compiled in haste."""
        return hasty(self.judged, DRAWS)

    @cached_property
    def evidence(self) -> Importance:
        """log p(x) of the judged rows, from below."""
        return importance(self.model, self.judged, draws=DRAWS, haste=self.haste)

    @cached_property
    def order(self) -> np.ndarray:
        """The latents, the one with the largest KL first; where the KL does not split, by the spread of the means."""
        found = self.posteriors
        size = found.kl.mean(axis=0) if found.kl.shape[1] == found.mean.shape[1] else found.mean.var(axis=0)
        return np.argsort(-size)

    @cached_property
    def sheets(self) -> Sheets:
        """The same as the pictures of a run are made of."""
        return Sheets(
            sites=self.data.sites, rows=self.evaluated.x, observed=self.evaluated.observed, labels=self.evaluated.labels,
            names=self.names, reconstructions=self.reconstructions, means=self.posteriors.mean, mean_labels=self.mapped.labels,
            samples=self.samples, decoded=self.decoded, records=self.run.metrics(), part=self.part,
            kept=self.run.summary["best_step"],
        )  # fmt: skip
