"""Networks: specs of functions between shapes, ``build(in_shape, out_shape, key=…)``, that work on one example.

The encoder of a model maps what it sees of x to the parameters of the posterior; the decoder maps z to (P, …), the P
parameters of every site. The target of a ``Custom`` network is called as ``Name(in_shape, out_shape, key=key, **args)``
and returns a callable pytree.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tightbound.networks.conv import Convolutional
from tightbound.networks.mixer import Mixer
from tightbound.networks.mlp import MLP
from tightbound.spec import Custom

__all__ = ["MLP", "Convolutional", "Mixer", "Network"]

Network = Annotated[MLP | Convolutional | Mixer | Custom, Field(discriminator="kind")]
