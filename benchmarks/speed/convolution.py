"""Training speed of convolutional variational autoencoders: tightbound beside XLA's convolutions and torch.

    python benchmarks/speed/convolution.py

All train the same networks with Adam on a Bernoulli likelihood, tightbound with the extras of its default plan; every
contestant has its own process and environment and they take turns.
"""

from __future__ import annotations

import json
import sys
from statistics import median

from common import HERE, Contestant, markdown, race, ratio, write
from images import ImageProblem
from peers import PYTHAE, peer_python

HEATS, ROUNDS = 4, 4
PROBLEMS = (
    ImageProblem((28, 28, 1), (32, 64), 20, 128, 2048),
    ImageProblem((64, 64, 3), (32, 64, 128, 256), 64, 128, 256),
)
OURS = "tightbound"
ON_JAX = {OURS: "tightbound", "XLA's convolution, jit per step": "xla"}
ON_TORCH = {"torch, plain loop": "plain", "torch, channels last, fused Adam": "tuned", "pythae TrainingPipeline": "pythae"}


def contestants(problem: ImageProblem) -> list[Contestant]:
    sizes = json.dumps(problem._asdict())
    # Two torch processes whose threads spin while they wait would slow each other down.
    passive = {"OMP_WAIT_POLICY": "passive"}
    torch = str(peer_python("torch", PYTHAE))
    on_jax = [(name, sys.executable, "contestant_images_jax.py", kind) for name, kind in ON_JAX.items()]
    on_torch = [(name, torch, "contestant_images_torch.py", kind) for name, kind in ON_TORCH.items()]
    return [
        Contestant(name, (python, str(HERE / file), kind, sizes), passive) for name, python, file, kind in on_jax + on_torch
    ]


def main() -> None:
    measured = {}
    for problem in PROBLEMS:
        rates = race(contestants(problem), ROUNDS, HEATS)
        lines = [
            {
                "name": name,
                "images_per_second": round(problem.batch * median(rate)),
                "tightbound_is_faster_by": round(ratio(rates[OURS], rate), 3),
            }
            for name, rate in rates.items()
        ]
        title = f"{'×'.join(map(str, problem.shape))}, channels {'-'.join(map(str, problem.channels))}, batch {problem.batch}"
        measured[title] = {"lines": lines, "rounds": rates}
        rows = [[line["name"], *(f"{number:,}" for number in list(line.values())[1:])] for line in lines]
        print(f"\n{title}\n")
        print(markdown(["", "images/s", "tightbound ÷ this"], rows), flush=True)
    write("convolution", measured)


if __name__ == "__main__":
    main()
