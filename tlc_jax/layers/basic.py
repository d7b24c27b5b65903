"""Layers and blocks that networks share, among them the sites of TLC.

A site is a layer that aggregates over positions; its attribute `site` says what. It is called with
`window`, (height, width) in pixels of its own feature map; `None` is the whole map, as in training.
If the map fills only the corner of its array, or its rows are divided over devices, `part` says so:
a `Corner` or `Rows`, which have the operations of `ops` for it. `dtype` is the type to compute in:
parameters stay float32, and so do norms, means and the products of attention.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype

from tlc_jax import ops
from tlc_jax.ops import Window
from tlc_jax.ops.backends import stored
from tlc_jax.ops.conv import (
    Weights,
    conv2x2,
    convolve3x3,
    pointwise_depthwise,
    pointwise_padded,
    pointwise_shuffled,
)
from tlc_jax.ops.divided import Rows
from tlc_jax.ops.shape import in_strips
from tlc_jax.ops.windows import clip_window
from tlc_jax.ops.within import Corner

Part = Corner | Rows

kernel_init = nn.initializers.lecun_normal()


class Conv1x1(nn.Module):
    """1x1 convolution, (N, H, W, C) -> (N, H, W, features).

    `border` adds zeros around the result, (N, H + 2 border, W + 2 border, features): the padding of
    a larger convolution that follows; for `inside` see `ops.conv.pointwise_padded`.
    """

    features: int
    use_bias: bool = True
    dtype: Dtype | None = None
    border: int = 0

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """Kernel (1, 1, channels, features) and bias (1, 1, 1, features), if there is one."""
        kernel = self.param("kernel", kernel_init, (1, 1, channels, self.features), jnp.float32)
        return kernel, channel_param(self, "bias", kernel) if self.use_bias else None

    def __call__(self, x: jax.Array, *, inside: jax.Array | None = None) -> jax.Array:
        x, kernel, bias = promote_dtype(x, *self.weights(x.shape[-1]), dtype=self.dtype)
        if self.border:
            return pointwise_padded(x, kernel, bias, inside, self.border)
        x = ops.pointwise(x, kernel)
        return x if bias is None else x + bias


class DepthwiseConv3x3(nn.Module):
    """3x3 convolution of each channel by itself, zero padding, (N, H, W, C) -> (N, H, W, C).

    With `border=1`, x already has its padding, (N, H + 2, W + 2, C).
    """

    use_bias: bool = True
    dtype: Dtype | None = None
    border: int = 0

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array | None]:
        """Kernel (3, 3, 1, channels) and bias (1, 1, 1, channels), if there is one."""
        kernel = self.param("kernel", kernel_init, (3, 3, 1, channels), jnp.float32)
        return kernel, channel_param(self, "bias", kernel) if self.use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel, bias = promote_dtype(x, *self.weights(x.shape[-1]), dtype=self.dtype)
        x = ops.depthwise_conv(x, kernel, self.border)
        return x if bias is None else x + bias


class PointwiseDepthwise(nn.Module):
    """A 1x1 convolution, a depthwise one, and the result in equal parts of its channels.

    Called as `ops.conv.pointwise_depthwise`, with the weights of two layers.
    """

    def __call__(
        self,
        x: jax.Array,
        pointwise: Weights,
        depthwise: Weights,
        parts: int,
        **options: Any,
    ) -> tuple[jax.Array, ...]:
        return pointwise_depthwise(x, pointwise, depthwise, parts, **options)


class InStrips(nn.Module):
    """Called as `ops.shape.in_strips`. A map that fills only a corner is left in one strip."""

    def __call__(
        self, function: Callable[[jax.Array], jax.Array], x: jax.Array, count: int, reach: int
    ) -> jax.Array:
        return in_strips(function, x, count, reach)


class ResizeBilinear(nn.Module):
    """Called as `ops.resize_bilinear`."""

    def __call__(self, x: jax.Array, levels: int) -> jax.Array:
        return ops.resize_bilinear(x, levels)


class CutRows(nn.Module):
    """The upper and the lower half of each map, (N, H, W, C) -> (2 N, H / 2, W, C); H is even."""

    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        return x.reshape(n * 2, h // 2, w, c)  # moves no data


class JoinRows(nn.Module):
    """The inverse of `CutRows`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        return x.reshape(n // 2, h * 2, w, c)


class Downsample2x2(nn.Module):
    """2x2 convolution of stride 2, as one matrix product: (N, H, W, C) -> (N, H/2, W/2, features).

    H and W are even.
    """

    features: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kernel_init, (2, 2, x.shape[-1], self.features), jnp.float32)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        x = conv2x2(x, kernel)
        return x + channel_param(self, "bias", x)


