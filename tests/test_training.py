"""Training: the order of rows, the weight of each, resuming, skipping, stopping, and what a run reports."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tightbound as tb
from tightbound.errors import DataError, FormatError, SpecError, TrainingError
from tightbound.model import Model, merge, to_arrays, trainable
from tightbound.training import loop
from tightbound.training.adam import scale_by_adam
from tightbound.training.loop import Trainer, epoch_order, stream
from tightbound.training.muon import scale_by_muon_or_adam
from tightbound.training.packing import Packing

SMALL = tb.MLP(hidden=(4,), activation="tanh")
SITES = tb.Sites(kind="real", shape=(3,))


def rows(count: int, seed: int = 0) -> tb.Dataset:
    return tb.Dataset(np.random.default_rng(seed).normal(size=(count, 3)), SITES)


def model_for(data: tb.Dataset) -> Model:
    spec = tb.VAE(sites=SITES, latent=2, encoder=SMALL, decoder=SMALL, likelihood=tb.Gaussian())
    return spec.build(jax.random.key(0), data.statistics())


def weights(model: Model) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in to_arrays(model).items()}


def last(data: tb.Dataset, plan: tb.Plan, **arguments: object) -> loop.Progress:
    *_, progress = tb.train(model_for(data), tb.ELBO(), data, plan, **arguments)
    return progress


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 60), st.integers(1, 30))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_stream_is_the_epoch_orders_one_after_another(count: int, batch: int, step: int, steps: int) -> None:
    whole = np.concatenate([epoch_order(7, epoch, count) for epoch in range((step + steps) * batch // count + 1)])
    expected = whole[step * batch : (step + steps) * batch].reshape(steps, batch)
    np.testing.assert_array_equal(stream(7, count, batch, step, steps), expected)


def test_every_row_comes_once_an_epoch() -> None:
    used = stream(3, 10, 4, 0, 5)
    np.testing.assert_array_equal(np.sort(used.ravel()[:10]), np.arange(10))
    np.testing.assert_array_equal(np.sort(used.ravel()[10:]), np.arange(10))


@given(st.lists(st.lists(st.integers(1, 5), max_size=3), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_packing_gives_back_what_it_was_given(shapes: list[list[int]]) -> None:
    tree = [jnp.arange(np.prod(shape, dtype=int), dtype=jnp.float32).reshape(shape) + 100 * i for i, shape in enumerate(shapes)]
    packing = Packing(tree)
    for given_array, returned in zip(tree, packing.unpack(packing.pack(tree)), strict=True):
        np.testing.assert_array_equal(given_array, returned)


@pytest.mark.parametrize("count", [1, 2, 5, 63, 65])
def test_any_number_of_rows_trains(count: int) -> None:
    progress = last(rows(count), tb.Plan(epochs=2, batch_size=64))
    assert progress.step == 2 * -(-count // 64) if count <= 64 else progress.step == 3
    assert np.isfinite(progress.latest.loss) and progress.latest.skipped == 0


def test_rows_beyond_the_data_have_no_influence() -> None:
    """Five rows in a batch of 64 train exactly as five rows in a batch of five: padding weighs nothing."""
    data = rows(5)
    wide, narrow = (weights(last(data, tb.Plan(steps=4, batch_size=size)).model) for size in (64, 5))
    for name in wide:
        a, b = (np.frombuffer(side[name], np.float32) for side in (wide, narrow))
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)


def test_same_seed_same_bytes_and_another_seed_others() -> None:
    data = rows(70)
    first, second, third = (weights(last(data, tb.Plan(steps=6, batch_size=32, seed=seed)).model) for seed in (1, 1, 2))
    assert first == second != third


def test_neither_calls_nor_a_resume_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    data, held, plan = rows(70), rows(20, 1), tb.Plan(steps=40, batch_size=32, evaluate_every=7)
    whole = last(data, plan, validation=held)
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.0)  # one step a call
    trainer = Trainer(model_for(data), tb.ELBO(), data, plan, held)
    for progress in trainer.run():
        if progress.step == 20:
            saved = trainer.checkpoint()
            break
    rest = last(data, plan, validation=held, resume=saved)
    assert weights(rest.model) == weights(whole.model)
    assert rest.best_step == whole.best_step and rest.validation_elbo == whole.validation_elbo


@pytest.mark.parametrize("method", [{"optimiser": "adamax"}, {"optimiser": "muon"}, {"growth": 3}], ids=str)
def test_every_way_to_descend_trains_and_resumes_to_the_bit(method: dict[str, Any]) -> None:
    data, held, plan = rows(70), rows(20, 1), tb.Plan(steps=40, batch_size=32, learning_rate=0.02, **method)
    trainer = Trainer(model_for(data), tb.ELBO(), data, plan, held)
    saved = next(trainer.checkpoint() for progress in trainer.run() if progress.records)
    whole = last(data, plan, validation=held)
    assert weights(last(data, plan, validation=held, resume=saved).model) == weights(whole.model)
    assert weights(whole.model) != weights(last(data, plan.replace(optimiser="adamw", growth=1), validation=held).model)
    untrained = last(data, plan.replace(learning_rate=1e-9), validation=held).validation_elbo
    assert whole.validation_elbo is not None and untrained is not None and whole.validation_elbo > untrained


def test_muon_turns_the_matrices_of_the_networks_and_no_other() -> None:
    """Each matrix takes the library's direction by itself; the pseudo-inputs of a prior are points, and take Adam's."""
    spec = tb.VAE(
        sites=SITES, latent=2, encoder=SMALL, decoder=SMALL, prior=tb.VampPrior(components=5), likelihood=tb.Gaussian()
    )  # fmt: skip
    trained, _ = trainable(spec.build(jax.random.key(0), rows(30).statistics()))
    gradient = jax.tree.map(lambda w: jax.random.normal(jax.random.key(w.size), w.shape), trained)
    transform = scale_by_muon_or_adam(jnp.float32(0.9), jnp.float32(0.999))
    found = to_arrays(transform.update(gradient, transform.init(trained), trained)[0])
    adam = scale_by_adam(jnp.float32(0.9), jnp.float32(0.999))
    entrywise = to_arrays(adam.update(gradient, adam.init(trained), trained)[0])
    turned = []
    for name, array in to_arrays(gradient).items():
        if name.startswith(("encoder", "decoder")) and array.ndim == 2:
            library = optax.contrib.muon(-1.0, beta=0.9, consistent_rms=0.2)
            np.testing.assert_allclose(found[name], library.update(array, library.init(array), array)[0], rtol=1e-4, atol=1e-6)
            spectrum = np.linalg.svd(found[name], compute_uv=False) / (0.2 * max(array.shape) ** 0.5)
            assert np.all((spectrum > 0.3) & (spectrum < 1.3)), "Newton–Schulz leaves singular values near one"
            turned.append(name)
        else:
            np.testing.assert_array_equal(found[name], entrywise[name])
    assert len(turned) == 4


FINE_TUNED = tb.ELBO(beta=0.5, warmup=10, then=tb.IWAE(k=3, gradient="dreg", share=0.3))


def test_a_run_in_phases_is_the_first_run_continued_under_the_second_objective() -> None:
    data, plan = rows(70), tb.Plan(steps=40, batch_size=32, learning_rate=0.02)
    plain = tb.ELBO(beta=0.5, warmup=10)
    first, whole = (Trainer(model_for(data), objective, data, plan) for objective in (plain, FINE_TUNED))
    records = [record for progress in whole.run() for record in progress.records]
    assert [record.phase for record in records] == [0] * 28 + [1] * 12
    np.testing.assert_allclose([r.beta for r in records], [0.5 * min(1, step / 10) for step in range(28)] + [1.0] * 12)
    alone = [record for progress in first.run() for record in progress.records]
    assert records[:28] == alone[:28] and records[28] != alone[28]
    assert all(record.loss == -record.bound for record in records[28:])


def test_a_run_resumes_to_the_bit_in_every_phase_and_keeps_the_best_weights_of_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, held, plan = rows(70), rows(20, 1), tb.Plan(steps=40, batch_size=32, learning_rate=0.02, evaluate_every=7, patience=2)
    run = {"validation": held}
    *_, whole = tb.train(model_for(data), FINE_TUNED, data, plan, **run)
    assert whole.best_step is not None and whole.best_step > 28
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.0)
    trainer, saved = Trainer(model_for(data), FINE_TUNED, data, plan, held), {}
    for progress in trainer.run():
        saved[progress.step] = trainer.checkpoint()
    for step in (20, 28, 31):
        *_, rest = tb.train(model_for(data), FINE_TUNED, data, plan, resume=saved[step], **run)
        assert weights(rest.model) == weights(whole.model) and rest.best_step == whole.best_step, step


@pytest.mark.parametrize(
    ("tuned", "start"), [(tb.ELBO(then=tb.IWAE(k=50, share=0.5)), 400), (tb.IWAE(k=50), 0)], ids=["a phase", "the run"]
)
def test_weights_are_judged_by_the_bound_that_trains_them(tuned: tb.ELBO | tb.IWAE, start: int) -> None:
    """By the ELBO the first weights of fine-tuning would be the best: an IWAE with many draws gives it up for its bound."""
    data, held, plan = rows(200), rows(200, 1), tb.Plan(steps=800, batch_size=100, learning_rate=0.02, evaluate_every=40)
    trainer = Trainer(model_for(data), tuned, data, plan, held)
    trail = []
    for _ in trainer.run():
        terms, _ = trainer._judged(tb.IWAE(k=50).build(), merge(trainer.state.average, trainer.rest), trainer.validation)
        if trainer.marks.evaluated_step == trainer.marks.step > start:
            trail.append((float(terms.bound), trainer.marks.step))
    assert max(trail)[1] == trainer.marks.best_step


@pytest.mark.parametrize(
    ("objective", "steps", "words"),
    [
        (tb.IWAE(share=0.2), 10, "share: is for an objective that follows"),
        (FINE_TUNED, 1, "2 phases of these shares need a longer run than 1 steps"),
    ],
)
def test_phases_that_cannot_be_are_refused(objective: tb.ELBO, steps: int, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        tb.train(model_for(rows(10)), objective, rows(10), tb.Plan(steps=steps))


def test_shares_leave_something_for_the_first_objective() -> None:
    with pytest.raises(SpecError, match=r"take 0\.5 \+ 0\.5 of the run"):
        tb.ELBO(then=tb.ELBO(share=0.5, then=tb.IWAE(share=0.5)))


def test_a_checkpoint_of_another_run_is_refused() -> None:
    data = rows(10)
    trainer = Trainer(model_for(data), tb.ELBO(), data, tb.Plan(steps=2))
    with pytest.raises(FormatError, match="is missing"):
        trainer.restore({})


def test_data_of_other_sites_is_refused() -> None:
    with pytest.raises(DataError, match=r"4 sites.*3 sites"):
        other = tb.Dataset(np.zeros((2, 4)), tb.Sites(kind="real", shape=(4,)))
        tb.train(model_for(rows(5)), tb.ELBO(), other)


def test_steps_without_a_finite_gradient_are_counted_and_then_end_the_run_with_the_rows_named() -> None:
    data = tb.Dataset(np.where(np.arange(30)[:, None] == 4, 3e38, rows(30).x), SITES)
    spec = tb.VAE(sites=SITES, latent=2, encoder=SMALL, decoder=SMALL, likelihood=tb.Gaussian())
    model = spec.build(jax.random.key(0), rows(30).statistics())
    with pytest.raises(TrainingError, match=r"5 steps in a row.*reconstruction is not finite for training rows 4:"):
        list(tb.train(model, tb.ELBO(), data, tb.Plan(steps=20, batch_size=30)))


def test_early_stopping_keeps_the_best_weights() -> None:
    data, held = rows(40), rows(40, 1)
    plan = tb.Plan(steps=4000, batch_size=40, learning_rate=0.05, evaluate_every=20, patience=3, average=0.0)
    trail = []
    for progress in tb.train(model_for(data), tb.ELBO(), data, plan, validation=held):
        trail += [(record.validation_elbo, record.step) for record in progress.records if record.validation_elbo is not None]
    best, step = max(trail, key=lambda pair: pair[0])
    assert progress.step < 4000 and progress.best_step == step
    assert [elbo for elbo, _ in trail[-3:]] == [elbo for elbo, _ in trail[-3:] if elbo <= best]


def test_the_best_weights_are_those_of_what_is_trained() -> None:
    """With a KL that hardly counts the ELBO falls all the while: weights chosen by it would have learnt next to nothing."""
    data, held = rows(200), rows(200, 1)
    plan = tb.Plan(steps=600, batch_size=50, learning_rate=0.01, evaluate_every=20)
    trail = []
    for progress in tb.train(model_for(data), tb.ELBO(beta=0.001), data, plan, validation=held):
        trail += [(record.validation_elbo, record.step) for record in progress.records if record.validation_elbo is not None]
    highest = max(trail, key=lambda pair: pair[0])[1]
    assert progress.best_step is not None and progress.best_step > 2 * highest


def test_the_warm_up_counts_steps_of_this_run_and_the_record_says_the_weight_used() -> None:
    data = rows(10)
    seen = []
    for progress in tb.train(model_for(data), tb.ELBO(beta=2.0, warmup=8), data, tb.Plan(steps=12)):
        seen += [record.beta for record in progress.records]
    np.testing.assert_allclose(seen, [2.0 * min(1.0, step / 8) for step in range(12)], rtol=1e-6)


def test_the_average_takes_part_in_every_eighth_step_and_in_the_last() -> None:
    data = rows(10)
    even = {"learning_rate": 0.05, "warmup": 0.0, "schedule": "constant", "batch_size": 10}
    first, second, third = (to_arrays(last(data, tb.Plan(steps=steps, average=0.0, **even)).model) for steps in (3, 11, 19))
    averaged = to_arrays(last(data, tb.Plan(steps=19, average=0.9, **even)).model)
    decays = [min(0.9, (1 + step) / (10 + step)) ** 8 for step in (2, 10, 18)]
    start = to_arrays(model_for(data))
    for name, array in averaged.items():
        expected = start[name].astype(np.float64)
        for decay, now in zip(decays, (first, second, third), strict=True):
            expected = decay * expected + (1 - decay) * now[name]
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-6)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = tb.Plan(steps=100, warmup=0.1, learning_rate=0.5, final=0.1).rates(10)
    values = np.array([float(rates.learning_rate(step)) for step in range(101)])
    assert values[0] == pytest.approx(0.05) and values.max() == pytest.approx(0.5) and values[-1] == pytest.approx(0.05)
    assert np.all(np.diff(values[:10]) > 0) and np.all(np.diff(values[11:]) < 0)


def test_batches_grow_in_equal_shares_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one, two and three batches: of six steps each the weights move at six, three and two."""
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.0)  # one step a call
    data, plan = rows(70), tb.Plan(steps=18, batch_size=32, growth=3, average=0.0, warmup=0.0)
    states = [weights(progress.model) for progress in tb.train(model_for(data), tb.ELBO(), data, plan)]
    moves = [step + 1 for step, (old, new) in enumerate(pairwise([weights(model_for(data)), *states])) if old != new]
    assert moves == [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18]


