"""Why the ELBO is below log p(x), and what the KL term is made of.

log p(x) − ELBO = [log p(x) − ELBO(q*)] + [ELBO(q*) − ELBO(q)] with q* the best posterior of the model's own family for
this one x: the approximation gap, which a richer family narrows, and the amortisation gap, which a better encoder
narrows (Cremer et al. 2018). Over a data set, the KL term is I(x; z) + KL(q(z) ‖ p(z)): what the latents tell about x,
and how far the aggregate posterior q(z) = E q(z|x) is from the prior (Hoffman & Johnson 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from jaxtyping import Array, Float, Int
from scipy.special import logsumexp

from tightbound.distributions import divergence, stop
from tightbound.errors import CombinationError, DataError, SpecError
from tightbound.evidence.estimate import Estimate, mean_estimate
from tightbound.evidence.importance import importance
from tightbound.evidence.proposals import Proposal, propose
from tightbound.model import Model, trainable
from tightbound.posteriors import FullGaussian, PosteriorHead, PosteriorSpec
from tightbound.rows import Row, Rows, RowSource, blocks, in_blocks, in_haste, over_blocks, require_fixed
from tightbound.schema import Measure

__all__ = ["Gaps", "Surgery", "gaps", "log_densities", "rate_and_distortion", "rates", "surgery"]

ROWS_AT_ONCE = 16
DENSITIES_AT_ONCE = 2**24  # of pairs of a row and a draw: 64 MiB
OWN = "own family"
_LEARNING_RATE = 0.05
_STEP_DRAWS, _CHOICE_DRAWS, _ELBO_DRAWS = 8, 256, 2000


@dataclass(frozen=True)
class Gaps:
    """Per-example splits of log p(x) − ELBO, arrays (n,) in nats.

    ``log_evidence`` is a lower bound on log p(x) by importance sampling from a refined proposal, tight where ``ess`` is
    large; ``elbo`` that of q(z|x); ``best`` the ELBO of the best member of every family for each example alone, the
    model's own under ``"own family"``. ``se`` holds the standard errors under the same names.
    """

    log_evidence: np.ndarray
    elbo: np.ndarray
    best: Mapping[str, np.ndarray]
    se: Mapping[str, np.ndarray]
    ess: np.ndarray
    measure: Measure

    @property
    def total(self) -> Estimate:
        """Return the mean of log p(x) − ELBO."""
        return self._mean(self.log_evidence - self.elbo, "log p(x) − ELBO")

    @property
    def approximation(self) -> Estimate:
        """Return the mean of log p(x) − ELBO(q*): the price of the family of q."""
        return self._mean(self.log_evidence - self.best[OWN], "approximation gap")

    @property
    def amortisation(self) -> Estimate:
        """Return the mean of ELBO(q*) − ELBO(q): the price of one encoder for all examples."""
        return self._mean(self.best[OWN] - self.elbo, "amortisation gap")

    def gain(self, family: str) -> Estimate:
        """Return what the best member of a richer family has above the best of the model's own."""
        return self._mean(self.best[family] - self.best[OWN], f"gain of {family}")

    def _mean(self, values: np.ndarray, method: str) -> Estimate:
        return mean_estimate(values, side="none", method=method, draws=_ELBO_DRAWS, measure=self.measure)


