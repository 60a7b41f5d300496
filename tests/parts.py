"""Every part that the library ships, by name, and a tiny model of any combination: for the tests and the full grid."""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import jax
import numpy as np

import tightbound as tb
from tightbound.likelihoods import LikelihoodSpec
from tightbound.model import to_arrays, trainable
from tightbound.spec import Spec
from tightbound.testing import example_rows

ROWS = 24

POSTERIORS: dict[str, Spec] = {
    "diagonal": tb.DiagonalGaussian(),
    "full": tb.FullGaussian(),
    "flow": tb.FlowPosterior(layers=2, width=5, context=3),
}
PRIORS: dict[str, Spec] = {
    "normal": tb.StandardNormal(),
    "mixture": tb.TrainedMixture(components=4),
    "vamp": tb.VampPrior(components=4),
    "flow": tb.FlowPrior(layers=2, width=5),
}
PARTS = (
    tb.Part(columns=(2,), sites=tb.Sites(kind="real", shape=(1,))),
    tb.Part(columns=(0,), sites=tb.Sites(kind="category", shape=(1,), levels=3)),
    tb.Part(columns=(3,), sites=tb.Sites(kind="count", shape=(1,))),
    tb.Part(columns=(1,), sites=tb.Sites(kind="levels", shape=(1,), levels=4)),
)
# Likelihood and the sites it is tried on; 256 levels are the 8-bit case.
LIKELIHOODS: dict[str, tuple[LikelihoodSpec, dict[str, Any]]] = {
    "bernoulli": (tb.Bernoulli(), {"kind": "binary"}),
    "gaussian-fixed": (tb.Gaussian(noise="fixed", scale=0.5), {"kind": "real"}),
    "gaussian-global": (tb.Gaussian(), {"kind": "real"}),
    "gaussian-site": (tb.Gaussian(noise="site"), {"kind": "real"}),
    "gaussian-predicted": (tb.Gaussian(noise="predicted"), {"kind": "real"}),
    "heavy-tailed": (tb.LogisticMixture(), {"kind": "real"}),
    "logistic": (tb.DiscretisedLogistic(), {"kind": "levels", "levels": 256}),
    "logistic-mixture": (tb.DiscretisedLogistic(components=3, noise="site"), {"kind": "levels", "levels": 5}),
    "categorical": (tb.Categorical(), {"kind": "category", "levels": 4}),
    "categorical-levels": (tb.Categorical(), {"kind": "levels", "levels": 4}),
    "ordinal": (tb.Ordinal(), {"kind": "levels", "levels": 5}),
    "autoregressive": (tb.Autoregressive(base=tb.Bernoulli(), radius=1, units=3), {"kind": "binary", "shape": (2, 3, 1)}),
    "autoregressive-levels": (
        tb.Autoregressive(radius=1, units=2),
        {"kind": "levels", "levels": 3, "shape": (2, 2, 2)},
    ),
    "columns": (tb.Columns(), {"kind": "mixed", "shape": (4,), "parts": PARTS}),
    "poisson": (tb.Poisson(), {"kind": "count"}),
    "negative-binomial": (tb.NegativeBinomial(), {"kind": "count"}),
    "negative-binomial-predicted": (tb.NegativeBinomial(dispersion="predicted"), {"kind": "count"}),
}
# β, warm-up and free bits are traced: one compiled program covers every value of them. (Free bits may stop a gradient.)
OBJECTIVES: dict[str, Spec] = {
    "elbo": tb.ELBO(beta=4.0, warmup=10),
    "elbo-stl": tb.ELBO(gradient="stl"),
    "iwae": tb.IWAE(k=3),
    "iwae-dreg": tb.IWAE(k=3, gradient="dreg"),
}
# What the rows look like. An exposure goes with counts only; images go through convolutions.
DATA: dict[str, dict[str, Any]] = {
    "complete": {},
    "missing": {"missing": True},
    "image": {"shape": (4, 4, 1)},
    "exposure": {"exposure": True},
    "missing-exposure": {"missing": True, "exposure": True},
}
FACTORS: dict[str, tuple[str, ...]] = {
    "posterior": tuple(POSTERIORS),
    "prior": tuple(PRIORS),
    "likelihood": tuple(LIKELIHOODS),
    "objective": tuple(OBJECTIVES),
    "data": tuple(DATA),
}


class Choice(NamedTuple):
    """One combination of parts, by name."""

    posterior: str
    prior: str
    likelihood: str
    objective: str
    data: str


def sites(choice: Choice) -> tb.Sites:
    return tb.Sites(**{"shape": (4,), **LIKELIHOODS[choice.likelihood][1], **DATA[choice.data]})


def network(choice: Choice) -> Spec:
    if choice.data == "image":
        return tb.Convolutional(channels=(2,), activation="tanh")
    return tb.MLP(hidden=(6,), activation="tanh")


def possible(choice: Choice) -> bool:
    """Whether the combination makes sense at all: no exposures but of counts, no mixed images, no holes beside neighbours."""
    likelihood, known = LIKELIHOODS[choice.likelihood]
    kind = known["kind"]
    if "missing" in choice.data and not likelihood.independent:
        return False
    return ("exposure" not in choice.data or kind == "count") and (choice.data != "image" or kind != "mixed")


def grid() -> Iterator[Choice]:
    """Every combination that makes sense."""
    return (choice for names in product(*FACTORS.values()) if possible(choice := Choice(*names)))


def pairwise(choices: Sequence[Choice], seed: int = 1) -> list[Choice]:
    """A subset in which every pair of parts that occurs in ``choices`` occurs: greedy, the best of many at each turn."""
    open_pairs = {pair for choice in choices for pair in pairs(choice)}
    rng, chosen = np.random.default_rng(seed), []
    while open_pairs:
        candidates = [choices[i] for i in rng.integers(len(choices), size=400)]
        best = max(candidates, key=lambda choice: len(open_pairs & pairs(choice)))
        if gained := open_pairs & pairs(best):
            chosen.append(best)
            open_pairs -= gained
    return chosen


def pairs(choice: Choice) -> set[tuple[tuple[int, str], tuple[int, str]]]:
    return set(combinations(enumerate(choice), 2))


class Trial(NamedTuple):
    """What two steps of training did: the record, and the names of trained arrays that did not move."""

    record: Any
    unmoved: list[str]


def train_two_steps(choice: Choice) -> Trial:
    """Build a tiny model of the combination and train it for two steps, without weight decay, which moves anything."""
    data = example_rows(sites(choice), ROWS)
    spec = tb.VAE(
        sites=data.sites,
        latent=2,
        encoder=network(choice),
        decoder=network(choice),
        posterior=POSTERIORS[choice.posterior],
        prior=PRIORS[choice.prior],
        likelihood=LIKELIHOODS[choice.likelihood][0],
    )
    model = spec.build(jax.random.key(0), data.statistics())
    plan = tb.Plan(steps=2, batch_size=10, weight_decay=0.0, learning_rate=0.01, warmup=0.0)
    *_, last = tb.train(model, OBJECTIVES[choice.objective], data, plan)
    before, after = to_arrays(trainable(model)[0]), to_arrays(trainable(last.model)[0])
    return Trial(last.latest, [name for name in before if np.array_equal(before[name], after[name])])
