"""Models of few latents inside the form of one of many, so that models of several sizes have the same shapes.

A nested model has the weights of the small one where its latents are, and zeros elsewhere; the latents beyond are switched
off: they are N(0, 1) under q(z|x) and under p(z) whatever the encoder says, and the decoder sees zeros in their place.
They have no influence on any value or gradient, so that a nested model is the small one, and trains as it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float

from tightbound.distributions import confined
from tightbound.errors import CombinationError
from tightbound.likelihoods.base import Constant
from tightbound.model import VAE, Model, ModelSpec
from tightbound.posteriors import PosteriorHead
from tightbound.priors import Encoder, PriorHead
from tightbound.spec import Custom

__all__ = ["nested", "outline", "require_nesting", "unnested"]


class _Kept(eqx.Module):
    """Which latents are kept: a mask that belongs to the model and is not trained."""

    mask: Constant

    def __call__(self) -> Bool[Array, "L"]:
        return self.mask() > 0


class _Decoder(eqx.Module):
    part: Any
    kept: _Kept

    def __call__(self, z: Float[Array, "L"]) -> Array:
        return self.part(jnp.where(self.kept(), z, 0.0))


class _Posterior(PosteriorHead):
    parameters: int = eqx.field(static=True)
    part: PosteriorHead
    kept: _Kept

    def __call__(self, h: Float[Array, "P"]) -> dist.Distribution:
        return confined(self.part(h), self.kept())

    def near(self, loc: Float[Array, "L"], triangle: Float[Array, "L L"]) -> Float[Array, "P"] | None:
        return self.part.near(loc, triangle)


class _Prior(PriorHead):
    part: PriorHead
    kept: _Kept

    def __call__(self, encoder: Encoder) -> dist.Distribution:
        return confined(self.part(encoder), self.kept())


def require_nesting(spec: ModelSpec, sizes: tuple[int, ...]) -> None:
    """Raise :class:`~tightbound.errors.CombinationError` when models of these numbers of latents cannot be nested."""
    if not isinstance(spec, VAE):
        raise CombinationError("latents in several layers cannot be switched off one by one: sweep over one number of them")
    roles = {role: getattr(spec, role) for role in ("encoder", "decoder", "posterior", "prior")}
    for role, part in roles.items():
        if isinstance(part, Custom) or getattr(part, "kind", "") == "flow":
            raise CombinationError(
                f"several latent sizes in one program need parts whose latents can be switched off one by one, which is not "
                f"known of the {role} '{part.target if isinstance(part, Custom) else part.kind}': use a diagonal or full "
                "posterior, a normal, mixture or vamp prior and networks of this package, or fit one size after the other"
            )
    hidden = getattr(spec.decoder, "hidden", ())
    if getattr(spec.decoder, "residual", False) and hidden and hidden[0] in sizes:
        raise CombinationError(
            f"a residual decoder of width {hidden[0]} adds its {hidden[0]} latents to its first layer and no other number of "
            "them: leave out residual, or that latent size"
        )


def outline(spec: ModelSpec) -> Model:
    """Return a model with shapes in the place of arrays; nothing is computed."""
    return eqx.filter_eval_shape(spec.build, jax.random.key(0))


def nested(small: Model, large: Model) -> Model:
    """Return a model of the form of ``large`` (an :func:`outline` will do) that is ``small``."""

    def widened(leaf: Array, like: Any, places: tuple[np.ndarray, ...]) -> Array:
        wide = np.zeros(like.shape, like.dtype)
        wide[places] = leaf
        return jnp.asarray(wide)

    arrays = iter([widened(*pair) for pair in _pairs(small, large)])
    model = jax.tree.map(lambda leaf: next(arrays) if _is_array(leaf) else leaf, large)
    mask = (np.arange(large.spec.latent) < small.spec.latent).astype(np.float32)
    kept = _Kept(Constant(mask))
    parts = (
        _Decoder(model.decoder, kept),
        _Posterior(model.posterior_head.parameters, model.posterior_head, kept),
        _Prior(model.prior_head, kept),
    )
    return eqx.tree_at(lambda m: (m.decoder, m.posterior_head, m.prior_head), model, parts)


def unnested(model: Model, small: Model) -> Model:
    """Return the small model inside a nested one; ``small``, of which an :func:`outline` will do, has its form."""
    wrapped: tuple[Any, ...] = (model.decoder, model.posterior_head, model.prior_head)
    inner = tuple(wrapper.part for wrapper in wrapped)
    large = eqx.tree_at(lambda m: (m.decoder, m.posterior_head, m.prior_head), model, inner)
    arrays = iter([jnp.asarray(np.asarray(wide)[places]) for _, wide, places in _pairs(small, large)])
    return jax.tree.map(lambda leaf: next(arrays) if _is_array(leaf) else leaf, small)


def _pairs(small: Model, large: Model) -> Iterator[tuple[Any, Any, tuple[np.ndarray, ...]]]:
    """Yield the arrays of two models side by side, and where in the larger the smaller lies.

    Axes of weights differ in length where they count latents or the parameters of q(z|x), and nowhere else.
    """
    latents = (small.spec.latent, large.spec.latent)
    parameters = (small.posterior_head.parameters, large.posterior_head.parameters)
    places = {latents: np.arange(latents[0]), parameters: large.posterior_head.of_first(latents[0])}
    for one, other in zip(*(filter(_is_array, jax.tree.leaves(model)) for model in (small, large)), strict=True):
        axes = [
            np.arange(length) if length == wide else places[length, wide]
            for length, wide in zip(one.shape, other.shape, strict=True)
        ]
        yield one, other, np.ix_(*axes)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)
