"""MPRNet's channel attention blocks, and the subnetworks made of them; RNN-MBP uses both.

Zamir et al., "Multi-Stage Progressive Image Restoration" (CVPR 2021, arXiv 2102.02808), section 3.
All blocks of a subnetwork share one PReLU slope. Pass `slope` if several subnetworks share it.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from tlc_jax.layers.basic import Conv1x1, ResizeBilinear, SqueezeExcite, conv3x3

# The feature maps of a U-Net's levels, of full, half and quarter size.
Pyramid = tuple[jax.Array, ...]


def prelu_slope(module: nn.Module, shared: jax.Array | None = None) -> jax.Array:
    """The slope of a PReLU below zero, a scalar: the shared one, or a parameter of the module."""
    if shared is not None:
        return shared
    return module.param("slope", nn.initializers.constant(0.25), (1,), jnp.float32)[0]


class CAB(nn.Module):
    """Channel attention block, (N, H, W, C) -> the same: two convolutions, then channel attention.

    `slope`, a scalar, is that of the PReLU below zero. The attention has C // reduction hidden
    channels.
    """

    reduction: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, slope: jax.Array) -> jax.Array:
        c = x.shape[-1]
        shortcut = x
        x = conv3x3(c, self.dtype, "body_0", use_bias=False)(x)
        x = jnp.where(x >= 0, x, x * slope.astype(x.dtype))
        x = conv3x3(c, self.dtype, "body_2", use_bias=False)(x)
        return shortcut + SqueezeExcite(c // self.reduction, False, self.dtype, name="CA")(x)


class ShallowFeatures(nn.Module):
    """A 3x3 convolution and a CAB, (N, H, W, 3) -> (N, H, W, features)."""

    features: int
    reduction: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, image: jax.Array, slope: jax.Array | None = None) -> jax.Array:
        slope = prelu_slope(self, slope)
        x = conv3x3(self.features, self.dtype, "conv", use_bias=False)(image)
        return CAB(self.reduction, self.dtype, name="block")(x, slope)


class Encoder(nn.Module):
    """Encoder of a U-Net, (N, H, W, widths[0]) -> the feature maps of all levels.

    A level is two CABs; between levels are a 2x2 mean and a 1x1 convolution. H and W are multiples
    of 2**(levels - 1).

    `others` are the pyramids of another encoder and its decoder, added level by level, each through
    a 1x1 convolution (cross-stage feature fusion, section 3.3).
    """

    widths: tuple[int, ...]
    reduction: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        others: tuple[Pyramid, Pyramid] | None = None,
        slope: jax.Array | None = None,
    ) -> Pyramid:
        slope = prelu_slope(self, slope)
        conv = functools.partial(Conv1x1, use_bias=False, dtype=self.dtype)
        pyramid: list[jax.Array] = []
        for i, width in enumerate(self.widths):
            if pyramid:
                x = conv(width, name=f"down{i}{i + 1}")(_halve(x))
            x = _blocks(x, slope, 2, self, f"encoder_level{i + 1}")
            if others is not None:
                enc, dec = others
                x = x + conv(width, name=f"fuse_enc{i + 1}")(enc[i])
                x = x + conv(width, name=f"fuse_dec{i + 1}")(dec[i])
            pyramid.append(x)
        return tuple(pyramid)


class Decoder(nn.Module):
    """Decoder of a U-Net, an encoder's pyramid -> one of the same shapes; each skip has a CAB."""

    reduction: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, encoded: Pyramid, slope: jax.Array | None = None) -> Pyramid:
        slope = prelu_slope(self, slope)
        *skips, x = encoded
        x = _blocks(x, slope, 2, self, f"decoder_level{len(encoded)}")
        pyramid = [x]
        for i in reversed(range(len(skips))):
            width = skips[i].shape[-1]
            # The convolution acts on single pixels, so it costs less before the interpolation.
            x = Conv1x1(width, use_bias=False, dtype=self.dtype, name=f"up{i + 2}{i + 1}")(x)
            skip = CAB(self.reduction, self.dtype, name=f"skip_attn{i + 1}")
            x = ResizeBilinear()(x, 1) + skip(skips[i], slope)
            x = _blocks(x, slope, 2, self, f"decoder_level{i + 1}")
            pyramid.insert(0, x)
        return tuple(pyramid)


class ORSNet(nn.Module):
    """Original resolution subnetwork, (N, H, W, C) -> the same; adds the maps of a U-Net."""

    num_cab: int
    reduction: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, encoded: Pyramid, decoded: Pyramid, slope: jax.Array | None = None
    ) -> jax.Array:
        slope = prelu_slope(self, slope)
        conv = functools.partial(Conv1x1, use_bias=False, dtype=self.dtype)
        width = x.shape[-1]
        for i in range(len(encoded)):
            shortcut = x
            orb = f"orb{i + 1}_body"
            x = _blocks(x, slope, self.num_cab, self, orb)
            x = shortcut + conv3x3(width, self.dtype, f"{orb}_{self.num_cab}", use_bias=False)(x)
            # In the paper a 1x1 convolution follows each of the i interpolations. The two commute,
            # so the convolutions come first, on the smaller map.
            total = jnp.zeros((), x.dtype)
            for y, name in (encoded[i], "enc"), (decoded[i], "dec"):
                for step in range(i):
                    up = encoded[i - 1 - step].shape[-1]
                    y = conv(up, name=f"up_{name}{i}_{step}")(y)
                total = total + conv(width, name=f"conv_{name}{i + 1}")(y)
            for _ in range(i):
                total = ResizeBilinear()(total, 1)
            x = x + total
        return x


def _blocks(
    x: jax.Array, slope: jax.Array, count: int, net: Encoder | Decoder | ORSNet, name: str
) -> jax.Array:
    """The blocks of one level of `net`."""
    for i in range(count):
        x = CAB(net.reduction, net.dtype, name=f"{name}_{i}")(x, slope)
    return x


def _halve(x: jax.Array) -> jax.Array:
    """The mean of each 2x2 pixels."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
