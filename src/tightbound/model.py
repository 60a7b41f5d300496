"""A variational autoencoder: three distributions, written for one example.

:class:`VAE` is the spec, a model as a value without weights; :class:`Model` is the built model, a pytree. What they share
with a hierarchy of latents (:mod:`tightbound.hierarchy`) is in their base classes. Batches and samples come from
``jax.vmap`` in the functions that use a model, never in here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float
from pydantic import Field

from tightbound.distributions import centre, cooled
from tightbound.errors import FormatError
from tightbound.likelihoods import (
    AnyLikelihood,
    Bernoulli,
    Categorical,
    Columns,
    DiscretisedLogistic,
    Gaussian,
    NegativeBinomial,
)
from tightbound.likelihoods.base import Constant, LikelihoodHead, LikelihoodSpec, unknown_statistics
from tightbound.networks import MLP, Network
from tightbound.posteriors import DiagonalGaussian, PosteriorHead, PosteriorSpec
from tightbound.priors import Encoder, PriorHead, PriorSpec, StandardNormal
from tightbound.schema import Kind, Measure, Sites, Statistics
from tightbound.spec import Spec

__all__ = [
    "VAE",
    "Model",
    "ModelSpec",
    "OneLayer",
    "default_likelihood",
    "from_arrays",
    "merge",
    "stacked",
    "to_arrays",
    "trainable",
]


def default_likelihood(kind: Kind) -> LikelihoodSpec:
    """Return the likelihood that fits a kind of site when the user names none.

    >>> default_likelihood("count").kind
    'negative-binomial'
    """
    table: dict[str, type[LikelihoodSpec]] = {
        "binary": Bernoulli,
        "levels": DiscretisedLogistic,
        "category": Categorical,
        "count": NegativeBinomial,
        "real": Gaussian,
        "mixed": Columns,
    }
    return table[kind]()


class ModelSpec(Spec):
    """A model as a value: what x is, and the parts that every variational autoencoder has.

    A subclass says how z is made of them: ``layers`` are the numbers of latents in the order in which they are drawn,
    ``parts`` the names of its parts.
    """

    sites: Sites
    encoder: Network = MLP()
    decoder: Network = MLP()
    prior: PriorSpec = StandardNormal()
    likelihood: AnyLikelihood
    parts: ClassVar[tuple[str, ...]]

    if TYPE_CHECKING:  # a field or a property of the subclass

        @property
        def latent(self) -> int:
            """The number L of latents."""

    @property
    @abstractmethod
    def layers(self) -> tuple[int, ...]:
        """The number of latents in every layer, in the order in which the layers are drawn."""

    @abstractmethod
    def assemble(self, key: Array, statistics: Statistics) -> Model:
        """Return the model with random weights; :meth:`build` calls it inside one compiled program."""

    def check(self) -> None:
        """Raise :class:`~tightbound.errors.SupportError` when the likelihood is not for these sites."""
        if isinstance(self.likelihood, LikelihoodSpec):
            self.likelihood.check(self.sites)

    def build(self, key: Array, statistics: Statistics | None = None) -> Model:
        """Return a model with random weights.

        ``statistics`` are those of the training rows (``data.statistics()``); without them sites are taken to have
        mean 0 and deviation 1. Raises :class:`SupportError` when the likelihood does not fit the sites.
        """
        self.check()
        return _build(self, key, statistics or unknown_statistics(self.sites))

    def describe(self) -> list[tuple[str, str]]:
        """Return (role, part) lines for people."""
        latents = " → ".join(map(str, self.layers))
        return [("x", self.sites.describe()), ("z", f"{latents} latents")] + [
            (role, _one_line(getattr(self, role))) for role in self.parts
        ]


class VAE(ModelSpec):
    """A variational autoencoder as a value: what x is, how many latents, and the parts.

    log p(x) = ELBO + KL(q(z|x) ‖ p(z|x)) with z of shape (``latent``,), x of shape (D,).

    >>> import jax
    >>> spec = VAE(sites=Sites(kind="binary", shape=(784,)), latent=20, likelihood=Bernoulli())
    >>> model = spec.build(jax.random.key(0))
    >>> model.posterior(jax.numpy.zeros(784)).event_shape
    (20,)
    """

    kind: Literal["vae"] = "vae"
    latent: int = Field(ge=1, le=4096)
    posterior: PosteriorSpec = DiagonalGaussian()
    references: ClassVar[tuple[str, ...]] = ("kingma2014auto", "rezende2014stochastic")
    parts: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "posterior", "prior", "likelihood")

    @property
    def layers(self) -> tuple[int, ...]:
        """All latents in one layer."""
        return (self.latent,)

    def assemble(self, key: Array, statistics: Statistics) -> Model:
        """Return the model with random weights."""
        encoder_key, decoder_key, posterior_key, prior_key, likelihood_key = jax.random.split(key, 5)
        sites = self.sites
        posterior = self.posterior.build(self.latent, key=posterior_key)
        likelihood = self.likelihood.build(sites, statistics, key=likelihood_key)
        encoder = self.encoder.build(sites.feature_shape, (posterior.parameters,), key=encoder_key)
        decoder = self.decoder.build((self.latent,), tuple(likelihood.parameter_shape), key=decoder_key)
        prior = self.prior.build(self.latent, sites, statistics, key=prior_key)
        mean, scale = Constant(statistics.mean), Constant(statistics.scale)
        return OneLayer(encoder, decoder, posterior, prior, likelihood, mean, scale, self)


def _one_line(part: Spec) -> str:
    fields = part.model_dump(exclude={"kind"})
    inside = ", ".join(f"{name}={value!r}" for name, value in fields.items() if value is not None)
    return f"{getattr(part, 'kind', type(part).__name__)}({inside})"


class Model(eqx.Module):
    """The three distributions of a variational autoencoder, for one example.

    ``x`` is a float vector (D,) in the units of the data; ``observed`` (D,) marks the sites that are known, all when None;
    ``exposure`` is the row's exposure for counts. Subclasses say what p(z) is and how z becomes the parameters of p(x|z);
    their field names are the keys of the model file.
    """

    if TYPE_CHECKING:  # in subclasses fields, in an order of their own, or properties

        @property
        def encoder(self) -> Any:
            """What makes the parameters of q(z|x) of the features of x."""

        @property
        def decoder(self) -> Any:
            """The network that ends in the parameters of p(x|z)."""

        @property
        def posterior_head(self) -> PosteriorHead:
            """What makes q(z|x) of its parameters."""

        @property
        def prior_head(self) -> PriorHead:
            """What makes p(z), or the part of it that is drawn first."""

        @property
        def likelihood_head(self) -> LikelihoodHead:
            """What makes p(x|z) of its parameters."""

        @property
        def mean(self) -> Constant:
            """The mean of every site over the training rows."""

        @property
        def scale(self) -> Constant:
            """The deviation of every site over the training rows."""

        @property
        def spec(self) -> Any:
            """The spec that the model was built from."""

    @abstractmethod
    def prior(self) -> dist.Distribution:
        """Return p(z), a distribution over one z, event shape (L,)."""

    @abstractmethod
    def parameters(self, z: Float[Array, "L"]) -> Float[Array, "..."]:
        """Return what the decoder makes of z, from which the likelihood takes the parameters of p(x|z)."""

    def posterior(self, x: Float[Array, "D"], observed: Bool[Array, "D"] | None = None) -> dist.Distribution:
        """Return q(z|x), a distribution over one z, event shape (L,); unobserved sites have no influence."""
        return self.posterior_head(self.encode(x, observed))

    def encode(self, x: Float[Array, "D"], observed: Bool[Array, "D"] | None = None) -> Float[Array, "P"]:
        """Return the parameters of q(z|x) as the encoder gives them: its head makes the distribution of them."""
        if observed is not None:
            x = jnp.where(observed, x, self.mean())
        return self.encoder(self.spec.sites.features(x, observed, self.mean(), self.scale()))

    def likelihood(self, z: Float[Array, "L"], exposure: Float[Array, ""] | None = None) -> dist.Distribution:
        """Return p(x|z), a distribution over one x, batch shape (D,) = sites."""
        return self.likelihood_head(self.parameters(z), exposure)

    def log_likelihood(
        self,
        z: Float[Array, "L"],
        x: Float[Array, "D"],
        observed: Bool[Array, "D"] | None = None,
        exposure: Float[Array, ""] | None = None,
    ) -> Float[Array, ""]:
        """Return log p(x|z) in nats, the sum over observed sites: the one place where sites are summed."""
        return jnp.sum(self.site_log_likelihoods(z, x, observed, exposure))

    def site_log_likelihoods(
        self,
        z: Float[Array, "L"],
        x: Float[Array, "D"],
        observed: Bool[Array, "D"] | None = None,
        exposure: Float[Array, ""] | None = None,
    ) -> Float[Array, "D"]:
        """Return log p(x_d|z) of every site in nats, 0 where it is not observed."""
        sites = self.likelihood(z, exposure).log_prob(self.filled(x, observed))
        return sites if observed is None else jnp.where(observed, sites, 0.0)

    def log_joint(
        self,
        z: Float[Array, "L"],
        x: Float[Array, "D"],
        observed: Bool[Array, "D"] | None = None,
        exposure: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return (log p(x|z), log p(z)) in nats."""
        return self.log_likelihood(z, x, observed, exposure), self.prior().log_prob(z)

    def sample(
        self, key: Array, exposure: Float[Array, ""] | None = None, temperature: Float[Array, ""] | None = None
    ) -> Float[Array, "D"]:
        """Draw one x ~ p(x) by ancestral sampling from the model's own prior, or from that prior cooled."""
        latent_key, site_key = jax.random.split(key)
        prior = self.prior() if temperature is None else cooled(self.prior(), temperature)
        return self.likelihood(prior.sample(latent_key), exposure).sample(site_key).astype(jnp.float32)

    def embed(self, x: Float[Array, "D"], observed: Bool[Array, "D"] | None = None) -> tuple[Array, Array]:
        """Return mean and standard deviation of q(z|x), each (L,): deterministic."""
        q = self.posterior(x, observed)
        return q.mean, jnp.sqrt(q.variance)

    def reconstruct(
        self,
        x: Float[Array, "D"],
        observed: Bool[Array, "D"] | None = None,
        exposure: Float[Array, ""] | None = None,
        key: Array | None = None,
    ) -> Float[Array, "D"]:
        """Return E[x|z] at the mean of q(z|x), or at a draw from it when a key is given."""
        q = self.posterior(x, observed)
        return self.decode(q.mean if key is None else q.sample(key), exposure)

    def decode(self, z: Float[Array, "L"], exposure: Float[Array, ""] | None = None) -> Float[Array, "D"]:
        """Return E[x|z]; for categories, which have no mean, the most probable level."""
        return centre(self.likelihood(z, exposure)) if self.spec.sites.kind == "category" else self.likelihood(z, exposure).mean

    def filled(self, x: Float[Array, "D"], observed: Bool[Array, "D"] | None) -> Float[Array, "D"]:
        """Return x with an admissible value in the place of what is not observed, so that log p(x|z) is finite there."""
        if observed is None:
            return x
        return jnp.where(observed, x, self.mean() if self.spec.sites.kind == "real" else jnp.zeros(self.spec.sites.count))

    @property
    def measure(self) -> Measure:
        """The measure that log p(x) is a density against."""
        return self.likelihood_head.measure


