"""Seconds of training until −log p(x) of the dynamic-MNIST test images is at most 88, and 86: tightbound beside pythae's VAE.

    TIGHTBOUND_DATA=… TIGHTBOUND_PEERS=… python benchmarks/published/time_to_quality.py

The same network (784-300-300-40, ReLU, a diagonal posterior, a standard normal prior), batches of 100, the same 50,000 images
with bits drawn at every use. pythae trains by its TrainingPipeline with Adam at 1e-3, its weights looked at every ten epochs;
it is given 4.2 times the seconds that ours took to the first figure; tightbound by plans of several lengths, each a run of
its own, with its schedule and averaged weights, the last three tenths by DReG with k = 5 (chosen on validation images).
Weights of both are judged by the same program: importance sampling with k = 1,000 draws from q(z|x), the whole test set. That
is slow, so that of pythae's weights only those are judged that bisection for each figure asks for. Seconds are those of
training alone, compiling included. The contestants run one after the other on the same cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from images import RESULTS, dynamic_mnist

import tightbound as tb
from tightbound.distributions import diagonal_gaussian
from tightbound.model import Model
from tightbound.posteriors import PosteriorHead

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))
from peers import PYTHAE, peer_python

HIDDEN, LATENT, BATCH = (300, 300), 40, 100
OBJECTIVE = tb.ELBO(then=tb.IWAE(k=5, gradient="dreg", share=0.3))
PLAN = tb.Plan(batch_size=BATCH, learning_rate=2e-3, weight_decay=0.02)
WANTED = (88.0, 86.0)


class LogVariance(PosteriorHead):
    """q(z|h) of a network that gives means and log-variances, as pythae's do."""

    parameters: int = eqx.field(static=True)

    def __call__(self, h: jax.Array) -> Any:
        loc, log_variance = jnp.split(h, 2)
        return diagonal_gaussian(loc, jnp.exp(0.5 * log_variance))


def log_variance(latent: int, *, key: jax.Array) -> PosteriorHead:
    return LogVariance(2 * latent)


def spec_of(posterior: Any) -> tb.VAE:
    network = tb.MLP(hidden=HIDDEN)
    sites = tb.Sites(kind="binary", shape=(28, 28, 1))
    return tb.VAE(sites=sites, latent=LATENT, encoder=network, decoder=network, posterior=posterior, likelihood=tb.Bernoulli())


def from_pythae(arrays: Any) -> Model:
    """Return pythae's model as one of ours: p(x|z) and q(z|x) are the same functions of x and z."""
    halves = tb.Statistics(np.full(784, 0.5, np.float32), np.ones(784, np.float32))
    model = spec_of(tb.Custom(target="time_to_quality:log_variance")).build(jax.random.key(0), halves)
    for side, name in (("encoder", "encoder"), ("decoder", "decoder")):
        layers = [(arrays[f"{name}.layers.{n}.weight"].T, arrays[f"{name}.layers.{n}.bias"]) for n in (0, 2, 4)]
        if side == "encoder":  # ours reads x − ½
            layers[0] = (layers[0][0], layers[0][1] + 0.5 * layers[0][0].sum(axis=0))
        for number, (weight, bias) in enumerate(layers):

            def place(m: Any, side: str = side, number: int = number) -> tuple[Any, Any]:
                network = getattr(m, side)
                layer = network.hidden[number].linear if number < len(HIDDEN) else network.output
                return layer.weight, layer.bias

            model = eqx.tree_at(place, model, (jnp.asarray(weight), jnp.asarray(bias)))
    return model


def nll(model: Model, test: tb.Dataset) -> tuple[float, float]:
    bound = tb.importance(model, test, draws=1000, seed=0).bound()
    return -bound.value, bound.se


def ours(epochs: list[int], train: tb.Dataset, test: tb.Dataset) -> list[dict[str, float]]:
    found = []
    for count in epochs:
        started = time.perf_counter()
        model = spec_of(tb.DiagonalGaussian()).build(jax.random.key(0), train.statistics())
        *_, last = tb.train(model, OBJECTIVE, train, PLAN.replace(epochs=count))
        seconds = time.perf_counter() - started
        found.append(_said("tightbound", count, seconds, *nll(last.model, test)))
    return found


def theirs(limit: float, test: tb.Dataset) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).parent / "contestant_pythae.py"
        subprocess.run([peer_python("pythae", PYTHAE), script, str(limit), folder], check=True, stdout=sys.stderr)
        paths = sorted(Path(folder).glob("*.npz"))

        judged: dict[int, dict[str, float]] = {}

        def reaches(number: int, wanted: float) -> bool:
            if number not in judged:
                with np.load(paths[number], allow_pickle=False) as arrays:
                    of = nll(from_pythae(arrays), test)
                    judged[number] = _said("pythae", int(paths[number].stem), float(arrays["seconds"]), *of)
            return judged[number]["nll"] <= wanted

        last = len(paths) - 1
        for wanted in WANTED:
            if reaches(last, wanted):
                bisect_left(range(last), True, key=partial(reaches, wanted=wanted))
        return [judged[number] for number in sorted(judged)]


def _said(name: str, epochs: int, seconds: float, value: float, error: float) -> dict[str, float]:
    print(f"{name:10} {epochs:4} epochs {seconds:8.1f} s   −log p(x) ≤ {value:.2f} ± {error:.2f}", flush=True)
    return {"epochs": epochs, "seconds": seconds, "nll": value, "se": error}


def reached(found: list[dict[str, float]], wanted: float) -> float | None:
    """Return the fewest seconds after which the figure was at most that wanted, None when it never was."""
    return min((line["seconds"] for line in found if line["nll"] <= wanted), default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs="+", default=[60, 120], help="lengths of our runs")
    parser.add_argument("--times", type=float, default=4.2, help="pythae trains for so many times the seconds that ours took")
    parser.add_argument("--test-images", type=int, default=10_000)
    arguments = parser.parse_args()
    sys.modules["time_to_quality"] = sys.modules["__main__"]  # where the custom posterior is found
    data = dynamic_mnist()
    test = data.test.take(np.arange(arguments.test_images))
    result: dict[str, Any] = {"tightbound": ours(arguments.epochs, data.train, test)}
    seconds = reached(result["tightbound"], WANTED[0]) or max(line["seconds"] for line in result["tightbound"])
    result["pythae"] = theirs(arguments.times * seconds, test)
    for wanted in WANTED:
        times = {name: reached(result[name], wanted) for name in ("tightbound", "pythae")}
        print(
            f"to {wanted:g}: "
            + ", ".join(f"{name} {'not reached' if s is None else f'{s:.0f} s'}" for name, s in times.items())
        )
        result[f"to {wanted:g}"] = times
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "time_to_quality.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
