"""Variational autoencoders whose numbers can be trusted.

A variational autoencoder is three distributions, a prior p(z), a likelihood p(x|z) and a posterior q(z|x), and one
identity, log p(x) = ELBO + KL(q(z|x) ‖ p(z|x)). Every loss is in nats per example with all its constants; every
estimate of log p(x) says on which side of the truth it is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tightbound import distributions, errors
    from tightbound.completion import Completions, complete, conformal_p_values, impute, site_scores
    from tightbound.data.arrays import Dataset, Split, from_arrays
    from tightbound.data.frames import Column, TableSchema, infer
    from tightbound.data.load import load, read_table
    from tightbound.data.tablefiles import write_table
    from tightbound.diagnosis.diagnose import diagnose
    from tightbound.diagnosis.finding import Finding
    from tightbound.diagnosis.subject import Subject
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
    from tightbound.estimators import VAEDensity, VAEImputer, VAEOutlierDetector, VAETransformer
    from tightbound.evidence.annealed import Annealed, Bracket, Walk, annealed, bracket
    from tightbound.evidence.estimate import Estimate
    from tightbound.evidence.evaluation import Evaluation, evaluate
    from tightbound.evidence.exact import Exact, Grid, exact, posterior_grid
    from tightbound.evidence.gaps import Gaps, Surgery, gaps, surgery
    from tightbound.evidence.importance import Importance, importance
    from tightbound.evidence.proposals import Proposal
    from tightbound.evidence.truth import PosteriorDraws, true_posterior
    from tightbound.fitting import Fitted, fit
    from tightbound.hierarchy import HierarchicalVAE
    from tightbound.inference import decode, embed, reconstruct, sample
    from tightbound.likelihoods import (
        Autoregressive,
        Bernoulli,
        Categorical,
        Columns,
        DiscretisedLogistic,
        Gaussian,
        LogisticMixture,
        NegativeBinomial,
        Ordinal,
        Poisson,
    )
    from tightbound.model import VAE, Model
    from tightbound.networks import MLP, Convolutional, Mixer
    from tightbound.objectives import ELBO, IWAE
    from tightbound.posteriors import DiagonalGaussian, FlowPosterior, FullGaussian
    from tightbound.priors import FlowPrior, StandardNormal, TrainedMixture, VampPrior
    from tightbound.recipes import Recipe, recipe
    from tightbound.report.page import write_report
    from tightbound.rows import Row
    from tightbound.schema import Part, Sites, Statistics
    from tightbound.spec import Custom
    from tightbound.store import Run, load_model, read_run, save_model
    from tightbound.sweeping import Sweep, SweepMember, SweepPoint, Verdict, sweep
    from tightbound.tabular import Condition, Scores, conditions, draw_given, scores, surprise
    from tightbound.training.loop import Progress, train
    from tightbound.training.plan import Plan

__version__ = "0.1.0"

__all__ = [
    "ELBO",
    "IWAE",
    "MLP",
    "VAE",
    "Annealed",
    "Autoregressive",
    "Bernoulli",
    "Bracket",
    "Categorical",
    "Column",
    "Columns",
    "CombinationError",
    "Completions",
    "Condition",
    "Convolutional",
    "Custom",
    "DataError",
    "Dataset",
    "DiagonalGaussian",
    "DiscretisedLogistic",
    "Estimate",
    "Evaluation",
    "Exact",
    "Finding",
    "Fitted",
    "FlowPosterior",
    "FlowPrior",
    "FormatError",
    "FullGaussian",
    "Gaps",
    "Gaussian",
    "Grid",
    "HierarchicalVAE",
    "Importance",
    "LogisticMixture",
    "Mixer",
    "Model",
    "NegativeBinomial",
    "Ordinal",
    "OutputExistsError",
    "Part",
    "Plan",
    "Poisson",
    "PosteriorDraws",
    "Progress",
    "Proposal",
    "Recipe",
    "Row",
    "Run",
    "Scores",
    "Sites",
    "SpecError",
    "Split",
    "StandardNormal",
    "Statistics",
    "StoreError",
    "Subject",
    "SupportError",
    "Surgery",
    "Sweep",
    "SweepMember",
    "SweepPoint",
    "TableSchema",
    "TightboundError",
    "TrainedMixture",
    "TrainingError",
    "UntrustedError",
    "VAEDensity",
    "VAEImputer",
    "VAEOutlierDetector",
    "VAETransformer",
    "VampPrior",
    "Verdict",
    "Walk",
    "annealed",
    "bracket",
    "complete",
    "conditions",
    "conformal_p_values",
    "decode",
    "diagnose",
    "distributions",
    "draw_given",
    "embed",
    "errors",
    "evaluate",
    "exact",
    "fit",
    "from_arrays",
    "gaps",
    "importance",
    "impute",
    "infer",
    "load",
    "load_model",
    "posterior_grid",
    "read_run",
    "read_table",
    "recipe",
    "reconstruct",
    "sample",
    "save_model",
    "scores",
    "site_scores",
    "surgery",
    "surprise",
    "sweep",
    "train",
    "true_posterior",
    "write_report",
    "write_table",
]

# Where the public names live. They are imported when they are first used, so that `tightbound --help` does not wait
# for JAX.
_HOMES = {
    "data.arrays": "Dataset Split from_arrays",
    "completion": "Completions complete conformal_p_values impute site_scores",
    "data.frames": "Column TableSchema infer",
    "data.load": "load read_table",
    "data.tablefiles": "write_table",
    "estimators": "VAEDensity VAEImputer VAEOutlierDetector VAETransformer",
    "tabular": "Condition Scores conditions draw_given scores surprise",
    "errors": "CombinationError DataError FormatError OutputExistsError SpecError StoreError SupportError "
    "TightboundError TrainingError UntrustedError",
    "diagnosis.diagnose": "diagnose",
    "diagnosis.finding": "Finding",
    "diagnosis.subject": "Subject",
    "evidence.annealed": "Annealed Bracket Walk annealed bracket",
    "evidence.estimate": "Estimate",
    "evidence.evaluation": "Evaluation evaluate",
    "evidence.exact": "Exact Grid exact posterior_grid",
    "evidence.gaps": "Gaps Surgery gaps surgery",
    "evidence.importance": "Importance importance",
    "evidence.proposals": "Proposal",
    "evidence.truth": "PosteriorDraws true_posterior",
    "fitting": "Fitted fit",
    "hierarchy": "HierarchicalVAE",
    "inference": "decode embed reconstruct sample",
    "likelihoods": (
        "Autoregressive Bernoulli Categorical Columns DiscretisedLogistic Gaussian LogisticMixture NegativeBinomial Ordinal "
        "Poisson"
    ),
    "model": "VAE Model",
    "networks": "MLP Convolutional Mixer",
    "objectives": "ELBO IWAE",
    "posteriors": "DiagonalGaussian FlowPosterior FullGaussian",
    "priors": "FlowPrior StandardNormal TrainedMixture VampPrior",
    "recipes": "Recipe recipe",
    "report.page": "write_report",
    "rows": "Row",
    "schema": "Part Sites Statistics",
    "spec": "Custom",
    "store": "Run load_model read_run save_model",
    "sweeping": "Sweep SweepMember SweepPoint Verdict sweep",
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
