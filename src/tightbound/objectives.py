"""Objectives: what training minimises, in nats per example, written for one row and averaged over a batch in one place.

A spec (``ELBO``, ``IWAE``) is the choice; ``build()`` gives the function, whose numbers (β, the warm-up, free bits) are
traced, so that another β does not compile another program.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

from tightbound.distributions import divergence, stop, training_log_prob
from tightbound.errors import CombinationError, SpecError
from tightbound.model import Model
from tightbound.rows import Batch, Row
from tightbound.spec import Spec

__all__ = ["ELBO", "IWAE", "AnyObjective", "Loss", "Objective", "ObjectiveSpec", "Phase", "Terms", "phases"]

LAST_SHARE = 0.2  # of a run, for an objective that follows another and does not say


class Terms(NamedTuple):
    """One row's terms in nats; averaged over rows they keep their meaning.

    ``reconstruction`` is −log p(x|z), ``kl`` (G,) the KL per group of latents (one group where it does not split), and
    ``bound`` the lower bound on log p(x) that these draws give.
    """

    reconstruction: Float[Array, ""]
    kl: Float[Array, "G"]
    bound: Float[Array, ""]


class Loss(NamedTuple):
    """What a step minimises, the terms averaged over its rows, and the weight of the KL that was really used."""

    value: Float[Array, ""]
    terms: Terms
    beta: Float[Array, ""]


class Objective(eqx.Module):
    """A loss: ``example`` is the L_i of one row, ``value`` turns averaged terms into what is minimised."""

    @abstractmethod
    def example(
        self,
        model: Model,
        prior: dist.Distribution,
        row: Row,
        key: Array,
    ) -> Terms:
        """Return the terms of one row, with noise from ``key``."""

    @abstractmethod
    def value(self, terms: Terms, step: Int[Array, ""], layers: tuple[int, ...] | None = None) -> Loss:
        """Return the loss from the terms averaged over the batch, at a step.

        ``layers`` are the numbers of latents in every layer of the model; without them each KL group is one latent.
        """

    def __call__(self, model: Model, batch: Batch, key: Array, step: Int[Array, ""]) -> Loss:
        """Return the loss of a batch: the mean over rows of weight 1; the prior is built once."""
        terms = self.rows(model, batch, key)
        total = jnp.maximum(jnp.sum(batch.weight), 1.0)
        mean = jax.tree.map(lambda term: jnp.tensordot(batch.weight, term, axes=1) / total, terms)
        return self.value(mean, step, model.spec.layers)

    def rows(self, model: Model, batch: Batch, key: Array) -> Terms:
        """Return the terms of every row, leading axis (B,): the only place where an objective is batched."""
        prior = model.prior()
        return jax.vmap(partial(self.example, model, prior))(batch.rows, _row_keys(key, len(batch.x)))


def _row_keys(key: Array, rows: int) -> Array:
    """Return a key per row: ``key`` with the row's number added to its second word.

    The generator is a hash that gives independent streams to any keys that differ (Salmon et al. 2011): the keys need
    not be drawn themselves, which would take longer than to draw the noise.
    """
    words = jax.random.key_data(key)
    number = jnp.arange(rows, dtype=words.dtype)[:, None]
    return jax.random.wrap_key_data(words + number * (jnp.arange(words.size) == 1), impl=jax.random.key_impl(key))


class ObjectiveSpec(Spec):
    """The choice of an objective.

    ``then`` is the objective that takes over for the last part of the run; the ``share`` of the run that it has, 0.2 unless
    told, stands with it: ``ELBO(then=IWAE(k=5, gradient="dreg", share=0.1))``. Steps, learning rate, optimiser and averaged
    weights go on as if nothing had happened; the weights that are kept are the best of the last phase, by its own bound.
    """

    kind: str = ""
    share: float | None = Field(default=None, gt=0, lt=1)
    then: AnyObjective | None = None

    def check(self, layers: tuple[int, ...]) -> None:
        """Raise :class:`~tightbound.errors.CombinationError` when the objective is not for a model with these layers."""

    @abstractmethod
    def build(self) -> Objective:
        """Return the objective as a function."""

    def judge(self) -> Objective | None:
        """Return what gives the terms by which weights are compared on validation rows, None for the ELBO."""
        return None

    @model_validator(mode="after")
    def _some_share_left(self) -> ObjectiveSpec:
        shares = [one.share or LAST_SHARE for one in self.chain()[1:]]
        if sum(shares) >= 1:
            raise ValueError(f"the objectives that follow take {' + '.join(map(str, shares))} of the run: nothing is left")
        return self

    def chain(self) -> tuple[ObjectiveSpec, ...]:
        """Return this objective and those that follow, in their order."""
        return (self, *(self.then.chain() if self.then is not None else ()))


class Phase(NamedTuple):
    """A part of a run under one objective, from the step with this number (counted from 0) to the next phase."""

    start: int
    objective: ObjectiveSpec


def phases(objective: ObjectiveSpec, steps: int) -> tuple[Phase, ...]:
    """Return the phases of a run of some steps.

    Raises :class:`~tightbound.errors.SpecError` when a phase has no step, or when the first objective names a share.

    >>> [phase.start for phase in phases(ELBO(then=IWAE(k=5, share=0.25)), 100)]
    [0, 75]
    """
    if objective.share is not None:
        raise SpecError("objective", (("share", "is for an objective that follows another as its `then`; leave it out"),))
    chain = objective.chain()
    left = [sum(one.share or LAST_SHARE for one in chain[index:]) for index in range(1, len(chain))]
    starts = [0, *(steps - round(steps * share) for share in left)]
    if any(start >= end for start, end in zip(starts, [*starts[1:], steps], strict=True)):
        raise SpecError("objective", (("then", f"{len(chain)} phases of these shares need a longer run than {steps} steps"),))
    return tuple(Phase(start, one) for start, one in zip(starts, chain, strict=True))


class ELBO(ObjectiveSpec):
    r"""The loss L_i = −E_q[log p(x_i|z)] + β KL(q(z|x_i) ‖ p(z)), minus the evidence lower bound when β = 1.

    The KL is closed where :func:`tightbound.distributions.kl` knows it and estimated at the draw otherwise, of
    a hierarchy layer by layer (:func:`tightbound.distributions.divergence`).
    ``warmup`` is the number of steps of this run over which the weight of the KL rises linearly from 0 to ``beta``.
    ``free_bits`` is the number of nats per latent below which the batch mean of the KL is not pushed further. Of a hierarchy
    both may be tuples with one number for each layer, the top one first; records then hold the smallest weight.
    ``gradient="stl"`` scores the draw under q with its parameters held fixed: unbiased, and without noise once q is the
    true posterior (Roeder et al. 2017); the KL is then that of the draw. ``then`` is the objective of the last ``share`` of
    the run, as in ``ELBO(then=IWAE(k=5, gradient="dreg", share=0.1))``.

    >>> ELBO(beta=4.0).build().value(Terms(jnp.array(10.0), jnp.array([1.0, 2.0]), jnp.array(-13.0)), 0).value.item()
    22.0
    """

    kind: Literal["elbo"] = "elbo"
    beta: float = Field(default=1.0, ge=0)
    warmup: NonNegativeInt | tuple[NonNegativeInt, ...] = 0
    free_bits: NonNegativeFloat | tuple[NonNegativeFloat, ...] = 0.0
    gradient: Literal["pathwise", "stl"] = "pathwise"
    references: ClassVar[tuple[str, ...]] = (
        "kingma2014auto", "higgins2017beta", "bowman2016generating", "kingma2016improved", "roeder2017sticking",
    )  # fmt: skip

    def check(self, layers: tuple[int, ...]) -> None:
        """Raise :class:`CombinationError` when there are numbers for other layers than the model has."""
        for name in ("warmup", "free_bits"):
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) != len(layers):
                raise CombinationError(
                    f"ELBO({name}={given}) has a number for each of {len(given)} layers, but the model has {len(layers)}: give "
                    f"as many numbers, the top layer's first, or one for all"
                )

    def build(self) -> Objective:
        """Return the objective as a function."""
        warmup, free_bits = (jnp.asarray(given, jnp.float32) for given in (self.warmup, self.free_bits))
        return _ELBO(jnp.float32(self.beta), warmup, free_bits, self.gradient == "stl")


class _ELBO(Objective):
    beta: Float[Array, ""]
    warmup: Float[Array, "*layers"]
    free_bits: Float[Array, "*layers"]
    stl: bool = eqx.field(static=True)

    def example(
        self,
        model: Model,
        prior: dist.Distribution,
        row: Row,
        key: Array,
    ) -> Terms:
        q = model.posterior(row.x, row.observed)
        z = q.sample(key)
        log_likelihood = model.log_likelihood(z, *row)
        terms = divergence(stop(q) if self.stl else q, prior, z, closed=not self.stl, training=True)
        return Terms(-log_likelihood, terms, log_likelihood - jnp.sum(terms))

    def value(self, terms: Terms, step: Int[Array, ""], layers: tuple[int, ...] | None = None) -> Loss:
        sizes = layers or (1,) * terms.kl.size
        latents = sum(sizes) / terms.kl.size
        free, warmup = (_each(numbers, sizes) for numbers in (self.free_bits, self.warmup))
        beta = self.beta * jnp.minimum(1.0, step / jnp.maximum(warmup, 1.0) + (warmup == 0))
        # Without free bits nothing is clamped: a Monte Carlo KL may be negative, and cutting it at 0 would bias the loss.
        floored = jnp.where(free > 0, jnp.maximum(terms.kl, free * latents), terms.kl)
        penalised = jnp.sum(beta * floored) if beta.ndim else beta * jnp.sum(floored)
        return Loss(terms.reconstruction + penalised, terms, jnp.min(beta))


def _each(numbers: Float[Array, "*layers"], sizes: tuple[int, ...]) -> Float[Array, "*L"]:
    """Return the number of every latent from those of the layers; one number for all of them stays one."""
    return jnp.repeat(numbers, np.asarray(sizes), total_repeat_length=sum(sizes)) if numbers.ndim else numbers


class IWAE(ObjectiveSpec):
    r"""Minus the importance-weighted bound log (1/k) Σ_j w_j, w = p(x|z) p(z) / q(z|x) (Burda et al. 2016).

    ``gradient="dreg"`` is the doubly reparameterised gradient (Tucker et al. 2019), whose signal-to-noise ratio grows
    with k where the pathwise one falls. Sticking the landing inside k > 1 draws is biased, hence not offered. ``share`` is the
    part of the run that it has when it follows another objective, as in ``ELBO(then=IWAE(k=5, share=0.1))``.
    """

    kind: Literal["iwae"] = "iwae"
    k: int = Field(default=5, ge=1, le=100_000)
    gradient: Literal["pathwise", "dreg"] = "pathwise"
    references: ClassVar[tuple[str, ...]] = ("burda2016importance", "tucker2019doubly")

    def __init__(self, **fields: Any) -> None:
        if fields.get("gradient") == "stl":
            raise CombinationError(
                "IWAE(gradient='stl') is biased for k > 1: use gradient='dreg', the unbiased counterpart, "
                "or ELBO(gradient='stl')"
            )
        super().__init__(**fields)

    def build(self) -> Objective:
        """Return the objective as a function."""
        return _IWAE(self.k, self.gradient == "dreg")

    def judge(self) -> Objective:
        """Return the bound with as many draws: the ELBO falls while it rises, as q(z|x) grows wider than the ELBO likes it."""
        return _IWAE(self.k, dreg=False)


class _IWAE(Objective):
    k: int = eqx.field(static=True)
    dreg: bool = eqx.field(static=True)

    def example(
        self,
        model: Model,
        prior: dist.Distribution,
        row: Row,
        key: Array,
    ) -> Terms:
        q = model.posterior(row.x, row.observed)
        scored = stop(q) if self.dreg else q

        def weigh(z: Array) -> tuple[Array, Array]:
            reconstruction = -model.log_likelihood(z, *row)
            return reconstruction, scored.log_prob(z) - training_log_prob(prior, z)

        draws = q.sample(key, (self.k,))
        if self.dreg:
            held = jax.vmap(weigh)(jax.lax.stop_gradient(draws))
            weights = jax.lax.stop_gradient(jax.nn.softmax(-held[0] - held[1]))
            draws = jax.vmap(_scale_gradient)(draws, weights)
        reconstruction, difference = jax.vmap(weigh)(draws)
        bound = logsumexp(-reconstruction - difference) - jnp.log(self.k)
        return Terms(jnp.mean(reconstruction), jnp.mean(difference)[None], bound)

    def value(self, terms: Terms, step: Int[Array, ""], layers: tuple[int, ...] | None = None) -> Loss:
        return Loss(-terms.bound, terms, jnp.float32(1.0))


@jax.custom_vjp
def _scale_gradient(z: Array, weight: Array) -> Array:
    """Return z; on the way back its cotangent is multiplied by the weight (which itself gets none)."""
    return z


def _scale_gradient_forward(z: Array, weight: Array) -> tuple[Array, Array]:
    return z, weight


def _scale_gradient_backward(weight: Array, cotangent: Array) -> tuple[Array, Array]:
    return weight * cotangent, jnp.zeros_like(weight)


_scale_gradient.defvjp(_scale_gradient_forward, _scale_gradient_backward)

AnyObjective = Annotated[ELBO | IWAE, Field(discriminator="kind")]
for _spec in (ObjectiveSpec, ELBO, IWAE):
    _spec.model_rebuild()
