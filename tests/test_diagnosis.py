"""Every code finds the illness that it is for in a model made ill by hand, and nothing in one that is exactly right."""

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import tightbound as tb
from tightbound.diagnosis import aggregate, checks
from tightbound.diagnosis.checks import CHECKS, Outcome
from tightbound.diagnosis.course import rise
from tightbound.diagnosis.diagnose import diagnose
from tightbound.diagnosis.finding import Finding
from tightbound.diagnosis.subject import Part, Steps, Subject
from tightbound.diagnosis.values import oddities
from tightbound.errors import DataError
from tightbound.evidence.gaps import log_densities
from tightbound.model import Model
from tightbound.testing import LinearGaussian, linear_gaussian

LATENTS, SITES, STEPS = 4, 6, 1000
BY_CODE = {check.code: check for check in CHECKS}
LINEAR = tb.MLP(hidden=())


def records(**columns: Any) -> tuple[dict[str, Any], ...]:
    """The metrics of a run that went well, 100 lines over 50 epochs, with some columns replaced by functions of the line."""
    steady = {
        "step": lambda i: 10 * (i + 1), "epoch": lambda i: 0.5 * (i + 1), "bound": lambda i: -10.0 + 0.01 * (-1) ** i,
        "loss": lambda i: 10.0 + 0.01 * (-1) ** i, "beta": lambda i: 1.0, "skipped": lambda i: 0,
        "validation_elbo": lambda i: -10.0 + 0.01 * (-1) ** i if i % 2 else None,
    }  # fmt: skip
    return tuple({name: column(i) for name, column in {**steady, **columns}.items()} for i in range(STEPS // 10))


@pytest.fixture(scope="module")
def oracle() -> LinearGaussian:
    """A model whose q(z|x) is the true posterior and whose prior is the aggregate one."""
    return linear_gaussian(latent=LATENTS, sites=SITES, diagonal=True)


@pytest.fixture(scope="module")
def healthy(oracle: LinearGaussian) -> Subject:
    objective = {"kind": "elbo", "beta": 1.0, "warmup": 500}
    parts = (oracle.dataset(600), oracle.dataset(400, seed=1))
    return Subject(oracle.model, *parts, records(), objective, Steps(STEPS, STEPS))


def examine(subject: Subject, code: str) -> Finding:
    return BY_CODE[code](subject)


def renewed(subject: Subject, **fields: Any) -> Subject:
    """The subject with some fields replaced, and nothing measured yet."""
    return dataclasses.replace(subject, **fields)


def with_model(subject: Subject, model: Model) -> Subject:
    return renewed(subject, model=model)


def edit_encoder(subject: Subject, weight: Callable[[Any], Any], bias: Callable[[Any], Any] = lambda b: b) -> Subject:
    """The subject with another encoder: columns are the means of the latents, then their raw scales."""

    def where(model: Model) -> list[Any]:
        return [model.encoder.output.weight, model.encoder.output.bias]

    old = where(subject.model)
    return with_model(subject, eqx.tree_at(where, subject.model, [weight(old[0]), bias(old[1])]))


def with_rows(subject: Subject, change: Callable[[np.ndarray], None], held_out: bool = True) -> Subject:
    """The subject with some cells changed behind the back of the data set's own check."""
    name = "held_out" if held_out else "training"
    x = np.array(getattr(subject, name).x)
    change(x)
    return renewed(subject, **{name: Part(x, subject.training.sites)})


def put(value: Any, *where: Any) -> Callable[[np.ndarray], None]:
    return lambda x: x.__setitem__(where, value)


def gaussian(subject: Subject, raw: float) -> Subject:
    """The subject with a decoder that explains nothing and a trained noise scale, given before softplus."""
    spec = subject.model.spec.replace(likelihood=tb.Gaussian())
    model = spec.build(jax.random.key(0), subject.training.statistics())  # type: ignore[attr-defined]
    places = (lambda m: m.likelihood_head.raw_noise, lambda m: m.decoder.output.weight)
    model = eqx.tree_at(places[0], model, jnp.float32(raw))
    return with_model(subject, eqx.tree_at(places[1], model, replace_fn=jnp.zeros_like))


def with_mixture(subject: Subject, far: int) -> Subject:
    """The subject with a mixture prior, of whose eight components ``far`` lie where no row is."""
    spec = subject.model.spec.replace(prior=tb.TrainedMixture(components=8))
    built = spec.build(jax.random.key(0))
    model = eqx.tree_at(lambda m: (m.encoder, m.decoder), built, (subject.model.encoder, subject.model.decoder))
    return with_model(subject, eqx.tree_at(lambda m: m.prior_head.loc, model, replace_fn=lambda loc: loc.at[:far].add(100.0)))


def ill_noise(subject: Subject) -> Subject:
    floored = gaussian(subject, -20.0)
    return renewed(floored, records=records(skipped=lambda i: i // 50))


ILLNESSES: dict[str, tuple[str, Callable[[Subject], Subject], str]] = {
    "collapse": ("TB001", lambda s: edit_encoder(s, jnp.zeros_like, jnp.zeros_like), "0 of 4 latents are active"),
    "three of four latents inactive": ("TB002", lambda s: edit_encoder(s, lambda w: w.at[:, :3].set(0.0)), "3 of 4 latents"),
    "KL in one latent": (
        "TB003",
        lambda s: edit_encoder(s, lambda w: w.at[:, :3].multiply(0.2), lambda b: b.at[jnp.array([0, 1, 2, 4, 5, 6])].set(0.0)),
        "latent 3, carries",
    ),
    "aggregate posterior beside the prior": (
        "TB004", lambda s: edit_encoder(s, lambda w: w, lambda b: b.at[:LATENTS].add(3.0)), r"at least 1[78]",
    ),
    "posterior in the wrong place": (
        "TB005", lambda s: edit_encoder(s, lambda w: w, lambda b: b.at[:LATENTS].add(3.0)), "of 200 importance samples",
    ),
    "overflow": ("TB006", lambda s: with_rows(s, put(1e25, 3, 1)), "1 held-out row whose log p"),
    "not a number": ("TB006", lambda s: with_rows(s, put(np.nan, 7, 2), held_out=False), "training rows: .*column 2 has nan"),
    "extreme value": (
        "TB006", lambda s: with_rows(s, put(60.0, 3, 1)), r"1 held-out row with values more than 10 .* column 1$",
    ),
    "constant in training": (
        "TB006",
        lambda s: with_rows(s, put(1.0, slice(None), 4), held_out=False),
        "400 held-out rows with other values .* in column 4",
    ),
    "noise on its floor": ("TB007", lambda s: gaussian(s, -20.0), "floor in 6 of 6 columns"),
    "noise as wide as the data": ("TB007", lambda s: gaussian(s, 0.5), "spread in 100% of them"),
    "over-fitting": ("TB008", lambda s: with_rows(s, lambda x: x.__iadd__(1.5)), "higher on training rows"),
    "validation ELBO still rises": (
        "TB009", lambda s: renewed(s, records=records(validation_elbo=lambda i: 0.5 * i)), r"validation ELBO .* \+1 ",
    ),
    "training bound still rises": (
        "TB009",
        lambda s: renewed(s, records=records(validation_elbo=lambda i: None, bound=lambda i: 0.5 * i)),
        r"training bound .* \+1 ",
    ),
    "warm-up longer than the run": (
        "TB010", lambda s: renewed(s, objective={"beta": 1.0, "warmup": 2000}), "of which 1,000 were made",
    ),
    "last weight below β": (
        "TB010", lambda s: renewed(s, objective={"beta": 4.0, "warmup": 500}), "reached 1 of 4",
    ),
    "warm-up longer than its phase": (
        "TB010",
        lambda s: renewed(
            s,
            objective={"beta": 1.0, "warmup": 800, "then": {"kind": "iwae", "share": 0.5}},
            records=records(beta=lambda i: 1.0 if i > 50 else i / 80, phase=lambda i: int(i > 50)),
        ),
        "of which 5[01]0 were made",
    ),
    "half of the components far away": ("TB011", lambda s: with_mixture(s, far=4), "4 of 8 components"),
    "steps skipped on the floor": ("TB012", ill_noise, "noise scale on its floor"),
    "steps skipped as the loss ran away": (
        "TB012",
        lambda s: renewed(s, records=records(skipped=lambda i: max(i - 60, 0), loss=lambda i: 10.0**max(i - 57, 1))),
        "running away",
    ),
    "steps skipped at the start": (
        "TB012", lambda s: renewed(s, records=records(skipped=lambda i: min(i, 3))), "3 of 1,000 steps .* at the start",
    ),
    "steps skipped now and then": (
        "TB012", lambda s: renewed(s, records=records(skipped=lambda i: i // 50)), "1 of 1,000 steps .* extreme values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ILLNESSES)
def test_every_illness_is_found(healthy: Subject, name: str) -> None:
    code, infect, text = ILLNESSES[name]
    finding = examine(infect(healthy), code)
    assert finding.status == "problem", finding
    assert re.search(text, finding.text), finding
    assert finding.number is None or repr(finding.number) != "nan"


def test_every_code_has_an_illness() -> None:
    assert {code for code, *_ in ILLNESSES.values()} == set(BY_CODE)


def test_the_exact_model_has_no_problem(healthy: Subject) -> None:
    """Every check applies but the one of mixture priors, whose health is tested beside it."""
    findings = diagnose(healthy)
    assert [finding.code for finding in findings if finding.status != "ok"] == ["TB011"], list(map(str, findings))
    assert examine(with_mixture(healthy, far=0), "TB011").status == "ok"
    assert examine(with_mixture(healthy, far=0), "TB011").number == 0
    assert examine(gaussian(healthy, -0.5), "TB007").status == "ok"


def test_the_numbers_of_the_exact_model_are_those_of_the_theory(healthy: Subject, oracle: LinearGaussian) -> None:
    """The means over 500 rows lie within 5 standard errors of their expectations: false-alarm rate below 1e-5."""
    squared = (oracle.weights**2).sum(axis=0) / oracle.noise**2
    by_theory = 0.5 * np.log1p(squared)
    assert healthy.latent_kl is not None
    se = healthy.posteriors.kl.std(axis=0) / np.sqrt(500)
    np.testing.assert_array_less(np.abs(healthy.latent_kl - by_theory), 5 * se)
    np.testing.assert_allclose(healthy.activity, squared / (1 + squared), rtol=5 * np.sqrt(2 / 500))
    np.testing.assert_allclose(healthy.evidence[0].ess, 200, rtol=0.01)
    np.testing.assert_allclose(healthy.evidence[0].log_evidence, oracle.log_evidence(healthy.evaluated.x), atol=0.02)
    assert healthy.kl == pytest.approx(healthy.latent_kl.sum())


ABSENT: dict[str, tuple[str, Callable[[Subject], Subject], str]] = {
    "all latents inactive": ("TB002", lambda s: edit_encoder(s, jnp.zeros_like, jnp.zeros_like), "which is TB001"),
    "no KL to spread": ("TB003", lambda s: edit_encoder(s, jnp.zeros_like, jnp.zeros_like), "which is TB001"),
    "a KL that does not split": ("TB003", lambda s: with_mixture(s, far=0), "does not split"),
    "few rows": ("TB004", lambda s: renewed(s, training=s.training.take(range(10))), "10 rows .* at least 20"),
    "no training rows": ("TB001", lambda s: renewed(s, training=s.training.take([])), "no training rows"),
    "no held-out rows": ("TB008", lambda s: renewed(s, held_out=None), "no rows were held out"),
    "few held-out rows": ("TB008", lambda s: renewed(s, held_out=s.held_out.take([0])), "1 row in the smaller part"),
    "no finite log p(x)": ("TB008", lambda s: with_rows(s, put(1e25, 3, 1)), "which is TB006"),
    "rows of other sites": (
        "TB005", lambda s: renewed(s, held_out=Part(np.zeros((30, 3)), tb.Sites(kind="real", shape=(3,)))), "3 sites.* 6 sites",
    ),
    "few records": ("TB009", lambda s: renewed(s, records=records()[:4]), r"too few records \(4 in all\)"),
    "no warm-up": ("TB010", lambda s: renewed(s, objective={"kind": "iwae", "k": 5}), "no warm-up"),
    "an unknown run": ("TB010", lambda s: renewed(s, records=(), steps=None), "known"),
    "no bound on the aggregate": (
        "TB004",
        lambda s: edit_encoder(with_mixture(s, far=0), lambda w: w, lambda b: b.at[LATENTS:].set(-8.0)),
        "no lower bound above 0 .* 4 dimensions",
    ),
    "more components than rows": (
        "TB011", lambda s: renewed(with_mixture(s, far=0), training=s.training.take(range(5))), "5 rows .* 8 components",
    ),
    "no metrics": ("TB012", lambda s: renewed(s, records=()), "not known"),
}  # fmt: skip


@pytest.mark.parametrize("name", ABSENT)
def test_what_cannot_be_measured_is_not_applicable(healthy: Subject, name: str) -> None:
    code, remove, reason = ABSENT[name]
    finding = examine(remove(healthy), code)
    assert finding.status == "not applicable", finding
    assert finding.number is None and re.search(reason, finding.text), finding


def test_other_likelihoods_have_no_noise_scale() -> None:
    sites = tb.Sites(kind="binary", shape=(4,))
    model = tb.VAE(sites=sites, latent=1, encoder=LINEAR, decoder=LINEAR, likelihood=tb.Bernoulli()).build(jax.random.key(0))
    bits = np.zeros((200, 4), np.uint8)
    finding = examine(Subject(model, tb.Dataset(bits, sites)), "TB007")
    assert (finding.status, finding.text) == ("not applicable", "the likelihood 'bernoulli' has no Gaussian noise scale")


def test_a_pixel_that_is_rarely_lit_is_no_problem_but_many_are() -> None:
    """Bits that were constant in training may differ in a few held-out rows: that costs finitely many nats, once."""
    sites = tb.Sites(kind="binary", shape=(4,))
    training, held_out = np.zeros((200, 4), np.uint8), np.zeros((100, 4), np.uint8)
    training[::2, 0] = held_out[:5, 1] = 1
    assert list(oddities(tb.Dataset(training, sites), tb.Dataset(held_out, sites))) == []
    held_out[:6, 1] = 1
    (odd,) = oddities(tb.Dataset(training, sites), tb.Dataset(held_out, sites, names=tuple("abcd")))
    assert odd.held_out and odd.rows.sum() == 6


def test_cells_that_are_not_observed_are_no_oddity() -> None:
    sites = tb.Sites(kind="real", shape=(2,), missing=True)
    x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    x[0, 0] = 1000.0
    assert len(list(oddities(Part(x, sites, np.ones(x.shape, bool)), None))) == 1
    hidden = np.ones(x.shape, bool)
    hidden[0, 0] = False
    assert list(oddities(Part(x, sites, hidden), None)) == []


def test_an_early_stop_is_no_under_training(healthy: Subject) -> None:
    rising = renewed(healthy, records=records(validation_elbo=lambda i: 0.5 * i), steps=Steps(2 * STEPS, STEPS), patience=7)
    finding = examine(rising, "TB009")
    assert finding.status == "ok" and "7 evaluations" in finding.text
    assert examine(renewed(rising, patience=None), "TB009").status == "problem"


def test_a_flat_end_is_no_convergence_when_the_learning_rate_has_fallen(healthy: Subject) -> None:
    constant, falling = (
        examine(renewed(healthy, records=records(learning_rate=rate)), "TB009").text
        for rate in (lambda i: 1e-3, lambda i: 1e-3 * (1 - i / 100))
    )
    assert "1% of the highest by then, so a longer run may still be better" in falling
    assert "longer" not in constant
    short = renewed(healthy, records=records(learning_rate=lambda i: 1e-3 * (1 - i / 100)), steps=Steps(60, 60))
    found = examine(short, "TB009")
    assert found.status == "not applicable" and "after 60 steps a flat end says nothing" in found.text


def test_the_slope_is_that_of_least_squares() -> None:
    noise = np.random.default_rng(0).normal(size=100)
    found = rise(records(validation_elbo=lambda i: None, bound=lambda i: 0.3 * i + noise[i]))
    fit = scipy.stats.linregress(0.5 * np.arange(91, 101), 0.3 * np.arange(90, 100) + noise[90:])
    assert found is not None
    assert (found.slope, found.se) == pytest.approx((fit.slope, fit.stderr))


def test_the_end_of_a_short_run_is_its_last_third() -> None:
    found = rise(records(validation_elbo=lambda i: None)[:20])
    assert found is not None and (found.part, found.of) == ("third", "training bound")
    assert rise(records(bound=lambda i: None, validation_elbo=lambda i: None)) is None


@pytest.mark.parametrize("scale", [0.3, 0.6, 1.0, 1.5])
def test_bounds_on_the_aggregate_lie_below_the_truth_and_near_it(scale: float) -> None:
    """q(z) = N(0, scale² I) in 3 latents against N(0, I): below the KL within 4 standard errors, above 80 % of it."""
    rng, shape = np.random.default_rng(0), (500, 3)
    own = 0.5 * scale * np.ones(shape)
    mean = np.sqrt(0.75) * scale * rng.normal(size=shape)
    z = mean + own * rng.normal(size=shape)
    standard = np.stack([np.zeros(3), np.ones(3)])
    truth = 3 * 0.5 * (scale**2 - 1 - 2 * np.log(scale))
    marginals, log_density = aggregate.marginals(z, mean, own, standard)
    joint = aggregate.joint(log_density, scipy.stats.norm.logpdf(z).sum(axis=1))
    for gap in (marginals, joint, aggregate.moments(z, standard)):
        assert gap is not None
        assert gap.nats < truth + 4 * gap.se
        assert gap.nats > 0.8 * truth - 0.25


def test_only_the_joint_bound_sees_a_hole_between_latents() -> None:
    """z = (a, s a + noise) with a random sign s: both latents are N(0, 1) and uncorrelated, yet lie on a cross."""
    rng, count = np.random.default_rng(0), 500
    a = rng.normal(size=count)
    mean = np.stack([a, rng.choice([-1, 1], count) * a], axis=1)
    scale = np.full(mean.shape, 0.1)
    z = mean + scale * rng.normal(size=mean.shape)
    standard = np.stack([np.zeros(2), np.ones(2)])
    marginals, log_density = aggregate.marginals(z, mean, scale, standard)
    moments = aggregate.moments(z, standard)
    joint = aggregate.joint(log_density, scipy.stats.norm.logpdf(z).sum(axis=1))
    assert moments is not None and marginals.nats < 0.1 and moments.nats < 0.1
    assert joint.certain > 0.4
    assert aggregate.best(iter([marginals, moments, joint])) == joint


def test_an_aggregate_that_is_the_prior_has_no_gap_in_many_latents() -> None:
    z = np.random.default_rng(0).normal(size=(500, 40))
    gap = aggregate.moments(z, np.stack([np.zeros(40), np.ones(40)]))
    assert gap is not None and abs(gap.nats) < 4 * gap.se + 0.3
    assert aggregate.moments(z[:50], np.zeros((2, 40))) is None, "a covariance needs more rows than that"


def test_a_full_posterior_and_pseudo_inputs_are_measured_too() -> None:
    """Any family of q(z|x) and any mixture of it: the program for one q at a time gives what scipy gives."""
    oracle = linear_gaussian(latent=2, sites=3)
    vamp = oracle.model.spec.replace(prior=tb.VampPrior(components=3)).build(jax.random.key(0))
    model = eqx.tree_at(lambda m: (m.encoder, m.decoder), vamp, (oracle.model.encoder, oracle.model.decoder))
    rows = oracle.dataset(30)
    mean, covariance = oracle.true_posterior(rows.x)
    points = np.zeros((2, 2), np.float32)
    found = log_densities(model, rows, points)
    expected = scipy.stats.multivariate_normal(np.zeros(2), covariance).logpdf(mean)
    np.testing.assert_allclose(found, np.stack([expected, expected], axis=1), atol=1e-3)
    subject = Subject(model, rows)
    assert examine(subject, "TB011").number in range(4)
    assert subject.prior.weights == pytest.approx(np.full(3, 1 / 3))
    assert np.isfinite(subject.gap.nats)


def test_at_most_500_rows_of_each_part_are_measured_once(healthy: Subject) -> None:
    assert len(healthy.rows.x) == 500 and healthy.held_out_rows is not None and len(healthy.held_out_rows.x) == 400
    np.testing.assert_array_equal(healthy.rows.x[[0, -1]], healthy.training.x[[0, -1]])
    assert healthy.posteriors is healthy.posteriors and healthy.evidence is healthy.evidence


def test_parts_with_and_without_missing_cells_are_both_evaluated() -> None:
    sites = tb.Sites(kind="count", shape=(3,), missing=True, exposure=True)
    spec = tb.VAE(sites=sites, latent=1, encoder=LINEAR, decoder=LINEAR, likelihood=tb.Poisson())
    x = np.random.default_rng(0).poisson(3.0, (40, 3))
    seen = np.random.default_rng(1).random(x.shape) < 0.7
    whole = tb.Dataset(x, sites, exposure=np.ones(40))
    subject = Subject(spec.build(jax.random.key(0)), whole, tb.Dataset(x, sites, observed=seen, exposure=np.ones(40)))
    training, held_out = subject.evidence
    assert held_out is not None and len(training.ess) == len(held_out.ess) == 40
    assert held_out.log_evidence.mean() > training.log_evidence.mean(), "fewer sites, less to pay for"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_rows_are_no_reason_to_fail(healthy: Subject, count: int) -> None:
    few = {name: getattr(healthy, name).take(range(count)) for name in ("training", "held_out")}
    statuses = {finding.code: finding.status for finding in diagnose(renewed(healthy, **few))}
    assert "problem" not in statuses.values()
    of_the_run = {"TB009", "TB010", "TB012"}
    assert count or {code for code, status in statuses.items() if status == "ok"} == of_the_run


def test_bits_that_are_not_drawn_yet_are_refused() -> None:
    grey = tb.from_arrays(np.arange(80).reshape(20, 4) % 17, kind="levels", levels=17).with_binarisation("dynamic")
    spec = tb.VAE(sites=grey.sites, latent=1, encoder=LINEAR, decoder=LINEAR, likelihood=tb.Bernoulli())
    finding = examine(Subject(spec.build(jax.random.key(0)), grey), "TB006")
    assert finding.status == "not applicable" and "binarised(seed)" in finding.text


def test_codes_are_unique_and_in_order() -> None:
    assert [check.code for check in CHECKS] == [f"TB{number:03}" for number in range(1, len(CHECKS) + 1)]
    assert all(f"{check.code}  {check.title}" in str(checks.__doc__) for check in CHECKS)


def test_findings_are_json_and_one_line(healthy: Subject) -> None:
    for finding in diagnose(healthy):
        assert json.loads(json.dumps(finding.as_dict(), allow_nan=False)) == finding.as_dict()
        assert "\n" not in str(finding) and str(finding).startswith(f"{finding.code} {finding.status}: ")
        assert finding.why and finding.change and finding.unit
    infinite = Finding("TB000", "title", "problem", "text", float("inf"), "nats", "why", "change")
    assert infinite.as_dict()["number"] is None


def test_a_check_that_raises_does_not_take_the_others_down_unless_it_is_a_bug(healthy: Subject) -> None:
    def refuse(subject: Subject) -> Outcome:
        raise DataError("these rows are of no use")

    def fail(subject: Subject) -> Outcome:
        raise ZeroDivisionError

    def diverge(subject: Subject) -> Outcome:
        return Outcome("ok", "the number is", float("nan"))

    check = CHECKS[0]
    assert check._replace(measure=refuse)(healthy).text == "these rows are of no use"
    assert check._replace(measure=diverge)(healthy).status == "not applicable"
    with pytest.raises(ZeroDivisionError):
        check._replace(measure=fail)(healthy)


def test_a_model_of_nothing_but_nan_is_never_ok(healthy: Subject) -> None:
    broken = edit_encoder(healthy, lambda w: w * jnp.nan)
    findings = {finding.code: finding for finding in diagnose(broken)}
    assert findings["TB006"].status == "problem"
    untouched = {"TB007", "TB009", "TB010", "TB012"}  # a fixed noise scale, and what was written down during the run
    assert not [str(f) for f in findings.values() if f.status == "ok" and f.code not in untouched]
