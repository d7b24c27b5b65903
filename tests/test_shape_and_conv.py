"""Rearrangements, convolutions and norms: what loads without an error and gives wrong pictures."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlc_jax.layers import (
    Conv1x1,
    DepthwiseConv3x3,
    Downsample2x2,
    LayerNorm,
    Upsample2x2,
    conv3x3,
    simple_gate,
)
from tlc_jax.models import NAFNet
from tlc_jax.ops import (
    average_windows,
    conv,
    depthwise_conv,
    extract_windows,
    pad_to_multiple,
    pixel_shuffle,
    pixel_unshuffle,
    pointwise,
    resize_bilinear,
)
from tlc_jax.ops.conv import pointwise_depthwise, pointwise_padded
from tlc_jax.ops.shape import in_strips

EPS = 2.0**-23  # of float32


def normal(*shape, mean=0.0, sd=1.0):
    rng = np.random.default_rng(sum(shape))
    return rng.normal(mean, sd, shape).astype(np.float32)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_pixel_shuffle_order(r):
    """Channel (c * r + i) * r + j goes to row i and column j of the block of channel c."""
    x = normal(2, 3, 5, 4 * r * r)
    expected = np.zeros((2, 3 * r, 5 * r, 4), np.float32)
    for row, column, c, i, j in itertools.product(*map(range, (3, 5, 4, r, r))):
        expected[:, row * r + i, column * r + j, c] = x[:, row, column, (c * r + i) * r + j]
    assert np.array_equal(pixel_shuffle(jnp.asarray(x), r), expected)
    assert np.array_equal(pixel_unshuffle(jnp.asarray(expected), r), x)


def test_pixel_shuffle_is_that_of_torch():
    torch = pytest.importorskip("torch")
    for function, layer, channels in [
        (pixel_shuffle, torch.nn.PixelShuffle(2), 12),
        (pixel_unshuffle, torch.nn.PixelUnshuffle(2), 3),
    ]:
        x = normal(2, 6, 10, channels)
        expected = layer(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(function(jnp.asarray(x), 2), expected)


@pytest.mark.parametrize("convert", [jnp.asarray, np.asarray], ids=["jax", "numpy"])
def test_padding(convert):
    """Zeros below and to the right; or the picture reflected there, or around it."""
    x = convert(normal(2, 5, 8, 3))
    padded = pad_to_multiple(x, 4)
    assert type(padded) is type(x) and padded.shape == (2, 8, 8, 3)
    assert np.array_equal(padded[:, :5], x)
    assert not padded[:, 5:].any()
    assert pad_to_multiple(x, 1).shape == x.shape
    for padding, rows, columns in (("end", (0, 3), (0, 1)), ("both", (1, 2), (0, 1))):
        expected = np.pad(x, ((0, 0), rows, columns, (0, 0)), mode="reflect")
        assert np.array_equal(pad_to_multiple(x, (4, 3), padding), expected)


def test_other_paddings_are_refused():
    with pytest.raises(ValueError, match="unknown padding 'around': choose 'zeros', 'end', 'both'"):
        pad_to_multiple(jnp.zeros((1, 5, 8, 3)), 4, "around")


def correlation(x, kernel, *, stride=1, groups=1):
    """The definition: (N, H, W, I) by (k, k, I / groups, O), with zeros around if k is odd."""
    x, kernel = np.float64(x), np.float64(kernel)
    k, _, per_group, outputs = kernel.shape
    margin = k // 2 * (k % 2)
    x = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    h, w = ((n - k) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((x.shape[0], h, w, outputs))
    for o in range(outputs):
        first = o // (outputs // groups) * per_group
        for i, j, c in itertools.product(range(k), range(k), range(per_group)):
            rows, columns = (
                slice(a, a + (n - 1) * stride + 1, stride) for a, n in ((i, h), (j, w))
            )
            out[..., o] += x[:, rows, columns, first + c] * kernel[i, j, c, o]
    return out


# Unequal channel numbers and sizes, so that a wrong transpose shows.
CONVOLUTIONS = {
    "depthwise": (DepthwiseConv3x3(), (2, 5, 9, 6), (3, 3, 1, 6), {"groups": 6}),
    "pointwise": (Conv1x1(6), (2, 5, 9, 4), (1, 1, 4, 6), {}),
    "square": (Conv1x1(5), (2, 4, 9, 5), (1, 1, 5, 5), {}),
    "downsample": (Downsample2x2(6), (2, 4, 10, 5), (2, 2, 5, 6), {"stride": 2}),
    "of an image": (conv3x3(12, None, "conv"), (2, 4, 9, 3), (3, 3, 3, 12), {}),
    "to an image": (conv3x3(3, None, "conv"), (2, 4, 9, 12), (3, 3, 12, 3), {}),
    "of features": (conv3x3(11, None, "conv"), (2, 4, 9, 10), (3, 3, 10, 11), {}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_layers(platform, name):
    layer, shape, kernel_shape, kind = CONVOLUTIONS[name]
    x, kernel, bias = normal(*shape), normal(*kernel_shape), normal(kernel_shape[-1])
    variables = {"params": {"kernel": kernel, "bias": bias}}
    shapes = jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x))
    assert shapes == jax.tree.map(jnp.shape, variables)

    ours = jax.jit(layer.apply)(variables, x)
    exact = correlation(x, kernel, **kind)
    terms = correlation(abs(x), abs(kernel), **kind).max()
    np.testing.assert_allclose(ours, exact + bias, rtol=0, atol=4 * EPS * terms)

    half = layer.clone(dtype=jnp.bfloat16).apply(variables, x)
    assert half.dtype == jnp.bfloat16  # what there is to gain is memory
    # Half an ulp, 2**-9, for each factor, each of at most 10 sums, the result and its bias.
    np.testing.assert_allclose(np.float64(half), exact + bias, rtol=0, atol=14 * 2.0**-9 * terms)


@pytest.mark.parametrize("use_bias", [True, False])
def test_parts_of_a_map_are_the_map(platform, use_bias):
    x, kernel, deep = normal(2, 5, 9, 4), normal(1, 1, 4, 6), normal(3, 3, 1, 6)
    biases = [normal(1, 1, 1, 6, mean=i) if use_bias else None for i in range(2)]
    weights = (kernel, biases[0]), (deep, biases[1])
    parts = jax.jit(pointwise_depthwise, static_argnames="parts")(x, *weights, parts=3)
    first, second = (0 if bias is None else bias for bias in biases)
    exact = correlation(correlation(x, kernel) + first, deep, groups=6) + second
    np.testing.assert_allclose(jnp.concatenate(parts, axis=-1), exact, rtol=0, atol=1e-5)


def test_upsampling_is_a_convolution_and_a_shuffle(platform):
    x, kernel = normal(2, 4, 9, 6), normal(1, 1, 6, 12)
    ours = jax.jit(Upsample2x2(3).apply)({"params": {"kernel": kernel}}, x)
    shuffled = pixel_shuffle(jnp.asarray(correlation(x, kernel), jnp.float32), 2)
    np.testing.assert_allclose(ours, shuffled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5, 13])
def test_strips_are_the_map(count):
    """Whatever the rows of each; a kernel looks two rows beyond."""
    x, kernel = jnp.asarray(normal(2, 13, 6, 3)), jnp.asarray(normal(5, 5, 1, 3))
    whole = depthwise_conv(x, kernel)
    heights = []

    def convolve(x):
        heights.append(x.shape[1])
        return depthwise_conv(x, kernel)

    np.testing.assert_allclose(in_strips(convolve, x, count, reach=2), whole, atol=1e-6)
    assert len(heights) == count and max(heights) <= -(-13 // count) + 4


@pytest.mark.parametrize("k", [1, 3, 5])
def test_depthwise_conv_of_any_odd_size(k):
    x, kernel = normal(2, 6, 4, 3), normal(k, k, 1, 3)
    exact = correlation(x, kernel, groups=3)
    np.testing.assert_allclose(
        depthwise_conv(jnp.asarray(x), jnp.asarray(kernel)), exact, atol=1e-5
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e20])
def test_a_bad_pixel_spoils_what_looks_at_it(bad):
    x, kernel = normal(2, 24, 32, 3), normal(5, 5, 1, 3)
    for row, column in ((0, 0), (23, 8), (12, 15)):
        spoilt = x.copy()
        spoilt[0, row, column, 1] = bad
        run = jax.jit(functools.partial(depthwise_conv, kernel=jnp.asarray(kernel)))
        near = np.zeros((2, 24, 32, 3), bool)
        near[0, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3, 1] = True
        assert np.array_equal(run(spoilt)[~near], run(x)[~near])
        for levels in (2, 1, -1, -2):
            run = jax.jit(functools.partial(resize_bilinear, levels=levels))
            scale = 2.0**levels
            reach = max(1, 1 / scale)  # pixels
            centres = [(np.arange(int(n * scale)) + 0.5) / scale - 0.5 for n in (24, 32)]
            rows, columns = (
                abs(c - at) < reach for c, at in zip(centres, (row, column), strict=True)
            )
            far = ~(rows[:, None] & columns)
            ours, clean = run(spoilt), run(x)
            assert np.array_equal(ours[0][far], clean[0][far])
            assert np.array_equal(ours[1], clean[1])


def test_no_pictures_give_no_results():
    none = jnp.zeros((0, 8, 6, 3))
    assert depthwise_conv(none, jnp.ones((3, 3, 1, 3))).shape == none.shape
    assert pointwise(none, jnp.ones((1, 1, 3, 5))).shape == (0, 8, 6, 5)
    assert pointwise_padded(none, jnp.ones((1, 1, 3, 5)), None, None, 1).shape == (0, 10, 8, 5)
    assert resize_bilinear(none, -1).shape == (0, 4, 3, 3)
    windows = extract_windows(none, (3, 4))
    assert windows.shape == (0, 3, 4, 3)
    assert average_windows(windows, (8, 6)).shape == none.shape


@pytest.mark.parametrize(
    "shape", [(2, 2, 1, 3), (3, 5, 1, 3), (3, 3, 1, 4), (3, 3, 3, 1), (3, 3, 3), ()]
)
def test_kernels_of_another_shape_are_refused(shape):
    x, got = jnp.ones((1, 8, 6, 3)), re.escape(str(shape))
    with pytest.raises(ValueError, match=rf"\(k, k, 1, 3\) with k odd .*got {got}"):
        depthwise_conv(x, jnp.ones(shape))
    with pytest.raises(ValueError, match=rf"\(1, 1, 3, O\) .*got {got}"):
        pointwise(x, jnp.ones(shape))


def test_maps_without_pixels_are_refused():
    for run in (
        lambda x: depthwise_conv(x, jnp.ones((3, 3, 1, 3))),
        lambda x: resize_bilinear(x, 1),
    ):
        with pytest.raises(ValueError, match=r"rows and columns, got shape \(1, 0, 6, 3\)"):
            run(jnp.zeros((1, 0, 6, 3)))
        with pytest.raises(ValueError, match=r"\(N, H, W, C\), got shape \(8, 6, 3\)"):
            run(jnp.zeros((8, 6, 3)))


@pytest.mark.parametrize(("k", "border"), [(1, 0), (3, 0), (3, 1), (5, 1), (5, 2)])
def test_gradients_of_depthwise_conv(k, border):
    """They are written out; by every backend's way they are those of XLA's own convolution."""
    margin = k // 2 - border
    x, kernel = jnp.asarray(normal(2, 9, 12, 6)), jnp.asarray(normal(k, k, 1, 6))

    def definition(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        pads = [(margin, margin)] * 2
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), pads, dimension_numbers=layout, feature_group_count=6
        )

    y, exact = jax.vjp(definition, x, kernel)
    gradient = jnp.asarray(normal(*y.shape))
    ours = jax.vjp(lambda x, kernel: depthwise_conv(x, kernel, border), x, kernel)[1](gradient)
    for got, expected in zip(ours, exact(gradient), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-6, atol=4e-5)
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    at_once = conv._sums_at_once(padded, gradient, k)
    np.testing.assert_allclose(at_once, ours[1].reshape(k * k, 6), rtol=2e-6, atol=4e-5)

    half = jax.vjp(depthwise_conv, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert {array.dtype for array in half[1](half[0])} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("use_bias", [True, False])
def test_gradients_through_a_border(use_bias):
    x, kernel = jnp.asarray(normal(2, 5, 4, 3)), jnp.asarray(normal(1, 1, 3, 6))
    bias = jnp.asarray(normal(1, 1, 1, 6)) if use_bias else None
    gradient = jnp.asarray(normal(2, 9, 8, 6))
    ours, exact = (
        jax.vjp(lambda *given, pad=pad: pad(*given, None, 2), x, kernel, bias)[1](gradient)
        for pad in (pointwise_padded, conv._pad_and_multiply)
    )
    for got, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_border_is_the_padding_of_the_convolution_that_follows(use_bias):
    """The bias is added to the map only, and the results are those of padding in between."""
    x = normal(2, 5, 4, 3)
    widen, filtered = Conv1x1(6, use_bias), DepthwiseConv3x3()
    params = {"kernel": normal(1, 1, 3, 6)} | ({"bias": normal(6)} if use_bias else {})
    plain = widen.apply({"params": params}, x)
    bordered = widen.clone(border=1).apply({"params": params}, x)
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    np.testing.assert_allclose(bordered, np.pad(plain, around), atol=1e-5)

    variables = {"params": {"kernel": normal(3, 3, 1, 6), "bias": normal(6)}}
    ours = filtered.clone(border=1).apply(variables, bordered)
    np.testing.assert_allclose(ours, filtered.apply(variables, plain), atol=1e-5)


@pytest.mark.parametrize("pad", [conv._pad_and_multiply, conv._multiply_and_pad])
def test_every_backend_s_way_to_pad(pad):
    """Only one of them runs here through the public door. Rows may have their padding already."""
    x, kernel, bias = (
        jnp.asarray(normal(*shape)) for shape in ((2, 5, 4, 3), (1, 1, 3, 6), (1, 1, 1, 6))
    )
    for given in (bias, None):
        expected = pointwise_padded(x, kernel, given, None, 2)
        np.testing.assert_allclose(pad(x, kernel, given, None, 2), expected, atol=1e-5)
        around, inside = jnp.pad(x, ((0, 0), (2, 2), (0, 0), (0, 0))), np.abs(np.arange(9) - 4) < 3
        in_rows = pad(around, kernel, given, jnp.asarray(inside), 2)
        np.testing.assert_allclose(in_rows, expected, atol=1e-5)


def test_pointwise_takes_any_number_of_axes():
    x, kernel = normal(7, 4), normal(1, 1, 4, 6)
    np.testing.assert_allclose(pointwise(x, kernel), x @ kernel[0, 0], atol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 300.0])
@pytest.mark.parametrize("center", [True, False], ids=["WithBias", "BiasFree"])
def test_layer_norm(center, mean):
    """Two passes: at mean 300 and deviation 0.1 the one-pass variance is lost altogether."""
    x, scale, bias = normal(2, 3, 5, 24, mean=mean, sd=0.1), normal(24), normal(24)
    params = {"scale": scale} | ({"bias": bias} if center else {})
    for epsilon in (1e-5, 1e-2):
        layer = LayerNorm(epsilon, center=center)
        shapes = jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x))["params"]
        assert shapes == jax.tree.map(jnp.shape, params)

        wide = np.float64(x)
        scaled = scale / np.sqrt(wide.var(axis=-1, keepdims=True) + epsilon)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        exact = centred * scaled + bias if center else wide * scaled
        ours = layer.apply({"params": params}, x)
        # The mean itself is known to an ulp of x, 3e-5, against the deviation of 0.1.
        tolerance = (4 * EPS * max(1, mean) / 0.1 + 4 * EPS) * np.abs(exact).max()
        np.testing.assert_allclose(ours, exact, rtol=0, atol=tolerance)
    one_pass = np.square(x).mean(axis=-1) - np.square(x.mean(axis=-1))
    assert mean == 0 or np.abs(one_pass / wide.var(axis=-1) - 1).max() > 0.3


def test_layer_norm_of_half_precision_counts_in_float32():
    x = jnp.asarray(normal(2, 3, 5, 24, mean=8.0), jnp.bfloat16)
    params = LayerNorm(1e-6).init(jax.random.key(0), x)
    wide = np.float64(x)
    exact = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    ours = LayerNorm(1e-6).apply(params, x)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float64(ours), exact, rtol=2.0**-8, atol=1e-5)
    assert LayerNorm(1e-6, dtype=jnp.float32).apply(params, x).dtype == jnp.float32


def test_simple_gate_multiplies_the_halves():
    gated = simple_gate(jnp.asarray([[2.0, 3.0, 5.0, 7.0]]))
    assert gated.tolist() == [[10.0, 21.0]]


def test_no_grouped_convolution_is_compiled():
    """Through `feature_group_count` a depthwise convolution is 40 times slower on XLA:CPU."""
    model = NAFNet(4, (1,), 1, (1,), local_mode=True)
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    program = jax.jit(model.apply).lower(variables, image).as_text()
    groups = re.findall(r"(?:feature|batch)_group_count\s*=\s*(\d+)", program)
    assert groups  # `intro` and `ending` at least
    assert set(groups) == {"1"}
