"""Pixels that depend on their neighbours given z: what the latents need not say, because the pixels nearby say it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions import constraints
from pydantic import Field

from tightbound.distributions import drawn
from tightbound.errors import SupportError
from tightbound.likelihoods.base import Constant, LikelihoodHead, LikelihoodSpec, unknown_statistics
from tightbound.likelihoods.bernoulli import Bernoulli
from tightbound.likelihoods.discretised import DiscretisedLogistic
from tightbound.networks.layers import Linear
from tightbound.schema import Kind, Measure, Sites, Statistics

__all__ = ["Autoregressive"]

MEAN_DRAWS = 16  # whose conditional means are averaged: E[x|z] has no closed form
START = 0.1  # of its usual size, for what the neighbours add: an untrained model is nearly that of ``base``


class Autoregressive(LikelihoodSpec):
    r"""log p(x|z) = Σ_d log p(x_d | z, x_near(d)) in nats, for images: every pixel knows its neighbours that come before it.

    near(d) are the pixels at most ``radius`` rows above and ``radius`` columns beside pixel d that come before it, row by row
    from the upper left corner. To the parameters that the decoder gives for pixel d the neighbours add
    V a(f_d + W x_near(d)), with x in units of its deviation from the training mean, a the SiLU, and f_d ``units`` further
    numbers of the decoder's; ``base`` is the likelihood that has these parameters, unless told Bernoulli for bits and
    discretised logistic for levels. The channels of one pixel are independent given all this.

    So z need not say what is local (Chen et al. 2017, Gulrajani et al. 2017). It is another class of model than one whose
    pixels are independent given z: say so beside its figures. Draws take one pass for every set of pixels that do not know
    each other, and E[x|z] is the mean over 16 fixed draws, with the error that this has. Raises
    :class:`~tightbound.errors.SupportError` for rows that are no images, and for images with unobserved pixels, whose
    neighbours would have to be integrated out.

    >>> sites = Sites(kind="binary", shape=(28, 28, 1))
    >>> Autoregressive(units=8).build(sites, key=jax.random.key(0)).parameter_shape
    (9, 28, 28, 1)
    """

    kind: Literal["autoregressive"] = "autoregressive"
    base: Annotated[Bernoulli | DiscretisedLogistic, Field(discriminator="kind")] | None = None
    radius: int = Field(default=3, ge=1, le=32)
    units: int = Field(default=16, ge=1)
    supports: ClassVar[frozenset[Kind]] = frozenset({"binary", "levels"})
    independent: ClassVar[bool] = False
    references: ClassVar[tuple[str, ...]] = ("chen2017variational", "gulrajani2017pixelvae")

    def kinds(self) -> frozenset[Kind]:
        """Return the kinds of site that the base is for."""
        return self.base.kinds() if self.base else self.supports

    def check(self, sites: Sites) -> None:
        """Raise :class:`SupportError` when the sites are no image, have another kind than the base, or may be unobserved."""
        super().check(sites)
        if not sites.is_image:
            raise SupportError(
                f"the likelihood 'autoregressive' is for images, whose pixels have neighbours, but the data has "
                f"{sites.describe()}; use '{self._base(sites).kind}'"
            )

    def _base(self, sites: Sites) -> Bernoulli | DiscretisedLogistic:
        return self.base or (Bernoulli() if sites.kind == "binary" else DiscretisedLogistic())

    def build(self, sites: Sites, statistics: Statistics | None = None, *, key: Array | None = None) -> LikelihoodHead:
        """Return the head; it reads the base's parameters and ``units`` more per site."""
        known = statistics or unknown_statistics(sites)
        base = self._base(sites).build(sites, statistics)
        height, width, channels = sites.shape
        parameters = base.parameter_shape[0]
        near_key, out_key = jax.random.split(jax.random.key(0) if key is None else key)
        read = (2 * self.radius * (self.radius + 1)) * channels
        near = Linear.initialise(read, self.units * channels, key=near_key)
        out = Linear.initialise(self.units * channels, parameters * channels, key=out_key)
        return _Autoregressive(
            (parameters + self.units, height, width, channels),
            base,
            near,
            Linear(START * out.weight, out.bias),
            Constant(known.mean),
            Constant(known.scale),
            self.radius,
        )


