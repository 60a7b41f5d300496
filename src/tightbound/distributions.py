"""Distributions that numpyro lacks or does not do well enough, the table of closed-form KL divergences, and ``stop``.

Distribution objects live inside one example's function: they never cross ``vmap``, ``scan`` or ``jit``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr, logsumexp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float
from numpyro.distributions import constraints

from tightbound.errors import CombinationError
from tightbound.flows import CouplingFlow

__all__ = [
    "Bernoulli",
    "Categorical",
    "Chain",
    "DiscretisedLogistic",
    "Flow",
    "GaussianMixture",
    "Joined",
    "LogisticMixture",
    "Measured",
    "NegativeBinomial",
    "OrderedLogistic",
    "Path",
    "Poisson",
    "SharedFamilyMixture",
    "averages",
    "centre",
    "confined",
    "cooled",
    "diagonal_gaussian",
    "divergence",
    "drawn",
    "kl",
    "log_mass",
    "positive",
    "stop",
    "training_log_prob",
    "unconstrained",
]

# softplus(UNIT) = 1: a raw parameter of 0 then stands for a scale of 1.
UNIT = 0.5413248546129181
FIXED_PAIRS = 64  # of draws that stand for the moments of a flow
_HALF_LOG_TWO_PI = 0.9189385332046727


def positive(raw: ArrayLike, floor: float) -> Array:
    """Map a raw parameter to a positive number: floor + softplus(raw + c), with c such that raw = 0 gives 1 + floor.

    The floor keeps the number away from 0 while its gradient stays alive everywhere, which a clamp would not.

    >>> float(positive(0.0, 1e-3))
    1.001...
    """
    return floor + jax.nn.softplus(jnp.asarray(raw) + UNIT)


def unconstrained(value: ArrayLike, floor: float) -> Array:
    """Return the raw parameter that :func:`positive` maps to a value; what lies below the floor is taken to lie just above.

    >>> round(float(positive(unconstrained(2.0, 1e-3), 1e-3)), 5)
    2.0
    """
    above = jnp.maximum(jnp.asarray(value) - floor, 1e-6)
    return above + jnp.log(-jnp.expm1(-above)) - UNIT


def stop(distribution: dist.Distribution) -> dist.Distribution:
    """Return the distribution with every parameter cut off from the gradient.

    Sampling from q and scoring with ``stop(q)`` gives the "sticking the landing" gradient (Roeder et al. 2017).
    """
    return jax.tree.map(jax.lax.stop_gradient, distribution)


def cooled(distribution: dist.Distribution, temperature: ArrayLike) -> dist.Distribution:
    """Return the distribution whose draws are made of the same noise times ``temperature``.

    Of a Gaussian p that is p^(1/temperature²), normalised; of a mixture each component is cooled and keeps its weight, of a
    flow the noise that it moves (Kingma & Dhariwal 2018). Raises :class:`CombinationError` for what is not made of these.

    >>> float(cooled(diagonal_gaussian(jnp.zeros(1), jnp.full(1, 2.0)), 0.5).variance[0])
    1.0
    """
    if is_diagonal_gaussian(distribution):
        return diagonal_gaussian(distribution.base_dist.loc, temperature * distribution.base_dist.scale)
    if isinstance(distribution, dist.MultivariateNormal):
        return dist.MultivariateNormal(distribution.loc, scale_tril=temperature * distribution.scale_tril, validate_args=False)
    if hasattr(distribution, "cooled"):
        return distribution.cooled(temperature)
    raise CombinationError(
        f"{type(distribution).__name__} has no noise that a temperature could scale: expected Gaussians, mixtures of them or "
        "flows, or a distribution with a method cooled(temperature)"
    )


def confined(distribution: dist.Distribution, kept: Bool[Array, "L"]) -> dist.Distribution:
    """Return the distribution whose latents outside of ``kept`` are N(0, 1), independent of all others.

    Where both q and p are confined, KL(q ‖ p) is that of the latents that are kept, and what the others were has no
    influence on any value or gradient. Raises :class:`CombinationError` for what is not made of Gaussians, whose latents
    cannot be taken apart.

    >>> confined(diagonal_gaussian(jnp.full(2, 3.0), jnp.full(2, 2.0)), jnp.array([True, False])).mean.tolist()
    [3.0, 0.0]
    """
    if is_diagonal_gaussian(distribution):
        base = distribution.base_dist
        return diagonal_gaussian(jnp.where(kept, base.loc, 0.0), jnp.where(kept, base.scale, 1.0))
    if isinstance(distribution, dist.MultivariateNormal):
        both = kept[:, None] & kept[None]
        triangle = jnp.where(both, distribution.scale_tril, jnp.eye(len(kept)))
        return dist.MultivariateNormal(jnp.where(kept, distribution.loc, 0.0), scale_tril=triangle, validate_args=False)
    if hasattr(distribution, "confined"):
        return distribution.confined(kept)
    raise CombinationError(
        f"{type(distribution).__name__} mixes all of its latents, so that none can be switched off: expected Gaussians or "
        "mixtures of them, or a distribution with a method confined(kept)"
    )


def diagonal_gaussian(loc: Float[Array, "L"], scale: Float[Array, "L"]) -> dist.Distribution:
    """Return N(loc, diag(scale²)) over one z, event shape (L,)."""
    return dist.Normal(loc, scale, validate_args=False).to_event(1)


def is_diagonal_gaussian(distribution: dist.Distribution) -> bool:
    """Whether a distribution is a Gaussian with independent components over one z."""
    return isinstance(distribution, dist.Independent) and isinstance(distribution.base_dist, dist.Normal)


def kl(q: dist.Distribution, p: dist.Distribution) -> Float[Array, "G"] | None:
    r"""Return KL(q ‖ p) in nats in closed form, one entry per group of latents that it is a sum over, or None.

    Two diagonal Gaussians give one entry per latent,
    ½(μ_q − μ_p)²/σ_p² + ½(σ_q²/σ_p² − 1) − log(σ_q/σ_p); for the standard normal prior their sum is the
    ½ Σ (μ² + σ² − 1 − log σ²) of the textbooks. A full-covariance q gives a single entry. Where no closed form is
    known the answer is None and the objectives fall back on the Monte Carlo form log q(z) − log p(z).

    >>> q = diagonal_gaussian(jnp.array([1.0]), jnp.array([1.0]))
    >>> float(kl(q, diagonal_gaussian(jnp.zeros(1), jnp.ones(1)))[0])
    0.5
    """
    if not is_diagonal_gaussian(p):
        return None
    p_loc, p_scale = p.base_dist.loc, p.base_dist.scale
    if is_diagonal_gaussian(q):
        ratio = q.base_dist.scale / p_scale
        standardised = (q.base_dist.loc - p_loc) / p_scale
        return 0.5 * (standardised**2 + ratio**2 - 1.0) - jnp.log(ratio)
    if isinstance(q, dist.MultivariateNormal):
        whitened = q.scale_tril / p_scale[:, None]
        log_volume = jnp.sum(jnp.log(jnp.diagonal(whitened)))
        distance = jnp.sum(((q.loc - p_loc) / p_scale) ** 2)
        return (0.5 * (jnp.sum(whitened**2) + distance - len(p_loc)) - log_volume)[None]
    return None


def divergence(
    q: dist.Distribution, p: dist.Distribution, z: Float[Array, "L"], *, closed: bool = True, training: bool = False
) -> Float[Array, "G"]:
    """Return KL(q ‖ p) in nats, or what estimates it without bias at a draw z ~ q, by groups of latents.

    That is :func:`kl` where it is closed, unless ``closed`` is false, and log q(z) − log p(z) otherwise, one entry. Of two
    chains it is the sum of such terms for every link, given the links before it (the chain rule of the KL), one entry per
    latent; the terms of a link that does not split are spread evenly over its latents. ``training`` takes log p(z) by
    :func:`training_log_prob`, for the sake of its gradient.

    >>> standard = diagonal_gaussian(jnp.zeros(2), jnp.ones(2))
    >>> divergence(standard, standard, jnp.zeros(2)).tolist()
    [0.0, 0.0]
    """
    known = kl(q, p) if closed else None
    if known is not None:
        return known
    if isinstance(q, Chain) and isinstance(p, Chain):
        how = {"closed": closed, "training": training}
        links = zip(q.links(z), p.links(z), strict=True)
        return jnp.concatenate([_spread(divergence(a, b, part, **how), len(part)) for (a, part), (b, _) in links])
    log_p = training_log_prob(p, z) if training else p.log_prob(z)
    return (q.log_prob(z) - log_p)[None]


def _spread(terms: Float[Array, "G"], latents: int) -> Float[Array, "L"]:
    return terms if len(terms) == latents else jnp.repeat(jnp.sum(terms)[None] / latents, latents)


def training_log_prob(distribution: dist.Distribution, z: Float[Array, "L"]) -> Float[Array, ""]:
    """Return log p(z) with the fastest form that has the exact value and the exact first derivatives.

    Large mixtures have a form whose gradient is a matrix product; its second derivatives are not those of log p, so
    only training uses it.
    """
    fast = getattr(distribution, "training_log_prob", distribution.log_prob)
    return fast(z)


@jax.custom_jvp
def _softplus(x: Array) -> Array:
    """Return log(1 + eˣ), good to 6e-8 rather than to its last digit: twice as fast as by log1p."""
    return jnp.maximum(x, 0.0) + jnp.log(1.0 + jnp.exp(-jnp.abs(x)))


_softplus.defjvps(lambda tangent, _, x: tangent * jax.nn.sigmoid(x))


class Bernoulli(dist.BernoulliLogits):
    """P(x = 1) = σ(logits) for binary x."""

    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Return log P(x) = x · logit − log(1 + e^logit) in nats."""
        return value * self.logits - _softplus(self.logits)


