"""What the evidence of a variational autoencoder with 50 latents on binarised MNIST costs, and how tight it is.

    TIGHTBOUND_DATA=/path/to/data python benchmarks/evidence/mnist.py normal.safetensors

The model file is the one that ``benchmarks/mnist/reproduce.py normal`` writes. Four parts: bounds from both sides on images
that the model has drawn; bounds on real test images by every method; plain importance sampling against refined proposals at
equal tightness; and the split of log p(x) − ELBO. The result is benchmarks/evidence/results/mnist.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tightbound as tb
from tightbound.evidence.annealed import Walk, annealed, bracket
from tightbound.evidence.estimate import Estimate
from tightbound.evidence.gaps import gaps, surgery
from tightbound.evidence.importance import importance
from tightbound.evidence.proposals import Proposal

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "mnist"))

from reproduce import images  # noqa: E402

PLAIN = 5000
WALKS: tuple[tuple[Any, int], ...] = (("refined", 50), ("refined", 200), ("posterior", 200), ("prior", 500))


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return function(), round(time.perf_counter() - began, 1)


def difference(of: np.ndarray, to: np.ndarray) -> list[float]:
    """Return mean and standard error of a difference over the same images."""
    each = np.asarray(of, np.float64) - to
    return [round(float(each.mean()), 4), round(float(each.std(ddof=1) / len(each) ** 0.5), 4)]


def number(estimate: Estimate) -> list[float]:
    return [round(estimate.value, 4), round(estimate.se, 4)]


def from_both_sides(model: tb.Model, count: int) -> dict[str, Any]:
    found = {}
    for start, temperatures in WALKS:
        walk, name = Walk(temperatures, 16, 10, start), f"from {start}, {temperatures} temperatures"
        both, seconds = timed(lambda: bracket(model, count, walk))  # noqa: B023
        rows = tb.Dataset(both.x, model.spec.sites)
        plain = importance(model, rows, draws=PLAIN)
        found[name] = {
            "images": count,
            "gap": [round(part, 4) for part in both.gap],
            "lower": number(both.lower.estimate()),
            "upper": number(both.upper.estimate()),
            "importance 5000": number(plain.bound()),
            "importance 5000 below annealed": difference(both.lower.log_evidence, plain.log_evidence),
            "acceptance": round(float(both.lower.acceptance.mean()), 3),
            "gradients per image and bound": walk.chains * walk.steps * walk.leapfrog,
            "seconds": seconds,
        }
        print(json.dumps({name: found[name]}), flush=True)
    return found


def real(model: tb.Model, test: tb.Dataset) -> dict[str, Any]:
    """Return lower bounds on the same test images: annealed ≥ importance with 5,000 draws is what theory expects."""
    walk, seconds = timed(lambda: annealed(model, test, Walk()))
    plain = importance(model, test, draws=PLAIN)
    refined = importance(model, test, draws=1000, proposal=Proposal("refined"))
    found = {
        "images": len(test),
        "ELBO": number(plain.elbo_estimate()),
        "importance 5000": number(plain.bound()),
        "refined 1000": number(refined.bound()),
        "annealed": number(walk.estimate()),
        "annealed above importance 5000": difference(walk.log_evidence, plain.log_evidence),
        "annealed above refined 1000": difference(walk.log_evidence, refined.log_evidence),
        "annealed seconds": seconds,
    }
    print(json.dumps(found), flush=True)
    return found


def equal_tightness(model: tb.Model, test: tb.Dataset) -> dict[str, Any]:
    plain, seconds = timed(lambda: importance(model, test, draws=PLAIN))
    found = {"images": len(test), "plain 5000": {"bound": number(plain.bound()), "evaluations": PLAIN, "seconds": seconds}}
    for name, proposal, draws in (
        ("refined, one step", Proposal("refined", steps=1), 10),
        ("refined", Proposal("refined"), 5),
        ("refined", Proposal("refined"), 20),
        ("refined", Proposal("refined"), 1000),
        ("refined, 5 % prior", Proposal("refined", defensive=0.05), 1000),
        ("laplace", Proposal("laplace"), 10),
        ("plain", Proposal(), 250),
    ):
        importance(model, test.take([0, 1]), draws=draws, proposal=proposal)  # compiles
        result, seconds = timed(lambda: importance(model, test, draws=draws, proposal=proposal))  # noqa: B023
        found[f"{name} {draws}"] = {
            "bound": number(result.bound()),
            "above plain 5000": difference(result.log_evidence, plain.log_evidence),
            "evaluations": result.evaluations,
            "fewer by": round(PLAIN / result.evaluations, 1),
            "seconds": seconds,
        }
        print(json.dumps({f"{name} {draws}": found[f"{name} {draws}"]}), flush=True)
    return found


def split(model: tb.Model, test: tb.Dataset) -> dict[str, Any]:
    parts, seconds = timed(lambda: gaps(model, test))
    # A second measurement of the whole, from draws of its own.
    again = importance(model, test, draws=2000, seed=99)
    refined = importance(model, test, draws=2000, proposal=Proposal("refined", steps=3, draws=4), seed=99)
    summed = parts.approximation.value + parts.amortisation.value
    whole = difference(refined.log_evidence, again.elbo)
    noise = [float(np.sqrt(np.mean(np.square(error)) / len(test))) for error in (parts.se["elbo"], parts.se["log_evidence"])]
    found = {
        "images": len(test),
        "log p(x) − ELBO": number(parts.total),
        "approximation gap": number(parts.approximation),
        "amortisation gap": number(parts.amortisation),
        "gain of full covariance": number(parts.gain("full covariance")),
        "sum of the two gaps": round(summed, 4),
        "log p(x) − ELBO from other draws": whole,
        "they differ by": round(summed - whole[0], 4),
        "which has standard error": round((2 * (noise[0] ** 2 + noise[1] ** 2)) ** 0.5, 4),
        "seconds": seconds,
    }
    print(json.dumps(found), flush=True)
    return found


def rate(model: tb.Model, test: tb.Dataset) -> dict[str, Any]:
    result, seconds = timed(lambda: surgery(model, test))
    found = {
        "images": len(test),
        "rate": number(result.rate),
        "distortion": number(result.distortion),
        "information at least": number(result.information[0]),
        "information at most": number(result.information[1]),
        "KL(aggregate posterior ‖ prior) at most": number(result.marginal_kl[1]),
        "seconds": seconds,
    }
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=100, help="test images in the split and in the bounds")
    parser.add_argument("--simulated", type=int, default=32)
    given = parser.parse_args()
    model, test = tb.load_model(given.model), images()[2]
    first = test.take(np.arange(given.images))
    result = {
        "equal tightness": equal_tightness(model, test.take(np.arange(1000))),
        "split": split(model, first),
        "surgery": rate(model, test.take(np.arange(5000))),
        "simulated": from_both_sides(model, given.simulated),
        "real": real(model, first),
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "mnist.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
