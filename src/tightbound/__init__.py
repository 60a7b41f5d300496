"""Variational autoencoders whose numbers can be trusted.

A variational autoencoder is three distributions, a prior p(z), a likelihood p(x|z) and a posterior q(z|x), and one
identity, log p(x) = ELBO + KL(q(z|x) ‖ p(z|x)). Every loss is in nats per example with all its constants; every
estimate of log p(x) says on which side of the truth it is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tightbound import distributions, errors
    from tightbound.data.arrays import Dataset, Split, from_arrays
    from tightbound.data.load import load
    from tightbound.errors import (
        CombinationError,
        DataError,
        FormatError,
        OutputExistsError,
        SpecError,
        StoreError,
        SupportError,
        TightboundError,
        TrainingError,
        UntrustedError,
    )
    from tightbound.evidence.estimate import Estimate
    from tightbound.evidence.importance import Importance, importance
    from tightbound.fitting import Fitted, fit
    from tightbound.inference import decode, embed, reconstruct, sample
    from tightbound.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, Gaussian, NegativeBinomial, Poisson
    from tightbound.model import VAE, Model
    from tightbound.networks import MLP, Convolutional
    from tightbound.objectives import ELBO, IWAE
    from tightbound.posteriors import DiagonalGaussian, FullGaussian
    from tightbound.priors import StandardNormal, TrainedMixture, VampPrior
    from tightbound.schema import Sites, Statistics
    from tightbound.spec import Custom
    from tightbound.store import Run, load_model, read_run, save_model
    from tightbound.training.loop import Progress, train
    from tightbound.training.plan import Plan

__version__ = "0.1.0"

__all__ = [
    "ELBO",
    "IWAE",
    "MLP",
    "VAE",
    "Bernoulli",
    "Categorical",
    "CombinationError",
    "Convolutional",
    "Custom",
    "DataError",
    "Dataset",
    "DiagonalGaussian",
    "DiscretisedLogistic",
    "Estimate",
    "Fitted",
    "FormatError",
    "FullGaussian",
    "Gaussian",
    "Importance",
    "Model",
    "NegativeBinomial",
    "OutputExistsError",
    "Plan",
    "Poisson",
    "Progress",
    "Run",
    "Sites",
    "SpecError",
    "Split",
    "StandardNormal",
    "Statistics",
    "StoreError",
    "SupportError",
    "TightboundError",
    "TrainedMixture",
    "TrainingError",
    "UntrustedError",
    "VampPrior",
    "decode",
    "distributions",
    "embed",
    "errors",
    "fit",
    "from_arrays",
    "importance",
    "load",
    "load_model",
    "read_run",
    "reconstruct",
    "sample",
    "save_model",
    "train",
]

# Where the public names live. They are imported when they are first used, so that `tightbound --help` does not wait
# for JAX.
_HOMES = {
    "data.arrays": "Dataset Split from_arrays",
    "data.load": "load",
    "errors": "CombinationError DataError FormatError OutputExistsError SpecError StoreError SupportError "
    "TightboundError TrainingError UntrustedError",
    "evidence.estimate": "Estimate",
    "evidence.importance": "Importance importance",
    "fitting": "Fitted fit",
    "inference": "decode embed reconstruct sample",
    "likelihoods": "Bernoulli Categorical DiscretisedLogistic Gaussian NegativeBinomial Poisson",
    "model": "VAE Model",
    "networks": "MLP Convolutional",
    "objectives": "ELBO IWAE",
    "posteriors": "DiagonalGaussian FullGaussian",
    "priors": "StandardNormal TrainedMixture VampPrior",
    "schema": "Sites Statistics",
    "spec": "Custom",
    "store": "Run load_model read_run save_model",
    "training.loop": "Progress train",
    "training.plan": "Plan",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in ("distributions", "errors"):
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
