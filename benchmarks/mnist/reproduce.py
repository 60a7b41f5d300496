"""Dynamic MNIST: train a one-layer model and evaluate log p(x) on all 10,000 test images by importance sampling.

    TIGHTBOUND_DATA=/path/to/data python benchmarks/mnist/reproduce.py normal
    TIGHTBOUND_DATA=/path/to/data python benchmarks/mnist/reproduce.py vamp

Training draws fresh bits from the grey levels of the first 50,000 training images whenever a row is used; the weights
are chosen by the ELBO on the fixed bits of the last 10,000; the figure is for the fixed bits of the test images (numpy
seed 777). The log and the result are written to ``benchmarks/mnist/results``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

import tightbound as tb
from tightbound.recipes import RECIPES
from tightbound.store import environment

sys.path.insert(0, str(Path(__file__).parents[1] / "published"))
from images import dynamic_mnist as images

RESULTS = Path(__file__).parent / "results"
PREFIX = "mnist-"  # of the recipes that are meant: `tightbound recipes` shows them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=[name.removeprefix(PREFIX) for name in RECIPES if name.startswith(PREFIX)])
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--plan", default="{}", help="changes of the plan, as JSON")
    parser.add_argument("--parts", default="{}", help="changes of the model, as JSON")
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--name", help="of the result files; the recipe's by default")
    arguments = parser.parse_args()
    recipe = tb.recipe(PREFIX + arguments.recipe)
    objective = recipe.objective
    plan = recipe.plan.replace(**json.loads(arguments.plan))
    if arguments.epochs:
        plan = plan.replace(epochs=arguments.epochs)
    RESULTS.mkdir(exist_ok=True)
    name = arguments.name or arguments.recipe
    with (RESULTS / f"{name}.log").open("w") as log:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=log, flush=True)

        train, validation, test = images()
        spec = recipe.spec(train.sites).replace(**json.loads(arguments.parts))
        say(f"{spec.to_json()}\n{objective.to_json()}\n{plan.to_json()}")
        started = time.monotonic()
        model = spec.build(jax.random.key(plan.seed), train.statistics())
        for progress in tb.train(model, objective, train, plan, validation=validation):
            if progress.latest.validation_elbo is not None:
                now = progress.latest
                say(
                    f"{progress.seconds:7.1f} s  epoch {now.epoch:6.1f}  train bound {now.bound:8.3f}  "
                    f"KL {now.kl:6.3f}  validation ELBO {now.validation_elbo:8.3f}  {progress.examples_per_second:,.0f}/s"
                )
        trained = time.monotonic() - started
        say(f"training took {trained:.0f} s; best evaluation at step {progress.best_step}")
        model = progress.model
        (RESULTS / f"{name}.safetensors").unlink(missing_ok=True)
        tb.save_model(model, RESULTS / f"{name}.safetensors")
        started = time.monotonic()
        result = tb.importance(model, test.take(np.arange(arguments.test_images)), draws=arguments.draws, seed=1)
        evaluated = time.monotonic() - started
        say(f"log p(x): {result.bound()}\nELBO:     {result.elbo_estimate()}\nevaluation took {evaluated:.0f} s")
        summary = {
            "recipe": name, "spec": spec.model_dump(mode="json"), "objective": objective.model_dump(mode="json"),
            "plan": plan.model_dump(mode="json"), "training_seconds": trained, "evaluation_seconds": evaluated,
            "log_evidence": result.bound().__dict__, "elbo": result.elbo_estimate().__dict__,
            "environment": environment(),
        }  # fmt: skip
        (RESULTS / f"{name}.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
