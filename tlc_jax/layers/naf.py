"""The block of NAFNet and NAFSSR.

Chen et al., "Simple Baselines for Image Restoration" (ECCV 2022, arXiv 2204.04676), section 4.
"""

import flax.linen as nn
import jax
from flax.typing import Dtype

from tlc_jax.layers.basic import (
    Conv1x1,
    DepthwiseConv3x3,
    LayerNorm,
    LocalPool,
    channel_param,
    simple_gate,
)
from tlc_jax.ops import spread


class NAFBlock(nn.Module):
    """Depthwise convolution with simplified channel attention, then two gated 1x1 convolutions.

    (N, H, W, C) -> the same. It is initialised as the identity.
    """

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, h, w, c = x.shape

        shortcut = x
        x = LayerNorm(1e-6, dtype=self.dtype, name="norm1")(x)
        x = Conv1x1(2 * c, dtype=self.dtype, border=1, name="conv1")(x)
        x = DepthwiseConv3x3(dtype=self.dtype, border=1, name="conv2")(x)
        x = simple_gate(x)
        attention = LocalPool(name="pool")(x)
        attention = Conv1x1(c, dtype=self.dtype, name="sca")(attention)
        x = x * spread(attention, (h, w))
        x = Conv1x1(c, dtype=self.dtype, name="conv3")(x)
        x = shortcut + x * channel_param(self, "beta", x)

        shortcut = x
        x = LayerNorm(1e-6, dtype=self.dtype, name="norm2")(x)
        x = Conv1x1(2 * c, dtype=self.dtype, name="conv4")(x)
        x = simple_gate(x)
        x = Conv1x1(c, dtype=self.dtype, name="conv5")(x)
        return shortcut + x * channel_param(self, "gamma", x)
