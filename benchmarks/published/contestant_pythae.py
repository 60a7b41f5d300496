"""pythae's VAE on dynamic MNIST, in pythae's own environment: ``python contestant_pythae.py SECONDS FOLDER``.

Bits are drawn anew from the grey levels whenever a row is used, as in the models that it is compared with. The weights are
written to FOLDER every ten epochs, with the seconds that training has taken until then, writing left out, until it has taken
SECONDS.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))
from contestant_torch import perceptron
from problems import mnist_levels
from pythae_model import pythae_model

HIDDEN, LATENT, BATCH = [300, 300], 40, 100
EVERY = 10  # epochs between weights that are written


class Dynamic(BaseDataset):
    """Rows whose bits are drawn when they are asked for."""

    def __init__(self, grey: np.ndarray) -> None:
        super().__init__(torch.from_numpy(grey / np.float32(255)), torch.zeros(len(grey)))

    def __getitem__(self, index: int) -> DatasetOutput:
        return DatasetOutput(data=torch.bernoulli(self.data[index]))


class Enough(Exception):
    """Training has taken its time."""


class Keeper(TrainingCallback):
    """Writes the weights now and then, and ends the training."""

    def __init__(self, model: torch.nn.Module, folder: Path, limit: float) -> None:
        self.model, self.folder, self.limit, self.epoch, self.seconds = model, folder, limit, 0, 0.0
        self.next = EVERY

    def on_epoch_begin(self, training_config: object, **kwargs: object) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, training_config: object, **kwargs: object) -> None:
        self.epoch += 1
        self.seconds += time.perf_counter() - self.began
        if self.epoch == self.next:
            arrays = {name: value.detach().numpy() for name, value in self.model.state_dict().items()}
            np.savez(self.folder / f"{self.epoch:04}.npz", seconds=self.seconds, **arrays)
            print(f"epoch {self.epoch}, {self.seconds:.0f} s", flush=True)
            self.next += EVERY
            if self.seconds >= self.limit:
                raise Enough


def main() -> None:
    limit, folder = float(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(0)
    grey = mnist_levels(50_000)
    encoder, decoder = perceptron([784, *HIDDEN, 2 * LATENT]), perceptron([LATENT, *HIDDEN, 784])
    model = pythae_model(784, LATENT, encoder, decoder)
    with tempfile.TemporaryDirectory() as output:
        config = BaseTrainerConfig(
            output_dir=output, num_epochs=10_000, learning_rate=1e-3,
            per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH,
        )  # fmt: skip
        with contextlib.suppress(Enough):
            TrainingPipeline(model, config)(train_data=Dynamic(grey), callbacks=[Keeper(model, folder, limit)])


if __name__ == "__main__":
    main()
