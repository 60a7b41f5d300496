"""pythae's variational autoencoder around networks that are handed to it; only in pythae's own environment."""

from __future__ import annotations

import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import nn


class Encoder(BaseEncoder):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> ModelOutput:
        loc, log_variance = self.layers(x).chunk(2, dim=-1)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))


def pythae_model(sites: int, latent: int, encoder: nn.Module, decoder: nn.Module) -> VAE:
    """Return the model with a Bernoulli likelihood for rows of so many sites; the decoder gives logits."""
    config = VAEConfig(input_dim=(sites,), latent_dim=latent, reconstruction_loss="bce")
    return VAE(config, Encoder(encoder), Decoder(decoder))
