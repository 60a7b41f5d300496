"""The contracts themselves: a flaw of each kind that the field has seen is found, and called by its name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import flawed
import tightbound as tb
from data_checks import refused
from tightbound.errors import SpecError
from tightbound.evidence.estimate import Estimate
from tightbound.evidence.importance import importance
from tightbound.testing import (
    check_estimate,
    check_likelihood,
    check_objective,
    check_posterior,
    check_prior,
    example_rows,
    example_statistics,
)

REAL = tb.Sites(kind="real", shape=(3,))
COUNTS = tb.Sites(kind="count", shape=(3,), exposure=True)

CHECKS: dict[str, Callable[[str], None]] = {
    "posterior": lambda flaw: check_posterior(custom("posterior", flaw)),
    "prior": lambda flaw: check_prior(custom("prior", flaw)),
    "likelihood": lambda flaw: check_likelihood(custom("likelihood", flaw), REAL),
    "counts": lambda flaw: check_likelihood(custom("counts", flaw), COUNTS),
    "objective": lambda flaw: check_objective(flawed.objective(flaw=flaw)),
}
FLAWS = [
    ("posterior", "variance for deviation", "the draws do not come from the density"),
    ("posterior", "missing constant", "has mass 2.5"),
    ("posterior", "detached draws", "pathwise gradient"),
    ("posterior", "unbounded variance", "not finite"),
    ("posterior", "unused array", "no gradient reaches .unused"),
    ("posterior", "batch of components", r"shapes \(\(2,\), \(2,\)\), expected \(\(2,\), \(\)\)"),
    ("prior", "variance for deviation", "the draws do not come from the density"),
    ("prior", "missing constant", "has mass"),
    ("prior", "another training form", "training_log_prob differs from log_prob"),
    ("prior", "frozen", "no gradient reaches .raw"),
    ("prior", "half frozen", "is not the derivative"),
    ("likelihood", "frozen mean", "is not the derivative"),
    ("likelihood", "squared error", "has mass"),
    ("likelihood", "mean over sites", "has mass"),
    ("likelihood", "mean is NaN", "Model.decode gives"),
    ("likelihood", "sites that see each other", "decoder's numbers for masked sites get a gradient"),
    ("likelihood", "unbounded scale", "not finite"),
    ("counts", "missing factorial", "has mass"),
    ("counts", "no exposure", "twice the exposure must give twice the mean"),
    ("objective", "padding counts", "rows of weight 0 change the loss"),
    ("objective", "detached draws", "no gradient reaches .encoder"),
    ("objective", "forgotten KL", "said to be a lower bound"),
    ("objective", "KL of the wrong sign", "said to be a lower bound"),
]


def custom(name: str, flaw: str) -> tb.Custom:
    return tb.Custom(target=f"flawed:{name}", args={"flaw": flaw})


@pytest.mark.parametrize(("part", "flaw", "words"), FLAWS, ids=[f"{part}: {flaw}" for part, flaw, _ in FLAWS])
def test_a_flaw_is_found(part: str, flaw: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        CHECKS[part](flaw)


@pytest.mark.parametrize("part", CHECKS)
def test_the_control_passes(part: str) -> None:
    CHECKS[part]("none")


def test_a_measure_that_is_not_that_of_the_sites_is_found() -> None:
    with pytest.raises(AssertionError, match="declares the counting measure"):
        check_likelihood(custom("counts", "none"), REAL)


def test_quadrature_is_for_one_or_two_latents() -> None:
    for check in (check_posterior, check_prior):
        with refused("latent: expected 1 or 2", "got 3", error=SpecError):
            check(tb.StandardNormal(), latent=3)


def bound(model: Any, data: Any, seed: int) -> Estimate:
    return importance(model, data, draws=2, seed=seed).bound()


def dropping_the_last_row(model: Any, data: Any, seed: int) -> Estimate:
    kept = data.take(np.arange(max(1, len(data) - 1)))
    return replace(bound(model, kept, seed), examples=len(data))


ESTIMATES: list[tuple[str, Callable[[Any, Any, int], Estimate], str]] = [
    ("too high", lambda *given: (e := bound(*given)) and replace(e, value=e.value + 1.0), "said to be a lower bound"),
    ("wrong side", lambda *given: replace(bound(*given), side="upper"), "said to be an upper bound"),
    ("wrong sign", lambda *given: (e := bound(*given)) and replace(e, value=-e.value), "said to be a lower bound"),
    ("drops rows", dropping_the_last_row, "rows where log p"),
    ("wrong measure", lambda *given: replace(bound(*given), measure="counting"), "says measure counting"),
    ("not finite", lambda *given: replace(bound(*given), value=float("nan")), "not finite"),
]


@pytest.mark.parametrize(("estimate", "words"), [row[1:] for row in ESTIMATES], ids=[row[0] for row in ESTIMATES])
def test_an_estimate_that_breaks_its_promise_is_found(estimate: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_estimate(estimate)


def test_importance_sampling_and_the_elbo_keep_their_promises() -> None:
    check_estimate(bound)
    check_estimate(lambda model, data, seed: importance(model, data, draws=20, seed=seed).elbo_estimate())


@pytest.mark.parametrize("kind", ["binary", "levels", "category", "count", "real"])
def test_examples_can_be_held_by_their_sites(kind: str) -> None:
    sites = tb.Sites(
        kind=kind,
        shape=(2, 3, 1),
        levels=7 if kind in ("levels", "category") else 0,
        missing=True,
        exposure=kind == "count",
    )
    data = example_rows(sites, 50)
    assert len(data) == 50 and 0.6 < data.observed.mean() < 0.8
    assert (data.exposure is not None) == sites.exposure
    statistics = example_statistics(sites)
    assert statistics.mean.shape == statistics.scale.shape == (6,) and np.all(statistics.scale > 0)
