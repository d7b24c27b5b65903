"""Attention between positions: against the definition, every window's square stored, in float64."""

import functools
import itertools
import math
from dataclasses import KW_ONLY

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.layers import NonLocal
from tlc_jax.ops.spatial import spatial_attention

EPS = 2.0**-23  # of float32
HEADS, CHANNELS = 3, 4  # unequal, so that one taken for the other shows

CASES = [
    ((37, 41), None, None),  # 1517 positions: more than a block, and not a multiple of one
    ((37, 41), None, 30.0),  # exp of such products overflows
    ((37, 41), (36, 33), None),  # windows of more than a block
    ((37, 41), (9, 16), 30.0),
    ((37, 41), (40, 33), None),  # covers the rows
    ((37, 41), (9, 41), None),  # covers the columns
    ((20, 18), (5, 6), None),  # windows side by side, no overlap
    ((7, 5), (1, 1), None),
    ((1, 60), (9, 16), None),
    ((9, 8), (30, 30), None),
]


def starts(n, k):
    if n <= k:
        return [0]
    step = math.ceil((n - k) / ((n - 1) // k) - 1e-8)
    return [*itertools.takewhile(lambda start: start + k < n, itertools.count(0, step)), n - k]


def reference(q, k, v, window, heads=HEADS, scale=None, dtype=np.float64):
    """One window after another; outputs are averaged where windows overlap."""
    q, k, v = (np.asarray(x).astype(dtype) for x in (q, k, v))
    n, h, w, c = v.shape
    k_h, k_w = window or (h, w)
    scale = dtype(scale or (c / heads) ** -0.5)
    total, count = np.zeros_like(v), np.zeros((h, w, 1), dtype)
    for top, left in itertools.product(starts(h, k_h), starts(w, k_w)):
        pixels = np.s_[:, top : top + k_h, left : left + k_w]
        for head in np.split(np.arange(c), heads):
            a, b, values = (x[pixels][..., head].reshape(n, -1, c // heads) for x in (q, k, v))
            logits = a @ b.transpose(0, 2, 1) * scale
            weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
            out = weights / weights.sum(axis=-1, keepdims=True) @ values
            total[pixels][..., head] += out.reshape(total[pixels][..., head].shape)
        count[pixels[1:]] += 1
    return total / count


def inputs(size, *, channels=HEADS * CHANNELS, batch=2, dtype=jnp.float32):
    rng = np.random.default_rng(sum(size))
    q, k, v = (jnp.asarray(x, dtype) for x in rng.normal(0, 1, (3, batch, *size, channels)))
    return q, k + 0.5 * q, v


attend = functools.partial(spatial_attention, heads=HEADS)


@pytest.mark.parametrize(("size", "window", "scale"), CASES, ids=str)
def test_against_float64(size, window, scale):
    arrays = inputs(size)
    exact = reference(*arrays, window, scale=scale)
    usual = reference(*arrays, window, scale=scale, dtype=np.float32)
    ours = np.asarray(attend(*arrays, window, scale=scale))
    errors = [np.abs(a - b).max() for a, b in [(ours, exact), (usual, exact), (ours, usual)]]
    report = "ours {:.1e} and the loop in float32 {:.1e} from float64, {:.1e} apart".format(*errors)
    assert ours.dtype == np.float32
    # The rounding of the products dominates: it is that of the loop, summed in another order.
    assert errors[0] <= max(3 * errors[1], 4 * EPS * np.abs(exact).max()), report


@pytest.mark.parametrize("window", [(37, 41), (37, 42), (100, 100)])
def test_window_that_covers_the_map_is_global(window):
    arrays = inputs((37, 41))
    assert np.array_equal(attend(*arrays, window), attend(*arrays))


def test_pictures_of_a_batch_do_not_mix():
    arrays = inputs((20, 33))
    local = functools.partial(attend, window=(9, 16))
    one_by_one = [local(*(x[i : i + 1] for x in arrays)) for i in range(2)]
    np.testing.assert_allclose(local(*arrays), jnp.concatenate(one_by_one), atol=4 * EPS)
    np.testing.assert_allclose(
        jax.vmap(local)(*(x[:, None] for x in arrays)), jnp.stack(one_by_one), atol=4 * EPS
    )


@pytest.mark.parametrize("window", [(9, 16), (20, 11), (36, 40)])
def test_a_bad_pixel_spoils_the_windows_that_hold_it(window):
    size = (37, 41)
    arrays = inputs(size)
    run = functools.partial(attend, window=window)
    clean = run(*arrays)
    for row, column in ((0, 0), (36, 20), (18, 20)):
        touched = np.zeros((2, *size), bool)
        for top, left in itertools.product(*map(starts, size, window)):
            if top <= row < top + window[0] and left <= column < left + window[1]:
                touched[0, top : top + window[0], left : left + window[1]] = True
        for which, bad in itertools.product((0, 1, 2), (np.nan, np.inf, 1e20)):
            spoilt = list(arrays)
            spoilt[which] = arrays[which].at[0, row, column, 5].set(bad)
            assert np.array_equal(run(*spoilt)[~touched], clean[~touched]), (which, bad)


def test_odd_inputs():
    none, arrays = jnp.zeros((0, 7, 5, 12)), inputs((7, 5))
    assert attend(none, none, none, (3, 3)).shape == none.shape
    with pytest.raises(ValueError, match=r"rows and columns, got shape \(2, 7, 0, 12\)"):
        attend(*[jnp.zeros((2, 7, 0, 12))] * 3)
    for window in ([3, 3], (3, True), np.array([3, 3])):
        with pytest.raises(ValueError, match=r"whole pixels, got .*3"):
            attend(*arrays, window)


@pytest.mark.parametrize("window", [None, (9, 16)])
def test_heads_do_not_mix(window):
    arrays = inputs((20, 33))
    apart = zip(*(jnp.split(x, HEADS, axis=-1) for x in arrays), strict=True)
    expected = jnp.concatenate([spatial_attention(*head, window) for head in apart], axis=-1)
    np.testing.assert_allclose(attend(*arrays, window), expected, atol=4 * EPS)


def test_order_of_the_positions_does_not_matter():
    """A shuffled map gives the shuffled result: attention has no notion of place."""
    arrays = inputs((37, 41))
    order = np.random.default_rng(1).permutation(37 * 41)

    def shuffled(x):
        return x.reshape(2, 37 * 41, -1)[:, order].reshape(x.shape)

    # Sums of 1517 weights in another order: their rounding errors add up as a random walk.
    tolerance = EPS * math.sqrt(37 * 41) * np.abs(arrays[2]).max()
    np.testing.assert_allclose(
        attend(*map(shuffled, arrays)), shuffled(attend(*arrays)), atol=tolerance
    )


@pytest.mark.parametrize("window", [None, (36, 33), (9, 16)])
def test_constant_values_stay_constant(window):
    q, k, v = inputs((37, 41))
    constant = jnp.full_like(v, 0.7)
    # Weights are summed twice, alone and with the values: each sum has at most a random walk's
    # error over its 1517 terms.
    tolerance = 2 * EPS * math.sqrt(37 * 41)
    np.testing.assert_allclose(attend(q, k, constant, window), constant, rtol=tolerance)


@pytest.mark.parametrize("window", [None, (9, 16)])
def test_bfloat16_sums_in_float32(window):
    """Of 1517 equal weights in bfloat16 the sum stands still at 256."""
    q, k, v = inputs((37, 41), dtype=jnp.bfloat16)
    for arrays in ((q, k, v), (0 * q, k, v + 2)):
        exact = reference(*arrays, window)
        ours = attend(*arrays, window)
        assert ours.dtype == jnp.bfloat16
        # Half an ulp, 2**-9, for each weight, for a window's output and for the windows' average.
        bound = 3 * 2.0**-9 * np.abs(np.float64(arrays[2])).max()
        assert np.abs(np.float64(ours) - exact).max() <= bound


@pytest.mark.parametrize(("size", "window"), [((29, 37), None), ((29, 37), (9, 16)), ((5, 7), 3)])
def test_gradients(check_gradients, size, window):
    """Along a random direction, against the definition's central difference in float64."""
    window = (window, window) if isinstance(window, int) else window
    arrays = inputs(size, batch=1)
    ours = functools.partial(attend, window=window)
    check_gradients(ours, functools.partial(reference, window=window), arrays)


@pytest.mark.parametrize("window", [None, (9, 16)])
def test_gradient_of_a_black_picture(window):
    q, k, v = inputs((20, 33))

    def loss(*arrays):
        return jnp.square(attend(*arrays, window)).sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(0 * q, 0 * k, v)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def program(size, window, gradient):
    """The traced attention of one picture of 8 channels, or its gradient."""

    def loss(*arrays):
        return jnp.square(spatial_attention(*arrays, window)).sum()

    run = functools.partial(spatial_attention, window=window)
    run = jax.grad(loss, argnums=(0, 1, 2)) if gradient else run
    return jax.jit(run).trace(*[jax.ShapeDtypeStruct((1, *size, 8), jnp.float32)] * 3)


def memory(size, window, *, gradient=False):
    """Bytes of working memory of the compiled program."""
    compiled = program(size, window, gradient).lower().compile()
    return compiled.memory_analysis().temp_size_in_bytes


def largest_array(jaxpr):
    """Elements of the largest array in a program, in its loops too."""
    inner = jax.tree.leaves(
        [equation.params for equation in jaxpr.eqns], is_leaf=lambda x: hasattr(x, "eqns")
    )
    here = [x.aval.size for equation in jaxpr.eqns for x in equation.outvars]
    return max([*here, *(largest_array(x) for x in inner if hasattr(x, "eqns"))], default=0)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(("size", "window"), [((96, 96), None), ((100, 150), (96, 96))])
def test_nothing_is_the_square_of_a_window(size, window, gradient):
    square = (96 * 96) ** 2
    assert largest_array(program(size, window, gradient).jaxpr.jaxpr) <= square / 64
    # Compilers count differently: this one leaves out buffers that it makes inside a product.
    assert memory(size, window, gradient=gradient) < 4 * square / 10


def test_memory_grows_as_the_map():
    size = 4 * 500 * 300 * 8  # bytes of the larger map
    assert memory((500, 300), (32, 32)) <= memory((50, 30), (32, 32)) + 4 * size


compilations: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: compilations.append(event) if "backend_compile" in event else None
)


def test_one_compilation_for_a_size():
    small, large = inputs((6, 10)), inputs((6, 11))
    compilations.clear()
    for arrays, scale in ((small, 1.0), (small, 2.0), (large, 1.0), (small, 1.0)):
        attend(*arrays, (4, 4), scale=scale).block_until_ready()
    assert len(compilations) == 2


@pytest.mark.parametrize(
    ("shapes", "heads"),
    [
        ([(1, 4, 4, 6), (1, 4, 4, 6), (1, 4, 5, 6)], 1),
        ([(4, 4, 6)] * 3, 1),
        ([(1, 4, 4, 6)] * 3, 4),
        ([(1, 4, 4, 6)] * 3, 0),
    ],
)
def test_unlike_arrays_are_refused(shapes, heads):
    with pytest.raises(ValueError, match=rf"\(N, H, W, C\).* {heads} heads"):
        spatial_attention(*map(jnp.zeros, shapes), heads=heads)


# The block


class Net(tlc.Network):
    """The smallest network around the block."""

    _: KW_ONLY
    inp_channels: int = 6

    @nn.compact
    def forward(self, x):
        return NonLocal(self.dtype, name="attend")(x)


def parameters(x):
    """Random, those of the output too: as they are initialised, the block does nothing."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(Net().init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def test_block_starts_as_the_identity():
    x, _, _ = inputs((9, 13), channels=6)
    output, _ = Net(local_mode=True, window=(4, 6)).init_with_output(jax.random.key(0), x)
    assert np.array_equal(output, x)


@pytest.mark.parametrize("window", [None, (4, 6)])
def test_block_against_its_formula(window):
    """x + out(attention(theta(x), phi(x), g(x))) on half the channels, nothing scaled."""
    x, _, _ = inputs((9, 13), channels=6)
    params = parameters(x)
    assert params["params"]["attend"]["theta"]["kernel"].shape == (1, 1, 6, 3)

    def convolve(name, x):
        conv = params["params"]["attend"][name]
        return np.float64(x) @ np.float64(conv["kernel"][0, 0]) + conv["bias"]

    embedded = [convolve(name, x) for name in ("theta", "phi", "g")]
    expected = x + convolve("out", reference(*embedded, window, heads=1, scale=1.0))
    # The error of a product, here up to 30, is the relative error of its weight.
    tolerance = 2 * 30 * EPS * np.abs(expected).max()
    net = Net(local_mode=window is not None, window=window)
    np.testing.assert_allclose(net.apply(params, x), expected, atol=tolerance)


def test_block_computes_in_its_dtype():
    x, _, _ = inputs((9, 13), channels=6)
    params = parameters(x)
    half, full = (Net(dtype=dtype).apply(params, x) for dtype in (jnp.bfloat16, None))
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - full).max() <= 0.1 * np.abs(full).max()


def test_block_is_a_site():
    assert tlc.sites(Net(), (9, 13)) == [
        tlc.Site("attend", "position attention", (9, 13), (9, 13), channels=6),
    ]
    assert tlc.sites(Net(local_mode=True, window=(4, 20)), (9, 13))[0].window == (4, 13)
