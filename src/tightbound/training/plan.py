"""How long to train and with what: the plan, and the optimiser that it stands for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from tightbound.spec import Spec
from tightbound.training.adam import scale_by_adam
from tightbound.training.muon import scale_by_muon_or_adam

__all__ = ["Method", "Optimiser", "Plan", "Rates"]

AVERAGE_EVERY = 8  # steps
Optimiser = Literal["adamw", "adamax", "muon"]
_DIRECTIONS: dict[Optimiser, Callable[[Array, Array], optax.GradientTransformation]] = {
    "adamw": scale_by_adam,
    "adamax": optax.scale_by_adamax,
    "muon": scale_by_muon_or_adam,
}
_ENTRYWISE: frozenset[Optimiser] = frozenset({"adamw", "adamax"})  # to which it is the same how arrays are joined


class Method(NamedTuple):
    """What of a plan a compiled step is made for: which optimiser, and whether it averages the gradients of several batches."""

    optimiser: Optimiser
    grows: bool

    @property
    def entrywise(self) -> bool:
        """Whether it is the same to it how arrays are joined."""
        return self.optimiser in _ENTRYWISE


class Plan(Spec):
    """How to train: length, batches, optimiser, averaging, stopping.

    Length is ``epochs`` or ``steps``. ``optimiser`` is AdamW, Adamax (Adam with the largest gradient so far in place of the
    mean square), or Muon, which turns the averaged gradient of every matrix of encoder and decoder into an orthogonal one and
    leaves all else to Adam; matrices decay by ``weight_decay`` under each of them. The learning rate rises linearly over
    ``warmup`` (a share of the run) to ``learning_rate`` and, with ``schedule="cosine"``, falls to ``final`` times it.
    Gradients longer than ``clip`` are shortened to it. ``growth`` lets the batches grow: the gradients of 1, 2, …, ``growth``
    batches in turn, each for an equal share of the run, are averaged before the weights move. With ``average`` the weights
    that are evaluated and kept are an exponential average of the trained ones, with that decay per step (applied in every
    eighth), shorter at the start; 0 switches it off. ``patience`` is the number of evaluations without a better validation
    ELBO, its KL weighted as the objective does in the end, after which training stops; the best weights are kept either way.
    Evaluations come every ``evaluate_every`` steps, by default every epoch but at most a hundred in a run.

    >>> Plan(epochs=3, batch_size=50).total_steps(rows=120)
    8
    """

    kind: Literal["plan"] = "plan"
    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=128, ge=1, le=1_000_000)
    optimiser: Optimiser = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=0.02, ge=0, le=1)
    schedule: Literal["constant", "cosine"] = "cosine"
    final: float = Field(default=0.01, ge=0, le=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    clip: float = Field(default=100.0, gt=0)
    growth: int = Field(default=1, ge=1, le=1000)
    average: float = Field(default=0.999, ge=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    evaluate_every: int | None = Field(default=None, ge=1)
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    references: ClassVar[tuple[str, ...]] = (
        "kingma2015adam", "loshchilov2019decoupled", "loshchilov2017sgdr", "jordan2024muon", "liu2025muon",
        "smith2018batch",
    )  # fmt: skip

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        return self

    def total_steps(self, rows: int) -> int:
        """Return the number of steps for a data set of ``rows`` rows (100 epochs when the plan names no length)."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((self.epochs or 100) * rows / min(self.batch_size, rows)))

    def evaluation_interval(self, rows: int) -> int:
        """Return the number of steps between evaluations."""
        if self.evaluate_every is not None:
            return self.evaluate_every
        epoch = math.ceil(rows / min(self.batch_size, rows))
        return epoch * math.ceil(self.total_steps(rows) / epoch / 100)

    @property
    def method(self) -> Method:
        """What of the plan a compiled step is made for."""
        return Method(self.optimiser, self.growth > 1)

    def rates(self, rows: int) -> Rates:
        """Return the numbers of the optimiser, which a compiled step takes as inputs."""
        total = self.total_steps(rows)
        cosine = self.schedule == "cosine"
        numbers = (
            self.learning_rate, total * self.warmup, total, self.final if cosine else 1.0, self.weight_decay,
            self.beta1, self.beta2, self.clip, self.growth, self.average,
        )  # fmt: skip
        return Rates(*(jnp.float32(number) for number in numbers))


class Rates(NamedTuple):
    """A plan's numbers as traced scalars: another learning rate or length compiles nothing."""

    peak: Float[Array, ""]
    warmup: Float[Array, ""]
    total: Float[Array, ""]
    final: Float[Array, ""]
    weight_decay: Float[Array, ""]
    beta1: Float[Array, ""]
    beta2: Float[Array, ""]
    clip: Float[Array, ""]
    growth: Float[Array, ""]
    average: Float[Array, ""]

    def learning_rate(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return the learning rate of a step: linear rise, then half a cosine down to ``final`` · peak."""
        rise = jnp.minimum(1.0, (step + 1.0) / jnp.maximum(self.warmup, 1.0))
        done = jnp.clip((step - self.warmup) / jnp.maximum(self.total - self.warmup, 1.0), 0.0, 1.0)
        fall = self.final + (1.0 - self.final) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return self.peak * rise * fall

    def batches(self, step: Int[Array, ""]) -> Int[Array, ""]:
        """Return how many batches' gradients are averaged before the weights move, at a step."""
        return jnp.minimum(1.0 + jnp.floor(self.growth * step / self.total), self.growth).astype(jnp.int32)

    def descent(
        self, method: Method, learning_rate: Float[Array, ""], batches: Int[Array, ""] | int = 1
    ) -> optax.GradientTransformation:
        """Return an optimiser at a learning rate; matrices decay, vectors (biases, scales) do not."""
        descent = optax.chain(
            _DIRECTIONS[method.optimiser](self.beta1, self.beta2),
            optax.add_decayed_weights(self.weight_decay, mask=lambda tree: jax.tree.map(lambda w: w.ndim > 1, tree)),
            optax.scale_by_learning_rate(learning_rate),
        )
        return optax.MultiSteps(descent, lambda _: batches).gradient_transformation() if method.grows else descent

    def averaging(self, step: Int[Array, ""]) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        """Return the decay of the averaged weights at a step, and whether this step takes part.

        Per step the decay has a short memory first, (1 + t)/(10 + t), and then is ``average``. To read and write the
        average costs a step 2 %, so only every eighth takes part, with eight steps' decay, and always the last.
        """
        decay = jnp.minimum(self.average, (1.0 + step) / (10.0 + step)) ** AVERAGE_EVERY
        return decay, (self.total - 1.0 - step) % AVERAGE_EVERY == 0.0