class Upsample2x2(nn.Module):
    """1x1 convolution, then pixel shuffle: (N, H, W, C) -> (N, 2 H, 2 W, features)."""

    features: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1, 1, x.shape[-1], 4 * self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        return pointwise_shuffled(*promote_dtype(x, kernel, dtype=self.dtype))


class LayerNorm(nn.Module):
    """Layer norm over the channels with a two-pass variance, computed in float32.

    `center=False` is Restormer's BiasFree norm: the variance is still about the mean, but the mean
    is not subtracted and there is no bias.
    """

    epsilon: float
    center: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        # Stored, or XLA:CPU computes both again for every part of the product that reads them.
        centred = wide - stored(wide.mean(axis=-1, keepdims=True))
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        scale = stored(jax.lax.rsqrt(variance + self.epsilon))
        y = (centred if self.center else wide) * scale
        y = y * channel_param(self, "scale", y, nn.initializers.ones)
        if self.center:
            y = y + channel_param(self, "bias", y)
        return y.astype(self.dtype or x.dtype)


class LocalPool(nn.Module):
    """Global average pooling, or TLC's local one over windows: a site of TLC.

    Returns the mean of each window inside the map, (N, H', W', C) float32. The layers that follow
    act on single positions, so they run on this smaller map, and `ops.spread` then brings their
    result to H x W. `project` is the matrix (C, features) of a 1x1 convolution after it: of fewer
    features it is applied before it where windows slide, so that these are all that is summed.
    """

    site: ClassVar[str] = "mean"

    def __call__(
        self,
        x: jax.Array,
        project: jax.Array | None = None,
        *,
        window: Window = None,
        part: Part | None = None,
    ) -> jax.Array:
        def projected(x: jax.Array) -> jax.Array:
            return x if project is None else jnp.matmul(x, project.astype(x.dtype))

        _, h, w, c = x.shape
        slides = clip_window(window, (h, w)) != (h, w)
        squeezed = slides and project is not None and project.shape[-1] < c
        if squeezed:
            x = projected(x)
        mean = (part or ops).window_mean(x, window)
        return mean if squeezed else projected(mean)


class LocalMoments(nn.Module):
    """Mean and biased variance of each channel, for instance normalization: a site of TLC.

    Returns two arrays (N, H', W', C) float32, over windows as in `LocalPool`.
    """

    site: ClassVar[str] = "moments"

    def __call__(
        self, x: jax.Array, *, window: Window = None, part: Part | None = None
    ) -> tuple[jax.Array, jax.Array]:
        return (part or ops).window_moments(x, window)


class LocalAttention(nn.Module):
    """Attention between channels, global or in TLC's windows: a site of TLC.

    Called as `ops.transposed_attention`; `project` is the matrix of a 1x1 convolution after it.
    """

    site: ClassVar[str] = "attention"

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        temperature: jax.Array,
        project: jax.Array | None = None,
        *,
        window: Window = None,
        part: Part | None = None,
    ) -> jax.Array:
        return (part or ops).transposed_attention(q, k, v, temperature, window, project=project)


