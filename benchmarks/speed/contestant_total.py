"""A whole training of a small table in a fresh process: ``python contestant_total.py PROBLEM EPOCHS ROWS.npy``.

Import, read the rows from a file, build, train, and print what the training ended with.
"""

from __future__ import annotations

import sys

import jax
from problems import Problem

import tightbound as tb


def main() -> None:
    problem, epochs, rows = Problem.read(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    data = tb.load(rows, kind="real")
    spec = tb.VAE(
        sites=data.sites,
        latent=problem.latent,
        encoder=tb.MLP(hidden=problem.hidden),
        decoder=tb.MLP(hidden=problem.hidden[::-1]),
        likelihood=tb.Gaussian(),
    )
    model = spec.build(jax.random.key(0), data.statistics())
    *_, last = tb.train(model, tb.ELBO(), data, tb.Plan(epochs=epochs, batch_size=problem.batch))
    print(last.latest)


if __name__ == "__main__":
    main()
