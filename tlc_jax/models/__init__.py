"""The networks by the names that `model.json` records."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlc_jax.models.hinet import HINet
from tlc_jax.models.maxim import Maxim
from tlc_jax.models.mprnet import MPRNet
from tlc_jax.models.nafnet import Baseline, NAFNet
from tlc_jax.models.nafssr import NAFSSR
from tlc_jax.models.restormer import Restormer
from tlc_jax.models.rnn_mbp import RNNMBP

__all__ = [
    "MODELS",
    "NAFSSR",
    "RNNMBP",
    "Baseline",
    "HINet",
    "MPRNet",
    "Maxim",
    "NAFNet",
    "Params",
    "Restormer",
    "example_input",
    "takes_clips",
    "takes_pairs",
    "takes_pictures",
]

Params = Any  # a tree of arrays, or of their shapes
MODELS = {
    "nafnet": NAFNet,
    "baseline": Baseline,
    "restormer": Restormer,
    "maxim": Maxim,
    "hinet": HINet,
    "mprnet": MPRNet,
    "nafssr": NAFSSR,
    "rnn_mbp": RNNMBP,
}
"""The classes of the networks by the names that `model.json` records."""


def takes_clips(model: nn.Module) -> bool:
    """Whether a network restores video, (N, T, H, W, C), and not single pictures."""
    return hasattr(model, "past_frames")


def takes_pairs(model: nn.Module) -> bool:
    """Whether a network restores two views in RGB, side by side in the channels."""
    return not takes_clips(model) and getattr(model, "inp_channels", None) == 6


def takes_pictures(model: nn.Module) -> bool:
    """Whether a network restores single pictures, gray or in RGB."""
    return not takes_clips(model) and getattr(model, "inp_channels", None) in (1, 3)


def example_input(model: Any, size: tuple[int, int]) -> jax.ShapeDtypeStruct:
    """The shape and type of one picture of `size` = (H, W), or of the shortest clip of such.

    Raises:
      ValueError: the network does not say how many channels it takes.
    """
    if not hasattr(model, "inp_channels"):
        raise ValueError(
            f"{type(model).__name__} has no inp_channels; give it this field, the channels that it "
            "takes."
        )
    frames = (model.past_frames + model.future_frames + 1,) if takes_clips(model) else ()
    return jax.ShapeDtypeStruct((1, *frames, *size, model.inp_channels), jnp.float32)
