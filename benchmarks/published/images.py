"""Published tables of images: train a recipe and bound log p(x) of the whole test set by importance sampling.

    TIGHTBOUND_DATA=/path/to/data python benchmarks/published/images.py mnist-flow

Dynamic MNIST: training draws fresh bits from the grey levels of the first 50,000 training images whenever a row is used;
weights are chosen on the fixed bits of the last 10,000, and the figure is for the fixed bits of the 10,000 test images (numpy
seed 777). Grey MNIST: the same images as 256 levels. Frey Faces: 1,565 training, 200 validation and 200 test images after a
shuffle (numpy seed 0), and nothing else.

A recipe is a spec and one or more phases, each an objective with a plan: a later phase goes on from the weights of the one
before. The proposals of the importance samples are fitted to each image (``refined``), which is tighter for fewer draws after
training by the ELBO, or they are q(z|x) itself (``--proposal posterior``); ``--plain`` repeats the first images with
k = 5,000 draws from q(z|x), the published way, and says which is tighter. ``--bracket`` images that the model draws itself are
bounded from both sides. Logs and results are written to ``benchmarks/published/results``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import tightbound as tb
from tightbound.hierarchy import model_spec
from tightbound.model import Model, ModelSpec
from tightbound.objectives import ObjectiveSpec
from tightbound.store import environment

RESULTS = Path(__file__).parent / "results"
Phase = tuple[ObjectiveSpec, tb.Plan]


class Parts(NamedTuple):
    """Rows to train on, rows to choose weights by, rows that the figure is of."""

    train: tb.Dataset
    validation: tb.Dataset
    test: tb.Dataset


def folder() -> Path:
    return Path(os.environ["TIGHTBOUND_DATA"])


def grey_levels() -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder() / "mnist" / "mnist.npz", allow_pickle=False) as file:
        return file["x_train"], file["x_test"]


def dynamic_mnist() -> Parts:
    with np.load(folder() / "mnist" / "binarised_eval_seed777_packbits.npz", allow_pickle=False) as file:
        validation, test = (np.unpackbits(file[name], axis=1)[:, :784] for name in ("val", "test"))
    sites = tb.Sites(kind="binary", shape=(28, 28, 1))
    return Parts(
        tb.Dataset(grey_levels()[0][:50_000], sites, binarise=True, source="MNIST train"),
        tb.Dataset(validation, sites, source="MNIST validation, seed 777"),
        tb.Dataset(test, sites, source="MNIST test, seed 777"),
    )


def grey_mnist() -> Parts:
    train, test = grey_levels()
    return _levels((28, 28, 1), train[:50_000], train[50_000:], test)


def frey_faces() -> Parts:
    with np.load(folder() / "freyfaces" / "freyfaces.npz", allow_pickle=False) as file:
        x = np.random.default_rng(0).permutation(file["x"])
    return _levels((28, 20, 1), x[:1565], x[1565:1765], x[1765:])


def _levels(shape: tuple[int, int, int], *parts: np.ndarray) -> Parts:
    sites = tb.Sites(kind="levels", shape=shape, levels=256)
    return Parts(*(tb.Dataset(part, sites) for part in parts))


class Recipe(NamedTuple):
    """What is trained on what: the parts of the model, and the phases of training."""

    data: Callable[[], Parts]
    model: dict[str, Any]
    phases: tuple[Phase, ...]

    def spec(self, sites: tb.Sites) -> ModelSpec:
        """Return the model: one layer, or a hierarchy when it names the latents of several."""
        return model_spec(self.model)(sites=sites, **self.model)

    def lasting(self, epochs: int) -> Recipe:
        """Return the recipe with each phase of so many epochs; schedules and shares are those of the runs of that length."""
        return self._replace(phases=tuple((one, plan.replace(epochs=epochs, steps=None)) for one, plan in self.phases))


def networks(network: Any) -> dict[str, Any]:
    return {"encoder": network, "decoder": network}


GATED = networks(tb.MLP(hidden=(300, 300), gated=True))
MIXER = {side: tb.recipe("mnist-mixer").parts[side] for side in ("encoder", "decoder")}
GRID = networks(MIXER["decoder"].replace(hidden=()))
ELBO = tb.Plan(batch_size=128, learning_rate=2e-3, weight_decay=0.02, final=0.15, evaluate_every=1000)
HEAVY = ELBO.replace(weight_decay=0.1)  # with 0.02 a hierarchy begins to learn rows by heart within fifty epochs
FINE = tb.Plan(batch_size=128, learning_rate=3e-4, weight_decay=0.02, warmup=0.0, evaluate_every=1000)
DREG = tb.IWAE(k=5, gradient="dreg")
BINARY = {"likelihood": tb.Bernoulli()}


def of_product(name: str, data: Callable[[], Parts]) -> Recipe:
    """Return what ``tightbound fit --recipe NAME`` trains."""
    recipe = tb.recipe(name)
    return Recipe(data, dict(recipe.parts), ((recipe.objective, recipe.plan),))


RECIPES = {
    "freyfaces": of_product("freyfaces", frey_faces),
    "mnist-mixer": of_product("mnist-mixer", dynamic_mnist),
    "mnist-flow": of_product("mnist-flow", dynamic_mnist),
    "mnist-hierarchy-near": of_product("mnist-hierarchy-near", dynamic_mnist),
    "grey-mnist": Recipe(
        grey_mnist,
        {"latent": 64, "prior": tb.FlowPrior(), **MIXER, "likelihood": tb.DiscretisedLogistic(components=3)},
        ((tb.ELBO(), ELBO.replace(epochs=45, final=0.02)),),
    ),
    "mnist-normal-dreg": Recipe(
        dynamic_mnist,
        {"latent": 50, **GATED, **BINARY},
        ((tb.ELBO(), ELBO.replace(epochs=100, weight_decay=0.05, evaluate_every=4000)), (DREG, FINE.replace(epochs=25))),
    ),
    # Pixels that know their neighbours: another class of model, to be compared with published models of that class.
    "mnist-near": Recipe(
        dynamic_mnist,
        {"latent": 32, "prior": tb.FlowPrior(), **MIXER, "likelihood": tb.Autoregressive(base=tb.Bernoulli(), radius=4)},
        ((tb.ELBO(then=DREG.replace(share=0.05)), ELBO.replace(epochs=50, weight_decay=0.04, final=0.05)),),
    ),
    # Not run whole yet: no figure of it stands anywhere.
    "mnist-grid": Recipe(
        dynamic_mnist,
        {"latents": (32, 48, 48), "width": 64, "grid": True, "prior": tb.FlowPrior(), **GRID, **BINARY},
        ((tb.ELBO(free_bits=0.01), ELBO.replace(epochs=90)), (DREG, FINE.replace(epochs=10))),
    ),
    "mnist-hierarchy": Recipe(
        dynamic_mnist,
        {"latents": (24, 40), "width": 256, "prior": tb.FlowPrior(), **MIXER, **BINARY},
        ((tb.ELBO(free_bits=0.01), HEAVY.replace(epochs=90)), (DREG, FINE.replace(epochs=12, weight_decay=0.1))),
    ),
}


def train(
    model: Model, phases: tuple[Phase, ...], rows: tb.Dataset, validation: tb.Dataset, say: Callable[[str], None]
) -> Model:
    """Return the model after all phases; every evaluation is said."""
    started = time.monotonic()
    for objective, plan in phases:
        for progress in tb.train(model, objective, rows, plan, validation=validation):
            now = progress.latest
            if now.validation_elbo is not None:
                say(
                    f"{time.monotonic() - started:7.1f} s  {objective.kind} epoch {now.epoch:6.1f}  "
                    f"train bound {now.bound:8.3f}  KL {now.kl:6.3f}  "
                    f"validation ELBO {now.validation_elbo:8.3f}  {progress.examples_per_second:,.0f}/s"
                )
        model = progress.model
    return model


def evaluated(
    model: Model,
    test: tb.Dataset,
    draws: int,
    plain: int,
    say: Callable[[str], None],
    kind: str = "refined",
    plain_draws: int = 5000,
) -> dict[str, Any]:
    """Return the bounds of the test set: by proposals of some kind for all of it, by many from q(z|x) for the first images."""
    started = time.monotonic()
    whole = tb.importance(model, test, draws=draws, seed=1, proposal=tb.Proposal(kind))
    elbo = (whole if kind == "posterior" else tb.importance(model, test, draws=64, seed=2)).elbo_estimate()
    found = {"log_evidence": whole.bound().__dict__, "elbo": elbo.__dict__, "evaluation_seconds": time.monotonic() - started}
    say(f"log p(x): {whole.bound()}\nELBO:     {elbo}\nevaluation took {found['evaluation_seconds']:.0f} s")
    if whole.measure == "counting":
        for name, estimate in (("bits_per_dimension", whole.bound()), ("elbo_bits_per_dimension", elbo)):
            bits = estimate.bits_per_dimension(test.sites.count)
            found[name] = list(bits)
            say(f"{name.replace('_', ' ')}: at most {bits[0]:.4f} ± {bits[1]:.4f}")
    if plain:
        usual = tb.importance(model, test.take(np.arange(plain)), draws=plain_draws, seed=1)
        above = whole.log_evidence[:plain] - usual.log_evidence
        found["plain"] = usual.bound().__dict__
        mean, se = float(above.mean()), float(above.std(ddof=1) / plain**0.5)
        found["refined_above_plain"] = [mean, se]
        say(f"first {plain} images by draws from q(z|x): {usual.bound()}")
        say(f"{draws} {kind} draws are above by {mean:.3f} ± {se:.3f}")
    return found


def bracketed(model: Model, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return both sides of log p(x) of images that the model itself draws, by annealing from refined proposals."""
    both = tb.bracket(model, count, tb.Walk(steps=200, chains=16, leapfrog=10), seed=3)
    gap, error = both.gap
    say(f"simulated: {both.lower.estimate()}\n           {both.upper.estimate()}\ngap of the bracket {gap:.3f} ± {error:.3f}")
    sides = {"lower": both.lower.estimate().__dict__, "upper": both.upper.estimate().__dict__}
    return {"bracket": {**sides, "gap": [gap, error]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--draws", type=int, default=200, help="importance samples for each image")
    parser.add_argument("--proposal", choices=("refined", "posterior"), default="refined", help="what they are drawn from")
    parser.add_argument("--plain", type=int, default=500, help="images evaluated with k = 5,000 draws from q(z|x) too")
    parser.add_argument("--bracket", type=int, default=16, help="images drawn from the model, bounded from both sides")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, help="of each phase, for a run shorter or longer than the recipe's")
    parser.add_argument("--name", help="of the result files; the recipe's by default")
    parser.add_argument("--model", type=Path, help="evaluate this model file, as an earlier run left it, and train nothing")
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.recipe]
    name = arguments.name or arguments.recipe
    if arguments.epochs:
        recipe, name = recipe.lasting(arguments.epochs), arguments.name or f"{arguments.recipe}-{arguments.epochs}-epochs"
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.log").open("a" if arguments.model else "w") as log:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=log, flush=True)

        data = recipe.data()
        spec = recipe.spec(data.train.sites)
        summary: dict[str, Any] = {
            "recipe": arguments.recipe,
            "spec": spec.model_dump(mode="json"),
            "phases": [[part.model_dump(mode="json") for part in phase] for phase in recipe.phases],
            "environment": environment(),
        }
        stored = RESULTS / f"{name}.safetensors"
        if arguments.model:
            model = tb.load_model(arguments.model)
        else:
            say("\n".join([spec.to_json(), *(f"{objective.to_json()} {plan.to_json()}" for objective, plan in recipe.phases)]))
            started = time.monotonic()
            model = spec.build(jax.random.key(0), data.train.statistics())
            model = train(model, recipe.phases, data.train, data.validation, say)
            summary["training_seconds"] = time.monotonic() - started
            say(f"training took {summary['training_seconds']:.0f} s")
            stored.unlink(missing_ok=True)
            tb.save_model(model, stored)
        test = data.test.take(np.arange(min(arguments.test_images, len(data.test))))
        summary |= evaluated(model, test, arguments.draws, min(arguments.plain, len(test)), say, arguments.proposal)
        if arguments.bracket:
            summary |= bracketed(model, arguments.bracket, say)
        (RESULTS / f"{name}.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
