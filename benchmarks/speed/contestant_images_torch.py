"""Convolutional contestants that run on PyTorch, in their own environment: ``python contestant_images_torch.py KIND PROBLEM``.

``plain`` is a loop as in tutorials, with the data as one tensor; ``tuned`` has channels last in memory and the fused Adam;
``pythae`` is pythae's TrainingPipeline with the same networks, where a burst is one epoch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise

import contestant_torch
import torch
from images import ImageProblem
from problems import Track
from torch import nn
from torch.nn import functional


def networks(problem: ImageProblem) -> tuple[nn.Sequential, nn.Sequential]:
    sizes = (problem.shape[2], *problem.channels)
    pairs = list(pairwise(sizes))
    features = problem.grid[0] * problem.grid[1] * sizes[-1]
    down: list[nn.Module] = []
    for outer, inner in pairs:
        down += [nn.Conv2d(outer, inner, 4, 2, 1), nn.ReLU()]
    up: list[nn.Module] = []
    for outer, inner in reversed(pairs):
        up += [nn.ReLU(), nn.ConvTranspose2d(inner, outer, 4, 2, 1)]
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(features, 2 * problem.latent))
    decoder = nn.Sequential(nn.Linear(problem.latent, features), nn.Unflatten(1, (sizes[-1], *problem.grid)), *up)
    return encoder, decoder


def training(problem: ImageProblem, tuned: bool) -> Callable[[], int]:
    layout = torch.channels_last if tuned else torch.contiguous_format
    model = nn.ModuleList(networks(problem)).to(memory_format=layout)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=tuned)
    rows = torch.from_numpy(problem.data()).permute(0, 3, 1, 2).contiguous(memory_format=layout)

    def step(index: torch.Tensor) -> None:
        encoder, decoder = model
        x = rows[index].float().contiguous(memory_format=layout)
        mean, raw = encoder(x).chunk(2, dim=1)
        scale = functional.softplus(raw)
        logits = decoder(mean + scale * torch.randn_like(mean))
        sites = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = torch.sum(0.5 * (mean**2 + scale**2 - 1.0) - torch.log(scale))
        optimiser.zero_grad(set_to_none=tuned)
        ((sites + kl) / len(x)).backward()
        optimiser.step()

    def steps() -> int:
        order = torch.randperm(problem.rows).split(problem.batch)[:2]
        for index in order:
            step(index)
        return len(order)

    return steps


def pythae(problem: ImageProblem, track: Track) -> None:
    """Train the same networks with pythae, whose rows are flat."""
    from pythae_model import pythae_model

    encoder, decoder = networks(problem)
    height, width, colours = problem.shape
    flat = nn.Sequential(nn.Unflatten(1, (colours, height, width)), *encoder), nn.Sequential(*decoder, nn.Flatten())
    rows = problem.data().transpose(0, 3, 1, 2).reshape(problem.rows, problem.sites)
    contestant_torch.pythae(pythae_model(problem.sites, problem.latent, *flat), rows, problem.batch, track)


def main() -> None:
    track = Track()
    kind, problem = sys.argv[1], ImageProblem.read(sys.argv[2])
    if kind == "pythae":
        pythae(problem, track)
    else:
        track.serve(training(problem, tuned=kind == "tuned"))


if __name__ == "__main__":
    main()
