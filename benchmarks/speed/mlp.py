"""Training speed of two multilayer perceptrons on binary digits, side by side with other ways to train them.

    TIGHTBOUND_DATA=folder python benchmarks/speed/mlp.py

The folder holds ``mnist/mnist.npz``. tightbound runs ``tightbound.train`` with its default plan: gradients clipped, skipped
when they are not finite, decayed weights, averaged weights, a record of every step. The others run plain Adam. The floor
is the matrix products of a step and nothing else.
"""

from __future__ import annotations

from statistics import median

from common import jax_contestant, markdown, race, ratio, torch_contestant, write
from problems import Problem

HEATS, ROUNDS = 5, 4
PROBLEMS = (
    Problem("mnist", 20_000, 784, (400,), 20, 128),
    Problem("mnist", 20_000, 784, (300, 300), 40, 100),
)
ON_JAX = {
    "tightbound": "tightbound",
    "jax + optax, an epoch in scan": "jax",
    "the same with the rbg generator": "jax-rbg",
    "numpyro SVI, an epoch in fori_loop": "numpyro",
    "matrix products alone": "floor",
}
ON_TORCH = {
    "torch, data as one tensor, fused Adam": "tuned",
    "torch, DataLoader, as in tutorials": "plain",
    "pythae TrainingPipeline": "pythae",
}


def main() -> None:
    measured = {}
    for problem in PROBLEMS:
        contestants = [jax_contestant(name, kind, problem) for name, kind in ON_JAX.items()]
        contestants += [torch_contestant(name, kind, problem) for name, kind in ON_TORCH.items()]
        rates = race(contestants, ROUNDS, HEATS)
        ours, floor = rates["tightbound"], rates["matrix products alone"]
        lines = [
            {
                "name": name,
                "samples_per_second": round(problem.batch * median(rate)),
                "times_floor": round(ratio(floor, rate), 3),
                "tightbound_is_faster_by": round(ratio(ours, rate), 3),
            }
            for name, rate in rates.items()
        ]
        title = f"{'-'.join(map(str, [problem.sites, *problem.hidden, problem.latent]))}, batch {problem.batch}"
        measured[title] = {"lines": lines, "rounds": rates}
        rows = [[line["name"], *(f"{number:,}" for number in list(line.values())[1:])] for line in lines]
        print(f"\n{title}\n")
        print(markdown(["", "samples/s", "× floor", "tightbound ÷ this"], rows), flush=True)
    write("mlp", measured)


if __name__ == "__main__":
    main()
