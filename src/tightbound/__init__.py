"""Variational autoencoders whose numbers can be trusted.

A variational autoencoder is three distributions, a prior p(z), a likelihood p(x|z) and a posterior q(z|x), and one
identity, log p(x) = ELBO + KL(q(z|x) ‖ p(z|x)). Every loss is in nats per example with all its constants; every estimate
of log p(x) says on which side of the truth it is.
"""

from tightbound.data.arrays import Dataset
from tightbound.data.load import load
from tightbound.errors import TightboundError
from tightbound.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, Gaussian, NegativeBinomial, Poisson
from tightbound.model import VAE, Model
from tightbound.networks import MLP, Convolutional
from tightbound.objectives import ELBO, IWAE
from tightbound.posteriors import DiagonalGaussian, FullGaussian
from tightbound.priors import StandardNormal, TrainedMixture, VampPrior
from tightbound.schema import Sites
from tightbound.spec import Custom
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
    "Convolutional",
    "Custom",
    "Dataset",
    "DiagonalGaussian",
    "DiscretisedLogistic",
    "FullGaussian",
    "Gaussian",
    "Model",
    "NegativeBinomial",
    "Plan",
    "Poisson",
    "Progress",
    "Sites",
    "StandardNormal",
    "TightboundError",
    "TrainedMixture",
    "VampPrior",
    "load",
    "train",
]
