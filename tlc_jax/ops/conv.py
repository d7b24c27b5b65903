"""The two convolutions these networks are made of, in the forms that XLA runs fast on CPUs.

Nothing was measured on other backends so far. Sums are float32.
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

    What a larger convolution reads next. `bias` is (1, 1, 1, O) or None.
    """
    # XLA:CPU writes padded maps out: better x, which it writes anyway, and most often is smaller.
    return lax.platform_dependent(
        x,
        kernel,
        bias,
        cpu=functools.partial(_pad_and_multiply, border=border),
        default=functools.partial(_multiply_and_pad, border=border),
    )


def _pad_and_multiply(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, border: int
) -> jax.Array:
    if bias is not None:
        # The weights of one more channel, of ones: so the border gets none.
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        kernel = jnp.concatenate([kernel, bias], axis=2)
    return pointwise(_pad(x, border), kernel)


def _multiply_and_pad(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, border: int
) -> jax.Array:
    y = pointwise(x, kernel)
    return _pad(y if bias is None else y + bias, border)


def _pad(x: jax.Array, border: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))


def depthwise_conv(x: jax.Array, kernel: jax.Array, border: int = 0) -> jax.Array:
    """Depthwise convolution, zero padding: (N, H, W, C) by (k, k, 1, C), k odd, -> (N, H, W, C).

    `border` is how many of the k // 2 zeros x has already on each of its four sides.

    The k^2 shifted products fuse into one loop over the padded map. The same thing through
    `feature_group_count` is 40 times slower on XLA:CPU.
    """
    k = kernel.shape[0]
    padded = _pad(x, k // 2 - border)
    h, w = (length - k + 1 for length in padded.shape[1:3])
    kernel = kernel.astype(jnp.float32)
    taps = [
        padded[:, i : i + h, j : j + w].astype(jnp.float32) * kernel[i : i + 1, j : j + 1]
        for i in range(k)
        for j in range(k)
    ]
    return functools.reduce(operator.add, taps).astype(x.dtype)
