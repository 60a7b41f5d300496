"""Model files and run folders: byte-stable, bit-exact, and safe to open whatever they hold."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import tightbound as tb
from running import finished
from tightbound.model import to_arrays
from tightbound.priors import PriorHead
from tightbound.store import FORMAT, environment, environment_differences

SPEC = tb.VAE(
    sites=tb.Sites(kind="binary", shape=(3,)),
    latent=2,
    encoder=tb.MLP(hidden=(4,)),
    decoder=tb.MLP(hidden=(4,)),
    likelihood=tb.Bernoulli(),
)


def own_prior(latent: int, sites: tb.Sites, statistics: object, *, key: jax.Array) -> PriorHead:
    """A part of a user's own."""
    return tb.StandardNormal().build(latent)


CUSTOM = SPEC.replace(prior=tb.Custom(target="test_store:own_prior"))


def saved(path: Path, spec: tb.VAE = SPEC) -> tb.Model:
    model = spec.build(jax.random.key(0))
    tb.save_model(model, path)
    return model


def test_a_model_comes_back_bit_for_bit_and_its_file_byte_for_byte(tmp_path: Path) -> None:
    model = saved(tmp_path / "a.safetensors")
    again = tb.load_model(tmp_path / "a.safetensors")
    tb.save_model(again, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    before, after = to_arrays(model), to_arrays(again)
    assert again.spec == SPEC and before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], strict=True)


def test_a_model_that_has_come_back_does_the_same(tmp_path: Path) -> None:
    run, data, _ = finished()
    model, rows = tb.load_model(run), tb.load(data, label="sex")
    (tmp_path / "alone").mkdir()
    shutil.copy(run / "model.safetensors", tmp_path / "alone" / "m.safetensors")
    alone = tb.load_model(tmp_path / "alone" / "m.safetensors")
    np.testing.assert_array_equal(tb.embed(model, rows).mean, tb.embed(alone, rows).mean)
    np.testing.assert_array_equal(tb.sample(model, 3), tb.sample(alone, 3))


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_text("mine")
    with pytest.raises(tb.OutputExistsError):
        saved(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_text() == "mine"


def rewrite(path: Path, change: Callable[[dict], None], arrays: dict[str, np.ndarray] | None = None) -> None:
    """Write a model file anew with its head changed."""
    with safetensors.safe_open(path, framework="np") as file:
        head = json.loads(file.metadata()["tightbound"])
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(head)
    path.write_bytes(safetensors.numpy.save({**stored, **(arrays or {})}, {"tightbound": json.dumps(head)}))


def test_every_truncation_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    saved(path)
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 9, *range(50, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(tb.FormatError, match="truncated or not a tightbound file"):
            tb.load_model(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda head: head.update(format=FORMAT + 1), "has format 2, this version reads up to 1: install a newer"),
        (lambda head: head.update(format="2"), "names no format number"),
        (lambda head: head.pop("format"), "names no format number"),
        (lambda head: head.pop("spec"), "holds no model spec"),
        (lambda head: head["spec"].update(latentt=3), "does not know: VAE: latentt: unknown field"),
        (lambda head: head["spec"].update(latent=3), "the arrays do not belong to this model"),
    ],
)
def test_foreign_heads_are_refused(tmp_path: Path, change: Callable[[dict], None], words: str) -> None:
    path = tmp_path / "m.safetensors"
    saved(path)
    rewrite(path, change)
    with pytest.raises(tb.FormatError, match=words):
        tb.load_model(path)


@pytest.mark.parametrize("name", ["nothing.safetensors", "other.safetensors", "text.safetensors"])
def test_files_that_are_no_models_are_refused(tmp_path: Path, name: str) -> None:
    safetensors.numpy.save_file({"x": np.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is no model" * 9)
    with pytest.raises(tb.FormatError, match=r"does not exist|not one that tightbound wrote|truncated or not"):
        tb.load_model(tmp_path / name)


def test_an_array_of_another_shape_or_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    saved(path)
    rewrite(path, lambda head: None, {"mean.array": np.zeros(4, np.float32), "more": np.zeros(1, np.float32)})
    with pytest.raises(tb.FormatError, match=r"more is unknown; mean.array is float32\[4\], expected float32\[3\]"):
        tb.load_model(path)


def test_a_spec_that_announces_gigabytes_is_refused_before_they_are_allocated(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    saved(path)
    rewrite(path, lambda head: head["spec"]["encoder"].update(hidden=[10**7, 10**7]))
    with pytest.raises(tb.FormatError, match="the arrays do not belong to this model"):
        tb.load_model(path)


def test_code_of_ones_own_needs_trust_and_the_message_says_the_very_words(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    saved(path, CUSTOM)
    with pytest.raises(tb.UntrustedError) as caught:
        tb.load_model(path)
    assert "trust=['test_store:own_prior'] (on the command line: --trust test_store:own_prior)" in str(caught.value)
    assert tb.load_model(path, trust=["test_store:own_prior"]).spec == CUSTOM
    with pytest.raises(tb.UntrustedError):
        tb.load_model(path, trust=["test_store"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(finished().run, tmp_path / "run"))


def test_a_run_comes_back(run: Path) -> None:
    read = tb.read_run(run)
    assert read.spec.latent == 2 and read.summary["steps"] == 40
    assert sorted(np.concatenate([*read.split.values()])) == list(range(60))
    assert [record["step"] for record in read.metrics()] == list(range(1, 41))


@pytest.mark.parametrize("name", ["spec.json", "training.json", "environment.json", "summary.json", "split.safetensors"])
@pytest.mark.parametrize("damage", ["absent", "truncated"])
def test_a_damaged_run_is_refused(run: Path, name: str, damage: str) -> None:
    whole = (run / name).read_bytes()
    (run / name).unlink()
    if damage == "truncated":
        (run / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(tb.FormatError, match=name):
        tb.read_run(run)


@pytest.mark.parametrize(("number", "words"), [(FORMAT + 1, "install a newer tightbound"), ("1", "names no format number")])
def test_a_run_of_another_format_is_refused(run: Path, number: object, words: str) -> None:
    spec = json.loads((run / "spec.json").read_text())
    (run / "spec.json").write_text(json.dumps(spec | {"format": number}))
    with pytest.raises(tb.FormatError, match=words):
        tb.read_run(run)


def test_metrics_that_were_cut_off_are_read_up_to_there(run: Path) -> None:
    file = run / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    assert [record["step"] for record in tb.read_run(run).metrics()] == list(range(1, 40))


def test_environments_are_compared_by_what_decides_the_last_bits() -> None:
    here = environment()
    assert environment_differences(here, here | {"python": "2.7"}) == ()
    assert environment_differences(here | {"cores": 999}, here) == (f"cores was 999 and is now {here['cores']}",)
