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
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder


class Encoder(BaseEncoder):
    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.layers = perceptron(problem.encoder)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        loc, log_variance = self.layers(x).chunk(2, dim=-1)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.layers = perceptron(problem.decoder)

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))


def evaluation(problem: Problem, draws: int, batch: int) -> Callable[[], int]:
    config = VAEConfig(input_dim=(problem.sites,), latent_dim=problem.latent, reconstruction_loss="bce")
    model = VAE(config, Encoder(problem), Decoder(problem)).eval()
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
