"""Restormer: a U-Net of transformers that attend between channels.

Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image Restoration" (CVPR 2022,
arXiv 2111.09881). The attention's products run over the whole image; TLC runs them over windows.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from tlc_jax.layers import (
    Conv1x1,
    DepthwiseConv3x3,
    InStrips,
    LayerNorm,
    LocalAttention,
    Network,
    PointwiseDepthwise,
    conv3x3,
)
from tlc_jax.ops import pixel_shuffle, pixel_unshuffle

# Of the feed-forward network's map, the widest; one that takes more is made strip by strip. At
# 3840 x 2160 it would take 8.5 GB in bfloat16, more than half of a TPU v5e's memory.
MOST_BYTES = 2**31


class TransposedAttention(nn.Module):
    """Multi-Dconv head transposed attention (section 3.1)."""

    heads: int
    use_bias: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        pointwise = Conv1x1(3 * c, self.use_bias, name="qkv").weights(c)
        depthwise = DepthwiseConv3x3(self.use_bias, name="qkv_dwconv").weights(3 * c)
        q, k, v = PointwiseDepthwise(name="convolve")(x, pointwise, depthwise, 3)
        temperature = self.param("temperature", nn.initializers.ones, (self.heads,), jnp.float32)
        # The attention takes over the 1x1 convolution that follows.
        kernel, bias = Conv1x1(c, self.use_bias, name="project_out").weights(c)
        x = LocalAttention(name="attend")(q, k, v, temperature, kernel[0, 0])
        return x if bias is None else x + bias.astype(x.dtype)


class FeedForward(nn.Module):
    """Gated-Dconv feed-forward network (section 3.2)."""

    expansion: float
    use_bias: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        hidden = int(c * self.expansion)
        x = Conv1x1(2 * hidden, self.use_bias, self.dtype, border=1, name="project_in")(x)
        x = DepthwiseConv3x3(self.use_bias, self.dtype, border=1, name="dwconv")(x)
        gate, x = jnp.split(x, 2, axis=-1)
        x = jax.nn.gelu(gate, approximate=False) * x
        return Conv1x1(c, self.use_bias, self.dtype, name="project_out")(x)


class TransformerBlock(nn.Module):
    """Attention, then the feed-forward network, each after a layer norm and with a skip."""

    heads: int
    expansion: float
    use_bias: bool = False
    norm_bias: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = LayerNorm(1e-5, self.norm_bias, self.dtype, name="norm1")(x)
        x = x + TransposedAttention(self.heads, self.use_bias, self.dtype, name="attn")(y)
        y = LayerNorm(1e-5, self.norm_bias, self.dtype, name="norm2")(x)
        feed_forward = FeedForward(self.expansion, self.use_bias, self.dtype, name="ffn")
        n, h, w, c = y.shape
        images = n if isinstance(n, int) else 1  # it is open in a program that is exported
        widest = images * h * w * 2 * int(c * self.expansion) * y.dtype.itemsize
        return x + InStrips(name="strips")(feed_forward, y, -(-widest // MOST_BYTES), 1)


class Restormer(Network):
    """Restormer: a U-Net of transformers that attend between channels.

    The dual-pixel network takes the left and the right view stacked, 6 channels, and returns 3. Its
    authors pad images by reflection, as `padding="end"` does; TLC's release pads zeros.
    """

    multiple = 8
    buckets = True
    variants: ClassVar = {
        "deblurring": {},
        "defocus": {},
        "dual-pixel": {"inp_channels": 6, "dual_pixel_task": True},
        "deraining": {},
        "denoising": {"norm_bias": False},
        "gray-denoising": {"inp_channels": 1, "out_channels": 1, "norm_bias": False},
    }

    out_channels: int = 3
    dim: int = 48
    num_blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    num_refinement_blocks: int = 4
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    ffn_expansion_factor: float = 2.66
    bias: bool = False
    norm_bias: bool = True  # LayerNorm_type of the release: True is WithBias, False BiasFree
    dual_pixel_task: bool = False

    @nn.compact
    def forward(self, image: jax.Array) -> jax.Array:
        common = self.ffn_expansion_factor, self.bias, self.norm_bias, self.dtype

        def blocks(x: jax.Array, level: int, count: int, name: str) -> jax.Array:
            for i in range(count):
                x = TransformerBlock(self.heads[level], *common, name=f"{name}_{i}")(x)
            return x

        def conv(x: jax.Array, features: int, name: str, use_bias: bool = False) -> jax.Array:
            return conv3x3(features, self.dtype, name, use_bias=use_bias)(x)

        def down(x: jax.Array, name: str) -> jax.Array:
            return pixel_unshuffle(conv(x, x.shape[-1] // 2, name), 2)

        def up(x: jax.Array, name: str) -> jax.Array:
            return pixel_shuffle(conv(x, x.shape[-1] * 2, name), 2)

        def reduce(x: jax.Array, skip: jax.Array, name: str) -> jax.Array:
            x = jnp.concatenate([x, skip], axis=-1)
            return Conv1x1(skip.shape[-1], self.bias, self.dtype, name=name)(x)

        embedded = conv(image, self.dim, "patch_embed")
        level1 = blocks(embedded, 0, self.num_blocks[0], "encoder_level1")
        level2 = blocks(down(level1, "down1_2"), 1, self.num_blocks[1], "encoder_level2")
        level3 = blocks(down(level2, "down2_3"), 2, self.num_blocks[2], "encoder_level3")
        x = blocks(down(level3, "down3_4"), 3, self.num_blocks[3], "latent")

        x = reduce(up(x, "up4_3"), level3, "reduce_chan_level3")
        x = blocks(x, 2, self.num_blocks[2], "decoder_level3")
        x = reduce(up(x, "up3_2"), level2, "reduce_chan_level2")
        x = blocks(x, 1, self.num_blocks[1], "decoder_level2")
        x = jnp.concatenate([up(x, "up2_1"), level1], axis=-1)
        x = blocks(x, 0, self.num_blocks[0], "decoder_level1")
        x = blocks(x, 0, self.num_refinement_blocks, "refinement")

        if self.dual_pixel_task:
            x = x + Conv1x1(x.shape[-1], self.bias, self.dtype, name="skip_conv")(embedded)
        restored = conv(x, self.out_channels, "output", self.bias).astype(image.dtype)
        return restored if self.dual_pixel_task else image + restored
