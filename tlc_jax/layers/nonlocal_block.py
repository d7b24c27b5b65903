"""The non-local block: attention between all positions."""

from typing import ClassVar

import flax.linen as nn
import jax
from flax.typing import Dtype

from tlc_jax.layers.basic import Conv1x1
from tlc_jax.ops import Window, spatial_attention


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

        y = spatial_attention(embed("theta"), embed("phi"), embed("g"), window, scale=1.0)
        zeros = nn.initializers.zeros
        y = nn.Conv(c, (1, 1), kernel_init=zeros, dtype=self.dtype, name="out")(y)
        return x + y.astype(x.dtype)
