"""`Network`, the base class of all networks, and the layers and blocks they are made of."""

from tlc_jax.layers.basic import (
    Conv1x1,
    CutRows,
    DepthwiseConv3x3,
    Downsample2x2,
    InStrips,
    JoinRows,
    LayerNorm,
    LocalAttention,
    LocalMoments,
    LocalPool,
    NAFBlock,
    NonLocal,
    PointwiseDepthwise,
    ResizeBilinear,
    SqueezeExcite,
    SupervisedAttention,
    Upsample2x2,
    channel_param,
    conv3x3,
    simple_gate,
    transposed_conv2x2,
)
from tlc_jax.layers.cab import CAB
from tlc_jax.layers.network import Network

__all__ = [
    "CAB", "Conv1x1", "CutRows", "DepthwiseConv3x3", "Downsample2x2", "InStrips", "JoinRows",
    "LayerNorm", "LocalAttention", "LocalMoments", "LocalPool", "NAFBlock", "Network", "NonLocal",
    "PointwiseDepthwise", "ResizeBilinear", "SqueezeExcite", "SupervisedAttention", "Upsample2x2",
    "channel_param", "conv3x3", "simple_gate", "transposed_conv2x2",
]  # fmt: skip