class GaussianMixture(dist.Distribution):
    """Σ_k w_k N(loc_k, diag(scale_k²)) over one z, event shape (L,)."""

    arg_constraints: ClassVar = {"log_weights": constraints.real_vector, "loc": constraints.real, "scale": constraints.positive}
    support = constraints.real_vector
    pytree_data_fields = ("log_weights", "loc", "scale")

    def __init__(self, log_weights: Float[Array, "K"], loc: Float[Array, "K L"], scale: Float[Array, "K L"]) -> None:
        self.log_weights, self.loc, self.scale = jax.nn.log_softmax(log_weights), loc, scale
        super().__init__((), loc.shape[-1:], validate_args=False)

    def cooled(self, temperature: ArrayLike) -> GaussianMixture:
        """Return the mixture with every scale times ``temperature``."""
        return GaussianMixture(self.log_weights, self.loc, jnp.multiply(temperature, self.scale))

    def confined(self, kept: Bool[Array, "L"]) -> GaussianMixture:
        """Return the mixture of the confined components."""
        return GaussianMixture(self.log_weights, jnp.where(kept, self.loc, 0.0), jnp.where(kept, self.scale, 1.0))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw a component, then from it; reparameterised given the component only."""
        choose, noise = jax.random.split(key)
        component = jax.random.categorical(choose, self.log_weights, shape=sample_shape)
        epsilon = jax.random.normal(noise, (*sample_shape, *self.event_shape))
        return self.loc[component] + self.scale[component] * epsilon

    def log_prob(self, z: Array, intermediates: object = None) -> Array:
        """Return log Σ_k w_k N(z; loc_k, scale_k²) in nats."""
        return logsumexp(self._joint(z), axis=-1)

    def training_log_prob(self, z: Float[Array, "L"]) -> Float[Array, ""]:
        """Return ``log_prob`` with a gradient that is a matrix product when it is vmapped over z.

        The gradient of log Σ_k w_k N_k is Σ_k r_k ∇ log(w_k N_k) with the responsibilities r held fixed; expanding the
        square turns it into products with (z², z), whose value may cancel badly for small scales but is not used.
        The gradient of a scale s cancels too: in single precision it is good to 5e-4 at s = 0.03, 3e-3 at 0.01 and a third
        at 0.001 (for |z| about 1.5); those of weights, means and z are good to 1e-4 throughout.
        """
        joint = self._joint(z)
        responsibilities = jax.lax.stop_gradient(jax.nn.softmax(joint))
        precision = self.scale**-2
        quadratic = (z**2) @ precision.T - 2.0 * z @ (self.loc * precision).T + jnp.sum(self.loc**2 * precision, axis=1)
        surrogate = responsibilities @ (self.log_weights - jnp.sum(jnp.log(self.scale), axis=1) - 0.5 * quadratic)
        return jax.lax.stop_gradient(logsumexp(joint) - surrogate) + surrogate

    def _joint(self, z: Array) -> Array:
        standardised = (z[..., None, :] - self.loc) / self.scale
        log_volume = jnp.sum(jnp.log(self.scale) + _HALF_LOG_TWO_PI, axis=-1)
        return self.log_weights - 0.5 * jnp.sum(standardised**2, axis=-1) - log_volume

    @property
    def mean(self) -> Array:
        """Σ_k w_k loc_k."""
        return jnp.exp(self.log_weights) @ self.loc


class SharedFamilyMixture(dist.Distribution):
    """Σ_k w_k head(parameters_k): a mixture of K members of any family, event shape (L,).

    ``head`` maps one parameter vector to a distribution; it is called inside ``vmap``, so that any family will do.
    """

    pytree_data_fields = ("head", "parameters", "log_weights")
    support = constraints.real_vector

    def __init__(
        self, head: object, parameters: Float[Array, "K P"], log_weights: Float[Array, "K"], event_shape: tuple[int, ...]
    ) -> None:
        self.head, self.parameters, self.log_weights = head, parameters, jax.nn.log_softmax(log_weights)
        super().__init__((), event_shape, validate_args=False)

    def cooled(self, temperature: ArrayLike) -> SharedFamilyMixture:
        """Return the mixture of the cooled members."""
        return self._with_members(lambda member: cooled(member, temperature))

    def confined(self, kept: Bool[Array, "L"]) -> SharedFamilyMixture:
        """Return the mixture of the confined members."""
        return self._with_members(lambda member: confined(member, kept))

    def _with_members(self, change: Callable[[dist.Distribution], dist.Distribution]) -> SharedFamilyMixture:
        head: Callable[[Array], dist.Distribution] = self.head  # type: ignore[assignment]
        return SharedFamilyMixture(lambda raw: change(head(raw)), self.parameters, self.log_weights, self.event_shape)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw a component, then from it."""

        def one(key: Array) -> Array:
            choose, draw = jax.random.split(key)
            return self.head(self.parameters[jax.random.categorical(choose, self.log_weights)]).sample(draw)  # type: ignore[operator]

        return drawn(one, key, sample_shape)

    def log_prob(self, z: Array, intermediates: object = None) -> Array:
        """Return log Σ_k w_k head(parameters_k)(z) in nats."""
        members = jax.vmap(lambda parameters: self.head(parameters).log_prob(z))(self.parameters)  # type: ignore[operator]
        return logsumexp(self.log_weights + members, axis=0)


