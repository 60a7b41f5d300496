"""Recipes: whole choices of model, objective and plan that reached a figure, by name, beside the published one.

To add a recipe is to add an entry to :data:`RECIPES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

from tightbound.data.arrays import Binarisation
from tightbound.errors import DataError, SpecError
from tightbound.hierarchy import model_spec
from tightbound.likelihoods import Autoregressive, Bernoulli, DiscretisedLogistic
from tightbound.model import ModelSpec
from tightbound.networks import MLP, Mixer
from tightbound.objectives import ELBO, IWAE, ObjectiveSpec
from tightbound.priors import FlowPrior, StandardNormal, VampPrior
from tightbound.schema import Sites
from tightbound.training.plan import Plan

__all__ = ["RECIPES", "Figure", "Recipe", "recipe"]


class Figure(NamedTuple):
    """A number with what it is of, its standard error where it is known, and where it comes from.

    ``quantity`` names it with its unit and side; ``source`` is a key of the bibliography, with words, or a command.
    """

    quantity: str
    value: float
    se: float | None
    source: str

    def __str__(self) -> str:
        error = "" if self.se is None else f" ± {self.se:.2f}"
        return f"{self.value:.2f}{error}"


@dataclass(frozen=True)
class Recipe:
    """A model, an objective and a plan under a name, with the figure that was published and the one that was reached here.

    ``sites`` are those of the data that the figures are of, ``parts`` the fields of :class:`~tightbound.VAE` without them, or
    of :class:`~tightbound.HierarchicalVAE` when they name the ``latents`` of several layers.
    ``binarise`` says how grey levels become bits. ``reached`` is None until the benchmark that its source names was run.
    """

    name: str
    description: str
    sites: Sites
    parts: Mapping[str, Any]
    objective: ObjectiveSpec
    plan: Plan
    published: Figure
    reached: Figure | None = None
    binarise: Binarisation | None = None

    def spec(self, sites: Sites | None = None) -> ModelSpec:
        """Return the model for sites of the same kind, by default those that the figures are of.

        Raises :class:`~tightbound.errors.DataError` for sites of another kind.
        """
        self.require(sites or self.sites)
        return model_spec(dict(self.parts))(sites=sites or self.sites, **self.parts)

    def require(self, sites: Sites) -> None:
        """Raise :class:`~tightbound.errors.DataError` unless the recipe is for data of this kind."""
        if sites.kind != self.sites.kind or (self.sites.is_image and not sites.is_image):
            raise DataError(
                f"recipe '{self.name}' is for {self.sites.describe()}, but the data has {sites.describe()}; "
                "`tightbound recipes` lists the others"
            )

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return the tables of a spec file that say the same: whatever is merged over them wins."""
        fields = self.spec().model_dump(mode="json")
        return {
            "model": {name: fields[name] for name in self.parts},
            "objective": _said(self.objective),
            "plan": _said(self.plan),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values."""
        figures = {"published": self.published, "reached": self.reached}
        return {
            "name": self.name, "description": self.description, "data": self.sites.describe(), "binarise": self.binarise,
            **self.tables(), **{name: None if one is None else one._asdict() for name, one in figures.items()},
        }  # fmt: skip


def _said(part: ObjectiveSpec | Plan) -> dict[str, Any]:
    return {name: value for name, value in part.model_dump(mode="json").items() if value is not None}


_BITS = Sites(kind="binary", shape=(28, 28, 1))
_GATED = MLP(hidden=(300, 300), gated=True)
_FIFTY = {"latent": 50, "encoder": _GATED, "decoder": _GATED, "likelihood": Bernoulli()}
_PATCHES = Mixer(patch=7, width=80, within=160, hidden=(300,))
_MIXERS = {"encoder": _PATCHES, "decoder": _PATCHES}
_LAST_TENTH = IWAE(k=5, gradient="dreg", share=0.1)
_LOG_P, _BITS_PER_DIMENSION = "log p(x) ≥, nats per image", "−log p(x) ≤, bits per dimension"

_ALL = (
    Recipe(
        name="mnist-normal",
        description="dynamic MNIST, 50 latents, gated 2 × 300, standard normal prior",
        sites=_BITS,
        parts={**_FIFTY, "prior": StandardNormal()},
        objective=ELBO(),
        plan=Plan(epochs=180, batch_size=160, learning_rate=2e-3, weight_decay=0.02, evaluate_every=2000),
        published=Figure(_LOG_P, -86.76, None, "burda2016importance, VAE, one stochastic layer"),
        reached=Figure(_LOG_P, -85.73, 0.22, "python benchmarks/mnist/reproduce.py normal"),
        binarise="dynamic",
    ),
    Recipe(
        name="mnist-mixer",
        description="dynamic MNIST, 50 latents, mixers of patches, standard normal prior, the last tenth of training by DReG",
        sites=_BITS,
        parts={**_FIFTY, **_MIXERS, "prior": StandardNormal()},
        objective=ELBO(then=_LAST_TENTH),
        plan=Plan(epochs=90, batch_size=128, learning_rate=2e-3, weight_decay=0.02, final=0.1, evaluate_every=2000),
        published=Figure(_LOG_P, -84.45, None, "tomczak2018vae, VAE, as later papers quote it"),
        reached=Figure(_LOG_P, -83.50, 0.21, "python benchmarks/published/images.py mnist-mixer"),
        binarise="dynamic",
    ),
    Recipe(
        name="mnist-flow",
        description="dynamic MNIST, 50 latents, mixers of patches, flow prior, the last tenth of training by DReG",
        sites=_BITS,
        parts={**_FIFTY, **_MIXERS, "prior": FlowPrior()},
        objective=ELBO(then=_LAST_TENTH),
        plan=Plan(epochs=140, batch_size=128, learning_rate=2e-3, weight_decay=0.04, final=0.1, evaluate_every=2000),
        published=Figure(_LOG_P, -82.43, None, "tomczak2018vae, VampPrior, as later papers quote it"),
        reached=Figure(_LOG_P, -81.37, 0.21, "python benchmarks/published/images.py mnist-flow"),
        binarise="dynamic",
    ),
    Recipe(
        name="mnist-hierarchy-near",
        description="dynamic MNIST, 24 → 40 latents, mixers, flow prior on top, pixels that know their neighbours, then DReG",
        sites=_BITS,
        parts={
            "latents": (24, 40),
            "width": 256,
            **_MIXERS,
            "likelihood": Autoregressive(base=Bernoulli()),
            "prior": FlowPrior(),
        },
        objective=ELBO(free_bits=0.01, then=_LAST_TENTH),
        plan=Plan(epochs=80, batch_size=128, learning_rate=2e-3, weight_decay=0.1, final=0.1, evaluate_every=1000),
        published=Figure(_LOG_P, -78.53, None, "chen2017variational, VLAE, an autoregressive decoder"),
        reached=Figure(_LOG_P, -80.13, 0.20, "python benchmarks/published/images.py mnist-hierarchy-near"),
        binarise="dynamic",
    ),
    Recipe(
        name="mnist-vamp",
        description="dynamic MNIST, 50 latents, gated 2 × 300, VampPrior of 500 components",
        sites=_BITS,
        parts={**_FIFTY, "prior": VampPrior(components=500)},
        objective=ELBO(),
        plan=Plan(epochs=90, batch_size=250, learning_rate=2e-3, evaluate_every=1000),
        published=Figure(_LOG_P, -84.78, None, "burda2016importance, IWAE with k = 50, one stochastic layer"),
        reached=Figure(_LOG_P, -84.10, 0.23, "python benchmarks/mnist/reproduce.py vamp"),
        binarise="dynamic",
    ),
    Recipe(
        name="freyfaces",
        description="Frey Faces, 256 levels, 40 latents, gated 2 × 300, flow prior",
        sites=Sites(kind="levels", shape=(28, 20, 1), levels=256),
        parts={
            "latent": 40,
            "encoder": _GATED,
            "decoder": _GATED,
            "likelihood": DiscretisedLogistic(),
            "prior": FlowPrior(layers=6, width=64),
        },
        objective=ELBO(),
        plan=Plan(steps=2500, batch_size=64, learning_rate=1e-3, weight_decay=1.0, evaluate_every=100),
        published=Figure(_BITS_PER_DIMENSION, 4.63, None, "tomczak2018vae, VAE; hierarchical with VampPrior 4.51"),
        reached=Figure(_BITS_PER_DIMENSION, 4.31, 0.04, "python benchmarks/published/images.py freyfaces"),
    ),
)
RECIPES: dict[str, Recipe] = {one.name: one for one in _ALL}


def recipe(name: str) -> Recipe:
    """Return a recipe by its name; raise :class:`~tightbound.errors.SpecError` with the known names.

    >>> mnist = recipe("mnist-vamp")
    >>> mnist.spec().latent, mnist.plan.epochs, str(mnist.published)
    (50, 90, '-84.78')
    """
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise SpecError("recipe", (("", f"unknown name '{name}'{hint} (known: {', '.join(RECIPES)})"),))
    return RECIPES[name]