class OneLayer(Model):
    """The model of a :class:`VAE`: all latents are drawn at once, and the decoder reads them."""

    encoder: Any
    decoder: Any
    posterior_head: PosteriorHead
    prior_head: PriorHead
    likelihood_head: LikelihoodHead
    mean: Constant
    scale: Constant
    spec: VAE = eqx.field(static=True)

    def prior(self) -> dist.Distribution:
        """Return p(z), which may borrow the encoder."""
        return self.prior_head(Encoder(self.encoder, self.posterior_head))

    def parameters(self, z: Float[Array, "L"]) -> Float[Array, "..."]:
        """Return the decoder's output."""
        return self.decoder(z)


@eqx.filter_jit
def _build(spec: ModelSpec, key: Array, statistics: Statistics) -> Model:
    return spec.assemble(key, statistics)


def trainable(model: Tree) -> tuple[Tree, Tree]:
    """Split a model, or a part of one, into (what is trained, the rest), two pytrees that :func:`merge` joins."""
    mask = jax.tree.map(
        lambda node: not isinstance(node, Constant) and eqx.is_inexact_array(node),
        model,
        is_leaf=lambda node: isinstance(node, Constant),
    )
    return eqx.partition(model, mask, is_leaf=lambda node: isinstance(node, Constant))


