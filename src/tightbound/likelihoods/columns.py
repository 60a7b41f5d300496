"""One distribution over sites of several kinds, made of the likelihoods of each kind."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from pydantic import Field

from tightbound.distributions import Joined, Measured
from tightbound.likelihoods.base import Constant, LikelihoodHead, LikelihoodSpec, raw_rows, unknown_statistics
from tightbound.likelihoods.bernoulli import Bernoulli
from tightbound.likelihoods.categorical import Categorical
from tightbound.likelihoods.counts import NegativeBinomial, Poisson
from tightbound.likelihoods.discretised import DiscretisedLogistic
from tightbound.likelihoods.gaussian import Gaussian
from tightbound.likelihoods.mixture import LogisticMixture
from tightbound.likelihoods.ordinal import Ordinal
from tightbound.schema import Kind, Measure, Part, Sites, Statistics

__all__ = ["Columns"]


class Columns(LikelihoodSpec):
    """p(x|z) = Π over parts p(x_part | z): each part of mixed sites by the likelihood of its kind.

    The parts are those of the sites; the decoder's numbers are cut into one piece for each. Real parts carry the change to
    the user's units, so that densities are per unit of what the user measured, and know rounded numbers and atoms
    (:class:`tightbound.schema.Part`).
    """

    kind: Literal["columns"] = "columns"
    binary: Bernoulli = Bernoulli()
    levels: Annotated[Ordinal | DiscretisedLogistic | Categorical, Field(discriminator="kind")] = Ordinal()
    category: Categorical = Categorical()
    count: Annotated[NegativeBinomial | Poisson, Field(discriminator="kind")] = NegativeBinomial(dispersion="predicted")
    real: Annotated[LogisticMixture | Gaussian, Field(discriminator="kind")] = LogisticMixture()
    supports: ClassVar[frozenset[Kind]] = frozenset({"mixed"})
    references: ClassVar[tuple[str, ...]] = ("nazabal2020handling",)

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; it reads the parameters of all parts, one after another."""
        known = statistics or unknown_statistics(sites)
        keys = jax.random.split(jax.random.key(0) if key is None else key, len(sites.parts))
        heads = []
        for part, part_key in zip(sites.parts, keys, strict=True):
            own = Statistics(known.mean[part.at], known.scale[part.at])
            spec: Any = getattr(self, part.sites.kind)
            head = spec.build(part.sites, own, key=part_key)
            heads.append(_Measured(head, part) if part.sites.kind == "real" else head)
        lined_up = np.concatenate([part.columns for part in sites.parts])
        count = sum(math.prod(head.parameter_shape) for head in heads)
        return _Columns((count,), tuple(heads), tuple(int(site) for site in lined_up))


class _Columns(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    heads: tuple[LikelihoodHead, ...]
    columns: tuple[int, ...] = eqx.field(static=True)
    measure: ClassVar[Measure] = "mixed"

    def owners(self) -> np.ndarray:
        """Return the site that each of the decoder's numbers belongs to."""
        owners: list[np.ndarray] = []
        sites = 0
        for head in self.heads:
            owners.append(np.ravel(head.owners()) + sites)
            sites = int(owners[-1].max()) + 1
        return np.asarray(self.columns)[np.concatenate(owners)]

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        sizes = [math.prod(head.parameter_shape) for head in self.heads]
        pieces = jnp.split(jnp.ravel(h), np.cumsum(sizes)[:-1])
        parts = tuple(head(piece.reshape(head.parameter_shape)) for head, piece in zip(self.heads, pieces, strict=True))
        order = tuple(int(place) for place in np.argsort(self.columns))
        return Joined(parts, order)


class _Measured(LikelihoodHead):
    """The head of a real part: that of its likelihood, whose numbers are followed by a row for each atom and one more."""

    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    smooth: LikelihoodHead
    units: tuple[Constant, ...]
    atoms: Constant
    rounded: bool = eqx.field(static=True)
    measure: ClassVar[Measure] = "mixed"

    def __init__(self, smooth: LikelihoodHead, part: Part) -> None:
        table = part.atom_table
        rows, count = smooth.parameter_shape
        self.smooth, self.atoms, self.rounded = smooth, Constant(table), any(part.width)
        self.units = tuple(Constant(np.asarray(values)) for values in (part.offset, part.slope, part.width))
        self.parameter_shape = (rows + (table.shape[1] + 1 if table.size else 0), count)

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        rows = self.smooth.parameter_shape[0]
        raw = raw_rows(h, self.parameter_shape[0])
        logits = raw[rows:].T if len(raw) > rows else jnp.zeros((raw.shape[1], 1))
        offset, slope, width = (constant() for constant in self.units)
        return Measured(self.smooth(raw[:rows], exposure), (offset, slope, width), logits, self.atoms(), self.rounded)
