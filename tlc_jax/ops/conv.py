"""The two convolutions these networks are made of, in the forms that XLA runs fast on CPUs.

They are the only ones so far: nothing was measured on other backends. Sums are float32.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jax import lax


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution as a matrix product: (..., I) by (1, 1, I, O) -> (..., O)."""
    y = jnp.einsum("...i,io->...o", x, kernel[0, 0], preferred_element_type=jnp.float32)
    return y.astype(x.dtype)


def pointwise_padded(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, border: int
) -> jax.Array:
    """1x1 convolution with `border` zeros around it, (N, H, W, I) -> (N, H + 2 b, W + 2 b, O).

    Where O is larger than I, as before a depthwise convolution. `bias` is (1, 1, 1, O) or None.
    """

    def pad(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))

    def before(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        if bias is not None:
            # The weights of one more channel, of ones: so the border gets none.
            x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
            kernel = jnp.concatenate([kernel, bias], axis=2)
        return pointwise(pad(x), kernel)

    def after(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        y = pointwise(x, kernel)
        return pad(y if bias is None else y + bias)

    # XLA:CPU writes padded maps out, so the smaller one is padded; others fuse the padding.
    return lax.platform_dependent(x, kernel, bias, cpu=before, default=after)


def depthwise_conv(x: jax.Array, kernel: jax.Array, border: int = 0) -> jax.Array:
    """Depthwise convolution, zero padding: (N, H, W, C) by (k, k, 1, C), k odd, -> (N, H, W, C).

    `border` is how many of the k // 2 zeros x has already on each of its four sides.

    The k^2 shifted products fuse into one loop over the padded map. The same thing through
    `feature_group_count` is 40 times slower on XLA:CPU.
    """
    k = kernel.shape[0]
    around = (k // 2 - border,) * 2
    padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    h, w = (length - k + 1 for length in padded.shape[1:3])
    kernel = kernel.astype(jnp.float32)
    taps = [
        padded[:, i : i + h, j : j + w].astype(jnp.float32) * kernel[i : i + 1, j : j + 1]
        for i in range(k)
        for j in range(k)
    ]
    return functools.reduce(operator.add, taps).astype(x.dtype)
