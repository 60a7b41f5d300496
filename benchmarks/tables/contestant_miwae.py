"""MIWAE (Mattei & Frellsen 2019) in PyTorch, in an environment of its own: the model of the authors' public notebook.

    python contestant_miwae.py IN.npy OUT.npy SEED EPOCHS DRAWS

IN holds standardised rows, NaN where a cell is missing; OUT gets them filled. Encoder and decoder have two layers of 128
units (ReLU), ten latents, Student t distributions for q(z|x) and p(x|z), 20 importance samples, batches of 64, Adam at
0.001; cells are filled with their means, weighted by the importance of DRAWS draws.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import nn
from torch.distributions import Normal, StudentT
from torch.nn.functional import softplus

LATENT, HIDDEN, SAMPLES, BATCH, RATE = 10, 128, 20, 64, 1e-3


def network(inputs: int, outputs: int) -> nn.Module:
    net = nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3 * outputs)
    )
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return net


def student(numbers: torch.Tensor, floor: float) -> StudentT:
    location, scale, freedom = numbers.chunk(3, dim=-1)
    return StudentT(softplus(freedom) + 3, location, softplus(scale) + floor, validate_args=False)


def weighed(nets: tuple[nn.Module, ...], x: torch.Tensor, seen: torch.Tensor, draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log importance weights (draws, n) and the means (draws, n, p) of p(x|z)."""
    q = student(nets[0](torch.where(seen, x, 0.0)), 1e-6)
    z = q.rsample((draws,))
    p = student(nets[1](z), 1e-3)
    evidence = torch.where(seen, p.log_prob(torch.where(seen, x, 0.0)), 0.0).sum(-1)
    return evidence + Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1), p.loc


def fill(x: np.ndarray, seed: int, epochs: int, draws: int) -> np.ndarray:
    torch.manual_seed(seed)
    rows = torch.tensor(x, dtype=torch.float32)
    seen = ~rows.isnan()
    nets = network(x.shape[1], LATENT), network(LATENT, x.shape[1])
    adam = torch.optim.Adam([weight for net in nets for weight in net.parameters()], lr=RATE)
    for _ in range(epochs):
        for some in torch.randperm(len(rows)).split(BATCH):
            adam.zero_grad()
            log_weights, _ = weighed(nets, rows[some], seen[some], SAMPLES)
            (-log_weights.logsumexp(0).mean()).backward()
            adam.step()
    filled = rows.clone()
    with torch.no_grad():
        for some in torch.arange(len(rows)).split(BATCH):
            log_weights, means = weighed(nets, rows[some], seen[some], draws)
            expected = (log_weights.softmax(0)[..., None] * means).sum(0)
            filled[some] = torch.where(seen[some], rows[some], expected)
    return filled.numpy()


if __name__ == "__main__":
    given, out, seed, epochs, draws = sys.argv[1:]
    np.save(out, fill(np.load(given, allow_pickle=False), int(seed), int(epochs), int(draws)))
