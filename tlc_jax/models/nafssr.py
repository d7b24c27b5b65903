"""NAFSSR: super-resolution of stereo pairs, NAFNet's blocks and attention between the views.

Chu et al., "NAFSSR: Stereo Image Super-Resolution Using NAFNet" (CVPR Workshops 2022, arXiv
2204.08714). It was trained on crops of 30 x 90 pixels, and its authors run it with TLC.
"""

import functools
from dataclasses import KW_ONLY
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from tlc_jax.layers import (
    Conv1x1,
    LayerNorm,
    NAFBlock,
    Network,
    ResizeBilinear,
    channel_param,
    conv3x3,
)
from tlc_jax.ops import parallax_attention, pixel_shuffle
from tlc_jax.ops.windows import Size


class SCAM(nn.Module):
    """Stereo cross attention: each view, (N, H, W, C), attends to the other along the rows."""

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
        norm = functools.partial(LayerNorm, 1e-6, dtype=self.dtype)
        project = functools.partial(Conv1x1, left.shape[-1], dtype=self.dtype)
        from_right, from_left = parallax_attention(
            project(name="l_proj1")(norm(name="norm_l")(left)),
            project(name="r_proj1")(norm(name="norm_r")(right)),
            project(name="l_proj2")(left),
            project(name="r_proj2")(right),
        )
        left = left + from_right * channel_param(self, "beta", left)
        return left, right + from_left * channel_param(self, "gamma", right)


class NAFSSR(Network):
    """NAFSSR, called with the left and the right view in RGB side by side in the channels."""

    up_scale: int = 4  # 1, 2, 4 or 8
    width: int = 48
    num_blks: int = 16
    _: KW_ONLY
    inp_channels: int = 6  # of both views
    train_size: Size = (30, 90)  # pixels, of the training crops

    rows = True
    variants: ClassVar = {
        f"{size}-{factor}x": {"up_scale": factor, "width": width, "num_blks": blocks}
        for factor in (2, 4)
        for size, width, blocks in (("T", 48, 16), ("S", 64, 32), ("B", 96, 64), ("L", 128, 128))
    }

    @property
    def scale(self) -> int:
        return self.up_scale

    @nn.compact
    def forward(self, pair: jax.Array) -> jax.Array:
        if self.up_scale not in (1, 2, 4, 8):
            raise ValueError(f"up_scale is 1, 2, 4 or 8, got {self.up_scale}.")
        channels = self.inp_channels // 2
        # The views share all layers but the attention, so they are entries of one batch.
        views = jnp.concatenate(jnp.split(pair, 2, axis=-1))
        x = conv3x3(self.width, self.dtype, "intro")(views)
        for i in range(self.num_blks):
            x = NAFBlock(self.dtype, name=f"body_{i}_blk")(x)
            left, right = jnp.split(x, 2)
            x = jnp.concatenate(SCAM(self.dtype, name=f"body_{i}_fusion")(left, right))
        x = pixel_shuffle(conv3x3(channels * self.up_scale**2, self.dtype, "up")(x), self.up_scale)
        x = x.astype(pair.dtype) + ResizeBilinear()(views, self.up_scale.bit_length() - 1)
        return jnp.concatenate(jnp.split(x, 2), axis=-1)
