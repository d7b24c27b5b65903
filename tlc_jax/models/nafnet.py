"""NAFNet and the Baseline it grew from: one U-Net, two kinds of block.

Chen et al., "Simple Baselines for Image Restoration" (ECCV 2022, arXiv 2204.04676). Both blocks
weigh their channels by averages over the whole picture; TLC averages over a window.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
from flax.typing import Dtype

from tlc_jax.layers import (
    Conv1x1,
    DepthwiseConv3x3,
    Downsample2x2,
    LayerNorm,
    NAFBlock,
    SqueezeExcite,
    channel_param,
    conv3x3,
    local_window,
)
from tlc_jax.ops import Window, pad_to_multiple, pixel_shuffle


class BaselineBlock(nn.Module):
    """As NAFBlock, with GELU for the gates and the usual channel attention."""

    dw_expand: int
    ffn_expand: int
    window: Window = None
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
        x = SqueezeExcite(dw // 2, window=self.window, dtype=self.dtype, name="se")(x)
        x = Conv1x1(c, dtype=self.dtype, name="conv3")(x)
        x = shortcut + x * channel_param(self, "beta", x)

        shortcut = x
        x = LayerNorm(1e-6, dtype=self.dtype, name="norm2")(x)
        x = Conv1x1(c * self.ffn_expand, dtype=self.dtype, name="conv4")(x)
        x = jax.nn.gelu(x, approximate=False)
        x = Conv1x1(c, dtype=self.dtype, name="conv5")(x)
        return shortcut + x * channel_param(self, "gamma", x)


class NAFNet(nn.Module):
    """NAFNet. Call with (N, H, W, C) RGB in [0, 1], any size; returns the same shape and type.

    The published networks have width 32 or 64 and blocks (1, 1, 1, 28), 1, (1, 1, 1, 1) for GoPro
    and REDS, to be run local, or (2, 2, 4, 8), 12, (2, 2, 2, 2) for SIDD, to be run global.
    """

    width: int = 32
    enc_blk_nums: tuple[int, ...] = (1, 1, 1, 28)
    middle_blk_num: int = 1
    dec_blk_nums: tuple[int, ...] = (1, 1, 1, 1)
    inp_channels: int = 3
    local_mode: bool = False
    train_size: tuple[int, int] = (256, 256)  # pixels, of the training crops
    window: Window = None  # input pixels; None is 1.5 x train_size
    dtype: Dtype | None = None

    @property
    def multiple(self) -> int:
        """Of pixels, to which pictures are padded."""
        return 2 ** len(self.enc_blk_nums)

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        def block(window: Window, name: str) -> NAFBlock:
            return NAFBlock(window, self.dtype, name=name)

        return _unet(self, image, block)


class Baseline(nn.Module):
    """Baseline, called as `NAFNet` and published in the same sizes; width 64 has `dw_expand` 2."""

    width: int = 32
    enc_blk_nums: tuple[int, ...] = (1, 1, 1, 28)
    middle_blk_num: int = 1
    dec_blk_nums: tuple[int, ...] = (1, 1, 1, 1)
    dw_expand: int = 1
    ffn_expand: int = 2
    inp_channels: int = 3
    local_mode: bool = False
    train_size: tuple[int, int] = (256, 256)  # pixels, of the training crops
    window: Window = None  # input pixels; None is 1.5 x train_size
    dtype: Dtype | None = None

    @property
    def multiple(self) -> int:
        """Of pixels, to which pictures are padded."""
        return 2 ** len(self.enc_blk_nums)

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        def block(window: Window, name: str) -> BaselineBlock:
            return BaselineBlock(self.dw_expand, self.ffn_expand, window, self.dtype, name=name)

        return _unet(self, image, block)


def _unet(
    net: NAFNet | Baseline, image: jax.Array, block: Callable[[Window, str], nn.Module]
) -> jax.Array:
    """The U-Net around the blocks: strided convolutions down, PixelShuffle up, skips added."""
    _, h, w, c = image.shape
    depth = len(net.enc_blk_nums)

    def stack(x: jax.Array, count: int, level: int, name: str) -> jax.Array:
        window = local_window(net, stride=2**level, multiple=net.multiple)
        for i in range(count):
            x = block(window, f"{name}_{i}")(x)
        return x

    padded = pad_to_multiple(image, net.multiple)
    x = conv3x3(net.width, net.dtype, "intro")(padded)
    skips = []
    for level, count in enumerate(net.enc_blk_nums):
        x = stack(x, count, level, f"encoders_{level}")
        skips.append(x)
        x = Downsample2x2(2 * x.shape[-1], dtype=net.dtype, name=f"downs_{level}")(x)
    x = stack(x, net.middle_blk_num, depth, "middle_blks")
    for i, count in enumerate(net.dec_blk_nums):
        x = Conv1x1(2 * x.shape[-1], use_bias=False, dtype=net.dtype, name=f"ups_{i}")(x)
        x = pixel_shuffle(x, 2) + skips.pop()
        x = stack(x, count, depth - 1 - i, f"decoders_{i}")
    residual = conv3x3(c, net.dtype, "ending")(x)
    return (padded + residual.astype(image.dtype))[:, :h, :w]