def gaps(
    model: Model,
    data: RowSource,
    *,
    families: Mapping[str, PosteriorSpec] | None = None,
    steps: int = 200,
    draws: int = 2000,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Gaps:
    """Split log p(x) − ELBO of every row into approximation and amortisation gap.

    The best q of a family is found by ``steps`` steps of Adam on its ELBO, for each row alone and from two starts: the
    amortised parameters, and the member of the family that is nearest to a Gaussian fitted by its curvature. What is
    found is never worse than the amortised q, but it need not be the very best: the amortisation gap may be larger.
    ``families`` are tried beside the model's own; by default the full-covariance Gaussian. ``draws`` go into log p(x).
    Raises :class:`~tightbound.errors.SpecError` for fewer than one step, :class:`~tightbound.errors.CombinationError` for
    families with weights of their own.
    """
    if steps < 1:
        raise SpecError("gaps", (("steps", f"expected at least 1, got {steps}"),))
    evidence = importance(model, data, draws=draws, proposal=Proposal("refined", steps=3, draws=4), seed=seed)
    count, key = len(data.x), jax.random.key(seed + 1)
    richer = {"full covariance": FullGaussian()} if families is None else dict(families)
    heads = {OWN: model.posterior_head}
    heads |= {name: _fitted_alone(name, spec, model.spec.latent) for name, spec in richer.items()}
    elbos, best, errors = None, {}, {"log_evidence": evidence.se}
    for number, (name, head) in enumerate(heads.items()):
        found = []
        for rows, index, used in in_blocks(data, ROWS_AT_ONCE):
            found.append(np.asarray(_best(model, head, rows, index, jax.random.fold_in(key, number), steps))[:, :used])
            if report is not None:
                report(number * count + min(int(index[0]) + ROWS_AT_ONCE, count), len(heads) * count)
        amortised, amortised_se, best[name], errors[name] = np.concatenate(found, axis=1).astype(np.float64)
        if elbos is None:
            elbos, errors["elbo"] = amortised, amortised_se
    assert elbos is not None
    return Gaps(evidence.log_evidence, elbos, best, errors, evidence.ess, model.measure)


def _fitted_alone(name: str, spec: PosteriorSpec, latent: int) -> PosteriorHead:
    """Return the head of a family, all of which one row decides."""
    head = spec.build(latent, key=jax.random.key(0))
    if jax.tree.leaves(trainable(head)[0]):
        raise CombinationError(
            f"family '{name}' has weights that are trained with a model, so that no row has a best q in it: leave it out, or "
            "train a model with it, whose own family is always split"
        )
    return head


@eqx.filter_jit
def _best(model: Model, head: PosteriorHead, rows: Rows, index: Int[Array, "R"], key: Array, steps: int) -> Float[Array, "4 R"]:
    batch, prior = rows.batch(index, key), model.prior()
    # Every parameter moves by the rate: of many, less each.
    rate = _LEARNING_RATE * min(1.0, (2 * model.spec.latent / head.parameters) ** 0.5)

    def one(row: Row, number: Array) -> Array:
        keys = jax.random.split(jax.random.fold_in(key, number), 4)

        def log_joint(z: Array) -> Array:
            return model.log_likelihood(z, *row) + prior.log_prob(z)

        def log_weights(h: Array, noise: Array, draws: int) -> Array:
            z = head(h).sample(noise, (draws,))
            return jax.vmap(lambda z: log_joint(z) - stop(head(h)).log_prob(z))(z)

        def climb(start: Array, noise: Array) -> Array:
            return _climb(lambda h, at: -jnp.mean(log_weights(h, at, _STEP_DRAWS)), start, noise, rate, steps)

        starts = _starts(model, head, prior, row, keys[0])
        ends = jnp.concatenate([starts[:1], jax.vmap(climb)(starts, jax.random.split(keys[1], len(starts)))])
        chosen = jax.vmap(lambda h: jnp.mean(log_weights(h, keys[2], _CHOICE_DRAWS)))(ends)
        best = ends[jnp.argmax(jnp.where(jnp.isfinite(chosen), chosen, -jnp.inf))]
        return jnp.concatenate([_mean_and_error(log_weights(h, keys[3], _ELBO_DRAWS)) for h in (starts[0], best)])

    return jax.vmap(one, out_axes=1)(batch.rows, index)


def _starts(model: Model, head: PosteriorHead, prior: dist.Distribution, row: Row, key: Array) -> Float[Array, "S P"]:
    """Return starts for a family: the amortised parameters, and what is nearest to a Gaussian fitted by its curvature.

    A larger Gaussian family continues the parameters of the smaller with zeros.
    """
    shared = model.encode(row.x, row.observed)[: head.parameters]
    amortised = jnp.concatenate([shared, jnp.zeros(head.parameters - len(shared))])
    fitted = propose(Proposal("refined", draws=4, widening=1.0), model, prior, row, key)
    near = head.near(fitted.loc, fitted.scale_tril)
    return amortised[None] if near is None else jnp.stack([amortised, near])


def _climb(loss: Callable[[Array, Array], Array], start: Array, key: Array, rate: float, steps: int) -> Array:
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(carry: tuple[Array, Any], number: Array) -> tuple[tuple[Array, Any], None]:
        h, state = carry
        gradient = jnp.nan_to_num(jax.grad(loss)(h, jax.random.fold_in(key, number)))
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(h, updates), state), None

    return jax.lax.scan(step, (start, optimiser.init(start)), jnp.arange(steps))[0][0]


def _mean_and_error(log_weights: Float[Array, "S"]) -> Float[Array, "2"]:
    return jnp.stack([jnp.mean(log_weights), jnp.std(log_weights, ddof=1) / len(log_weights) ** 0.5])


@dataclass(frozen=True)
class Surgery:
    """What the two terms of the ELBO are, averaged over a data set, in nats per example.

    ``rate`` is the KL term and ``distortion`` −E log p(x|z), one point of the rate–distortion plane (Alemi et al. 2018);
    ELBO = −rate − distortion. rate = I(x; z) + KL(q(z) ‖ p(z)): ``information`` bounds I(x; z) of the population that
    the rows come from, from below (it cannot exceed log n) and from above (Poole et al. 2019), and ``marginal_kl`` what
    is left of the rate accordingly. With the lower bound of I(x; z) all is exact for the rows themselves.
    """

    rate: Estimate
    distortion: Estimate
    information: tuple[Estimate, Estimate]
    marginal_kl: tuple[Estimate, Estimate]


