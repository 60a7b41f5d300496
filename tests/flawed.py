"""Parts with one flaw each, as they are seen in the field: a contract that lets one of them pass is no contract.

They are named by ``Custom(target="flawed:…", args={"flaw": …})``; the flaw "none" is the control.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

from tightbound.distributions import diagonal_gaussian, positive
from tightbound.likelihoods import LikelihoodHead
from tightbound.objectives import Loss, Objective, ObjectiveSpec, Terms
from tightbound.posteriors import PosteriorHead
from tightbound.priors import Encoder, PriorHead


class FlawedGaussian(dist.Distribution):
    """A Gaussian with independent components over one z, and a flaw."""

    pytree_data_fields = ("loc", "scale")
    pytree_aux_fields = ("flaw",)

    def __init__(self, loc: Any, scale: Any, flaw: str) -> None:
        self.loc, self.scale, self.flaw = loc, scale, flaw
        super().__init__((), jnp.shape(loc), validate_args=False)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        noise = jax.random.normal(key, (*sample_shape, *self.event_shape))
        scale = self.scale**2 if self.flaw == "variance for deviation" else self.scale
        draw = self.loc + scale * noise
        return jax.lax.stop_gradient(draw) if self.flaw == "detached draws" else draw

    def log_prob(self, z: Any, intermediates: Any = None) -> Any:
        log_density = diagonal_gaussian(self.loc, self.scale).log_prob(z)
        return log_density + (0.919 if self.flaw == "missing constant" else 0.0)

    def training_log_prob(self, z: Any) -> Any:
        return self.log_prob(z) * (1.001 if self.flaw == "another training form" else 1.0)


class posterior(PosteriorHead):
    parameters: int = eqx.field(static=True)
    flaw: str = eqx.field(static=True)
    unused: Any

    def __init__(self, latent: int, *, key: Any, flaw: str) -> None:
        self.parameters, self.flaw = 2 * latent, flaw
        self.unused = jnp.zeros(3) if flaw == "unused array" else None

    def __call__(self, h: Any) -> dist.Distribution:
        loc, raw = jnp.split(h, 2)
        scale = jnp.exp(0.5 * raw) if self.flaw == "unbounded variance" else positive(raw, 1e-3)
        if self.flaw == "batch of components":
            return dist.Normal(loc, scale, validate_args=False)
        return FlawedGaussian(loc, scale, self.flaw)


class prior(PriorHead):
    raw: Any
    flaw: str = eqx.field(static=True)

    def __init__(self, latent: int, sites: Any, statistics: Any, *, key: Any, flaw: str) -> None:
        self.raw, self.flaw = jnp.zeros(latent), flaw

    def __call__(self, encoder: Encoder) -> dist.Distribution:
        scale = positive(self.raw, 1e-3)
        if self.flaw == "frozen":
            scale = jax.lax.stop_gradient(scale)
        if self.flaw == "half frozen":
            scale = jnp.where(jnp.arange(scale.size) == 0, jax.lax.stop_gradient(scale), scale)
        return FlawedGaussian(jnp.zeros_like(scale), scale, self.flaw)


class FlawedNormal(dist.Normal):
    """A Gaussian per site, and a flaw."""

    flaw = "none"
    pytree_aux_fields = ("flaw",)

    def log_prob(self, x: Any, intermediates: Any = None) -> Any:
        if self.flaw == "mean over sites":
            return super().log_prob(x) / x.size
        if self.flaw == "squared error":
            return -((x - self.loc) ** 2)
        return super().log_prob(x)

    @property
    def mean(self) -> Any:
        return jnp.full_like(self.loc, jnp.nan) if self.flaw == "mean is NaN" else self.loc


class FlawedPoisson(dist.Poisson):
    """The textbook's formula, in which the last term has been forgotten or not."""

    flaw = "none"
    pytree_aux_fields = ("flaw",)

    def log_prob(self, x: Any, intermediates: Any = None) -> Any:
        return x * jnp.log(self.rate) - self.rate - (0.0 if self.flaw == "missing factorial" else gammaln(x + 1))


class likelihood(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    flaw: str = eqx.field(static=True)
    measure: ClassVar[str] = "lebesgue"

    def __init__(self, sites: Any, statistics: Any, *, key: Any, flaw: str) -> None:
        self.parameter_shape, self.flaw = (2, *sites.shape), flaw

    def __call__(self, h: Any, exposure: Any = None) -> dist.Distribution:
        loc, raw = h.reshape(2, -1)
        if self.flaw == "sites that see each other":
            loc = loc - jnp.mean(loc)
        if self.flaw == "frozen mean":
            loc = jax.lax.stop_gradient(loc)
        scale = positive(raw, 1e-3)
        scale = jnp.exp(raw) if self.flaw == "unbounded scale" else scale
        p = FlawedNormal(loc, scale, validate_args=False)
        p.flaw = self.flaw
        return p


class counts(LikelihoodHead):
    parameter_shape: tuple[int, ...] = eqx.field(static=True)
    flaw: str = eqx.field(static=True)
    measure: ClassVar[str] = "counting"

    def __init__(self, sites: Any, statistics: Any, *, key: Any, flaw: str) -> None:
        self.parameter_shape, self.flaw = (1, *sites.shape), flaw

    def __call__(self, h: Any, exposure: Any = None) -> dist.Distribution:
        rate = jnp.exp(10.0 * jnp.tanh(h.ravel() / 10.0))
        p = FlawedPoisson(rate if self.flaw == "no exposure" else exposure * rate, validate_args=False)
        p.flaw = self.flaw
        return p


class FlawedObjective(Objective):
    """The evidence lower bound with one draw, and a flaw."""

    flaw: str = eqx.field(static=True)

    def example(self, model: Any, prior: Any, row: Any, key: Any) -> Terms:
        q = model.posterior(row.x, row.observed)
        z = jax.lax.stop_gradient(q.sample(key)) if self.flaw == "detached draws" else q.sample(key)
        log_likelihood = model.log_likelihood(z, *row)
        rate = 0.0 if self.flaw == "forgotten KL" else q.log_prob(z) - prior.log_prob(z)
        rate = rate if self.flaw != "detached draws" else jax.lax.stop_gradient(rate)
        rate = -rate if self.flaw == "KL of the wrong sign" else rate
        return Terms(-log_likelihood, jnp.reshape(rate, (1,)), log_likelihood - rate)

    def value(self, terms: Terms, step: Any, latents: float = 1.0) -> Loss:
        return Loss(-terms.bound, terms, jnp.float32(1.0))

    def __call__(self, model: Any, batch: Any, key: Any, step: Any) -> Loss:
        counted = batch._replace(weight=jnp.ones_like(batch.weight)) if self.flaw == "padding counts" else batch
        return super().__call__(model, counted, key, step)


class objective(ObjectiveSpec):
    flaw: str

    def build(self) -> Objective:
        return FlawedObjective(self.flaw)
