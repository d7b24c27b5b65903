"""Linen layers and blocks that several networks share."""

from tlc_jax.layers.basic import (
    Conv1x1,
    DepthwiseConv3x3,
    Downsample2x2,
    LayerNorm,
    LocalPool,
    channel_param,
    simple_gate,
)

__all__ = [
    "Conv1x1",
    "DepthwiseConv3x3",
    "Downsample2x2",
    "LayerNorm",
    "LocalPool",
    "channel_param",
    "simple_gate",
]
