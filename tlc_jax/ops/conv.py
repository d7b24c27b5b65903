"""Convolutions, in the form that each backend runs fast. Sums are float32."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from tlc_jax.ops.backends import by_backend
from tlc_jax.ops.checks import check_maps, refusing
from tlc_jax.ops.shape import pixel_shuffle

FEW = 8  # channels of an image, or of two, and not of a feature map
NHWC = "NHWC", "HWIO", "NHWC"


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution as a matrix product: (..., I) by (1, 1, I, O) -> (..., O), of x's type.

    Raises:
      ValueError: a kernel of another shape.
    """
    c = x.shape[-1]
    with refusing(f"the kernel is (1, 1, {c}, O) for {c} channels, got {kernel.shape}."):
        chex.assert_shape(kernel, (1, 1, c, None))
    return by_backend("pointwise", {"rows": _multiply_rows, "maps": _multiply}, x, kernel[0, 0])


def _multiply(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(x, matrix, preferred_element_type=jnp.float32).astype(x.dtype)


def _multiply_rows(x: jax.Array, matrix: jax.Array) -> jax.Array:
    # With two dimensions, or XLA:CPU transposes maps for the gradient of the kernel.
    return _multiply(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], matrix.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def pointwise_padded(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    inside: jax.Array | None,
    border: int,
) -> jax.Array:
    """1x1 convolution, then `border` zeros: (N, H, W, I) -> (N, H + 2 border, W + 2 border, O).

    The zeros are the padding of a larger convolution that follows. `bias` is (1, 1, 1, O) or None.
    With `inside`, (H,), x has the rows of that padding already: zeros where it is False, which stay
    zeros, or those of a larger map; then only columns are added.
    """
    forms = {
        "padded first": functools.partial(_pad_and_multiply, border=border),
        "padded last": functools.partial(_multiply_and_pad, border=border),
    }
    return by_backend("pointwise, padded", forms, x, kernel, bias, inside)


def _pad_and_multiply(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    inside: jax.Array | None,
    border: int,
) -> jax.Array:
    if bias is not None:
        # The bias as weights of one more channel, which is 1 inside and 0 in the border.
        one = jnp.ones_like(x[..., :1])
        x = jnp.concatenate([x, _only(one, inside)], axis=-1)
        kernel = jnp.concatenate([kernel, bias], axis=2)
    return pointwise(_pad(x, border, inside is None), kernel)


def _multiply_and_pad(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    inside: jax.Array | None,
    border: int,
) -> jax.Array:
    y = pointwise(x, kernel)
    if bias is not None:
        y = y + _only(bias, inside)
    return _pad(y, border, inside is None)


def _only(x: jax.Array, inside: jax.Array | None) -> jax.Array:
    """x in these rows, and zeros in others."""
    return x if inside is None else x * inside.astype(x.dtype)[None, :, None, None]


def _padded_backward(border: int, saved: tuple, gradient: jax.Array) -> tuple:
    """The border is constant, so its gradient is not computed."""
    return jax.vjp(functools.partial(_multiply_and_pad, border=border), *saved)[1](gradient)


# The arrays are saved for the gradient, without the border that comes last.
pointwise_padded.defvjp(lambda *args: (pointwise_padded(*args), args[:-1]), _padded_backward)


def _pad(x: jax.Array, border: int, rows: bool = True) -> jax.Array:
    columns = border, border
    return jnp.pad(x, ((0, 0), columns if rows else (0, 0), columns, (0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv(x: jax.Array, kernel: jax.Array, border: int = 0) -> jax.Array:
    """Depthwise convolution, zero padding: (N, H, W, C) by (k, k, 1, C), k odd, -> (N, H, W, C).

    `border` is how many of the k // 2 zeros of padding x already has on each side. The result is
    of x's type.

    The k^2 shifted products fuse into one loop over the padded map. The same convolution through
    `feature_group_count` is 40 times slower on XLA:CPU.

    Raises:
      ValueError: an array that is not NHWC or has no pixels, or a kernel of another shape.
    """
    check_maps("expected an array (N, H, W, C)", x)
    c, got = x.shape[-1], kernel.shape
    k = kernel.shape[0] if kernel.ndim else 0
    with refusing(f"the kernel is (k, k, 1, {c}) with k odd for {c} channels, got {got}."):
        chex.assert_shape(kernel, (k | 1, k | 1, 1, c))  # an even k is not k | 1
    around = k // 2 - border

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        padding = [(around, around)] * 2
        return lax.conv_general_dilated(
            x, kernel, (1, 1), padding, dimension_numbers=NHWC, feature_group_count=c
        )

    def products(x: jax.Array, kernel: jax.Array) -> jax.Array:
        weights = kernel.astype(jnp.float32).reshape(k**2, 1, 1, 1, c)
        shifted = _shifted(_pad(x, around), k)
        taps = [x.astype(jnp.float32) * w for x, w in zip(shifted, weights, strict=True)]
        return functools.reduce(operator.add, taps).astype(x.dtype)

    return by_backend("depthwise", {"grouped": grouped, "products": products}, x, kernel)


def _shifted(padded: jax.Array, k: int) -> list[jax.Array]:
    """The k^2 shifted maps, in the order of the weights that multiply them, row by row."""
    h, w = (length - k + 1 for length in padded.shape[1:3])
    return [padded[:, i : i + h, j : j + w] for i in range(k) for j in range(k)]


def _depthwise_backward(
    border: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple:
    """For x a convolution by the flipped kernel; for the kernel sums of shifted products.

    JAX's own gradient keeps the k^2 shifted maps, and XLA:CPU sums their products 15 times slower.
    """
    x, kernel = saved
    k = kernel.shape[0]
    of_x = depthwise_conv(_pad(gradient, border), kernel[::-1, ::-1])
    forms = {
        "image by image": functools.partial(_sums_by_image, k=k),
        "at once": functools.partial(_sums_at_once, k=k),
    }
    of_kernel = by_backend("depthwise kernel", forms, _pad(x, k // 2 - border), gradient)
    return of_x, of_kernel.reshape(kernel.shape).astype(kernel.dtype)


def _sums_by_image(padded: jax.Array, gradient: jax.Array, k: int) -> jax.Array:
    """(k^2, C): products are added image by image, contiguously, then over positions."""

    def add(sums: list[jax.Array], image: tuple[jax.Array, jax.Array]) -> tuple[list, None]:
        padded, gradient = (array[None].astype(jnp.float32) for array in image)
        return [s + x * gradient for s, x in zip(sums, _shifted(padded, k), strict=True)], None

    none = [jnp.zeros((1, *gradient.shape[1:]), jnp.float32)] * k**2
    return jnp.stack(lax.scan(add, none, (padded, gradient))[0]).sum((1, 2, 3))


def _sums_at_once(padded: jax.Array, gradient: jax.Array, k: int) -> jax.Array:
    wide = gradient.astype(jnp.float32)
    return jnp.stack([(x.astype(jnp.float32) * wide).sum((0, 1, 2)) for x in _shifted(padded, k)])


depthwise_conv.defvjp(lambda *args: (depthwise_conv(*args), args[:-1]), _depthwise_backward)


Weights = tuple[jax.Array, jax.Array | None]
"""Kernel and bias."""


def pointwise_depthwise(
    x: jax.Array,
    pointwise: Weights,
    depthwise: Weights,
    parts: int,
    between: Callable[[jax.Array], jax.Array] = lambda x: x,
    inside: jax.Array | None = None,
) -> tuple[jax.Array, ...]:
    """A 1x1 convolution, a depthwise one, and the result cut into equal parts of its channels.

    Args:
      x: (N, H, W, I).
      pointwise, depthwise: (1, 1, I, O) and (3, 3, 1, O), each with (1, 1, 1, O) or None.
      parts: how many, a divisor of O.
      between: applied to the map between the two, which has its padding, (N, H + 2, W + 2, ...).
      inside: as of `pointwise_padded`, with (N, H + 2, W, I).
    """

    def whole(x: jax.Array, *weights: Weights) -> jax.Array:
        (kernel, bias), (deep, deep_bias) = jax.tree.map(lambda w: w.astype(x.dtype), weights)
        y: jax.Array = depthwise_conv(
            between(pointwise_padded(x, kernel, bias, inside, 1)), deep, 1
        )
        return y if deep_bias is None else y + deep_bias

    def cut(x: jax.Array, *weights: Weights) -> tuple[jax.Array, ...]:
        return tuple(jnp.split(whole(x, *weights), parts, axis=-1))

    def apart(x: jax.Array, *weights: Weights) -> tuple[jax.Array, ...]:
        def part(weight: jax.Array, i: int) -> jax.Array:
            return jnp.split(weight, parts, axis=-1)[i]

        return tuple(
            whole(x, *jax.tree.map(functools.partial(part, i=i), weights)) for i in range(parts)
        )

    return by_backend("parts", {"cut": cut, "apart": apart}, x, pointwise, depthwise)


def convolve3x3(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """3x3 convolution of stride 1: (N, H, W, I) by (3, 3, I, O) -> (N, H, W, O).

    Called as `lax.conv_general_dilated`, for `nn.Conv`, with pairs of numbers as its padding.
    """

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    channels, features = kernel.shape[2:]
    if min(channels, features) > FEW:
        return convolve(x, kernel)
    around = (0, 0), *padding, (0, 0)
    products = functools.partial(
        _of_patches if channels < features else _shifted_products, around=around
    )
    return by_backend("few channels", {"products": products, "convolution": convolve}, x, kernel)


def _of_patches(x: jax.Array, kernel: jax.Array, around: Any) -> jax.Array:
    """One product, of all pixels under the kernel."""
    patches = jnp.concatenate(_shifted(jnp.pad(x, around), 3), axis=-1)
    return _multiply(patches, kernel.reshape(-1, kernel.shape[-1]))


def _shifted_products(x: jax.Array, kernel: jax.Array, around: Any) -> jax.Array:
    """One product, for all pixels over the kernel."""
    _, _, channels, features = kernel.shape
    matrix = kernel.transpose(2, 0, 1, 3).reshape(channels, 9 * features)
    products = jnp.matmul(x, matrix, preferred_element_type=jnp.float32)
    shifted = _shifted(jnp.pad(products, around), 3)
    parts = (y[..., i * features : (i + 1) * features] for i, y in enumerate(shifted))
    return functools.reduce(operator.add, parts).astype(x.dtype)


def conv2x2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """2x2 convolution of stride 2: (N, H, W, I) by (2, 2, I, O) -> (N, H/2, W/2, O), H, W even."""

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c)
        return jnp.einsum("nhiwjc,ijcd->nhwd", x, kernel)

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=NHWC)

    return by_backend("2x2", {"product": product, "convolution": convolution}, x, kernel)


def pointwise_shuffled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution, then `pixel_shuffle`: (N, H, W, I) by (1, 1, I, 4 O) -> (N, 2 H, 2 W, O)."""

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return pixel_shuffle(pointwise(x, kernel), 2)

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Of an image with zeros between its pixels, by the four matrices turned around."""
        around = kernel.reshape(x.shape[-1], -1, 2, 2).transpose(2, 3, 0, 1)[::-1, ::-1]
        return lax.conv_general_dilated(
            x, around, (1, 1), [(1, 1), (1, 1)], lhs_dilation=(2, 2), dimension_numbers=NHWC
        )

    return by_backend("2x2", {"product": product, "convolution": convolution}, x, kernel)
