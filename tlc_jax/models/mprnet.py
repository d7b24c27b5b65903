"""MPRNet: three stages, the first two on parts of the image, the last at its full resolution.

Zamir et al., "Multi-Stage Progressive Image Restoration" (CVPR 2021, arXiv 2102.02808). The first
stage encodes quarters of the image and decodes halves, top and bottom. The second encodes halves
and decodes the whole. So TLC's windows for the channel attentions follow from quarters, halves and
the whole of a training crop.
"""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlc_jax.layers import CutRows, JoinRows, Network, SupervisedAttention, conv3x3
from tlc_jax.layers.cab import Decoder, Encoder, ORSNet, ShallowFeatures, prelu_slope

LEVELS = 3  # of the U-Nets


class MPRNet(Network):
    """MPRNet: three stages of channel attention blocks.

    Its authors pad images by reflection, as `padding="end"` does; TLC's release pads zeros.
    """

    n_feat: int = 96
    scale_unetfeats: int = 48  # channels that each level of a U-Net adds
    scale_orsnetfeats: int = 32  # channels that the last stage adds
    num_cab: int = 8
    reduction: int = 4

    rows = True
    multiple = 2**LEVELS  # as its quarters are halved twice
    variants: ClassVar = {
        "deblurring": {},
        "denoising": {"n_feat": 80},
        "deraining": {"n_feat": 40, "scale_unetfeats": 20, "scale_orsnetfeats": 16},
    }

    @nn.compact
    def forward(self, image: jax.Array) -> jax.Array:
        widths = tuple(self.n_feat + level * self.scale_unetfeats for level in range(LEVELS))
        slope = prelu_slope(self)  # one for all blocks

        shallow = functools.partial(ShallowFeatures, self.n_feat, self.reduction, self.dtype)
        encoder = functools.partial(Encoder, widths, self.reduction, self.dtype)
        decoder = functools.partial(Decoder, self.reduction, self.dtype)
        attend = functools.partial(SupervisedAttention, 1, use_bias=False, dtype=self.dtype)

        def concat(x: jax.Array, y: jax.Array, features: int, name: str) -> jax.Array:
            xy = jnp.concatenate([x, y], axis=-1)
            return conv3x3(features, self.dtype, name, use_bias=False)(xy)

        halves = CutRows()(image)
        quarters = _cut_columns(halves)

        x = shallow(name="shallow_feat1")(quarters, slope)
        encoded = tuple(map(_join_columns, encoder(name="stage1_encoder")(x, slope=slope)))
        decoded = decoder(name="stage1_decoder")(encoded, slope)

        x = shallow(name="shallow_feat2")(halves, slope)
        attended, _ = attend(name="sam12")(decoded[0], halves)
        x = concat(x, attended, self.n_feat, "concat12")
        encoded = encoder(name="stage2_encoder")(x, (encoded, decoded), slope)
        encoded = tuple(map(JoinRows(), encoded))
        decoded = decoder(name="stage2_decoder")(encoded, slope)

        x = shallow(name="shallow_feat3")(image, slope)
        attended, _ = attend(name="sam23")(decoded[0], image)
        x = concat(x, attended, self.n_feat + self.scale_orsnetfeats, "concat23")
        last = ORSNet(self.num_cab, self.reduction, self.dtype, name="stage3_orsnet")
        x = last(x, encoded, decoded, slope)
        residual = conv3x3(image.shape[-1], self.dtype, "tail", use_bias=False)(x)
        return image + residual.astype(image.dtype)


# The parts are entries of one batch.


def _cut_columns(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    return x.reshape(n, h, 2, w // 2, c).swapaxes(1, 2).reshape(n * 2, h, w // 2, c)


def _join_columns(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    return x.reshape(n // 2, 2, h, w, c).swapaxes(1, 2).reshape(n // 2, h, w * 2, c)
