"""Optimisers on dynamic MNIST: the validation ELBO after equal time on one core, and after equal numbers of steps.

    TIGHTBOUND_DATA=/path/to/data taskset -c 1 python benchmarks/published/optimisers.py [--seconds 180]

The model is that of ``benchmarks/mnist/reproduce.py normal`` (50 latents, gated 2 × 300), trained on fresh bits of 50,000
images with batches of 160; the ELBO is that of the averaged weights on the fixed bits of the other 10,000. The speed of every
optimiser is measured first, and its learning rate falls to the end of the steps for which the time is enough, so that every
run is a whole one. "growing to 8" averages the gradients of one batch at first and of eight in the end. Time is what the
processor spent on this process, so that its neighbours take none of it. Contestants come in turns; each result is kept in
``benchmarks/published/results/optimisers.json`` as soon as it is there, and a script that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax

import tightbound as tb
from tightbound.settings import default_plan

sys.path.insert(0, str(Path(__file__).parents[1] / "mnist"))
from reproduce import images

RESULT = Path(__file__).parent / "results" / "optimisers.json"
GROWING = " growing to "
RATES = {
    "adamw": (2e-3, 1e-3, 4e-3),
    "adamw growing to 8": (2e-3, 4e-3),
    "muon": (5e-3, 1e-2, 2e-3),
    "adamax": (4e-3, 2e-3),
}
BATCH = 160
MEASURED = 300  # steps, after as many that are not


class Outcome(NamedTuple):
    """What a run of some steps came to."""

    steps: int
    seconds: float
    elbo: float


def plan_of(contestant: str, steps: int) -> tb.Plan:
    """Return the plan that a contestant's name stands for."""
    optimiser, _, growth = contestant.partition(GROWING)
    return tb.Plan(steps=steps, batch_size=BATCH, optimiser=optimiser, growth=int(growth or 1))


class Arena:
    """The data, the model, and a cache of what has been measured."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.train, self.validation, _ = images()
        gated = tb.MLP(hidden=(300, 300), gated=True)
        self.spec = tb.VAE(sites=self.train.sites, latent=50, encoder=gated, decoder=gated, likelihood=tb.Bernoulli())
        self.known = json.loads(RESULT.read_text()) if RESULT.exists() else {}

    def run(self, optimiser: str, rate: float, steps: int) -> Outcome:
        """Train for some steps, or say what that came to before."""
        name = f"{optimiser} {rate:g} {steps}"
        if name not in self.known:
            plan = plan_of(optimiser, steps).replace(learning_rate=rate, evaluate_every=steps)
            plan = default_plan(plan, len(self.train))
            model = self.spec.build(jax.random.key(0), self.train.statistics())
            before = time.process_time()
            try:
                *_, last = tb.train(model, tb.ELBO(), self.train, plan, validation=self.validation)
                elbo = last.validation_elbo
            except tb.TrainingError:
                elbo = float("-inf")  # diverged
            self.keep(name, Outcome(steps, time.process_time() - before, elbo)._asdict())
        return Outcome(**self.known[name])

    def keep(self, name: str, value: object) -> None:
        """Write a result to the file."""
        self.known[name] = value
        RESULT.write_text(json.dumps(self.known, indent=2) + "\n")
        print(name, json.dumps(value), flush=True)

    def step_seconds(self, optimiser: str) -> float:
        """Return the time of a step."""
        name = f"{optimiser} seconds per step"
        if name not in self.known:
            plan = plan_of(optimiser, 2 * MEASURED)
            model, trail = self.spec.build(jax.random.key(0), self.train.statistics()), []
            for progress in tb.train(model, tb.ELBO(), self.train, plan):
                trail.append((progress.step, time.process_time()))
            first, last = next(mark for mark in trail if mark[0] >= MEASURED), trail[-1]
            self.keep(name, (last[1] - first[1]) / (last[0] - first[0]))
        return self.known[name]


def table(arena: Arena, contestants: list[tuple[str, float]], steps: dict[str, int]) -> str:
    """Return what has been measured so far."""
    fewest = min(steps.values())
    lines = [f"| optimiser | learning rate | steps in {arena.seconds:g} s | ELBO then | ELBO after {fewest:,} steps |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    for name, rate in sorted(contestants, key=lambda one: list(RATES).index(one[0])):
        found = [arena.known.get(f"{name} {rate:g} {count}") for count in (steps[name], fewest)]
        if all(found):
            lines += [f"| {name} | {rate:g} | {steps[name]:,} | {found[0]['elbo']:.2f} | {found[1]['elbo']:.2f} |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--only", choices=RATES, nargs="+", default=list(RATES), help="contestants; the rest may follow")
    arguments = parser.parse_args()
    RESULT.parent.mkdir(exist_ok=True)
    arena = Arena(arguments.seconds)
    steps = {name: int(arguments.seconds / arena.step_seconds(name)) for name in RATES}
    fewest = min(steps.values())
    contestants = [(name, rate) for turn in range(4) for name in arguments.only for rate in RATES[name][turn : turn + 1]]
    print(f"steps in {arguments.seconds:g} s: {steps}", flush=True)
    for name, rate in contestants:
        arena.run(name, rate, fewest)
        arena.run(name, rate, steps[name])
        print(table(arena, contestants, steps), flush=True)


if __name__ == "__main__":
    main()