class _Autoregressive(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    base: LikelihoodHead
    near: Linear
    out: Linear
    mean: Constant
    scale: Constant
    radius: int = eqx.field(static=True)
    measure: ClassVar[Measure] = "counting"

    def __call__(self, h: Array, exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        return _Raster(h, self)

    @property
    def neighbours(self) -> Int[np.ndarray, "pixels N"]:
        """The numbers of the pixels that each pixel knows; what lies outside of the image has the number after the last."""
        height, width = self.parameter_shape[1:3]
        row, column = (index.reshape(-1, 1) for index in np.mgrid[:height, :width])
        up, aside = (index.ravel() for index in np.mgrid[-self.radius : 1, -self.radius : self.radius + 1])
        before = (up < 0) | (aside < 0)
        rows, columns = row + up[before], column + aside[before]
        inside = (rows >= 0) & (columns >= 0) & (columns < width)
        return np.where(inside, rows * width + columns, height * width)

    def told(self, h: Array, x: Float[Array, "D"], pixels: Int[Array, "n"] | None = None) -> Float[Array, "P n channels"]:
        """Return the base's parameters at some pixels or at all, given the neighbours that x holds.

        Pixels are the last axis throughout: as the first one, they would have to change places with the units and back.
        """
        parameters, channels = self.base.parameter_shape[0], self.parameter_shape[3]
        here, near = h.reshape(len(h), -1, channels).swapaxes(1, 2), jnp.asarray(self.neighbours.T)
        if pixels is not None:
            here, near = here[..., pixels], near[:, pixels]
        standard = ((x - self.mean()) / self.scale()).reshape(-1, channels).T
        windows = jnp.pad(standard, ((0, 0), (0, 1)))[:, near].reshape(-1, near.shape[1])
        features = here[parameters:].reshape(-1, near.shape[1])
        nothing = 0.0 * x[0]
        added = _down(self.out, jax.nn.silu(features + _down(self.near, windows, nothing)), nothing)
        return (here[:parameters] + added.reshape(parameters, channels, -1)).swapaxes(1, 2)

    def given(self, h: Array, x: Float[Array, "D"]) -> dist.Distribution:
        """Return the distribution whose sites are p(x_d | z, x_near(d))."""
        return self.base(self.told(h, x).reshape(self.base.parameter_shape))


def _down(linear: Linear, columns: Float[Array, "inputs n"], nothing: Float[Array, ""]) -> Float[Array, "outputs n"]:
    """Return Wᵀ columns + b, with weights that ``nothing`` makes the example's own.

    So the gradient in W is one product for each example and then a sum over examples. As a single sum over examples and
    columns it is not taken by a matrix product, and takes two to three times as long (docs/decisions.md).
    """
    return (linear.weight + nothing).T @ columns + linear.bias[:, None]


class _Raster(dist.Distribution):
    """p(x) = Π_d p(x_d | x_near(d)) over the sites of one image, batch shape (D,): ``log_prob`` gives its factors.

    The sites are not independent: a draw is one of all of them, and the factors of one x belong together.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    pytree_data_fields = ("h", "head")

    def __init__(self, h: Array, head: _Autoregressive) -> None:
        # Behind a function its weights are no arrays of the distribution: they do not vary with z.
        self.h, self.head = h, lambda: head
        super().__init__((int(np.prod(head.parameter_shape[1:])),), (), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """That of the base."""
        return constraints.nonnegative_integer

    def log_prob(self, x: Array, intermediates: object = None) -> Array:
        """Return log p(x_d | x_near(d)) in nats for x of shape (…, D)."""
        one = jnp.vectorize(lambda row: self.head().given(self.h, row).log_prob(row), signature="(d)->(d)")
        return one(x)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw the sites in their order."""
        return drawn(lambda one: self._in_order(one)[0], key, sample_shape)

    @property
    def mean(self) -> Array:
        """E[x], from the conditional means of fixed draws."""
        means = drawn(lambda one: self._in_order(one)[1], jax.random.key(0), (MEAN_DRAWS,))
        return jnp.mean(means, axis=0)

    def _in_order(self, key: Array) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
        """Return a draw, and the mean of every site given the sites before it in that draw.

        A pixel knows none that stands ``radius`` + 1 columns further in the row above, so that these can be drawn at once.
        """
        head = self.head()
        height, width, channels = head.parameter_shape[1:]
        rows = jnp.arange(height)

        def step(number: Array, state: tuple[Any, ...]) -> tuple[Any, ...]:
            x, mean, parameters = state
            column = number - (head.radius + 1) * rows
            now = (column >= 0) & (column < width)
            pixels = rows * width + jnp.clip(column, 0, width - 1)
            old = parameters[:, pixels]
            parameters = parameters.at[:, pixels].set(jnp.where(now[:, None], head.told(self.h, x, pixels), old))
            p = head.base(parameters.reshape(head.base.parameter_shape))
            chosen = jnp.zeros((height * width, channels), bool).at[pixels].set(now[:, None]).ravel()
            new = p.sample(jax.random.fold_in(key, number)).astype(jnp.float32)
            return jnp.where(chosen, new, x), jnp.where(chosen, p.mean, mean), parameters

        sites = jnp.zeros(height * width * channels)
        parameters = jnp.zeros((head.base.parameter_shape[0], height * width, channels))
        steps = width + (head.radius + 1) * (height - 1)
        x, mean, _ = jax.lax.fori_loop(0, steps, step, (sites, sites, parameters))
        return x, mean
