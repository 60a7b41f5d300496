"""Recipes: what they are is what was measured, and a run starts from one with everything else winning over it."""

import json
from pathlib import Path

import numpy as np
import pytest

import tightbound as tb
from running import call, table
from tightbound.cite import bibliography
from tightbound.errors import DataError, SpecError
from tightbound.hierarchy import model_spec
from tightbound.recipes import RECIPES
from tightbound.settings import from_tables

ROOT = Path(__file__).parents[1]
BRIEF = ("--steps", "4", "--latent", "2", "--hidden", "8", "--draws", "5", "--no-pictures", "--no-report", "--no-diagnosis")


def grey(path: Path, kind: type = np.uint8) -> Path:
    """Write forty images of 28 × 28 grey levels, of bits or of real numbers."""
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1))
    np.save(path, images.astype(np.uint8) if kind is np.uint8 else images / 255 if kind is float else images > 127)
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_whole(name: str) -> None:
    recipe = tb.recipe(name)
    recipe.spec().check()
    assert recipe.name == name and recipe.published.source.partition(",")[0] in bibliography()
    assert recipe.as_dict() == json.loads(json.dumps(recipe.as_dict()))
    if recipe.reached is not None:
        assert (ROOT / recipe.reached.source.split()[1]).is_file(), "the benchmark that prints the figure"
        assert recipe.reached.quantity == recipe.published.quantity


@pytest.mark.parametrize("name", ["normal", "vamp"])
def test_recipes_of_mnist_are_what_was_measured(name: str) -> None:
    measured = json.loads((ROOT / "benchmarks" / "mnist" / "results" / f"{name}.json").read_text())
    recipe = tb.recipe(f"mnist-{name}")
    assert tb.VAE(**measured["spec"]) == recipe.spec()
    assert tb.Plan(**measured["plan"]) == recipe.plan and tb.ELBO(**measured["objective"]) == recipe.objective
    assert recipe.reached is not None
    assert (recipe.reached.value, recipe.reached.se) == tuple(
        round(measured["log_evidence"][part], 2) for part in ("value", "se")
    )


@pytest.mark.parametrize("name", ["freyfaces", "mnist-mixer", "mnist-flow", "mnist-hierarchy-near"])
def test_recipes_of_published_images_are_what_was_measured(name: str) -> None:
    measured = json.loads((ROOT / "benchmarks" / "published" / "results" / f"{name}.json").read_text())
    recipe, ((objective, plan),) = tb.recipe(name), measured["phases"]
    assert model_spec(measured["spec"])(**measured["spec"]) == recipe.spec()
    assert tb.Plan(**plan) == recipe.plan and tb.ELBO(**objective) == recipe.objective
    evidence = measured["log_evidence"]
    figure = (evidence["value"], evidence["se"]) if recipe.binarise else measured["bits_per_dimension"]
    assert recipe.reached is not None
    assert [recipe.reached.value, recipe.reached.se] == [round(part, 2) for part in figure]


@pytest.mark.parametrize("name", RECIPES)
def test_the_tables_of_a_recipe_are_the_recipe(name: str, tmp_path: Path) -> None:
    recipe = tb.recipe(name)
    settings = from_tables({}, grey(tmp_path / "x.npy"), recipe=recipe)
    assert settings.spec == recipe.spec(settings.data.sites)
    assert settings.objective == recipe.objective and settings.plan == recipe.plan
    assert settings.data.binarise == (recipe.binarise is not None)


def test_a_run_starts_from_a_recipe_and_flags_and_files_win(tmp_path: Path) -> None:
    data = grey(tmp_path / "x.npy")
    (tmp_path / "spec.toml").write_text(
        "[plan]\nbatch_size = 8\nlearning_rate = 0.5\n[model.prior]\nkind = 'vamp'\ncomponents = 3\n"
    )
    given = ("--spec", tmp_path / "spec.toml", "--learning-rate", "0.001", *BRIEF)
    outcome = call("fit", data, "--out", tmp_path / "run", "--recipe", "mnist-normal", *given)
    assert outcome.code == 0, outcome.err
    run = tb.read_run(tmp_path / "run")
    plan = run.training["plan"]
    assert (plan["batch_size"], plan["learning_rate"], plan["weight_decay"], plan["epochs"]) == (8, 0.001, 0.02, None)
    assert run.spec.prior == tb.VampPrior(components=3) and run.spec.encoder == tb.MLP(hidden=(8,), gated=True)
    assert run.spec.sites.kind == "binary"


def test_bits_are_taken_as_they_are(tmp_path: Path) -> None:
    settings = from_tables({}, grey(tmp_path / "x.npy", bool), recipe=tb.recipe("mnist-vamp"))
    assert settings.data.sites == tb.recipe("mnist-vamp").sites and not settings.data.binarise


def test_data_of_another_kind_is_refused(tmp_path: Path) -> None:
    for data in (table(tmp_path / "table.csv"), grey(tmp_path / "x.npy", float)):
        outcome = call("fit", data, "--out", tmp_path / "run", "--recipe", "mnist-normal")
        assert outcome.code == 2 and "recipe 'mnist-normal' is for" in outcome.err and not (tmp_path / "run.partial").exists()
    with pytest.raises(DataError, match="the data has"):
        tb.recipe("mnist-normal").spec(tb.Sites(kind="binary", shape=(784,)))


def test_a_recipe_becomes_a_hierarchy_by_its_latents(tmp_path: Path) -> None:
    settings = from_tables({"model": {"latents": [2, 3]}}, grey(tmp_path / "x.npy"), recipe=tb.recipe("mnist-mixer"))
    assert settings.spec.layers == (2, 3) and settings.spec.encoder == tb.recipe("mnist-mixer").parts["encoder"]


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=rf"did you mean 'mnist-vamp'\? \(known: {', '.join(RECIPES)}\)"):
        tb.recipe("mnist-vam")
    assert call("fit", "digits", "--out", tmp_path / "run", "--recipe", "mnist").code == 2


def test_recipes_are_listed_for_people_and_programs() -> None:
    shown, lines = call("recipes").out, call("recipes", "--json").lines()
    assert [line["name"] for line in lines] == list(RECIPES)
    assert all(words in shown for words in (*RECIPES, "-86.76", "-85.73 ± 0.22", "nats per image", "reproduce.py"))
    assert lines[0]["published"]["value"] == -86.76 and lines[0]["plan"]["epochs"] == 180
