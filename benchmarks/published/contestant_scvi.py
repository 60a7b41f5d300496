"""scvi-tools' SCVI with a negative binomial, in an environment of its own; prints one line of JSON.

    python contestant_scvi.py CELLS.npz OUT.npz SEED DRAWS SETTINGS

CELLS has ``counts`` (n, genes) and the row numbers ``train``, ``validation`` and ``test``. SETTINGS is JSON: ``model`` for
SCVI and ``train`` for its ``train``. OUT gets a lower bound on log p(x) of every test cell, and its ELBO. Both are computed
here, from log p(x|z) + log p(z) − log q(z|x) of draws from q(z|x) in double precision, with batch normalisation and dropout as
in evaluation: the logarithm of the mean weight, and the mean of its logarithm. What its own ``get_marginal_ll`` prints, a mean
of the means of batches of 128 cells in single precision, stands beside it.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings

import anndata
import numpy as np
import scvi
import torch
from torch.distributions import Normal

DRAWS_AT_ONCE = 20
CELLS_AT_ONCE = 50


def trained(cells: dict[str, np.ndarray], settings: dict[str, dict]) -> tuple[scvi.model.SCVI, float]:
    data = anndata.AnnData(cells["counts"].astype(np.float32))
    scvi.model.SCVI.setup_anndata(data)
    model = scvi.model.SCVI(data, gene_likelihood="nb", use_observed_lib_size=True, **settings["model"])
    parts = [cells["train"], cells["validation"], cells["test"]]
    started = time.perf_counter()
    model.train(
        early_stopping=True, accelerator="cpu", enable_progress_bar=False,
        datasplitter_kwargs={"external_indexing": parts}, **settings["train"],
    )  # fmt: skip
    return model, time.perf_counter() - started


@torch.inference_mode()
def log_weights(module: torch.nn.Module, x: torch.Tensor, draws: int) -> torch.Tensor:
    """Return log p(x|z) + log p(z) − log q(z|x) of draws from q(z|x), (draws, cells), in nats."""
    batch = torch.zeros(len(x), 1)
    found = module.inference(x, batch)
    q, library = found["qz"], found["library"]
    chunks = []
    for start in range(0, draws, DRAWS_AT_ONCE):
        z = q.sample((min(DRAWS_AT_ONCE, draws - start),))
        count = len(z)
        flat = z.reshape(-1, z.shape[-1])
        made = module.generative(flat, library.repeat(count, 1), batch.repeat(count, 1))
        likelihood = made["px"].log_prob(x.repeat(count, 1)).sum(-1).reshape(count, -1)
        prior = Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(-1)
        chunks.append(likelihood + prior - q.log_prob(z).sum(-1))
    return torch.cat(chunks)


def evaluated(model: scvi.model.SCVI, x: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower bound on log p(x) and the ELBO of every cell."""
    module = model.module.double().eval()
    assert not any(part.training for part in module.modules()), "batch normalisation would use the batch at hand"
    bounds, elbos = [], []
    for some in torch.tensor(x, dtype=torch.float64).split(CELLS_AT_ONCE):
        weights = log_weights(module, some, draws)
        bounds.append(weights.logsumexp(0) - math.log(len(weights)))
        elbos.append(weights.mean(0))
    return torch.cat(bounds).numpy(), torch.cat(elbos).numpy()


def main(given: str, out: str, seed: str, draws: str, settings: str) -> dict[str, float]:
    warnings.simplefilter("ignore")
    scvi.settings.seed = int(seed)
    with np.load(given, allow_pickle=False) as file:
        cells = dict(file)
    model, seconds = trained(cells, json.loads(settings))
    printed = model.get_marginal_ll(
        indices=cells["test"], n_mc_samples=int(draws), n_mc_samples_per_pass=DRAWS_AT_ONCE, batch_size=128
    )
    bounds, elbos = evaluated(model, cells["counts"][cells["test"]], int(draws))
    np.savez(out, log_evidence=bounds, elbo=elbos)
    epochs, plan = len(model.history["elbo_train"]), model.trainer.lightning_module
    return {"seconds": seconds, "printed": float(printed), "epochs": epochs, "kl_weight": float(plan.kl_weight)}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
