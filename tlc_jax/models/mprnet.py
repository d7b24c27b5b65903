"""MPRNet: three stages, the first two on parts of the picture, the last at its full resolution.

Zamir et al., "Multi-Stage Progressive Image Restoration" (CVPR 2021, arXiv 2102.02808). The first
stage encodes quarters of the picture; it decodes halves, top and bottom, as the second encodes;
the second decodes the whole. So the windows that TLC gives to the channel attentions are those of
quarters, halves and wholes of a training crop: they follow from the site, not from the stride.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from tlc_jax.layers import SupervisedAttention, conv3x3, local_window
from tlc_jax.layers.cab import Decoder, Encoder, ORSNet, Pyramid, ShallowFeatures, prelu_slope
from tlc_jax.ops import Window, pad_to_multiple

QUARTERS, HALVES, WHOLE = (2, 2), (2, 1), (1, 1)  # parts of a picture, down and across
LEVELS = 3  # of the U-Nets
MULTIPLE = 2**LEVELS  # of a picture: its quarters are halved twice


class MPRNet(nn.Module):
    """MPRNet. Call with (N, H, W, C) RGB in [0, 1], any size; returns the same shape and type.

    Published with (n_feat, scale_unetfeats, scale_orsnetfeats) of (96, 48, 32) for deblurring,
    (80, 48, 32) for denoising and (40, 20, 16) for deraining.
    """

    n_feat: int = 96
    scale_unetfeats: int = 48  # channels that each level of a U-Net adds
    scale_orsnetfeats: int = 32  # channels that the last stage adds
    num_cab: int = 8
    reduction: int = 4
    inp_channels: int = 3
    local_mode: bool = False
    train_size: tuple[int, int] = (256, 256)  # pixels, of the training crops
    window: Window = None  # input pixels; None is 1.5 x train_size
    dtype: Dtype | None = None

    # Those of its modules that see parts of the picture.
    site_parts: ClassVar[dict[str, tuple[int, int]]] = {
        "shallow_feat1": QUARTERS,
        "stage1_encoder": QUARTERS,
        "stage1_decoder": HALVES,
        "shallow_feat2": HALVES,
        "stage2_encoder": HALVES,
    }

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        _, h, w, c = image.shape
        widths = tuple(self.n_feat + level * self.scale_unetfeats for level in range(LEVELS))
        slope = prelu_slope(self)  # one for all blocks

        def windows(name: str) -> tuple[Window, ...]:
            down, across = self.site_parts.get(name, WHOLE)
            strides = [(down * 2**i, across * 2**i) for i in range(LEVELS)]
            return tuple(local_window(self, stride=s, multiple=MULTIPLE) for s in strides)

        def shallow(image: jax.Array, name: str) -> jax.Array:
            window = windows(name)[0]
            layer = ShallowFeatures(self.n_feat, self.reduction, window, self.dtype, name=name)
            return layer(image, slope)

        def encoder(name: str) -> Encoder:
            return Encoder(widths, self.reduction, windows(name), self.dtype, name=name)

        def decoder(name: str) -> Decoder:
            return Decoder(self.reduction, windows(name), self.dtype, name=name)

        def attend(x: jax.Array, image: jax.Array, name: str) -> jax.Array:
            layer = SupervisedAttention(1, use_bias=False, dtype=self.dtype, name=name)
            return layer(x, image)[0]

        def concat(x: jax.Array, y: jax.Array, features: int, name: str) -> jax.Array:
            xy = jnp.concatenate([x, y], axis=-1)
            return conv3x3(features, self.dtype, name, use_bias=False)(xy)

        padded = pad_to_multiple(image, MULTIPLE)
        halves = _cut_rows(padded)
        quarters = _cut_columns(halves)

        x = shallow(quarters, "shallow_feat1")
        encoded = _join_columns(encoder("stage1_encoder")(x, slope=slope))
        decoded = decoder("stage1_decoder")(encoded, slope)

        x = shallow(halves, "shallow_feat2")
        x = concat(x, attend(decoded[0], halves, "sam12"), self.n_feat, "concat12")
        encoded = encoder("stage2_encoder")(x, (encoded, decoded), slope)
        encoded = _join_rows(encoded)
        decoded = decoder("stage2_decoder")(encoded, slope)

        x = shallow(padded, "shallow_feat3")
        attended = attend(decoded[0], padded, "sam23")
        x = concat(x, attended, self.n_feat + self.scale_orsnetfeats, "concat23")
        window = windows("stage3_orsnet")[0]
        last = ORSNet(self.num_cab, self.reduction, window, self.dtype, name="stage3_orsnet")
        x = last(x, encoded, decoded, slope)
        residual = conv3x3(c, self.dtype, "tail", use_bias=False)(x)
        return (padded + residual.astype(image.dtype))[:, :h, :w]


# The parts stand side by side in the batch; the halves of a picture lie in memory as they are.


def _cut_rows(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    return x.reshape(n * 2, h // 2, w, c)


def _cut_columns(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    return x.reshape(n, h, 2, w // 2, c).swapaxes(1, 2).reshape(n * 2, h, w // 2, c)


def _join_rows(pyramid: Pyramid) -> Pyramid:
    return tuple(x.reshape(-1, x.shape[1] * 2, *x.shape[2:]) for x in pyramid)


def _join_columns(pyramid: Pyramid) -> Pyramid:
    def join(x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        return x.reshape(n // 2, 2, h, w, c).swapaxes(1, 2).reshape(n // 2, h, w * 2, c)

    return tuple(map(join, pyramid))