class NonLocal(nn.Module):
    """Attention between positions, with a skip, (N, H, W, C) -> the same: a site of TLC.

    Wang et al., "Non-local Neural Networks" (CVPR 2018, arXiv 1711.07971), the embedded Gaussian of
    section 3.2 in the block of section 3.3; it is initialised as the identity.
    """

    site: ClassVar[str] = "position attention"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, window: Window = None) -> jax.Array:
        c = x.shape[-1]

        def embed(name: str) -> jax.Array:
            return Conv1x1(max(1, c // 2), dtype=self.dtype, name=name)(x)

        y = ops.spatial_attention(embed("theta"), embed("phi"), embed("g"), window, scale=1.0)
        zeros = nn.initializers.zeros
        y = nn.Conv(c, (1, 1), kernel_init=zeros, dtype=self.dtype, name="out")(y)
        return x + y.astype(x.dtype)


class SqueezeExcite(nn.Module):
    """Channel attention: two 1x1 convolutions of the means weigh the channels; keeps the shape.

    Hu et al., "Squeeze-and-Excitation Networks" (CVPR 2018, arXiv 1709.01507).
    """

    hidden: int
    use_bias: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, h, w, c = x.shape
        kernel, bias = Conv1x1(self.hidden, self.use_bias, name="Conv_0").weights(c)
        weights = LocalPool(name="pool")(x, kernel[0, 0])
        if bias is not None:
            weights = weights + bias
        weights = Conv1x1(c, self.use_bias, self.dtype, name="Conv_1")(jax.nn.relu(weights))
        return x * ops.spread(jax.nn.sigmoid(weights), (h, w))


class NAFBlock(nn.Module):
    """Depthwise convolution with simplified channel attention, then two gated 1x1 convolutions.

    (N, H, W, C) -> the same. It is initialised as the identity.

    Chen et al., "Simple Baselines for Image Restoration" (ECCV 2022, arXiv 2204.04676), section 4.
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
        x = x * ops.spread(attention, (h, w))
        x = Conv1x1(c, dtype=self.dtype, name="conv3")(x)
        x = shortcut + x * channel_param(self, "beta", x)

        shortcut = x
        x = LayerNorm(1e-6, dtype=self.dtype, name="norm2")(x)
        x = Conv1x1(2 * c, dtype=self.dtype, name="conv4")(x)
        x = simple_gate(x)
        x = Conv1x1(c, dtype=self.dtype, name="conv5")(x)
        return shortcut + x * channel_param(self, "gamma", x)


class SupervisedAttention(nn.Module):
    """Supervised attention module: features restore an image, which in turn weighs the features.

    Called with features (N, H, W, C) and the degraded image of the same size. Returns the weighed
    features and the restored image, of the same shapes.

    Zamir et al., "MPRNet" (CVPR 2021, arXiv 2102.02808), section 3.2.
    """

    kernel_size: int = 3  # or 1
    use_bias: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        def conv(features: int, name: str) -> nn.Module:
            if self.kernel_size == 1:
                return Conv1x1(features, self.use_bias, self.dtype, name=name)
            return conv3x3(features, self.dtype, name, use_bias=self.use_bias)

        residual = conv(image.shape[-1], "Conv_1")(x)
        restored = image + residual.astype(image.dtype)
        attention = jax.nn.sigmoid(conv(x.shape[-1], "Conv_2")(restored))
        return x + conv(x.shape[-1], "Conv_0")(x) * attention, restored


def channel_param(
    module: nn.Module,
    name: str,
    x: jax.Array,
    init: nn.initializers.Initializer = nn.initializers.zeros,
) -> jax.Array:
    """One parameter for each channel of x, in x's type and ready to broadcast against it.

    Args:
      module: the owner of the parameter; the caller is one of its `nn.compact` methods.
      name, init: of the parameter, (C,) float32.
      x: (..., C).

    Returns:
      (1, ..., 1, C).
    """
    param = module.param(name, init, (x.shape[-1],), jnp.float32)
    return param.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def simple_gate(x: jax.Array) -> jax.Array:
    """The product of the two halves of the channels, (..., 2 C) -> (..., C)."""
    first, second = jnp.split(x, 2, axis=-1)
    return first * second


def conv3x3(features: int, dtype: Dtype | None, name: str, *, use_bias: bool = True) -> nn.Conv:
    """3x3 convolution, zero padding, (N, H, W, C) -> (N, H, W, features)."""
    return nn.Conv(
        features, (3, 3), padding=1, use_bias=use_bias, dtype=dtype, name=name,
        conv_general_dilated=convolve3x3,
    )  # fmt: skip


def transposed_conv2x2(features: int, dtype: Dtype | None, name: str) -> nn.ConvTranspose:
    """2x2 transposed convolution, (N, H, W, C) -> (N, 2 H, 2 W, features)."""
    return nn.ConvTranspose(features, (2, 2), strides=(2, 2), dtype=dtype, name=name)