class Moved(dist.Distribution):
    """What standard normal noise becomes: event shape (L,), without closed moments.

    Mean and variance are those of fixed draws of the noise, in pairs ±ε.
    """

    support = constraints.real_vector

    @abstractmethod
    def moved(self, noise: Float[Array, "L"]) -> Float[Array, "L"]:
        """Return the z that one draw of the noise becomes."""

    @property
    def _fixed(self) -> Float[Array, "K L"]:
        noise = np.random.default_rng(0).standard_normal((FIXED_PAIRS, *self.event_shape)).astype(np.float32)
        return jax.vmap(self.moved)(jnp.concatenate([noise, -noise]))

    @property
    def mean(self) -> Array:
        """E[z], estimated."""
        return jnp.mean(self._fixed, axis=0)

    @property
    def variance(self) -> Array:
        """Var[z_l], estimated."""
        return jnp.var(self._fixed, axis=0, ddof=1)


class Flow(Moved):
    """z = T(e), e ~ ``base``, a diagonal Gaussian, with an invertible T steered by ``context``; event shape (L,)."""

    pytree_data_fields = ("base", "flow", "context")
    reparametrized_params: ClassVar[list[str]] = ["base", "flow", "context"]

    def __init__(self, base: dist.Distribution, flow: CouplingFlow, context: Float[Array, "C"]) -> None:
        self.base, self.flow, self.context = base, flow, context
        super().__init__((), base.event_shape, validate_args=False)

    def cooled(self, temperature: ArrayLike) -> Flow:
        """Return the flow with its noise times ``temperature``."""
        return Flow(cooled(self.base, temperature), self.flow, self.context)

    def moved(self, noise: Float[Array, "L"]) -> Float[Array, "L"]:
        """Return T(loc + scale · noise)."""
        base = self.base.base_dist
        return self.flow.forward(base.loc + base.scale * noise, self.context)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw e, and move it."""
        e = self.base.sample(key, sample_shape)
        return jnp.vectorize(lambda e: self.flow.forward(e, self.context), signature="(l)->(l)")(e)

    def log_prob(self, z: Array, intermediates: object = None) -> Array:
        """Return log base(T⁻¹(z)) + log |det ∂T⁻¹/∂z| in nats for z of shape (…, L)."""

        def one(z: Array) -> Array:
            e, log_determinant = self.flow.inverse(z, self.context)
            return self.base.log_prob(e) + log_determinant

        return jnp.vectorize(one, signature="(l)->()")(z)


@runtime_checkable
class Path(Protocol):
    """How a chain goes on: what it knows at first, the distribution of its next link, and what it knows after that."""

    def start(self) -> Any:
        """Return what is known before anything is drawn."""

    def at(self, number: int, state: Any) -> dist.Distribution:
        """Return the distribution of link ``number``, event shape (L_number,), given those before it."""

    def follow(self, number: int, state: Any, z: Float[Array, "..."]) -> Any:
        """Return what is known when link ``number`` is z."""


class Chain(Moved):
    """z = (z_1, …, z_n), every link drawn given those before it: log p(z) = Σ_l log p(z_l | z_1, …, z_{l−1}).

    ``sizes`` are the lengths of the links, ``path`` gives their distributions; each is made of the same noise times
    ``temperature``. The moments ask for Gaussian links.
    """

    pytree_data_fields = ("path", "temperature")
    pytree_aux_fields = ("sizes",)

    def __init__(self, path: Path, sizes: tuple[int, ...], temperature: ArrayLike | None = None) -> None:
        self.path, self.sizes, self.temperature = path, sizes, temperature
        super().__init__((), (sum(sizes),), validate_args=False)

    def cooled(self, temperature: ArrayLike) -> Chain:
        """Return the chain with the noise of every link times ``temperature``."""
        return Chain(self.path, self.sizes, temperature)

    def walk(self, choose: Callable[[int, dist.Distribution], Array]) -> Iterator[tuple[dist.Distribution, Array]]:
        """Yield the distribution of every link and the value that ``choose(number, distribution)`` gives to it."""
        state = self.path.start()
        for number in range(len(self.sizes)):
            link = self.path.at(number, state)
            link = link if self.temperature is None else cooled(link, self.temperature)
            part = choose(number, link)
            yield link, part
            state = self.path.follow(number, state, part)

    def links(self, z: Float[Array, "L"]) -> Iterator[tuple[dist.Distribution, Array]]:
        """Yield the distribution of every link, given the links of z before it, and the link of z."""
        parts = self._parts(z)
        return self.walk(lambda number, _: parts[number])

    def moved(self, noise: Float[Array, "L"]) -> Float[Array, "L"]:
        """Return the z whose links are loc + scale · noise."""
        parts = self._parts(noise)
        links = self.walk(lambda number, link: link.base_dist.loc + link.base_dist.scale * parts[number])
        return jnp.concatenate([part for _, part in links])

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw link after link."""

        def one(key: Array) -> Array:
            keys = jax.random.split(key, len(self.sizes))
            return jnp.concatenate([part for _, part in self.walk(lambda number, link: link.sample(keys[number]))])

        return drawn(one, key, sample_shape)

    def log_prob(self, z: Array, intermediates: object = None) -> Array:
        """Return Σ_l log p(z_l | z_1, …, z_{l−1}) in nats for z of shape (…, L)."""
        return jnp.vectorize(lambda z: sum(link.log_prob(part) for link, part in self.links(z)), signature="(l)->()")(z)

    def training_log_prob(self, z: Float[Array, "L"]) -> Float[Array, ""]:
        """Return ``log_prob`` by the forms of the links that training uses."""
        return jnp.sum(jnp.stack([training_log_prob(link, part) for link, part in self.links(z)]))

    def _parts(self, z: Float[Array, "L"]) -> list[Array]:
        return jnp.split(z, np.cumsum(self.sizes)[:-1])


