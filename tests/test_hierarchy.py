"""A hierarchy of latents: its chains against closed forms, and everything that takes a model, which must not notice."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import tightbound as tb
from data_checks import refused
from kinds import few_digits
from parts import OBJECTIVES, PRIORS
from running import LEAN, call
from tightbound.distributions import Chain, diagonal_gaussian, divergence, kl
from tightbound.errors import SpecError
from tightbound.hierarchy import model_spec
from tightbound.model import Model, to_arrays, trainable
from tightbound.testing import example_rows
from tightbound.testing.comparisons import Grid, check_fit, check_mean, moved

BINARY = tb.Sites(kind="binary", shape=(5,), missing=True)
SMALL = tb.MLP(hidden=(6,), activation="tanh")


def spec_of(latents: tuple[int, ...] = (1, 1), **fields: Any) -> tb.HierarchicalVAE:
    given = {"sites": BINARY, "width": 7, "encoder": SMALL, "decoder": SMALL, "likelihood": tb.Bernoulli()}
    return tb.HierarchicalVAE(latents=latents, **{**given, **fields})


def grid_of(latents: tuple[int, ...] = (4, 8, 4), **fields: Any) -> tb.HierarchicalVAE:
    """A hierarchy on images of 6 × 6 bits, whose states are grids of four patches."""
    mixer = tb.Mixer(patch=3, width=6, depth=1, across=3, within=8)
    images = tb.Sites(kind="binary", shape=(6, 6, 1))
    return spec_of(latents, **{"sites": images, "grid": True, "width": 5, "encoder": mixer, "decoder": mixer, **fields})


@cache
def model_of(latents: tuple[int, ...] = (1, 1), prior: str = "normal") -> Model:
    """A model whose weights have left their start, at which all layers are alike."""
    return moved(spec_of(latents, prior=PRIORS[prior]).build(jax.random.key(0)), jax.random.key(1))


class Line(eqx.Module):
    """z_1 ~ N(m, s²), z_2 ~ N(a z_1 + b, t²), two numbers each: a chain whose joint density is Gaussian."""

    first: jax.Array
    slope: float
    scale: float

    def start(self) -> jax.Array:
        return jnp.zeros(2)

    def at(self, number: int, state: jax.Array) -> dist.Distribution:
        loc = self.slope * state + 0.5 if number else self.first
        return diagonal_gaussian(loc, jnp.full(2, self.scale))

    def follow(self, number: int, state: jax.Array, z: jax.Array) -> jax.Array:
        return z

    def joint(self) -> dist.MultivariateNormal:
        eye, a, s = np.eye(2), self.slope, self.scale
        covariance = s**2 * np.block([[eye, a * eye], [a * eye, (1 + a**2) * eye]])
        loc = jnp.concatenate([self.first, a * self.first + 0.5])
        return dist.MultivariateNormal(loc, covariance_matrix=jnp.asarray(covariance))


LINES = Line(jnp.array([0.3, -1.0]), 0.8, 0.6), Line(jnp.array([0.0, 0.2]), -0.4, 1.1)


def test_a_chain_of_gaussians_is_their_joint_gaussian() -> None:
    chain, joint = Chain(LINES[0], (2, 2)), LINES[0].joint()
    z = chain.sample(jax.random.key(0), (3, 40_000))
    assert np.allclose(chain.log_prob(z[:, :7]), joint.log_prob(z[:, :7]), atol=1e-4)
    flat = np.asarray(z.reshape(-1, 4), float)
    assert np.allclose(flat.mean(axis=0), joint.loc, atol=0.02) and np.allclose(
        np.cov(flat.T), joint.covariance_matrix, atol=0.02
    )
    # The fixed draws are few: their moments are near, not equal.
    assert np.allclose(chain.mean, joint.loc, atol=0.1) and np.allclose(chain.variance, joint.variance, rtol=0.3)
    cooled = np.asarray(chain.cooled(0.5).sample(jax.random.key(1), (40_000,)), float)
    assert np.allclose(np.cov(cooled.T), joint.covariance_matrix / 4, atol=0.02)


@pytest.mark.parametrize("closed", [True, False])
def test_the_kl_of_chains_is_that_of_their_joint_gaussians(closed: bool) -> None:
    """False-alarm rate: 1e-6."""
    q, p = (Chain(line, (2, 2)) for line in LINES)
    draws = q.sample(jax.random.key(2), (20_000,))
    terms = np.asarray(jax.vmap(lambda z: divergence(q, p, z, closed=closed))(draws))
    a, b = (line.joint() for line in LINES)
    precision = np.linalg.inv(np.asarray(b.covariance_matrix, float))
    volume = np.linalg.slogdet(np.asarray(b.covariance_matrix))[1] - np.linalg.slogdet(np.asarray(a.covariance_matrix))[1]
    apart = np.asarray(b.loc - a.loc, float)
    truth = 0.5 * (np.trace(precision @ np.asarray(a.covariance_matrix)) + apart @ precision @ apart - 4 + volume)
    assert terms.shape == (20_000, 4) and (not closed or np.all(terms >= 0))
    check_mean("the KL of two chains", terms.sum(axis=1)[:, None], np.array([truth]))


def test_links_without_a_closed_form_share_theirs_evenly() -> None:
    class Mixed(Line):
        def at(self, number: int, state: jax.Array) -> dist.Distribution:
            base = super().at(number, state).base_dist
            return super().at(number, state) if number else dist.StudentT(5.0, base.loc, base.scale).to_event(1)

    q, p = Chain(LINES[0], (2, 2)), Chain(Mixed(LINES[1].first, -0.4, 1.1), (2, 2))
    z = q.sample(jax.random.key(3))
    terms = divergence(q, p, z)
    (first, part), _ = q.links(z)
    expected = first.log_prob(part) - next(iter(p.links(z)))[0].log_prob(part)
    assert terms.shape == (4,) and terms[0] == terms[1] and np.isclose(terms[:2].sum(), expected, rtol=1e-5)


def test_only_training_takes_the_form_of_the_density_that_training_uses() -> None:
    """The form for training has other second derivatives than log p(z) and costs a second evaluation."""
    q, asked = LINES[0].joint(), []

    class Spy(dist.MultivariateNormal):
        def training_log_prob(self, z: jax.Array) -> jax.Array:
            asked.append(z)
            return self.log_prob(z)

    spy, z = Spy(q.loc, scale_tril=q.scale_tril), q.sample(jax.random.key(5))
    assert np.allclose(divergence(q, spy, z), 0.0, atol=1e-5) and not asked
    assert np.allclose(divergence(q, spy, z, training=True), 0.0, atol=1e-5) and len(asked) == 1


@pytest.mark.parametrize("prior", PRIORS)
def test_densities_have_mass_one_and_draws_fit_them(prior: str) -> None:
    """False-alarm rate: 1e-6 each."""
    model, x = model_of(prior=prior), jnp.ones(5)
    for name, of in {"p(z)": lambda m: m.prior(), "q(z|x)": lambda m: m.posterior(x)}.items():
        draws = eqx.filter_jit(lambda m, key, of=of: of(m).sample(key, (20_000,)))(model, jax.random.key(4))
        grid = Grid.around(np.asarray(draws))
        log_density = eqx.filter_jit(lambda m, z, of=of: jax.lax.map(of(m).log_prob, z, batch_size=4096))
        check_fit(
            f"{name} with {prior}", grid, np.exp(log_density(model, jnp.asarray(grid.points, jnp.float32))), np.asarray(draws)
        )


def test_what_is_not_observed_has_no_influence() -> None:
    model, observed, key = model_of((2, 3)), jnp.array([True, False, True, True, False]), jax.random.key(5)

    def loss(model: Model, x: jax.Array) -> jax.Array:
        return tb.ELBO().build().example(model, model.prior(), tb.Row(x, observed, None), key).bound

    results = [
        eqx.filter_jit(eqx.filter_value_and_grad(loss))(model, jnp.where(observed, 1.0, hole)) for hole in (0.0, np.nan, 1e30)
    ]
    assert np.isfinite(results[0][0])
    leaves = [[np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(result)] for result in results]
    assert leaves[0] == leaves[1] == leaves[2]


@pytest.mark.parametrize("build", [partial(spec_of, (2, 3, 2)), grid_of], ids=["states", "grids"])
@pytest.mark.parametrize(("name", "prior"), list(zip(OBJECTIVES, PRIORS, strict=True)))
def test_every_objective_trains_every_array(name: str, prior: str, build: Callable[..., tb.HierarchicalVAE]) -> None:
    spec = build(prior=PRIORS[prior])
    data = example_rows(spec.sites, 24)
    model = spec.build(jax.random.key(0), data.statistics())
    plan = tb.Plan(steps=2, batch_size=10, weight_decay=0.0, learning_rate=0.01, warmup=0.0)
    *_, last = tb.train(model, OBJECTIVES[name], data, plan)
    assert np.isfinite(last.latest.loss) and last.latest.skipped == 0
    before, after = (to_arrays(trainable(m)[0]) for m in (model, last.model))
    assert not [key for key in before if np.array_equal(before[key], after[key])]


def test_the_kl_splits_by_latents_and_free_bits_hold_layers_open() -> None:
    model, row = model_of((2, 3)), tb.Row(jnp.ones(5), None, None)
    terms = tb.ELBO().build().example(model, model.prior(), row, jax.random.key(6))
    assert terms.kl.shape == (5,) and np.isclose(terms.bound, -terms.reconstruction - terms.kl.sum(), rtol=1e-5)
    data, plan = example_rows(BINARY, 64), tb.Plan(steps=300, batch_size=32, learning_rate=0.01)
    free = {}
    for bits in (0.0, 0.5):
        *_, last = tb.train(spec_of((2, 3)).build(jax.random.key(0), data.statistics()), tb.ELBO(free_bits=bits), data, plan)
        free[bits] = last.latest.kl
    assert free[0.5] > 5 * 0.5 * 0.8 > free[0.0]


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_bounds_are_on_their_side_of_quadrature(prior: str) -> None:
    """False-alarm rate: one in a thousand for each bound."""
    model = model_of(prior=prior)
    rows = example_rows(BINARY, 4)
    truth = tb.exact(model, rows).log_evidence
    for proposal in (tb.Proposal(defensive=0.5), tb.Proposal("refined", defensive=0.5)):
        found = [tb.importance(model, rows, draws=3000, seed=seed, proposal=proposal).log_evidence for seed in range(8)]
        error = np.std(found, axis=0, ddof=1) / 8**0.5
        assert np.all(np.mean(found, axis=0) < truth + 6 * error + 1e-3), proposal
        assert np.allclose(np.mean(found, axis=0), truth, atol=0.1), proposal


def test_annealing_brackets_what_a_hierarchy_simulates() -> None:
    """Both sides use the same few rows: they agree to what a short walk leaves."""
    found = tb.bracket(model_of(), 8, tb.Walk(steps=30, chains=8, leapfrog=3))
    lower, upper = found.lower.log_evidence, found.upper.log_evidence
    assert np.allclose(lower, upper, atol=0.5) and np.mean(upper - lower) > -0.1


def test_gaps_and_surgery_take_a_hierarchy() -> None:
    model, rows = model_of((1, 2)), example_rows(BINARY, 6)
    found = tb.gaps(model, rows, steps=30, draws=500)
    own, error = found.best["own family"], found.se["own family"] + found.se["elbo"]
    assert np.all(own > found.elbo - 6 * error) and np.all(own < found.log_evidence + 6 * (error + found.se["log_evidence"]))
    many = example_rows(BINARY, 200)
    parts, elbo = tb.surgery(model, many), tb.importance(model, many, draws=500).elbo_estimate()
    assert abs(elbo.value + parts.rate.value + parts.distortion.value) < 6 * (parts.rate.se + parts.distortion.se)


def test_a_deep_hierarchy_trains() -> None:
    """Eight layers: finite from the first step, and better than none of them used."""
    data, wide = tb.load("digits"), tb.MLP(hidden=(64,))
    spec = tb.HierarchicalVAE(
        sites=data.sites, latents=(2,) * 8, width=48, encoder=wide, decoder=wide, likelihood=tb.DiscretisedLogistic()
    )
    plan = tb.Plan(steps=250, batch_size=64, learning_rate=3e-3)
    records = [p.latest for p in tb.train(spec.build(jax.random.key(0), data.statistics()), tb.ELBO(), data, plan)]
    assert all(np.isfinite(record.loss) for record in records)
    assert records[-1].kl > 1.0 and records[-1].bound > records[0].bound + 10


def test_a_latent_of_a_grid_is_one_of_its_patch() -> None:
    """Without blocks, which alone join patches, the latents of a patch say nothing of the pixels of another."""
    flat = tb.Mixer(patch=3, width=6, depth=1)
    spec = grid_of(depth=0, encoder=flat, decoder=flat)
    model = moved(spec.build(jax.random.key(0)), jax.random.key(1))
    apart = eqx.tree_at(lambda m: m.decoder.blocks, model, ())
    z = jax.random.normal(jax.random.key(2), (16,))
    moves = np.abs(np.asarray(jax.jacobian(apart.parameters)(z))).reshape(6, 6, 16) > 0
    for latent, patch in enumerate(n // size for size in (1, 2, 1) for n in range(4 * size)):
        rows, columns = slice(3 * (patch // 2), 3 * (patch // 2) + 3), slice(3 * (patch % 2), 3 * (patch % 2) + 3)
        assert moves[rows, columns, latent].all() and moves[..., latent].sum() == 9, latent


def test_a_grid_learns() -> None:
    """The ELBO of blocks of ink that lie in one of four places, log 4 = 1.39 nats, from 25 nats at the start."""
    place = np.random.default_rng(0).integers(0, 4, 400)
    x = np.zeros((400, 6, 6, 1), np.uint8)
    for row, where in zip(x, place, strict=True):
        row[3 * (where // 2) :, 3 * (where % 2) :][:3, :3] = 1
    data = tb.Dataset(x.reshape(400, -1), grid_of().sites)
    model = grid_of(width=16).build(jax.random.key(0), data.statistics())
    *_, last = tb.train(model, tb.ELBO(), data, tb.Plan(steps=600, batch_size=64, learning_rate=1e-2))
    assert -1.39 > tb.importance(last.model, data, draws=8).elbo_estimate().value > -4.0


def test_the_command_line_takes_a_hierarchy(tmp_path: Any) -> None:
    """Fit, the same bytes once more from its own spec, and every command that reads a run."""
    run, flags = tmp_path / "run", ("--latents", "2,3", "--hidden", "8", "--set", "model.width=9", "--draws", 10, "--steps", 30)
    digits = few_digits(tmp_path)
    outcome = call("fit", digits, "--out", run, *flags)
    assert outcome.code == 0, outcome.err
    assert "2 → 3 latents" in outcome.out
    toml = tmp_path / "again.toml"
    toml.write_text(call("info", run, "--spec").out)
    assert call("fit", digits, "--out", tmp_path / "again", "--spec", toml, "--draws", 10, *LEAN).code == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    for command in (
        ("evaluate", run, "-k", 10), ("diagnose", run, "--all"), ("encode", run, digits, "--out", tmp_path / "z.npz"),
        ("reconstruct", run, digits, "--out", tmp_path / "r.npy"), ("sample", run, "-n", 4, "--out", tmp_path / "s.npy"),
        ("sample", run, "-n", 4, "--temperature", 0.7, "--out", tmp_path / "t.npy"),
        ("report", run, "--out", tmp_path / "page.html"), ("info", run),
    ):  # fmt: skip
        outcome = call(*command)
        assert outcome.code == 0, (command, outcome.err)
    assert np.load(tmp_path / "z.npz")["mean"].shape == (300, 5)


def test_what_a_hierarchy_cannot_be_is_said() -> None:
    with refused("latents", error=SpecError):
        spec_of(())
    with refused("grid: needs mixers of the same patch", error=SpecError):
        grid_of(encoder=SMALL)
    with refused("grid: 6 latents of a layer are not as many in each of 4 patches", error=SpecError):
        grid_of((4, 6))
    with refused("hidden: stands between patches and a vector, and a grid has none", error=SpecError):
        grid_of(encoder=tb.Mixer(patch=3, hidden=(8,))).build(jax.random.key(0))
    with refused("unknown kind 'ladder'", "vae, hierarchical-vae", error=SpecError):
        model_spec({"kind": "ladder"})
    assert kl(Chain(LINES[0], (2, 2)), Chain(LINES[1], (2, 2))) is None
