"""The published tables in small: data, phases and evaluations on few rows and steps, and contestants' models as ours."""

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import tightbound as tb

PUBLISHED = Path(__file__).parents[1] / "benchmarks" / "published"
FEW = tb.Plan(steps=30, batch_size=64)


@contextmanager
def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A benchmark as a module; it and what it imports beside itself are let go of afterwards."""
    before, paths = set(sys.modules), list(sys.path)
    monkeypatch.syspath_prepend(str(PUBLISHED))
    try:
        yield __import__(name)
    finally:
        sys.path[:] = paths
        folders = (PUBLISHED, PUBLISHED.parent / "speed")
        for module in set(sys.modules) - before:
            file = getattr(sys.modules[module], "__file__", None)
            if file is not None and Path(file).parent in folders:
                del sys.modules[module]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with benchmark("counts", monkeypatch) as module:
        yield module


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with benchmark("images", monkeypatch) as module:
        yield module


@pytest.fixture
def time_to_quality(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with benchmark("time_to_quality", monkeypatch) as module:
        yield module


def test_log_counts_are_the_masses_of_what_rounds_to_them(counts: ModuleType) -> None:
    from log_counts import LogCounts

    loc, scale = np.array([-3.0, 0.0, 0.5, 2.0, 4.0]), np.array([1.5, 0.3, 0.1, 0.8, 0.2])
    p = LogCounts(jnp.array(loc, jnp.float32), jnp.array(scale, jnp.float32))
    x = np.arange(2000)[:, None]
    mass = np.exp(np.asarray(p.log_prob(jnp.array(x, jnp.float32)), np.float64))
    assert np.allclose(mass.sum(axis=0), 1.0, atol=1e-5)
    edges = np.log(np.maximum(np.concatenate([x, [[2000]]]) + 0.5, 0.0))  # those of 0 and above, on the scale of log(1 + x)
    edges[0] = -np.inf
    twin = np.diff(stats.norm(loc, scale).cdf(edges), axis=0)
    assert np.allclose(mass, twin, atol=1e-5)


@pytest.mark.data
def test_bounds_of_all_likelihoods_are_in_order(counts: ModuleType) -> None:
    cells = counts.read(seed=0, count=300, held_out=40)
    assert cells.counts.sum(axis=1).min() > 0 and [len(part) for part in cells.parts] == [220, 40, 40]
    test = cells.data.take(cells.parts.test)
    for likelihood in counts.LIKELIHOODS.values():
        model, told = counts.trained(cells, likelihood, FEW)
        bound, elbo, refined = counts.evaluated(model, test, draws=60, refined_draws=20, haste=True)
        assert model.measure == "counting" and told["steps"] == 30
        assert np.isfinite([bound, elbo, refined]).all()
        assert (elbo <= bound + 1e-3).all()  # of the same draws, by Jensen's inequality
        assert (bound < 0).all() and (refined < 0).all()


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist-flow", "mnist-hierarchy-near", "mnist-grid", "freyfaces", "grey-mnist"])
def test_a_recipe_trains_through_its_phases_and_is_bounded(images: ModuleType, name: str) -> None:
    """Networks and runs are cut to a few seconds; what is checked is that every stage does what the whole run does."""
    recipe = images.RECIPES[name]
    data = images.Parts(*(part.take(np.arange(count)) for part, count in zip(recipe.data(), (40, 40, 12), strict=True)))
    small: tb.MLP | tb.Mixer = tb.MLP(hidden=(16,))
    sizes: dict[str, Any] = {"latents": (2, 3), "width": 16} if "latents" in recipe.model else {"latent": 4}
    if recipe.model.get("grid"):
        small, sizes = tb.Mixer(patch=14, width=8, depth=1, across=4, within=8), {"latents": (4, 8), "width": 8}
    spec = recipe._replace(model={**recipe.model, **sizes, "encoder": small, "decoder": small}).spec(data.train.sites)
    phases = tuple((one, plan.replace(epochs=None, steps=6, batch_size=8, evaluate_every=3)) for one, plan in recipe.phases)
    said: list[str] = []
    model = spec.build(jax.random.key(0), data.train.statistics())
    model = images.train(model, phases, data.train, data.validation, said.append)
    # At steps 3 and 6 of each phase, and where one objective takes over from another, at step 5.
    evaluations = 2 * len(phases) + sum(len(one.chain()) - 1 for one, _ in phases)
    assert len(said) == evaluations and all("validation ELBO" in line for line in said)
    found = images.evaluated(model, data.test, 20, 8, said.append, plain_draws=200)
    assert found["elbo"]["value"] < found["log_evidence"]["value"] + 6 * found["log_evidence"]["se"]
    assert found["log_evidence"]["side"] == "lower" and found["log_evidence"]["examples"] == 12
    assert np.isfinite(found["refined_above_plain"]).all()


def test_a_run_of_another_length_is_the_same_recipe(images: ModuleType) -> None:
    for recipe in images.RECIPES.values():
        other = recipe.lasting(3)
        assert other._replace(phases=recipe.phases) == recipe
        for (objective, plan), (longer, whole) in zip(other.phases, recipe.phases, strict=True):
            assert objective == longer and (plan.epochs, plan.steps) == (3, None)
            assert plan.replace(epochs=whole.epochs, steps=whole.steps) == whole


def test_a_model_of_pythae_is_the_same_functions_as_ours(time_to_quality: ModuleType) -> None:
    """Means, deviations and logits of random weights, by a perceptron in NumPy; pythae keeps weights as (out, in)."""
    rng = np.random.default_rng(0)
    arrays = {}
    for side, sizes in (("encoder", (784, 300, 300, 80)), ("decoder", (40, 300, 300, 784))):
        for layer, (inputs, outputs) in zip((0, 2, 4), itertools.pairwise(sizes), strict=True):
            arrays[f"{side}.layers.{layer}.weight"] = rng.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)
            arrays[f"{side}.layers.{layer}.bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)

    def perceptron(side: str, x: np.ndarray) -> np.ndarray:
        for layer in (0, 2, 4):
            x = arrays[f"{side}.layers.{layer}.weight"] @ x + arrays[f"{side}.layers.{layer}.bias"]
            x = np.maximum(x, 0) if layer < 4 else x
        return x

    x, z = rng.integers(0, 2, 784).astype(np.float32), rng.normal(size=40).astype(np.float32)
    model = time_to_quality.from_pythae(arrays)
    q, loc, log_variance = model.posterior(jnp.asarray(x)), *np.split(perceptron("encoder", x), 2)
    assert np.allclose(q.mean, loc, atol=1e-4) and np.allclose(np.log(q.variance), log_variance, atol=1e-4)
    assert np.allclose(model.likelihood(jnp.asarray(z)).logits, perceptron("decoder", z), atol=1e-4)


def test_the_seconds_to_a_figure_are_the_fewest_that_reached_it(time_to_quality: ModuleType) -> None:
    lines = [{"seconds": 9.0, "nll": 87.9}, {"seconds": 4.0, "nll": 88.1}, {"seconds": 20.0, "nll": 86.5}]
    assert [time_to_quality.reached(lines, wanted) for wanted in (88.5, 88.0, 86.0)] == [4.0, 9.0, None]
