"""What the explorer asks of a run: each view is plain numbers that JSON can hold, and knows nothing of HTTP."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from scipy.special import logsumexp

from tightbound.data.arrays import Dataset
from tightbound.data.images import read_images
from tightbound.errors import DataError, TightboundError
from tightbound.evidence.estimate import delta_error, stated_error
from tightbound.evidence.exact import posterior_grid
from tightbound.inference import prior_draws
from tightbound.model import Model
from tightbound.pictures import MASSES, SHADES, Plane, plane, region_levels, tiles
from tightbound.report.margins import Margin, margins
from tightbound.report.material import Material
from tightbound.rows import Row, example
from tightbound.settings import other_rows
from tightbound.tabular import conditions, draw_given

__all__ = ["MOST_AT_ONCE", "SUFFIXES", "Views"]

MOST_AT_ONCE = 64  # latents that are decoded in one request
SIZES = (1, 8, 32)  # of blocks that are decoded: few, so that few programs are compiled
REACH = 3.0  # how many deviations of the aggregate posterior a slider goes to each side
WEIGHTS, FEWER_WEIGHTS, LARGE = 4096, 512, 4096  # importance weights of an example, and of one with so many sites
GROUPS = 8  # fewest groups of weights that a bound is averaged over
COLUMN_DRAWS = 256  # from p(x|z), which stand for it
GIVEN = 400  # rows drawn under conditions
FINEST = 72  # points along each axis of a posterior, at most
IMAGES = (".png", ".jpg", ".jpeg")
SUFFIXES = (".npy", ".csv", ".tsv", ".parquet", *IMAGES)


@dataclass(frozen=True)
class Views:
    """The views of one run."""

    material: Material

    @property
    def model(self) -> Model:
        """The model of the run."""
        return self.material.model

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the page has to know before it shows anything."""
        material, spec = self.material, self.model.spec
        found = material.posteriors
        split = found.kl.shape[1] == spec.latent
        spread, middle = found.draw.std(axis=0), found.draw.mean(axis=0)
        latents = [
            {
                "number": int(latent),
                "kl": _plain(found.kl[:, latent].mean()) if split else None,
                "low": _plain(middle[latent] - REACH * spread[latent]),
                "high": _plain(middle[latent] + REACH * spread[latent]),
            }
            for latent in material.order
        ]
        summary = material.run.summary
        return {
            "name": material.run.name,
            "description": spec.sites.describe(),
            "image": spec.sites.is_image,
            "size": list(spec.sites.shape[:2]) if spec.sites.is_image else None,
            "table": material.schema is not None,
            "columns": [margin.facts() for margin in self.margins] if not spec.sites.is_image else [],
            "latents": latents,
            "pair": list(self.pair),
            "masses": list(MASSES),
            "rows": len(material.evaluated),
            "part": material.part,
            "elbo": {name: _plain(summary["elbo"][name]) for name in ("value", "se")},
            "unit": material.unit,
            "truth": spec.latent <= 2,
            "accepts": [suffix for suffix in SUFFIXES if suffix not in IMAGES or spec.sites.is_image],
        }

    @cached_property
    def map(self) -> dict[str, Any]:
        """The means of q(z|x) of the rows in a plane, and how a place of the plane becomes a z."""
        labels = self.material.mapped.labels
        return {
            "points": _plain(np.round(self.plane.points, 4)),
            "labels": None if labels is None else [str(label) for label in labels],
            "names": list(self.plane.names),
            "middle": _plain(self.plane.middle),
            "axes": _plain(self.plane.axes),
        }

    @cached_property
    def plane(self) -> Plane:
        """Where the map lies in the space of the latents."""
        return plane(self.material.posteriors.mean)

    @property
    def pair(self) -> tuple[int, int]:
        """The two latents whose q(z|x) is drawn: all there are, of one twice, or the fullest."""
        latents = self.model.spec.latent
        return (0, latents - 1) if latents <= 2 else (int(self.material.order[0]), int(self.material.order[1]))

    @cached_property
    def margins(self) -> list[Margin]:
        """The columns that are shown."""
        return margins(self.material)

    def warm(self) -> None:
        """Compute what the page begins with, and compile what a hand on a slider should not wait for."""
        json.dumps([self.facts, self.map], allow_nan=False)
        for size in SIZES:
            self.decode(np.zeros((size, self.model.spec.latent)))

    def decode(self, z: np.ndarray) -> list[Any]:
        """Return what p(x|z) looks like for every z (n, L): its mean as a picture, or the shares of its columns."""
        image = self.model.spec.sites.is_image
        looks: list[Any] = []
        while len(looks) < len(z):
            part = z[len(looks) :][: SIZES[-1]]
            size = next(size for size in SIZES if len(part) <= size)
            padded = jnp.asarray(np.resize(part, (size, z.shape[1])), jnp.float32)
            if image:
                looks += self._pictures(np.asarray(_means(self.model, padded, self._exposure))[: len(part)])
            else:
                drawn = np.asarray(_draws(self.model, padded, self._exposure, len(self.margins)))
                looks += [self._shares(x) for x in drawn[: len(part)]]
        return looks

    @cached_property
    def _span(self) -> tuple[float, float]:
        low, high = np.percentile(self.material.evaluated.x, SHADES)
        return float(low), float(high)

    @property
    def _exposure(self) -> Array | None:
        return None if self.material.exposure is None else jnp.float32(self.material.exposure)

    def prior(self, seed: int) -> dict[str, Any]:
        """Return one z drawn from p(z)."""
        return {"z": _plain(np.asarray(prior_draws(self.model, jax.random.key(seed)[None]))[0])}

    def example(self, data: Dataset) -> dict[str, Any]:
        """Return a row, its reconstruction and q(z|x): the mean, and two rows of the factor F with z = mean + F ε."""
        mean, factor = (np.asarray(part) for part in _posterior(self.model, example(data, 0)))
        looks = self._pictures(data.x) if self.model.spec.sites.is_image else [self._cells(data)]
        return {
            "looks": looks[0],
            "reconstruction": self.decode(mean[None])[0],
            "mean": _plain(mean),
            "factor": _plain(factor[list(self.pair)]),
            "label": None if data.labels is None else str(data.labels[0]),
        }

    def evidence(self, data: Dataset) -> dict[str, Any]:
        """Return lower bounds on log p(x) from k importance samples, for k = 1, which is the ELBO, and more, with errors."""
        count = WEIGHTS if self.model.spec.sites.count < LARGE else FEWER_WEIGHTS
        log_weights = np.asarray(_log_weights(self.model, example(data, 0), count), np.float64)
        bounds = []
        for power in range(int(np.log2(count // GROUPS)) + 1):
            of_groups = logsumexp(log_weights.reshape(-1, 2**power), axis=1) - np.log(2**power)
            bounds.append((2**power, of_groups.mean(), of_groups.std(ddof=1) / len(of_groups) ** 0.5))
        weights = np.exp(log_weights - log_weights.max())
        size = weights.sum() ** 2 / np.sum(weights**2)
        error = stated_error(np.asarray(delta_error(jnp.float32(size), count))[None], size[None])[0]
        bounds.append((count, logsumexp(log_weights) - np.log(count), error))
        return {
            "bounds": [{"k": k, "nats": _plain(bound), "se": _plain(error)} for k, bound, error in bounds],
            "ess": _plain(size),
        }

    def truth(self, data: Dataset) -> dict[str, Any]:
        """Return the true posterior p(z|x) on a grid: how many of the regions of highest density each point is in.

        The regions hold 50, 90 and 99 % of its mass. For models with one or two latents.
        """
        grid = posterior_grid(self.model, *example(data, 0))
        levels = np.array(region_levels(grid.log_density, MASSES))
        inside = np.sum(grid.log_density[..., None] >= levels, axis=-1)
        within = [np.flatnonzero(inside.max(axis=other) > 0) for other in _others(inside.ndim)]
        kept = []
        for seen, points in zip(within, grid.axes, strict=True):
            first, last = max(seen[0] - 1, 0), min(seen[-1] + 2, len(points))
            kept.append(slice(first, last, max(1, -(-(last - first) // FINEST))))
        return {
            "axes": [_plain(points[chosen]) for points, chosen in zip(grid.axes, kept, strict=True)],
            "inside": inside[tuple(kept)].tolist(),
            "log_evidence": _plain(grid.log_evidence),
            "error": _plain(grid.error),
        }

    def given(self, text: str, seed: int = 0) -> dict[str, Any]:
        """Return the shares of all columns of a table under conditions such as ``age=30..40,sex=F``."""
        schema = self.material.schema
        if schema is None:
            raise DataError("the run is not of a table, whose columns could be fixed")
        drawn = draw_given(self.model, conditions(schema, text), GIVEN, seed=seed)
        return {"shares": self._shares(drawn), "rows": len(drawn)}

    def first_row(self, suffix: str, content: bytes) -> dict[str, Any]:
        """Return the first row of a file as :meth:`dataset` takes it, and how many there are."""
        if suffix not in SUFFIXES:
            raise DataError(f"expected a file of {', '.join(SUFFIXES)}")
        with tempfile.TemporaryDirectory(prefix="tightbound-") as folder:
            path = Path(folder) / f"upload{suffix}"
            path.write_bytes(content)
            try:
                data = self._picture(folder) if suffix in IMAGES else other_rows(self.material.run, str(path))
            except TightboundError as error:
                raise DataError(str(error).replace(str(path), "the file").replace(folder, "the file")) from None
        cells = data.x[0].astype(np.float64)
        exposure = None if data.exposure is None else float(data.exposure[0])
        known = cells if data.observed is None else np.where(data.observed[0], cells, np.nan)
        return {"row": {"x": _plain(known), "exposure": exposure}, "rows": len(data)}

    def _picture(self, folder: str) -> Dataset:
        """Return the image in a folder as the model's own are: of their size and number of levels."""
        sites = self.model.spec.sites
        levels = 2 if sites.kind == "binary" else sites.levels
        if not sites.is_image or not levels or sites.shape[2] not in (1, 3):
            raise DataError("the model is not of pictures with 8-bit values; give its numbers as .npy")
        height, width, channels = sites.shape
        shades = read_images(Path(folder), (height, width), channels == 1).x / 255.0
        shades = np.broadcast_to(shades, (1, *sites.shape)).reshape(1, -1)
        return Dataset(np.round(shades * (levels - 1)), sites)

    def dataset(self, row: int | None, x: Sequence[float | None] | None, exposure: float | None) -> Dataset:
        """Return one row, an evaluated one by its number or one in numbers, None where it is missing."""
        if (row is None) == (x is None):
            raise DataError("an example is either a row, by its number, or the numbers x")
        if row is not None:
            known = self.material.evaluated
            if not 0 <= row < len(known):
                raise DataError(f"there is no row {row}: {self.material.part} rows 0…{len(known) - 1} can be looked at")
            return known.take(np.array([row]))
        sites = self.model.spec.sites
        cells = np.array([[np.nan if cell is None else cell for cell in x or ()]])
        seen = ~np.isnan(cells)
        if cells.shape[1] != sites.count:
            raise DataError(f"x has {cells.shape[1]} numbers, expected {sites.count}")
        if not sites.missing and not seen.all():
            raise DataError("x has missing numbers, and the model knows none")
        if (exposure is not None and exposure > 0) != sites.exposure:
            raise DataError(f"expected {'a positive' if sites.exposure else 'no'} exposure, got {exposure}")
        filled = np.where(seen, cells, 0.0)
        sites.check(filled, seen)
        exposures = None if exposure is None else np.array([exposure])
        return Dataset(filled, sites, seen if sites.missing else None, exposure=exposures)

    def _pictures(self, x: np.ndarray) -> list[str]:
        shades = np.nan_to_num(tiles(x, self.model.spec.sites, span=self._span))
        shown = np.round(255 * shades).astype(np.uint8)
        return [base64.b64encode(picture.tobytes()).decode("ascii") for picture in shown]

    def _shares(self, x: np.ndarray) -> list[list[float]]:
        return [_plain(np.round(margin.shares(x[:, margin.column]), 6)) for margin in self.margins]

    def _cells(self, data: Dataset) -> list[str | None]:
        seen = np.ones(data.x.shape, bool) if data.observed is None else data.observed
        return [margin.word(float(data.x[0, margin.column])) if seen[0, margin.column] else None for margin in self.margins]


def _others(axes: int) -> list[tuple[int, ...]]:
    """Return, for every axis, the others."""
    return [tuple(other for other in range(axes) if other != axis) for axis in range(axes)]


def _plain(values: Any) -> Any:
    """Return numbers as JSON can hold them, unchanged, and None where they are not finite."""
    array = np.array(values, np.float64)
    plain = array.astype(object)
    plain[~np.isfinite(array)] = None
    return plain.tolist()


@eqx.filter_jit
def _means(model: Model, z: Float[Array, "n L"], exposure: Array | None) -> Float[Array, "n D"]:
    return jax.vmap(lambda z: model.decode(z, exposure))(z)


@eqx.filter_jit
def _draws(model: Model, z: Float[Array, "n L"], exposure: Array | None, columns: int) -> Float[Array, "n K C"]:
    # The same noise at every z, so that what moves is the distribution; one z after another, for there may be many columns.
    key = jax.random.key(0)
    return jax.lax.map(lambda z: model.likelihood(z, exposure).sample(key, (COLUMN_DRAWS,))[:, :columns].astype(jnp.float32), z)


@eqx.filter_jit
def _posterior(model: Model, row: Row) -> tuple[Float[Array, "L"], Float[Array, "L L"]]:
    q = model.posterior(row.x, row.observed)
    return q.mean, q.scale_tril if isinstance(q, dist.MultivariateNormal) else jnp.diag(jnp.sqrt(q.variance))


@eqx.filter_jit
def _log_weights(model: Model, row: Row, count: int) -> Float[Array, "K"]:
    q, prior = model.posterior(row.x, row.observed), model.prior()

    def weigh(z: Array) -> Array:
        return model.log_likelihood(z, *row) + prior.log_prob(z) - q.log_prob(z)

    return jax.lax.map(weigh, q.sample(jax.random.key(0), (count,)), batch_size=256)
