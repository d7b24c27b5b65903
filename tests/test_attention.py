"""Attention between channels: against the definition, one window after another, in float64."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlc_jax.ops import transposed_attention
from tlc_jax.ops.attention import attention_of_tiles
from tlc_jax.ops.within import tiles_within

pytestmark = pytest.mark.usefixtures("platform")

EPS = 2.0**-23  # of float32
HEADS, CHANNELS = 3, 4  # unequal, so that one taken for the other shows

CASES = [
    ((71, 103), None),
    ((71, 103), (48, 48)),
    ((71, 103), (20, 33)),
    ((71, 103), (80, 33)),  # covers the rows
    ((71, 103), (20, 103)),  # covers the columns
    ((40, 36), (10, 12)),  # windows side by side, no overlap
    ((7, 5), (1, 1)),
    ((1, 60), (9, 16)),
    ((9, 8), (30, 30)),
]


def starts(n, k):
    if n <= k:
        return [0]
    step = math.ceil((n - k) / ((n - 1) // k) - 1e-8)
    return [*itertools.takewhile(lambda start: start + k < n, itertools.count(0, step)), n - k]


def reference(q, k, v, temperature, window, dtype=np.float64):
    """The paper's loop over windows; outputs are averaged where windows overlap."""
    q, k, v, temperature = (np.asarray(x).astype(dtype) for x in (q, k, v, temperature))
    n, h, w, c = v.shape
    k_h, k_w = window or (h, w)
    total, count = np.zeros_like(v), np.zeros((h, w, 1), dtype)
    for top, left in itertools.product(starts(h, k_h), starts(w, k_w)):
        pixels = np.s_[:, top : top + k_h, left : left + k_w]
        for head in range(HEADS):
            of_head = np.s_[head * c // HEADS : (head + 1) * c // HEADS]
            channels = (x[pixels][..., of_head].reshape(n, -1, c // HEADS) for x in (q, k, v))
            a, b, values = (x.transpose(0, 2, 1) for x in channels)  # (N, channels, pixels)
            a, b = (x / np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), 1e-12) for x in (a, b))
            weights = np.exp(a @ b.transpose(0, 2, 1) * temperature[head])
            out = weights / weights.sum(-1, keepdims=True) @ values
            total[pixels][..., of_head] += out.transpose(0, 2, 1).reshape(
                total[pixels][..., of_head].shape
            )
        count[pixels[1:]] += 1
    return total / count


def inputs(size, *, mean=0.0, dtype=jnp.float32, batch=2):
    rng = np.random.default_rng(sum(size))
    shape = (3, batch, *size, HEADS * CHANNELS)
    q, k, v = (jnp.asarray(x, dtype) for x in rng.normal(mean, 1, shape))
    return q, k + 0.5 * q, v, jnp.asarray([0.7, 3.0, 8.0])


@pytest.mark.parametrize(("size", "window"), CASES, ids=str)
def test_against_float64(size, window):
    arrays = inputs(size)
    exact = reference(*arrays, window)
    usual = reference(*arrays, window, np.float32)
    ours = np.asarray(jax.jit(transposed_attention, static_argnums=4)(*arrays, window))
    errors = [np.abs(a - b).max() for a, b in [(ours, exact), (usual, exact), (ours, usual)]]
    report = "ours {:.1e} and the loop in float32 {:.1e} from float64, {:.1e} apart".format(*errors)
    assert ours.dtype == np.float32
    # A window of one pixel has cosines of exactly 1 in the loop: its last digits still may differ.
    assert errors[0] <= max(3 * errors[1], 4 * EPS * np.abs(exact).max()), report


@pytest.mark.parametrize("window", [None, (20, 33)])
def test_projection_is_of_the_result(window):
    """Not of each head by itself, and to another number of channels."""
    arrays = inputs((71, 103))
    matrix = np.random.default_rng(0).normal(0, 0.3, (HEADS * CHANNELS, 7)).astype(np.float32)
    exact = reference(*arrays, window) @ np.float64(matrix)
    usual = reference(*arrays, window, np.float32) @ matrix
    ours = transposed_attention(*arrays, window, project=jnp.asarray(matrix))
    errors = [np.abs(x - exact).max() for x in (ours, usual)]
    assert ours.shape == (2, 71, 103, 7)
    assert errors[0] <= 3 * errors[1], errors


def test_a_matrix_for_other_channels_is_refused():
    arrays = inputs((7, 5))
    with pytest.raises(ValueError, match=r"C = 12 channels, got \(7, 12\)"):
        transposed_attention(*arrays, project=jnp.zeros((7, 12)))


@pytest.mark.parametrize("window", [(31, 45), (31, 46), (100, 100)])
def test_window_that_covers_the_map_is_global(window):
    arrays = inputs((31, 45))
    assert np.array_equal(transposed_attention(*arrays, window), transposed_attention(*arrays))


def test_pictures_of_a_batch_do_not_mix():
    *arrays, temperature = inputs((20, 33))
    attend = jax.jit(
        functools.partial(transposed_attention, temperature=temperature, window=(9, 16))
    )
    one_by_one = [attend(*(x[i : i + 1] for x in arrays)) for i in range(2)]
    np.testing.assert_allclose(attend(*arrays), jnp.concatenate(one_by_one), atol=4 * EPS)
    np.testing.assert_allclose(
        jax.vmap(attend)(*(x[:, None] for x in arrays)), jnp.stack(one_by_one), atol=4 * EPS
    )


@pytest.mark.parametrize("tiles", ["known", "traced"])
@pytest.mark.parametrize("window", [(24, 24), (20, 33), (64, 17), (9, 96)])
def test_a_bad_pixel_spoils_the_windows_that_hold_it(window, tiles):
    """And nothing else: with a product of zeros, one NaN would reach every window."""
    size = (64, 96)
    *arrays, temperature = inputs(size)

    def run(q, k, v):
        if tiles == "known":
            return transposed_attention(q, k, v, temperature, window)
        extent = jnp.asarray(size) + 0 * q[0, 0, 0, 0].astype(int)
        return attention_of_tiles(q, k, v, temperature, None, *tiles_within(extent, size, window))

    run = jax.jit(run)
    clean = run(*arrays)
    for row, column in ((0, 0), (63, 40), (31, 50)):
        touched = np.zeros((2, *size), bool)
        for top, left in itertools.product(*map(starts, size, window)):
            if top <= row < top + window[0] and left <= column < left + window[1]:
                touched[0, top : top + window[0], left : left + window[1]] = True
        for which, bad in itertools.product((0, 1, 2), (np.nan, np.inf, -np.inf, 1e20, 1e8)):
            spoilt = list(arrays)
            spoilt[which] = arrays[which].at[0, row, column, 5].set(bad)
            assert np.array_equal(run(*spoilt)[~touched], clean[~touched]), (which, bad)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_bad_pixel_of_half_precision(dtype):
    """Whose largest number is small, so that nothing huge stands for it."""
    *arrays, temperature = inputs((64, 96), dtype=dtype)
    run = jax.jit(functools.partial(transposed_attention, temperature=temperature, window=(24, 24)))
    clean = run(*arrays)
    for which, bad in itertools.product((0, 1), (np.nan, np.inf)):
        spoilt = list(arrays)
        spoilt[which] = arrays[which].at[0, 0, 0, 5].set(bad)
        ours = run(*spoilt)
        assert not np.isfinite(ours[0, :8, :8]).any()
        assert np.array_equal(ours[0, 24:], clean[0, 24:]) and np.array_equal(ours[1], clean[1])


@pytest.mark.parametrize("window", [None, (3, 3)])
def test_odd_inputs(window):
    none = jnp.zeros((0, 7, 5, 12))
    ours = transposed_attention(none, none, none, jnp.ones(3), window, project=jnp.ones((12, 7)))
    assert ours.shape == (0, 7, 5, 7)
    with pytest.raises(ValueError, match=r"rows and columns, got shape \(2, 0, 5, 12\)"):
        transposed_attention(*[jnp.zeros((2, 0, 5, 12))] * 3, jnp.ones(3), window)
    with pytest.raises(ValueError, match=r"\(N, H, W, C\).* 5 heads, got 12 channels"):
        transposed_attention(*[jnp.zeros((2, 7, 5, 12))] * 3, jnp.ones(5), window)


def test_a_window_is_a_tuple():
    arrays = inputs((7, 5))
    for window in ([3, 3], (3, True), np.array([3, 3])):
        with pytest.raises(ValueError, match=r"whole pixels, got .*3"):
            transposed_attention(*arrays, window)
    with pytest.raises(ValueError, match=r"whole pixels, got .*Tracer"):
        jax.jit(transposed_attention)(*arrays, (3, 3))


@pytest.mark.parametrize("window", [None, (9, 16)])
def test_black_pictures(window):
    """All-zero queries are like no key more than another, and training survives them."""
    q, k, v, temperature = inputs((20, 33))
    ours = transposed_attention(0 * q, k, v, temperature, window)
    uniform = v.reshape(2, 20, 33, HEADS, CHANNELS).mean(-1, keepdims=True)
    expected = jnp.broadcast_to(uniform, (2, 20, 33, HEADS, CHANNELS)).reshape(v.shape)
    np.testing.assert_allclose(ours, expected, atol=8 * EPS)

    def loss(*arrays):
        return jnp.square(transposed_attention(*arrays, window)).sum()

    for zero in ((0 * q, k), (q, 0 * k), (0 * q, 0 * k)):
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*zero, v, temperature)
        assert all(jnp.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("window", [None, (9, 16)])
@pytest.mark.parametrize("size", [1e-13, 1e-15])
def test_norms_stop_at_1e12th(size, window):
    """As the releases' normalisation does: the attention of hardly any signal is hardly any."""
    q, k, v, temperature = inputs((20, 33))
    q = q * size
    np.testing.assert_allclose(
        transposed_attention(q, k, v, temperature, window),
        reference(q, k, v, temperature, window),
        atol=1e-5,
    )


@pytest.mark.parametrize("window", [None, (48, 48)])
def test_bfloat16_sums_in_float32(window):
    """Bright maps of 7313 pixels: in bfloat16 sums stand still at 256 times a pixel."""
    *arrays, _ = inputs((71, 103), mean=2.0, dtype=jnp.bfloat16)
    temperature = jnp.asarray([0.7, 8.0, 30.0])
    exact = reference(*arrays, temperature, window)
    ours = transposed_attention(*arrays, temperature, window)
    assert ours.dtype == jnp.bfloat16
    # Two roundings of half an ulp, 2**-9 each: of the weights, which sum to 1, and of the result.
    bound = 2 * 2.0**-9 * np.abs(np.float64(arrays[2])).max()
    assert np.abs(np.float64(ours) - exact).max() <= bound


@pytest.mark.parametrize("window", [None, (9, 16)])
def test_gradients(check_gradients, window):
    """Along a random direction, against the loop's central difference in float64."""
    arrays = inputs((20, 23))
    ours = functools.partial(transposed_attention, window=window)
    check_gradients(ours, functools.partial(reference, window=window), arrays)
