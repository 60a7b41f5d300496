"""Likelihoods p(x|z): a distribution over one example's sites, with its measure declared."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tightbound.likelihoods.autoregressive import Autoregressive
from tightbound.likelihoods.base import Constant, LikelihoodHead, LikelihoodSpec
from tightbound.likelihoods.bernoulli import Bernoulli
from tightbound.likelihoods.categorical import Categorical
from tightbound.likelihoods.columns import Columns
from tightbound.likelihoods.counts import NegativeBinomial, Poisson
from tightbound.likelihoods.discretised import DiscretisedLogistic
from tightbound.likelihoods.gaussian import Gaussian
from tightbound.likelihoods.mixture import LogisticMixture
from tightbound.likelihoods.ordinal import Ordinal
from tightbound.spec import Custom

__all__ = [
    "AnyLikelihood",
    "Autoregressive",
    "Bernoulli",
    "Categorical",
    "Columns",
    "Constant",
    "DiscretisedLogistic",
    "Gaussian",
    "LikelihoodHead",
    "LikelihoodSpec",
    "LogisticMixture",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
]

AnyLikelihood = Annotated[
    Bernoulli
    | Gaussian
    | LogisticMixture
    | DiscretisedLogistic
    | Ordinal
    | Categorical
    | Poisson
    | NegativeBinomial
    | Columns
    | Autoregressive
    | Custom,
    Field(discriminator="kind"),
]
