"""Several models in one program: each is what it would be alone, and a nested model is the small one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tightbound as tb
from tightbound.errors import CombinationError, TrainingError
from tightbound.evidence.importance import importance
from tightbound.model import Model, merge, to_arrays, trainable
from tightbound.rows import place
from tightbound.training.loop import run_key
from tightbound.training.nested import nested, outline, require_nesting, unnested
from tightbound.training.together import Member, Together

SITES = tb.Sites(kind="real", shape=(5,))
NETWORK = tb.MLP(hidden=(6,), activation="tanh")
LARGEST = 4
FORMS = {
    "diagonal": (tb.DiagonalGaussian(), tb.StandardNormal()),
    "full": (tb.FullGaussian(), tb.StandardNormal()),
    "mixture": (tb.DiagonalGaussian(), tb.TrainedMixture(components=3)),
    "vamp": (tb.DiagonalGaussian(), tb.VampPrior(components=3)),
    "full-vamp": (tb.FullGaussian(), tb.VampPrior(components=3)),
}


def rows(count: int, seed: int = 0) -> tb.Dataset:
    noise = np.random.default_rng(seed).normal(size=(count, 5))
    return tb.Dataset(noise @ np.linspace(-1, 1, 25).reshape(5, 5) + noise, SITES)


def spec_of(latent: int, form: str = "diagonal") -> tb.VAE:
    posterior, prior = FORMS[form]
    parts = {"posterior": posterior, "prior": prior, "likelihood": tb.Gaussian(noise="site")}
    return tb.VAE(sites=SITES, latent=latent, encoder=NETWORK, decoder=NETWORK, **parts)


def built(latent: int, form: str = "diagonal", seed: int = 0) -> Model:
    return spec_of(latent, form).build(run_key(seed), rows(60).statistics())


def distance(one: Model, other: Model) -> float:
    """The largest difference between the weights of two models, relative to 1 + their size."""
    a, b = to_arrays(one), to_arrays(other)
    assert a.keys() == b.keys()
    return max(float(np.max(np.abs(a[name] - b[name]) / (1 + np.abs(b[name])), initial=0)) for name in a)


@pytest.mark.parametrize(
    ("form", "latent"), [("diagonal", 1), ("diagonal", LARGEST), ("full", 3), ("mixture", 2), ("vamp", 3), ("full-vamp", 1)]
)
def test_a_nested_model_is_the_small_one(form: str, latent: int) -> None:
    small, batch, key = built(latent, form), place(rows(7)).batch(np.arange(7), jax.random.key(0)), jax.random.key(1)
    wide = nested(small, outline(spec_of(LARGEST, form)))
    objectives = [tb.ELBO(gradient=gradient).build() for gradient in ("pathwise", "stl")]

    @jax.jit
    def losses(trained: Model, rest: Model) -> tuple[jax.Array, ...]:
        return tuple(objective(merge(trained, rest), batch, key, 0).value for objective in objectives)

    for one, other in zip(losses(*trainable(small)), losses(*trainable(wide)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6)
    assert distance(unnested(wide, outline(small.spec)), small) == 0


def test_latents_that_are_switched_off_have_no_influence_on_any_gradient() -> None:
    """Whatever their weights are: filled with 1e3, value and gradients of the others stay, and their own are 0."""
    small, batch = built(2), place(rows(7)).batch(np.arange(7), jax.random.key(0))
    wide = nested(small, outline(spec_of(LARGEST)))
    marked = nested(jax.tree.map(jnp.ones_like, small), outline(spec_of(LARGEST)))  # 1 where the small model is
    trained, rest = trainable(wide)
    inside = trainable(marked)[0]
    filled = jax.tree.map(lambda w, one: jnp.where(one > 0, w, 1e3), trained, inside)

    @jax.jit
    def step(trained: Model) -> tuple[jax.Array, Model]:
        return jax.value_and_grad(lambda t: tb.ELBO().build()(merge(t, rest), batch, jax.random.key(1), 0).value)(trained)

    value, gradient = step(trained)
    moved, under = step(filled)
    assert value == moved
    for g, h, one in zip(*map(jax.tree.leaves, (gradient, under, inside)), strict=True):
        np.testing.assert_array_equal(g, h)
        assert np.all(np.asarray(g)[np.asarray(one) == 0] == 0)


def test_the_evidence_of_a_nested_model_is_that_of_the_small_one() -> None:
    small = built(2)
    wide = nested(small, outline(spec_of(LARGEST)))
    found = [importance(model, rows(6), draws=20_000, seed=1) for model in (small, wide)]
    np.testing.assert_allclose(found[0].log_evidence, found[1].log_evidence, atol=0.1)


def test_every_member_is_what_it_would_be_alone() -> None:
    """Over weights of the KL, seeds and latent sizes: same rows, noise, evaluations and best weights, to rounding."""
    data, held = rows(70), rows(30, 1)
    plan = tb.Plan(steps=40, batch_size=32, evaluate_every=10, learning_rate=3e-3, growth=2)
    form = outline(spec_of(LARGEST))
    settings = [(0.5, 0, 2), (4.0, 0, LARGEST), (1.0, 3, 1)]
    starts = [built(latent, seed=seed) for _, seed, latent in settings]
    members = [
        Member(nested(start, form), tb.ELBO(beta=beta, warmup=20), seed, "")
        for start, (beta, seed, _) in zip(starts, settings, strict=True)
    ]
    together = Together(members, data, plan, held)
    *_, progress = together.run()
    assert progress.step == 40
    for number, (beta, seed, latent) in enumerate(settings):
        *_, alone = tb.train(starts[number], tb.ELBO(beta=beta, warmup=20), data, plan.replace(seed=seed), validation=held)
        found = unnested(together.model(number), outline(spec_of(latent)))
        assert distance(found, alone.model) < 2e-5, settings[number]
        assert distance(found, starts[number]) > 1e-2
        assert together.marks[number].best_step == alone.best_step
        assert together.marks[number].validation_elbo == pytest.approx(alone.validation_elbo, rel=1e-5)


def test_a_member_that_stops_early_keeps_what_it_had_then() -> None:
    data, held = rows(40), rows(40, 1)
    plan = tb.Plan(steps=1500, batch_size=40, learning_rate=0.03, evaluate_every=20, patience=2, average=0.0)
    together = Together([Member(built(2), tb.ELBO(beta=beta), 0, "") for beta in (1.0, 0.01)], data, plan, held)
    *_, last = together.run()
    stops = []
    for number, beta in enumerate((1.0, 0.01)):
        *_, alone = tb.train(built(2), tb.ELBO(beta=beta), data, plan, validation=held)
        stops.append(alone.step)
        assert together.marks[number].best_step == alone.best_step
    assert stops[0] != stops[1] and last.step == max(stops) < 1500


def test_a_member_whose_gradients_stay_non_finite_is_named() -> None:
    data = tb.Dataset(np.where(np.arange(30)[:, None] == 4, 3e38, rows(30).x), SITES)
    members = [Member(built(2), tb.ELBO(beta=beta), 0, f"β = {beta:g}") for beta in (1.0, 2.0)]
    with pytest.raises(TrainingError, match=r"β = 1: 5 steps in a row.*reconstruction is not finite for training rows 4:"):
        list(Together(members, data, tb.Plan(steps=20, batch_size=30)).run())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"posterior": tb.FlowPosterior()}, "the posterior 'flow'"),
        ({"prior": tb.FlowPrior()}, "the prior 'flow'"),
        ({"decoder": tb.Custom(target="mine:Net")}, "the decoder 'mine:Net'"),
        ({"decoder": tb.MLP(hidden=(3,), residual=True)}, "a residual decoder of width 3"),
    ],
)
def test_what_cannot_be_nested_is_refused(change: dict[str, tb.VAE], words: str) -> None:
    with pytest.raises(CombinationError, match=words):
        require_nesting(spec_of(LARGEST).replace(**change), (3, LARGEST))
