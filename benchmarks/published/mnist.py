"""Dynamic MNIST: train a model by name and bound log p(x) of all 10,000 test images by importance sampling.

    TIGHTBOUND_DATA=/path/to/data python benchmarks/published/mnist.py normal|flow|hierarchy

Training draws fresh bits from the grey levels of the first 50,000 training images whenever a row is used; the weights
are chosen by the bound on the fixed bits of the last 10,000; the figure is for the fixed bits of the test images (numpy
seed 777). A recipe is a spec and one or more phases, each an objective with a plan: a later phase goes on from the weights
of the one before. The proposals of the importance samples are fitted to each image (``refined``), which bounds log p(x) more
tightly than k = 5,000 draws from q(z|x) do; ``--plain`` repeats the first images with those. Logs and results are written
to ``benchmarks/published/results``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import tightbound as tb
from tightbound.model import Model, ModelSpec
from tightbound.objectives import ObjectiveSpec
from tightbound.store import environment

RESULTS = Path(__file__).parent / "results"
Phases = tuple[tuple[ObjectiveSpec, tb.Plan], ...]

GATED = tb.MLP(hidden=(300, 300), gated=True)
MIXER = tb.Mixer(patch=7, width=80, within=160, hidden=(300,))
FINE = tb.Plan(batch_size=128, learning_rate=3e-4, weight_decay=0.02, warmup=0.0, evaluate_every=1000)

RECIPES: dict[str, tuple[dict[str, Any], Phases]] = {
    "normal": (
        {"latent": 50, "encoder": GATED, "decoder": GATED},
        (
            (
                tb.ELBO(),
                tb.Plan(epochs=120, batch_size=128, learning_rate=2e-3, weight_decay=0.05, final=0.15, evaluate_every=2000),
            ),
            (tb.IWAE(k=5, gradient="dreg"), FINE.replace(epochs=60)),
        ),
    ),
    "flow": (
        {"latent": 50, "prior": tb.FlowPrior(), "encoder": MIXER, "decoder": MIXER},
        (
            (
                tb.ELBO(),
                tb.Plan(epochs=90, batch_size=128, learning_rate=2e-3, weight_decay=0.02, final=0.15, evaluate_every=1000),
            ),
            (tb.IWAE(k=5, gradient="dreg"), FINE.replace(epochs=10)),
        ),
    ),
    "hierarchy": (
        {"latents": (24, 40), "width": 256, "prior": tb.FlowPrior(), "encoder": MIXER, "decoder": MIXER},
        (
            (
                tb.ELBO(free_bits=0.01),
                tb.Plan(epochs=90, batch_size=128, learning_rate=2e-3, weight_decay=0.02, final=0.15, evaluate_every=1000),
            ),
            (tb.IWAE(k=5, gradient="dreg"), FINE.replace(epochs=10)),
        ),
    ),
}


def images() -> tuple[tb.Dataset, tb.Dataset, tb.Dataset]:
    """Return training grey levels (bits drawn at every use), validation bits and test bits."""
    folder = Path(os.environ["TIGHTBOUND_DATA"]) / "mnist"
    with np.load(folder / "mnist.npz", allow_pickle=False) as file:
        grey = file["x_train"][:50_000]
    with np.load(folder / "binarised_eval_seed777_packbits.npz", allow_pickle=False) as file:
        validation, test = (np.unpackbits(file[name], axis=1)[:, :784] for name in ("val", "test"))
    sites = tb.Sites(kind="binary", shape=(28, 28, 1))
    return (
        tb.Dataset(grey, sites, binarise=True, source="MNIST train"),
        tb.Dataset(validation, sites, source="MNIST validation, seed 777"),
        tb.Dataset(test, sites, source="MNIST test, seed 777"),
    )


def spec_of(parts: dict[str, Any], sites: tb.Sites) -> ModelSpec:
    """Return the model of a recipe: one layer, or a hierarchy when it names the latents of several."""
    kind = tb.HierarchicalVAE if "latents" in parts else tb.VAE
    return kind(sites=sites, likelihood=tb.Bernoulli(), **parts)


def train(model: Model, phases: Phases, rows: tb.Dataset, validation: tb.Dataset, say: Callable[[str], None]) -> Model:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--draws", type=int, default=200, help="importance samples from the refined proposal")
    parser.add_argument("--plain", type=int, default=500, help="images evaluated with k = 5,000 draws from q(z|x) too")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--name", help="of the result files; the recipe's by default")
    parser.add_argument("--model", type=Path, help="evaluate this model file, as an earlier run left it, and train nothing")
    arguments = parser.parse_args()
    parts, phases = RECIPES[arguments.recipe]
    RESULTS.mkdir(exist_ok=True)
    name = arguments.name or arguments.recipe
    with (RESULTS / f"{name}.log").open("a" if arguments.model else "w") as log:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=log, flush=True)

        rows, validation, test = images()
        spec = spec_of(parts, rows.sites)
        summary: dict[str, Any] = {
            "recipe": name,
            "spec": spec.model_dump(mode="json"),
            "phases": [[part.model_dump(mode="json") for part in phase] for phase in phases],
            "environment": environment(),
        }
        if arguments.model:
            model = tb.load_model(arguments.model)
        else:
            say(f"{spec.to_json()}\n" + "\n".join(f"{objective.to_json()} {plan.to_json()}" for objective, plan in phases))
            started = time.monotonic()
            model = train(spec.build(jax.random.key(0), rows.statistics()), phases, rows, validation, say)
            summary["training_seconds"] = time.monotonic() - started
            say(f"training took {summary['training_seconds']:.0f} s")
            (RESULTS / f"{name}.safetensors").unlink(missing_ok=True)
            tb.save_model(model, RESULTS / f"{name}.safetensors")
        started = time.monotonic()
        chosen = test.take(np.arange(arguments.test_images))
        refined = tb.importance(model, chosen, draws=arguments.draws, seed=1, proposal=tb.Proposal("refined"))
        summary["evaluation_seconds"] = time.monotonic() - started
        summary |= {"log_evidence": refined.bound().__dict__, "elbo": elbo(model, chosen).__dict__}
        say(f"log p(x): {refined.bound()}\nELBO:     {elbo(model, chosen)}")
        say(f"evaluation took {summary['evaluation_seconds']:.0f} s")
        if arguments.plain:
            plain = tb.importance(model, test.take(np.arange(arguments.plain)), draws=5000, seed=1)
            above = refined.log_evidence[: arguments.plain] - plain.log_evidence
            summary["plain"] = plain.bound().__dict__
            summary["refined_above_plain"] = [float(above.mean()), float(above.std(ddof=1) / len(above) ** 0.5)]
            say(f"first {arguments.plain} images by draws from q(z|x): {plain.bound()}\nrefined is above by {above.mean():.3f}")
        (RESULTS / f"{name}.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")


def elbo(model: Model, data: tb.Dataset) -> tb.Estimate:
    """Return the ELBO by 64 draws from q(z|x) per image."""
    return tb.importance(model, data, draws=64, seed=2).elbo_estimate()


if __name__ == "__main__":
    main()