def test_a_grown_batch_moves_the_weights_as_the_mean_of_its_gradients_does() -> None:
    rates = tb.Plan(steps=4, growth=2, learning_rate=0.1, weight_decay=0.5, warmup=0.0, schedule="constant").rates(10)
    weight, gradients = {"w": jnp.ones((2, 2))}, [{"w": jnp.full((2, 2), size)} for size in (3.0, -1.0)]
    grown = rates.descent(tb.Plan(growth=2).method, rates.peak, rates.batches(jnp.int32(3)))
    state = grown.init(weight)
    for gradient in gradients:
        update, state = grown.update(gradient, state, weight)
    single = rates.descent(tb.Plan().method, rates.peak)
    expected, _ = single.update({"w": jnp.ones((2, 2))}, single.init(weight), weight)
    np.testing.assert_allclose(update["w"], expected["w"], rtol=1e-6)


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.0, 0.95)])
def test_our_adam_is_that_of_the_library_to_rounding(beta1: float, beta2: float) -> None:
    weights = {"w": jnp.ones((3, 4)), "b": jnp.zeros(4)}
    ours, library = scale_by_adam(jnp.float32(beta1), jnp.float32(beta2)), optax.scale_by_adam(beta1, beta2)
    state, known = ours.init(weights), library.init(weights)
    for step in range(20):
        # Gradients of very different lengths, and none at all, where only ε keeps the quotient finite.
        gradient = jax.tree.map(
            lambda w, step=step: jax.random.normal(jax.random.key(step), w.shape) * 10.0 ** (step % 7 - 3), weights
        )
        gradient["b"] = gradient["b"].at[0].set(0.0)
        given, state = ours.update(gradient, state, weights)
        expected, known = library.update(gradient, known, weights)
        for found, wanted in zip(jax.tree.leaves((given, state)), jax.tree.leaves((expected, known)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-30)
