"""Every pair of parts occurs in a model that trains: numbers are finite and a gradient reaches every trained array."""

import math

import pytest

import tightbound as tb
from data_checks import refused
from parts import DATA, FACTORS, LIKELIHOODS, Choice, grid, pairs, pairwise, train_two_steps
from tightbound.errors import CombinationError, SpecError, SupportError

GRID = list(grid())
COVERING = pairwise(GRID)


def test_the_covering_holds_every_pair() -> None:
    assert {pair for choice in COVERING for pair in pairs(choice)} == {pair for choice in GRID for pair in pairs(choice)}
    assert len(COVERING) < len(GRID) / 15


@pytest.mark.parametrize("choice", COVERING, ids="·".join)
def test_two_steps(choice: Choice) -> None:
    record, unmoved = train_two_steps(choice)
    numbers = (record.loss, record.bound, record.reconstruction, record.kl, record.beta)
    assert all(map(math.isfinite, numbers)) and record.skipped == 0
    assert not unmoved


@pytest.mark.parametrize("kind", ["binary", "levels", "category", "count", "real"])
@pytest.mark.parametrize("name", FACTORS["likelihood"])
def test_likelihoods_refuse_sites_they_have_no_mass_on(name: str, kind: str) -> None:
    likelihood, known = LIKELIHOODS[name]
    sites = tb.Sites(kind=kind, shape=known.get("shape", (3,)), levels=4 if kind in ("levels", "category") else 0)
    spec = tb.VAE(sites=sites, latent=2, likelihood=likelihood)
    if kind in likelihood.kinds():
        spec.check()
        return
    with refused(likelihood.kind, sites.describe(), "choose a likelihood", error=SupportError):
        spec.check()


@pytest.mark.parametrize("data", [name for name in DATA if "exposure" in name])
def test_an_exposure_without_counts_is_refused(data: str) -> None:
    with refused("only counts have an exposure", error=SpecError):
        tb.Sites(kind="real", shape=(3,), **DATA[data])


def test_sticking_the_landing_inside_many_draws_is_refused() -> None:
    with refused("biased", "dreg", "ELBO(gradient='stl')", error=CombinationError):
        tb.IWAE(k=5, gradient="stl")