def drawn(one: Callable[[Array], Array], key: Array, sample_shape: tuple[int, ...]) -> Array:
    """Return ``one(key)``, or draws of shape ``sample_shape`` with a key each."""
    if not sample_shape:
        return one(key)
    for _ in sample_shape:
        one = jax.vmap(one)
    return one(jax.random.split(key, sample_shape))


class Categorical(dist.CategoricalLogits):
    """P(v) = softmax(logits)_v for values v held as floats, batch shape (D,)."""

    def log_prob(self, value: Array, intermediates: object = None) -> Array:
        """Return log P(value) in nats for values of shape (…, D)."""
        return super().log_prob(jnp.asarray(value).astype(jnp.int32))

    @property
    def mean(self) -> Array:
        """Σ_v v P(v), which means something where the values are levels in order."""
        return self.probs @ jnp.arange(self.logits.shape[-1], dtype=self.logits.dtype)


class DiscretisedLogistic(dist.Distribution):
    """A logistic density, or a mixture of K of them, integrated over the unit bins of the levels 0 … n − 1.

    P(v) = σ((v + ½ − μ)/s) − σ((v − ½ − μ)/s), with the outer bins taking the tails, so that the levels sum to 1. The
    difference is evaluated as log σ(a) + log σ(−b) + log(1 − e^{b − a}), which is exact far in the tails, where the plain
    difference is 0. Parameters have shape (D, K), in units of levels; batch shape (D,). PixelCNN++ (Salimans et al. 2017).
    """

    arg_constraints: ClassVar = {"log_weights": constraints.real, "loc": constraints.real, "scale": constraints.positive}
    pytree_data_fields = ("log_weights", "loc", "scale")
    pytree_aux_fields = ("levels",)

    def __init__(
        self, log_weights: Float[Array, "D K"], loc: Float[Array, "D K"], scale: Float[Array, "D K"], levels: int
    ) -> None:
        self.log_weights = jax.nn.log_softmax(log_weights, axis=-1)
        self.loc, self.scale, self.levels = loc, scale, levels
        super().__init__(loc.shape[:-1], (), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The integers 0 … n − 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw the component and a logistic variable, round it and clip it to the levels."""
        choose, noise = jax.random.split(key)
        shape = (*sample_shape, *self.batch_shape)
        component = jax.random.categorical(choose, self.log_weights, shape=shape)[..., None]
        loc = jnp.take_along_axis(jnp.broadcast_to(self.loc, (*shape, self.loc.shape[-1])), component, -1)[..., 0]
        scale = jnp.take_along_axis(jnp.broadcast_to(self.scale, (*shape, self.scale.shape[-1])), component, -1)[..., 0]
        return jnp.clip(jnp.round(loc + scale * jax.random.logistic(noise, shape)), 0, self.levels - 1)

    def log_prob(self, x: Array, intermediates: object = None) -> Array:
        """Return log P(x) in nats for levels x of shape (…, D)."""
        x = x[..., None]
        upper = (x + 0.5 - self.loc) / self.scale
        lower = (x - 0.5 - self.loc) / self.scale
        width = jnp.log(-jnp.expm1(-1.0 / self.scale))
        below_upper = jax.nn.log_sigmoid(upper)
        above_lower = jax.nn.log_sigmoid(-lower)
        inner = below_upper + above_lower + width
        component = jnp.where(x <= 0, below_upper, jnp.where(x >= self.levels - 1, above_lower, inner))
        return logsumexp(self.log_weights + component, axis=-1)

    @property
    def mean(self) -> Array:
        """E[x] = Σ_{v ≥ 1} P(x ≥ v), exact, shape (D,)."""
        edges = jnp.arange(1, self.levels) - 0.5
        above = jax.nn.sigmoid((self.loc[..., None] - edges) / self.scale[..., None])
        return jnp.sum(jnp.exp(self.log_weights) * jnp.sum(above, axis=-1), axis=-1)


def _stirling_error(k: Array) -> Array:
    """Return δ(k) = log Γ(k + 1) − (k + ½) log k + k − ½ log 2π for k > 0, accurate to single precision."""
    shift = jnp.where(k < 4.0, 4.0, 0.0)
    rising = jnp.where(k < 4.0, (k + 1.0) * (k + 2.0) * (k + 3.0) * (k + 4.0), 1.0)
    inverse = 1.0 / (k + shift)
    series = inverse * (1 / 12 - inverse**2 * (1 / 360 - inverse**2 / 1260))
    power = jnp.where(k < 4.0, (k + 4.0) ** 4, 1.0)
    return series + (k + 0.5) * jnp.log1p(shift / k) + jnp.log(power / rising) - shift


def _deviance(k: Array, mean: Array, excess: Array) -> Array:
    """Return k log(k/mean) + mean − k ≥ 0 for k > 0; ``excess`` = k − mean is given, as it may be known better."""
    v = excess / (k + mean)
    near = jnp.abs(v) < 0.1
    squared = jnp.where(near, v, 0.0) ** 2
    series = excess * v + 2.0 * k * v * squared * (1 / 3 + squared * (1 / 5 + squared * (1 / 7 + squared / 9)))
    return jnp.where(near, series, k * jnp.log(k / mean) - excess)


class Poisson(dist.Poisson):
    """Counts with mean m and variance m, batch shape (D,).

    log P(x) = −½ log 2πx − δ(x) − D(x, m) with the error δ of Stirling's formula and the deviance
    D(x, m) = x log(x/m) + m − x (Loader 2000): none of the terms is large where P(x) is not small, so that single
    precision keeps its digits. x log m − m − log Γ(x + 1) has lost a nat at x = 10⁶.
    """

    def log_prob(self, x: Array, intermediates: object = None) -> Array:
        """Return log P(x) in nats for counts x of shape (…, D)."""
        k = jnp.maximum(x, 1.0)
        errors = 0.5 * jnp.log(k) + _stirling_error(k) + _deviance(k, self.rate, k - self.rate)
        return jnp.where(x > 0, -_HALF_LOG_TWO_PI - errors, -self.rate)


class NegativeBinomial(dist.Distribution):
    """Counts with mean m and variance m + m²/r, batch shape (D,); r is the concentration, and r → ∞ is the Poisson.

    P(x) = Γ(x + r) / (Γ(r) x!) · (r/(r + m))^r (m/(r + m))^x, evaluated as a binomial by Stirling errors and deviances
    like :class:`Poisson`: with n = r + x and s = r (x − m)/(r + m),
    log P(x) = δ(n) − δ(r) − δ(x) − D(r, r + s) − D(x, x − s) + ½ log(r / (2π n x)). Differences of log-gammas would
    lose nats at large counts and at large r.
    """

    arg_constraints: ClassVar = {"rate": constraints.positive, "concentration": constraints.positive}
    support = constraints.nonnegative_integer
    pytree_data_fields = ("rate", "concentration")

    def __init__(self, mean: Float[Array, "D"], concentration: Float[Array, "D"]) -> None:
        self.rate, self.concentration = mean, concentration
        super().__init__(jnp.broadcast_shapes(jnp.shape(mean), jnp.shape(concentration)), (), validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw a Gamma(r, r/m) rate, then a Poisson count."""
        first, second = jax.random.split(key)
        shape = (*sample_shape, *self.batch_shape)
        rate = jax.random.gamma(first, jnp.broadcast_to(self.concentration, shape)) * self.rate / self.concentration
        return jax.random.poisson(second, rate).astype(jnp.float32)

    def log_prob(self, x: Array, intermediates: object = None) -> Array:
        """Return log P(x) in nats for counts x of shape (…, D)."""
        m, r = self.rate, self.concentration
        k = jnp.maximum(x, 1.0)
        n, share = r + k, r / (r + m)
        excess = (k - m) * share
        errors = _stirling_error(n) - _stirling_error(r) - _stirling_error(k)
        deviances = _deviance(r, n * share, -excess) + _deviance(k, n * (m / (r + m)), excess)
        positive_count = errors - deviances - _HALF_LOG_TWO_PI + 0.5 * jnp.log(r / n / k)
        return jnp.where(x > 0, positive_count, -r * jnp.log1p(m / r))

    @property
    def mean(self) -> Array:
        """The mean m."""
        return self.rate

    @property
    def variance(self) -> Array:
        """The variance m + m²/r."""
        return self.rate + self.rate**2 / self.concentration


class LogisticMixture(dist.Distribution):
    """Densities with several modes and heavy tails: Σ_k w_k f((x − loc_k)/scale_k)/scale_k, batch shape (D,).

    All components but the last are logistic, f(y) = σ(y) σ(−y); the last is Student's t with two degrees of freedom,
    f(y) = (2 + y²)^(−3/2), whose tails fall as |y|⁻³. Parameters have shape (K, D), K ≥ 2: with the sites last, as the decoder
    has them, log p(x) and its gradient take half as long as with the components last.
    """

    arg_constraints: ClassVar = {"log_weights": constraints.real, "loc": constraints.real, "scale": constraints.positive}
    support = constraints.real
    pytree_data_fields = ("log_weights", "loc", "scale")

    def __init__(self, log_weights: Float[Array, "K D"], loc: Float[Array, "K D"], scale: Float[Array, "K D"]) -> None:
        self.log_weights = jax.nn.log_softmax(log_weights, axis=0)
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[1:], (), validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw the component, then a logistic or t variable by its quantile function."""
        choose, noise = jax.random.split(key)
        shape = (*sample_shape, *self.batch_shape)
        chosen = jax.nn.one_hot(jax.random.categorical(choose, self.log_weights.T, shape=shape), len(self.loc), axis=-2)
        loc, scale = (jnp.sum(chosen * parameter, axis=-2) for parameter in (self.loc, self.scale))
        v = jax.random.uniform(noise, shape, minval=-1.0 + 1e-7, maxval=1.0)
        student = v * jnp.sqrt(2.0 / ((1.0 - v) * (1.0 + v)))
        return loc + scale * jnp.where(chosen[..., -1, :] > 0, student, 2.0 * jnp.arctanh(v))

    def log_prob(self, x: Array, intermediates: object = None) -> Array:
        """Return the log-density in nats for x of shape (…, D)."""
        (logistic, student), scale = self._parted((x[..., None, :] - self.loc) / self.scale), self._parted(self.scale)
        far = jnp.abs(logistic)
        # By one logarithm for bell and scale, and not by log1p: good to 6e-8, and faster.
        bells = -far - jnp.log((1.0 + jnp.exp(-far)) ** 2 * scale[0])
        tail = -3.0 * jnp.log(jnp.hypot(student, 2.0**0.5)) - jnp.log(scale[1])
        return logsumexp(self.log_weights + jnp.concatenate([bells, tail], axis=-2), axis=-2)

    def cdf(self, x: Array) -> Array:
        """Return P(X ≤ x), in closed form."""
        logistic, student = self._parted((x[..., None, :] - self.loc) / self.scale)
        tail = 0.5 + 0.5 * student / jnp.hypot(student, 2.0**0.5)
        return jnp.sum(jnp.exp(self.log_weights) * jnp.concatenate([jax.nn.sigmoid(logistic), tail], axis=-2), axis=-2)

    def log_mass(self, x: Array, width: Array) -> Array:
        """Return log P(|X − x| < width/2) in nats for x of shape (…, D), without differences of nearly equal numbers."""
        y, w = self._parted((x[..., None, :] - self.loc) / self.scale), self._parted(width[..., None, :] / self.scale)
        masses = jnp.concatenate([_log_mass_of_logistic(y[0], w[0]), _log_mass_of_student(y[1], w[1])], axis=-2)
        return logsumexp(self.log_weights + masses, axis=-2)

    @property
    def mean(self) -> Array:
        """E[x] = Σ_k w_k loc_k."""
        return jnp.sum(jnp.exp(self.log_weights) * self.loc, axis=0)

    @staticmethod
    def _parted(values: Float[Array, "... K D"]) -> tuple[Array, Array]:
        """Return what belongs to the logistic components, and what to the last."""
        return values[..., :-1, :], values[..., -1:, :]


def _log_mass_of_logistic(y: Array, width: Array) -> Array:
    """σ(b) − σ(a) = σ(b) σ(−a) (1 − e^(a − b)) for a, b = y ∓ width/2, by one logarithm."""
    half = 0.5 * width
    low, high = half + y, half - y
    # 1 − e^(−w) = tanh(w/2) (1 + e^(−w)), good to its last digits for small w, too.
    between = jnp.tanh(half) * (1.0 + jnp.exp(-width))
    ratio = between / ((1.0 + jnp.exp(-jnp.abs(low))) * (1.0 + jnp.exp(-jnp.abs(high))))
    return jnp.log(ratio) + jnp.minimum(low, 0.0) + jnp.minimum(high, 0.0)


def _log_mass_of_student(y: Array, width: Array) -> Array:
    """By Simpson's rule where the interval is a small part of √(2 + y²), over which the density varies; else by the tails."""
    y = jnp.abs(y)
    ends = y - 0.5 * width, y + 0.5 * width
    middle, *roots = (jnp.sqrt(2.0 + place**2) for place in (y, *ends))
    narrow = width * (roots[0] ** -3 + 4.0 * middle**-3 + roots[1] ** -3) / 6.0
    near, far = (
        jnp.where(end > 0, 1.0 / (root * (root + jnp.abs(end))), 0.5 - 0.5 * end / root)
        for end, root in zip(ends, roots, strict=True)
    )
    return jnp.log(jnp.where(width < 0.2 * middle, narrow, near - far))


def _log_mass_of_normal(y: Array, width: Array) -> Array:
    """By the expansion of the density where it hardly varies over the interval, else by the distribution function, low side."""
    y = jnp.abs(y)
    near, far = y - 0.5 * width, y + 0.5 * width
    is_narrow, is_tail = width * jnp.maximum(y, 1.0) < 0.2, near > 8.0
    bend = jnp.where(is_narrow, (y**2 - 1.0) * width**2 / 24.0, 0.0)
    narrow = -0.5 * y**2 - _HALF_LOG_TWO_PI + jnp.log(width) + jnp.log1p(bend)
    below = log_ndtr(-near)
    # Far out the ends are one number in single precision; there the distribution function falls as the density over y.
    ratio = jnp.where(is_tail, -y * width - jnp.log1p(width / jnp.where(is_tail, near, 1.0)), log_ndtr(-far) - below)
    return jnp.where(is_narrow, narrow, below + jnp.log(-jnp.expm1(jnp.where(is_narrow, -1.0, ratio))))


def log_mass(distribution: dist.Distribution, x: Array, width: Array) -> Array:
    """Return log P(|X − x| < width/2) in nats, of a normal distribution or one that has a ``log_mass`` of its own."""
    if isinstance(distribution, dist.Normal):
        return _log_mass_of_normal((x - distribution.loc) / distribution.scale, width / distribution.scale)
    return distribution.log_mass(x, width)


class Measured(dist.Distribution):
    """Real sites as they are measured: densities per unit of the user, rounded values, values with a probability of their own.

    ``smooth`` is a distribution over x, batch shape (D,). offset + slope · x is added to its log-densities, log |dx/du| of a
    change to units u; if they are ``rounded`` the probability of [x − width/2, x + width/2] takes their place. With
    probability exp(``log_weights``[:, 1 + a]) x is ``atoms``[:, a] (D, A), else it is drawn from ``smooth``; NaN is no atom.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real
    pytree_data_fields = ("smooth", "offset", "slope", "width", "log_weights", "atoms")
    pytree_aux_fields = ("rounded",)

    def __init__(
        self,
        smooth: dist.Distribution,
        units: tuple[Float[Array, "D"], Float[Array, "D"], Float[Array, "D"]],
        logits: Float[Array, "D A+1"],
        atoms: Float[Array, "D A"],
        rounded: bool,
    ) -> None:
        self.smooth, self.atoms, self.rounded = smooth, atoms, rounded
        self.offset, self.slope, self.width = units
        no_atom = jnp.pad(jnp.isnan(atoms), ((0, 0), (1, 0)))
        self.log_weights = jax.nn.log_softmax(jnp.where(no_atom, -jnp.inf, logits), axis=-1)
        super().__init__(smooth.batch_shape, (), validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw what x is, then the number if it is no atom."""
        choose, draw = jax.random.split(key)
        smooth = self.smooth.sample(draw, sample_shape)
        if not self.atoms.size:
            return smooth
        chosen = jax.random.categorical(choose, self.log_weights, shape=smooth.shape)
        values = jnp.broadcast_to(self.atoms, (*smooth.shape, self.atoms.shape[-1]))
        atom = jnp.take_along_axis(values, jnp.maximum(chosen - 1, 0)[..., None], axis=-1)[..., 0]
        return jnp.where(chosen > 0, atom, smooth)

    def log_prob(self, x: Array, intermediates: object = None) -> Array:
        """Return log-densities, or log-probabilities, in nats for x of shape (…, D)."""
        smooth = (
            log_mass(self.smooth, x, self.width) if self.rounded else self.smooth.log_prob(x) + self.offset + self.slope * x
        )
        if not self.atoms.size:
            return smooth
        smooth = smooth + self.log_weights[:, 0]
        at = x[..., None] == self.atoms
        hit = jnp.any(at, axis=-1)
        atom = jnp.sum(jnp.where(at, self.log_weights[:, 1:], 0.0), axis=-1)
        # A density adds nothing to the probability of a single number; the probability of an interval does.
        return jnp.where(hit, jnp.logaddexp(smooth, atom) if self.rounded else atom, smooth)

    @property
    def mean(self) -> Array:
        """E[x]."""
        weights = jnp.exp(self.log_weights)
        return weights[:, 0] * self.smooth.mean + jnp.sum(weights[:, 1:] * jnp.nan_to_num(self.atoms), axis=-1)


class OrderedLogistic(dist.Distribution):
    """Levels 0 … n − 1 in order, by a logistic variable cut at n − 1 places: P(v ≤ k) = σ(cut_k − location).

    ``cuts`` (D, n − 1) rise along the last axis; a site with fewer levels has cuts of +∞ from its own last one on. Batch
    shape (D,). The difference of two neighbours is evaluated as in :class:`DiscretisedLogistic`. McCullagh (1980).
    """

    arg_constraints: ClassVar = {"location": constraints.real, "cuts": constraints.real}
    support = constraints.nonnegative_integer
    pytree_data_fields = ("location", "cuts")

    def __init__(self, location: Float[Array, "D"], cuts: Float[Array, "D n-1"]) -> None:
        self.location, self.cuts = location, cuts
        super().__init__(location.shape, (), validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw the logistic variable and count the cuts below it."""
        shape = (*sample_shape, *self.batch_shape)
        variable = self.location + jax.random.logistic(key, shape)
        return jnp.sum(variable[..., None] > self.cuts, axis=-1).astype(jnp.float32)

    def log_prob(self, x: Array, intermediates: object = None) -> Array:
        """Return log P(x) in nats for levels x of shape (…, D)."""
        ends = jnp.full((*self.cuts.shape[:-1], 1), jnp.inf)
        edges = jnp.concatenate([-ends, self.cuts, ends], axis=-1)
        level = jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape, self.batch_shape)).astype(jnp.int32)[..., None]
        edges = jnp.broadcast_to(edges, (*level.shape[:-1], edges.shape[-1]))
        lower, upper = (jnp.take_along_axis(edges, level + step, axis=-1)[..., 0] for step in (0, 1))
        first, last = lower == -jnp.inf, upper == jnp.inf
        # Infinite edges are replaced before anything is computed of them: their gradient would not be finite.
        below = jax.nn.log_sigmoid(jnp.where(last, 0.0, upper) - self.location)
        above = jax.nn.log_sigmoid(self.location - jnp.where(first, 0.0, lower))
        width = jnp.where(first | last, 1.0, upper - lower)
        inner = below + above + jnp.log(-jnp.expm1(-width))
        return jnp.where(first & last, 0.0, jnp.where(first, below, jnp.where(last, above, inner)))

    @property
    def mean(self) -> Array:
        """E[x] = Σ_k P(x > k)."""
        return jnp.sum(jax.nn.sigmoid(self.location[..., None] - self.cuts), axis=-1)


class Joined(dist.Distribution):
    """Independent distributions over different sites of one x as one distribution, batch shape (D,).

    ``order`` (D,) says where each site stands when the sites of all ``parts`` are lined up.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    pytree_data_fields = ("parts",)
    pytree_aux_fields = ("order",)

    def __init__(self, parts: tuple[dist.Distribution, ...], order: tuple[int, ...]) -> None:
        self.parts, self.order = parts, order
        super().__init__((len(order),), (), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Each site has its own."""
        return constraints.real

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw every part."""
        keys = jax.random.split(key, len(self.parts))
        drawn = [part.sample(k, sample_shape).astype(jnp.float32) for part, k in zip(self.parts, keys, strict=True)]
        return self.ordered(drawn)

    def log_prob(self, x: Array, intermediates: object = None) -> Array:
        """Return the log-densities in nats for x of shape (…, D)."""
        lined_up = jnp.take(x, np.argsort(self.order), axis=-1)
        splits = np.cumsum([part.batch_shape[0] for part in self.parts])[:-1]
        each = [part.log_prob(values) for part, values in zip(self.parts, jnp.split(lined_up, splits, axis=-1), strict=True)]
        return self.ordered(each)

    @property
    def mean(self) -> Array:
        """E[x]; for categories, which have no mean, the most probable one."""
        return self.ordered([centre(part) for part in self.parts])

    def ordered(self, values: list[Array]) -> Array:
        """Return values of the parts (…, D_part) as those of one x (…, D)."""
        return jnp.take(jnp.concatenate(values, axis=-1), np.asarray(self.order), axis=-1)


def averages(sites: dist.Distribution) -> tuple[Array, ...]:
    """Return what can be averaged over distributions of one family: probabilities (D, V) of categories, means (D,) of the rest.

    The parts of :class:`Joined` have one each.
    """
    if isinstance(sites, Joined):
        return tuple(average for part in sites.parts for average in averages(part))
    return (jax.nn.softmax(sites.logits, axis=-1) if isinstance(sites, Categorical) else sites.mean,)


def centre(sites: dist.Distribution, averaged: tuple[Array, ...] | None = None) -> Array:
    """Return the mean of every site, or the most probable of values without order; of a mixture, from its ``averages``."""
    known = averages(sites) if averaged is None else averaged
    if isinstance(sites, Joined):
        return sites.ordered([centre(part, (average,)) for part, average in zip(sites.parts, known, strict=True)])
    return jnp.argmax(known[0], axis=-1).astype(jnp.float32) if isinstance(sites, Categorical) else known[0]
