"""Contestants that run on PyTorch, in their own environment: ``python contestant_torch.py KIND PROBLEM``.

``plain`` is the loop that tutorials show: a DataLoader over a TensorDataset, Adam, ``loss.item()`` every step. ``tuned``
keeps the data as one tensor, draws the order itself, uses the fused Adam and never waits for a number. ``pythae`` is
pythae's TrainingPipeline with its defaults and the same network; a burst is one epoch of it.
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from problems import Problem, Track
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def perceptron(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class VAE(nn.Module):
    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.encoder, self.decoder = perceptron(problem.encoder), perceptron(problem.decoder)
        self.log_scale = None if problem.binary else nn.Parameter(torch.zeros(()))

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        loc, log_variance = self.encoder(x).chunk(2, dim=-1)
        z = loc + torch.exp(0.5 * log_variance) * torch.randn_like(loc)
        output = self.decoder(z)
        if self.log_scale is None:
            sites = functional.binary_cross_entropy_with_logits(output, x, reduction="sum")
        else:
            scaled = (x - output) * torch.exp(-self.log_scale)
            sites = torch.sum(0.5 * scaled**2) + x.numel() * (self.log_scale + 0.5 * math.log(2 * math.pi))
        kl = -0.5 * torch.sum(1 + log_variance - loc**2 - log_variance.exp())
        return (sites + kl) / len(x)


def plain(problem: Problem) -> Callable[[], int]:
    rows = torch.from_numpy(problem.data()).float()
    loader = DataLoader(TensorDataset(rows), batch_size=problem.batch, shuffle=True)
    model = VAE(problem)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def steps() -> int:
        total = 0.0
        for (x,) in loader:
            optimiser.zero_grad()
            loss = model.loss(x)
            loss.backward()
            total += loss.item()
            optimiser.step()
        return len(loader)

    return steps


def tuned(problem: Problem) -> Callable[[], int]:
    rows = torch.from_numpy(problem.data())
    model = VAE(problem)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def steps() -> int:
        order = torch.randperm(len(rows)).split(problem.batch)
        for index in order:
            optimiser.zero_grad(set_to_none=True)
            model.loss(rows[index].float()).backward()
            optimiser.step()
        return len(order)

    return steps


def pythae(model: Any, rows: Any, batch: int, track: Track) -> None:
    """Train a model of pythae's on rows (n, sites) with its pipeline, an epoch per burst."""
    from pythae.pipelines import TrainingPipeline
    from pythae.trainers import BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    per_epoch = math.ceil(len(rows) / batch)

    class Epochs(TrainingCallback):
        """Lets an epoch begin when the word is given, after one to warm up."""

        warm = False

        def on_epoch_begin(self, training_config: object, **kwargs: object) -> None:
            if self.warm and next(bursts, "over") == "over":
                sys.exit(0)
            self.began = time.perf_counter()

        def on_epoch_end(self, training_config: object, **kwargs: object) -> None:
            if self.warm:
                track.report(steps_per_second=per_epoch / (time.perf_counter() - self.began))
            else:
                self.warm = True
                track.ready()

    bursts = track.bursts()
    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(
            output_dir=folder, num_epochs=10**6, learning_rate=1e-3,
            per_device_train_batch_size=batch, per_device_eval_batch_size=batch,
        )  # fmt: skip
        TrainingPipeline(model, training)(train_data=rows.astype("float32"), callbacks=[Epochs()])


def main() -> None:
    track = Track()
    kind, problem = sys.argv[1], Problem.read(sys.argv[2])
    if kind == "pythae":
        from pythae_model import pythae_model

        model = pythae_model(problem.sites, problem.latent, perceptron(problem.encoder), perceptron(problem.decoder))
        pythae(model, problem.data(), problem.batch, track)
    else:
        track.serve({"plain": plain, "tuned": tuned}[kind](problem))


if __name__ == "__main__":
    main()
