"""NAFNet, and the Baseline that it simplifies: one U-Net, two kinds of block.

Chen et al., "Simple Baselines for Image Restoration" (ECCV 2022, arXiv 2204.04676). Both blocks
have channel attention by global average pooling; TLC averages over a window.
"""

from typing import ClassVar

import flax.linen as nn
import jax
from flax.typing import Dtype

from tlc_jax.layers import (
    Conv1x1,
    DepthwiseConv3x3,
    Downsample2x2,
    LayerNorm,
    NAFBlock,
    Network,
    SqueezeExcite,
    Upsample2x2,
    channel_param,
    conv3x3,
)


class BaselineBlock(nn.Module):
    """As NAFBlock, with GELU for the gates and the usual channel attention."""

    dw_expand: int
    ffn_expand: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = x.shape[-1]
        dw = c * self.dw_expand

        shortcut = x
        x = LayerNorm(1e-6, dtype=self.dtype, name="norm1")(x)
        x = Conv1x1(dw, dtype=self.dtype, border=1, name="conv1")(x)
        x = DepthwiseConv3x3(dtype=self.dtype, border=1, name="conv2")(x)
        x = jax.nn.gelu(x, approximate=False)
        x = SqueezeExcite(dw // 2, dtype=self.dtype, name="se")(x)
        x = Conv1x1(c, dtype=self.dtype, name="conv3")(x)
        x = shortcut + x * channel_param(self, "beta", x)

        shortcut = x
        x = LayerNorm(1e-6, dtype=self.dtype, name="norm2")(x)
        x = Conv1x1(c * self.ffn_expand, dtype=self.dtype, name="conv4")(x)
        x = jax.nn.gelu(x, approximate=False)
        x = Conv1x1(c, dtype=self.dtype, name="conv5")(x)
        return shortcut + x * channel_param(self, "gamma", x)


# Numbers of blocks in the published networks, by training set.
GOPRO = {"enc_blk_nums": (1, 1, 1, 28), "middle_blk_num": 1, "dec_blk_nums": (1, 1, 1, 1)}
SIDD = {"enc_blk_nums": (2, 2, 4, 8), "middle_blk_num": 12, "dec_blk_nums": (2, 2, 2, 2)}


class NAFNet(Network):
    """NAFNet. Its authors run it with TLC on GoPro and REDS, and without on SIDD."""

    width: int = 32
    enc_blk_nums: tuple[int, ...] = (1, 1, 1, 28)
    middle_blk_num: int = 1
    dec_blk_nums: tuple[int, ...] = (1, 1, 1, 1)

    buckets = True
    variants: ClassVar = {
        "gopro-width32": {"width": 32, **GOPRO},
        "gopro-width64": {"width": 64, **GOPRO},
        "reds-width64": {"width": 64, **GOPRO},
        "sidd-width32": {"width": 32, **SIDD},
        "sidd-width64": {"width": 64, **SIDD},
    }

    @property
    def multiple(self) -> int:
        return 2 ** len(self.enc_blk_nums)

    @nn.nowrap
    def block(self, name: str) -> nn.Module:
        return NAFBlock(self.dtype, name=name)

    @nn.compact
    def forward(self, image: jax.Array) -> jax.Array:
        def stack(x: jax.Array, count: int, name: str) -> jax.Array:
            for i in range(count):
                x = self.block(f"{name}_{i}")(x)
            return x

        x = conv3x3(self.width, self.dtype, "intro")(image)
        skips = []
        for level, count in enumerate(self.enc_blk_nums):
            x = stack(x, count, f"encoders_{level}")
            skips.append(x)
            x = Downsample2x2(2 * x.shape[-1], dtype=self.dtype, name=f"downs_{level}")(x)
        x = stack(x, self.middle_blk_num, "middle_blks")
        for i, count in enumerate(self.dec_blk_nums):
            x = Upsample2x2(x.shape[-1] // 2, self.dtype, name=f"ups_{i}")(x) + skips.pop()
            x = stack(x, count, f"decoders_{i}")
        residual = conv3x3(image.shape[-1], self.dtype, "ending")(x)
        return image + residual.astype(image.dtype)


class Baseline(NAFNet):
    """The Baseline of the NAFNet paper, with GELU and the usual channel attention."""

    dw_expand: int = 1
    ffn_expand: int = 2

    buckets = True
    variants: ClassVar = {
        "gopro-width32": {"width": 32, **GOPRO},
        "gopro-width64": {"width": 64, "dw_expand": 2, **GOPRO},
        "sidd-width32": {"width": 32, **SIDD},
        "sidd-width64": {"width": 64, "dw_expand": 2, **SIDD},
    }

    @nn.nowrap
    def block(self, name: str) -> nn.Module:
        return BaselineBlock(self.dw_expand, self.ffn_expand, self.dtype, name=name)
