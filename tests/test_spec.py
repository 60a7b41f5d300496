"""Specs are values: frozen, strict about their fields, JSON both ways, and equal in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tightbound as tb
from data_checks import REPEATABLE, refused
from tightbound.errors import SpecError
from tightbound.networks.layers import Activation
from tightbound.spec import Custom, Spec, canonical_json, customs

positive = st.floats(1e-6, 1e6)
sizes = st.lists(st.integers(1, 64), max_size=3).map(tuple)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
arguments = st.dictionaries(names, st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
custom = st.builds(Custom, target=st.tuples(names, names, names).map(lambda t: f"{t[0]}.{t[1]}:{t[2]}"), args=arguments).filter(
    lambda spec: spec.target.isascii()
)

perceptrons = st.builds(tb.MLP, hidden=sizes, activation=st.sampled_from(get_args(Activation)), residual=st.booleans())
gated = st.builds(tb.MLP, hidden=sizes, gated=st.just(True))
convolutional = st.builds(tb.Convolutional, channels=sizes.filter(len), hidden=sizes)
networks = perceptrons | gated | convolutional | custom
posteriors = (
    st.builds(tb.DiagonalGaussian, floor=positive)
    | st.builds(tb.FullGaussian, floor=positive)
    | st.builds(tb.FlowPosterior, layers=st.integers(1, 9), context=st.integers(1, 90), floor=positive)
    | custom
)
priors = (
    st.just(tb.StandardNormal())
    | st.builds(tb.TrainedMixture, components=st.integers(1, 900), floor=positive)
    | st.builds(tb.VampPrior, components=st.integers(1, 900), weighted=st.booleans())
    | st.builds(tb.FlowPrior, layers=st.integers(1, 9), width=st.integers(1, 900))
    | custom
)
likelihoods = (
    st.just(tb.Bernoulli())
    | st.just(tb.Categorical())
    | st.just(tb.Poisson())
    | st.builds(tb.Gaussian, noise=st.just("fixed"), scale=positive)
    | st.builds(tb.Gaussian, noise=st.sampled_from(["global", "site", "predicted"]), floor=positive)
    | st.builds(tb.DiscretisedLogistic, components=st.integers(1, 9), noise=st.sampled_from(["site", "predicted"]))
    | st.builds(tb.NegativeBinomial, dispersion=st.sampled_from(["site", "predicted"]), floor=positive)
    | custom
)
shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
sites = st.one_of(
    st.builds(tb.Sites, kind=st.sampled_from(["binary", "real"]), shape=shapes, missing=st.booleans()),
    st.builds(tb.Sites, kind=st.sampled_from(["levels", "category"]), shape=shapes, levels=st.integers(2, 65536)),
    st.builds(tb.Sites, kind=st.just("count"), shape=shapes, exposure=st.booleans()),
)
models = st.builds(
    tb.VAE,
    sites=sites,
    latent=st.integers(1, 4096),
    encoder=networks,
    decoder=networks,
    posterior=posteriors,
    prior=priors,
    likelihood=likelihoods,
)
objectives = st.builds(
    tb.ELBO,
    beta=st.floats(0, 1e3),
    warmup=st.integers(0, 10**6),
    free_bits=st.floats(0, 10),
    gradient=st.sampled_from(["pathwise", "stl"]),
) | st.builds(tb.IWAE, k=st.integers(1, 1000), gradient=st.sampled_from(["pathwise", "dreg"]))
lengths = st.sampled_from([{}, {"epochs": 3}, {"steps": 70}])
plans = st.builds(
    lambda length, **fields: tb.Plan(**length, **fields),
    lengths,
    batch_size=st.integers(1, 10**6),
    learning_rate=positive,
    seed=st.integers(0, 2**63 - 1),
    patience=st.none() | st.integers(1, 50),
)
specs = networks | posteriors | priors | likelihoods | sites | models | objectives | plans | custom


@settings(REPEATABLE, max_examples=300)
@given(specs)
def test_json_there_and_back(spec: Spec) -> None:
    text = spec.to_json()
    again = type(spec).from_json(text)
    assert again == spec and hash(again) == hash(spec) and again.digest() == spec.digest()
    assert again.to_json() == text == canonical_json(json.loads(text))
    assert repr(again) == repr(spec)


@settings(REPEATABLE, max_examples=100)
@given(specs, specs)
def test_specs_of_one_text_are_equal_and_others_are_not(one: Spec, other: Spec) -> None:
    assert (one == other) == (one.to_json() == other.to_json())


@settings(REPEATABLE, max_examples=100)
@given(specs)
def test_fields_cannot_be_assigned_or_added(spec: Spec) -> None:
    for name in (*type(spec).model_fields, "anything"):
        with pytest.raises(ValueError):
            setattr(spec, name, None)
    with refused("anything: unknown field", *type(spec).model_fields, error=SpecError):
        spec.replace(anything=1)


def test_digests_are_equal_in_every_process() -> None:
    spec = tb.VAE(
        sites=tb.Sites(kind="real", shape=(3,)),
        latent=2,
        prior=tb.Custom(target="a.b:C", args={"z": 1, "a": "x", "m": [1.5, True]}),
        likelihood=tb.Gaussian(),
    )
    code = f"import tightbound as tb; print(tb.VAE.from_json({spec.to_json()!r}).digest())"
    source = str(Path(tb.__file__).parents[1])
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": source},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1234")
    }
    assert digests == {spec.digest()}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: tb.ELBO(betta=4.0), ("ELBO", "betta: unknown field", "did you mean 'beta'?", "allowed: beta, free_bits")),
        (lambda: tb.Sites(kind="bits", shape=(3,)), ("Sites", "kind", "'binary', 'levels'", "'bits'")),
        (lambda: tb.Sites(kind="levels", shape=(3,)), ("levels ≥ 2", "got 0")),
        (lambda: tb.Sites(kind="real", shape=(3,), levels=4), ("have no levels", "leave the field out")),
        (lambda: tb.Sites(kind="real", shape=(3, 0)), ("every entry of shape must be at least 1", "(3, 0)")),
        (lambda: tb.Gaussian(noise="fixed"), ("scale is given exactly when noise is 'fixed'", "scale=0.5")),
        (lambda: tb.Gaussian(scale=1.0), ("scale is given exactly when noise is 'fixed'",)),
        (lambda: tb.Plan(epochs=3, steps=5), ("give epochs or steps, not both",)),
        (lambda: tb.Plan(learning_rate=float("nan")), ("learning_rate", "finite")),
        (lambda: tb.ELBO.from_json("{"), ("ELBO", "not valid JSON")),
        (lambda: tb.ELBO.from_json("[1]"), ("expected a JSON object, got list",)),
    ],
)
def test_a_wrong_field_is_refused_with_the_right_words(build: Any, words: tuple[str, ...]) -> None:
    with refused(*words, error=SpecError):
        build()


def test_a_wrong_part_is_named_by_its_path() -> None:
    with pytest.raises(SpecError) as caught:
        tb.VAE(
            sites={"kind": "binary", "shape": [3], "lvels": 3},
            latent=0,
            encoder={"kind": "mlp", "hidden": [4, -1]},
            prior={"kind": "vam"},
            likelihood={"kind": "bernoulli", "scale": 1.0},
        )
    problems = dict(caught.value.problems)
    assert problems["sites.lvels"].startswith("unknown field; did you mean 'levels'?")
    assert "greater than or equal to 1" in problems["latent"]
    assert any(path.startswith("encoder.mlp.hidden") for path in problems)
    assert "unknown kind 'vam' (allowed: normal, mixture, vamp, flow, custom)" in problems["prior"]
    assert any(path.startswith("likelihood") and "unknown field" in text for path, text in problems.items())


def test_replace_is_validated_like_a_new_spec() -> None:
    sites = tb.Sites(kind="levels", shape=(3,), levels=4)
    assert sites.replace(levels=5) == tb.Sites(kind="levels", shape=(3,), levels=5)
    assert sites.levels == 4
    with refused("levels ≥ 2", error=SpecError):
        sites.replace(levels=0)


def test_what_the_caller_passed_in_stays_as_it_was() -> None:
    args = {"b": [1, [2, 3]], "a": 1.5}
    spec = tb.Custom(target="x:Y", args=args)
    args["b"][1].append(4)  # type: ignore[index,union-attr]
    args["c"] = "later"
    assert spec.args == (("a", 1.5), ("b", (1, (2, 3))))
    hidden, fields = [8, 9], {"kind": "mlp", "hidden": [8, 9]}
    assert tb.MLP(hidden=hidden).hidden == (8, 9)
    tb.VAE(sites=tb.Sites(kind="real", shape=(2,)), latent=1, encoder=fields, likelihood={"kind": "gaussian"})
    assert hidden == [8, 9] and fields == {"kind": "mlp", "hidden": [8, 9]}


@pytest.mark.parametrize("target", ["", "module", "module:", ":Name", "a b:Name", "a..b:Name", "a:b.c", "a/b:C", "os:1"])
def test_a_target_is_a_module_and_a_name(target: str) -> None:
    with refused("target", '"package.module:Name"', error=SpecError):
        tb.Custom(target=target)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": 1}, object(), b"bytes", [1, {2}]])
def test_arguments_that_json_cannot_hold_are_refused(value: Any) -> None:
    with refused("args", "finite numbers, strings, booleans and lists", error=SpecError):
        tb.Custom(target="a:B", args={"x": value})


def test_a_target_that_cannot_be_found_is_named() -> None:
    for target in ("no_such_module:Name", "math:no_such_name"):
        with refused("cannot import", target, error=SpecError):
            tb.Custom(target=target).resolve()


def test_a_target_is_called_with_the_role_and_its_arguments() -> None:
    assert tb.Custom(target="fractions:Fraction", args={"denominator": 4}).build(3) == 3 / 4
    with refused("fractions:Fraction", "CONTRIBUTING.md", error=SpecError):
        tb.Custom(target="fractions:Fraction", args={"wrong": 4}).build(3)


def test_customs_are_found_however_deep() -> None:
    inner, outer = tb.Custom(target="a:B"), tb.Custom(target="c:D")
    spec = tb.VAE(sites=tb.Sites(kind="real", shape=(2,)), latent=1, encoder=inner, prior=outer, likelihood=tb.Gaussian())
    assert list(customs(spec)) == [inner, outer]
    assert list(customs((spec, inner))) == [inner, outer, inner]
    assert not list(customs(tb.ELBO()))