def surgery(model: Model, data: RowSource, *, seed: int = 0) -> Surgery:
    """Take the KL term of a data set apart; the work grows with the square of the number of rows.

    Raises :class:`~tightbound.errors.DataError` for fewer than two rows.
    """
    count = len(data.x)
    if count < 2:
        raise DataError(f"the aggregate posterior needs at least 2 rows, got {count}")
    rate, distortion, own, z = _terms_of(model, data, seed)
    with_own, without_own = _log_aggregate(model, data, z)
    lower, upper, above = own - (with_own - np.log(count)), own - (without_own - np.log(count - 1)), f"{count - 1:,} other rows"
    if upper.mean() > rate.mean():  # KL(q(z) ‖ p(z)) is not negative, so the rate bounds the information too
        upper, above = rate, "the rate"

    mean = partial(_mean, model)
    return Surgery(
        *_rate_and_distortion(model, rate, distortion),
        (mean(lower, "lower", f"{count:,} rows"), mean(upper, "upper", above)),
        (mean(rate - upper, "lower", "rate less information"), mean(rate - lower, "upper", "rate less information")),
    )


def rate_and_distortion(model: Model, data: RowSource, *, seed: int = 0) -> tuple[Estimate, Estimate]:
    """Return the two terms of minus the ELBO, as in :func:`surgery`, without the work that grows with the square."""
    return _rate_and_distortion(model, *_terms_of(model, data, seed)[:2])


def rates(model: Model, data: RowSource, *, seed: int = 0) -> Float[np.ndarray, "n"]:
    """Return KL(q(z|x) ‖ p(z)) of every row in nats; where it has no closed form, log q(z|x) − log p(z) at one draw."""
    return _terms_of(model, data, seed)[0]


def _rate_and_distortion(model: Model, rate: np.ndarray, distortion: np.ndarray) -> tuple[Estimate, Estimate]:
    return (
        _mean(model, rate, "exact", "KL term"),
        _mean(model, distortion, "exact", "−log p(x|z) at draws from q(z|x)"),
    )


def _mean(model: Model, values: np.ndarray, side: Any, method: str) -> Estimate:
    return mean_estimate(values, side=side, method=method, draws=1, measure=model.measure)


def _terms_of(model: Model, data: RowSource, seed: int) -> tuple[np.ndarray, ...]:
    """Return, for every row, the KL term, −log p(x|z), log q(z|x) and the draw z itself."""
    require_fixed(model.spec.sites, data)
    return over_blocks(_terms, in_blocks(data, 256), jax.random.key(seed), model)


@in_haste
def _terms(rows: Rows, index: Int[Array, "R"], key: Array, model: Model) -> tuple[Array, ...]:
    batch, prior = rows.batch(index, key), model.prior()

    def one(row: Row, number: Array) -> tuple[Array, ...]:
        q = model.posterior(row.x, row.observed)
        z = q.sample(jax.random.fold_in(key, number))
        return jnp.sum(divergence(q, prior, z)), -model.log_likelihood(z, *row), q.log_prob(z), z

    return jax.vmap(one)(batch.rows, index)


def log_densities(model: Model, data: RowSource, points: Float[np.ndarray, "m L"]) -> Float[np.ndarray, "n m"]:
    """Return log q(z_i|x_j) in nats for every row j of a data set and every point i, for any family of q."""
    return over_blocks(_log_densities, in_blocks(data, ROWS_AT_ONCE), model, jnp.asarray(points))[0]


def _log_aggregate(model: Model, data: RowSource, z: Float[np.ndarray, "n L"]) -> tuple[np.ndarray, np.ndarray]:
    """Return log Σ_j q(z_i|x_j) over all rows, and over all but row i, each (n,); z_i is a draw for row i."""
    count = len(z)
    size = max(1, min(count, DENSITIES_AT_ONCE // count))
    sums: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for index, used in blocks(count, size):
        scores = log_densities(model, data, z[np.maximum(index, 0)])[:, :used]
        sums[0].append(logsumexp(scores, axis=0))
        scores[index[:used], np.arange(used)] = -np.inf
        sums[1].append(logsumexp(scores, axis=0))
    return np.concatenate(sums[0]), np.concatenate(sums[1])


@eqx.filter_jit
def _log_densities(rows: Rows, index: Int[Array, "R"], model: Model, points: Float[Array, "m L"]) -> tuple[Array]:
    def one(row: Row) -> Array:
        return jax.vmap(model.posterior(row.x, row.observed).log_prob)(points)

    return (jax.vmap(one)(rows.batch(index, jax.random.key(0)).rows),)