def merge(trained: Tree, rest: Tree) -> Tree:
    """Join what :func:`trainable` split."""
    return eqx.combine(trained, rest, is_leaf=lambda node: isinstance(node, Constant))


Tree = TypeVar("Tree")


def stacked(trees: Sequence[Tree]) -> Tree:
    """Return trees of the same form as one whose arrays have a leading axis; on the host, where nothing is compiled."""

    def joined(*leaves: Any) -> Any:
        return jnp.asarray(np.stack(leaves)) if eqx.is_array(leaves[0]) else leaves[0]

    return jax.tree.map(joined, *trees)


def to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a pytree by the names of their fields, such as ``encoder.hidden.0.linear.weight``."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {_name(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(like: Tree, arrays: dict[str, np.ndarray]) -> Tree:
    """Return a pytree like the given one with its arrays replaced by name.

    Raises :class:`~tightbound.errors.FormatError` when names, shapes or types are not exactly those expected.
    """
    expected = to_arrays(like)
    problems = [f"{name} is missing" for name in expected if name not in arrays]
    problems += [f"{name} is unknown" for name in arrays if name not in expected]
    for name, array in expected.items():
        given = arrays.get(name, array)
        if given.shape != array.shape or given.dtype != array.dtype:
            problems.append(f"{name} is {given.dtype}{list(given.shape)}, expected {array.dtype}{list(array.shape)}")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise FormatError("the arrays do not belong to this model: " + "; ".join(problems[:5]) + more)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(arrays[_name(path)]) if eqx.is_array(leaf) else leaf, like
    )


def _name(path: tuple[Any, ...]) -> str:
    parts = [getattr(part, "name", getattr(part, "key", getattr(part, "idx", None))) for part in path]
    return ".".join(str(part) for part in parts)
