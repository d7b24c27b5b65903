"""HINet: two U-Nets whose convolutions normalise half of their channels.

Chen et al., "HINet: Half Instance Normalization Network for Image Restoration" (CVPR Workshops
2021, arXiv 2105.06086). Instance normalization takes mean and variance over the whole image; TLC
takes them over a window.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from tlc_jax.layers import (
    Conv1x1,
    LocalMoments,
    Network,
    SupervisedAttention,
    channel_param,
    conv3x3,
    transposed_conv2x2,
)
from tlc_jax.ops import spread

EPSILON = 1e-5
LEAK = 0.2  # slope of the activations below zero


class InstanceNorm(nn.Module):
    """Instance normalization of (N, H, W, C): each channel by its mean and variance."""

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, h, w, _ = x.shape
        mean, variance = LocalMoments(name="moments")(x)
        scale = jax.lax.rsqrt(variance + EPSILON)
        y = (x.astype(jnp.float32) - spread(mean, (h, w))) * spread(scale, (h, w))
        y = y * channel_param(self, "scale", y, nn.initializers.ones)
        return (y + channel_param(self, "bias", y)).astype(self.dtype or x.dtype)


class Block(nn.Module):
    """Two convolutions with half instance normalization between them (section 3.2).

    The second U-Net adds the maps of the first one's encoder and decoder (csff, as in MPRNet).
    """

    features: int
    half_norm: bool
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, others: tuple[jax.Array, jax.Array] | None = None
    ) -> jax.Array:
        shortcut = Conv1x1(self.features, dtype=self.dtype, name="identity")(x)
        x = conv3x3(self.features, self.dtype, "conv_1")(x)
        if self.half_norm:
            first, second = jnp.split(x, 2, axis=-1)
            first = InstanceNorm(self.dtype, name="norm")(first)
            x = jnp.concatenate([first, second], axis=-1)
        x = jax.nn.leaky_relu(x, LEAK)
        x = jax.nn.leaky_relu(conv3x3(self.features, self.dtype, "conv_2")(x), LEAK)
        x = x + shortcut
        if others is not None:
            encoded, decoded = others
            x = x + conv3x3(self.features, self.dtype, "csff_enc")(encoded)
            x = x + conv3x3(self.features, self.dtype, "csff_dec")(decoded)
        return x


class HINet(Network):
    """HINet: two U-Nets with half instance normalization."""

    wf: int = 64
    depth: int = 5  # levels
    hin_position_left: int = 0  # first level with norms
    hin_position_right: int = 4  # and the last

    buckets = True
    variants: ClassVar = {
        "gopro": {"hin_position_left": 3},
        "reds": {"hin_position_left": 3},
        "sidd": {},
        "sidd-half": {"wf": 32},
        "rain13k": {},
    }

    @property
    def multiple(self) -> int:
        """At least 16 pixels, as in the release, even where less would do."""
        return 2 ** max(4, self.depth - 1)

    @nn.compact
    def forward(self, image: jax.Array) -> jax.Array:
        x = conv3x3(self.wf, self.dtype, "conv_01")(image)
        encoded, decoded = _unet(self, x, 1)
        attended, _ = SupervisedAttention(dtype=self.dtype, name="sam12")(decoded[0], image)

        x = conv3x3(self.wf, self.dtype, "conv_02")(image)
        x = jnp.concatenate([x, attended], axis=-1)
        x = Conv1x1(self.wf, dtype=self.dtype, name="cat12")(x)
        _, decoded = _unet(self, x, 2, (encoded, decoded))
        residual = conv3x3(image.shape[-1], self.dtype, "last")(decoded[0])
        return image + residual.astype(image.dtype)


def _unet(
    net: HINet,
    x: jax.Array,
    number: int,
    others: tuple[list[jax.Array], list[jax.Array]] | None = None,
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The feature maps of one U-Net's encoder and of its decoder, the largest first."""
    dtype, deepest = net.dtype, net.depth - 1
    encoded: list[jax.Array] = []
    for level in range(net.depth):
        half_norm = net.hin_position_left <= level <= net.hin_position_right
        name = f"down_path_{number}_{level}"
        block = Block(2**level * net.wf, half_norm, dtype, name=name)
        fused = others is not None and level < deepest
        x = block(x, (others[0][level], others[1][level]) if fused else None)
        if level < deepest:
            encoded.append(x)
            x = nn.Conv(
                x.shape[-1], (4, 4), strides=2, padding=1, use_bias=False, dtype=dtype,
                name=f"{name}_downsample",
            )(x)  # fmt: skip

    decoded: list[jax.Array] = []
    for i, level in enumerate(reversed(range(deepest))):
        features = 2**level * net.wf
        name = f"up_path_{number}_{i}"
        x = transposed_conv2x2(features, dtype, f"{name}_up")(x)
        skip = conv3x3(features, dtype, f"skip_conv_{number}_{i}")(encoded[level])
        x = jnp.concatenate([x, skip], axis=-1)
        x = Block(features, half_norm=False, dtype=dtype, name=f"{name}_conv_block")(x)
        decoded.insert(0, x)
    return encoded, decoded
