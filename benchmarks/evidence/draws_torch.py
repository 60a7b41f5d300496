"""pythae's ``get_nll``, in its own environment: ``python draws_torch.py BATCH PROBLEM DRAWS``; a step of a burst is an image.

BATCH is its argument ``batch_size``, the number of draws decoded together; one that does not divide the draws would change
how many there are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from contestant_torch import perceptron
from problems import Problem, Track
from pythae_model import pythae_model


def evaluation(problem: Problem, draws: int, batch: int) -> Callable[[], int]:
    networks = perceptron(problem.encoder), perceptron(problem.decoder)
    model = pythae_model(problem.sites, problem.latent, *networks).eval()
    rows = torch.from_numpy(problem.data()).float()

    def steps() -> int:
        # It differentiates unless told not to; that would only be slower.
        with torch.no_grad():
            model.get_nll(rows, n_samples=draws, batch_size=batch)
        return len(rows)

    return steps


def main() -> None:
    batch, problem, draws = int(sys.argv[1]), Problem.read(sys.argv[2]), int(sys.argv[3])
    assert draws % batch == 0, f"batches of {batch} do not make {draws} draws"
    track = Track()
    track.serve(evaluation(problem, draws, batch))


if __name__ == "__main__":
    main()
