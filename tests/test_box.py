"""Sliding sums, means and moments: every method against the definition in float64."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from tlc_jax.ops import (
    local_mean,
    local_moments,
    local_sum,
    spread,
    window_mean,
    window_moments,
    window_sum,
)
from tlc_jax.ops.within import window_mean_within, window_moments_within

METHODS = ("auto", "reduce_window", "cumsum", "blocks", "edges", "products")
ULP = 2.0**-23  # of a float32 between 1 and 2
BAD = (np.nan, np.inf, -np.inf, 1e20, 1e8)

# (H, W), window. Some are above the sizes at which "auto" and "blocks" change their ways.
CASES = [
    ((7, 9), (3, 3)),
    ((9, 7), (2, 4)),
    ((9, 11), (1, 1)),
    ((55, 69), (48, 49)),
    ((75, 61), (60, 51)),
    ((30, 83), (50, 17)),  # covers the rows
    ((83, 30), (17, 50)),  # covers the columns
    ((23, 31), (23, 30)),
    ((5, 6), (9, 11)),  # covers both
    ((5, 6), None),
    ((1, 40), (8, 16)),
    ((1, 1), (8, 16)),
]


def image(size, *, mean=0.0, sd=1.0, batch=2, channels=3, dtype=np.float32):
    rng = np.random.default_rng(sum(size))
    return jnp.asarray(rng.normal(mean, sd, (batch, *size, channels)), dtype)


def clipped(size, window):
    return tuple(map(min, window or size, size))


def views(x, window):
    """All windows inside the map: (N, H', W', C, k_h, k_w) of x's type."""
    x = np.asarray(x)
    return sliding_window_view(x, clipped(x.shape[1:3], window), axis=(1, 2))


def around(y, size, window):
    """From the windows inside the map to one for each position, by the rule of TLC's padding."""
    rows, columns = (
        np.clip(np.arange(n) - (k - 1) // 2, 0, n - k)
        for n, k in zip(size, clipped(size, window), strict=True)
    )
    return y[:, rows[:, None], columns]


def integral_image_sum(x, window):
    """The usual float32 form, four corners of a table of sums: the accuracy that ours must have."""
    k_h, k_w = clipped(x.shape[1:3], window)
    table = np.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0))).cumsum(axis=1).cumsum(axis=2)
    bands = table[:, k_h:] - table[:, :-k_h]
    return bands[:, :, k_w:] - bands[:, :, :-k_w]


def assert_as_exact_as(ours, exact, usual):
    """Ours may err three times as much as the usual form; `exact` is of float64."""
    scale = np.abs(exact).max() or 1.0
    errors = [
        np.abs(a - b).max() / scale for a, b in [(ours, exact), (usual, exact), (ours, usual)]
    ]
    report = "ours {:.1e} and the usual form {:.1e} from float64, {:.1e} apart".format(*errors)
    # The usual form happens to be exact on a few pixels: then the last digits still may differ.
    assert errors[0] <= max(3 * errors[1], 4 * ULP), report


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size", "window"), CASES, ids=str)
def test_against_float64(size, window, method):
    x = image(size, mean=0.5)
    options = {"window": window, "method": method}

    @jax.jit
    def all_of_them(x):
        return (
            window_sum(x, **options),
            window_mean(x, **options),
            local_sum(x, **options),
            local_mean(x, **options),
            *local_moments(x, **options),
        )

    inside = views(np.float64(x), window)
    usual = integral_image_sum(np.asarray(x), window)
    pixels = inside.shape[-1] * inside.shape[-2]
    total, mean = inside.sum(axis=(-1, -2)), inside.mean(axis=(-1, -2))
    variance = inside.var(axis=(-1, -2))
    usual_square = integral_image_sum(np.asarray(x * x), window) / np.float32(pixels)
    usual_mean = usual / np.float32(pixels)
    usual_variance = usual_square - usual_mean * usual_mean
    widen = functools.partial(around, size=size, window=window)
    expected = [
        (total, usual),
        (mean, usual_mean),
        (widen(total), widen(usual)),
        (widen(mean), widen(usual_mean)),
        (widen(mean), widen(usual_mean)),
        (widen(variance), widen(usual_variance)),
    ]
    for ours, (exact, usual) in zip(all_of_them(x), expected, strict=True):
        assert ours.dtype == jnp.float32
        assert ours.shape == exact.shape
        assert_as_exact_as(np.asarray(ours), exact, usual)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("length", "k"), [(7, 3), (8, 4), (9, 2), (75, 50), (75, 51)])
def test_border_rule(length, k, method):
    """Row i's window starts at clip(i - (k - 1) // 2, 0, H - k)."""
    # Squares tell which rows were added, and their sums are exact in float32.
    line = np.arange(length) ** 2
    starts = [min(max(i - (k - 1) // 2, 0), length - k) for i in range(length)]
    expected = [line[start : start + k].sum() for start in starts]
    for shape in ((1, length, 1, 1), (1, 1, length, 1)):
        x = jnp.asarray(line.reshape(shape), jnp.float32)
        assert local_sum(x, (k, k), method=method).ravel().tolist() == expected


def test_spread_puts_the_larger_part_below(platform):
    y = jnp.arange(2.0).reshape(1, 2, 1, 1)
    assert spread(y, (7, 1)).ravel().tolist() == [0, 0, 0, 1, 1, 1, 1]
    # One value for the whole axis is left to broadcasting: it costs nothing.
    assert spread(y[:, :1], (7, 5)).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("size", "window"), [((55, 69), (48, 49)), ((75, 61), (60, 51)), ((5, 170), (2, 150))]
)
def test_constants_stay(size, window, method):
    """A flat picture must not show a pattern."""
    x = jnp.broadcast_to(jnp.asarray([0.0, 1.0, -3.0, 0.75]), (1, *size, 4))
    mean, variance = jax.jit(lambda x: local_moments(x, window, method=method))(x)
    np.testing.assert_allclose(local_mean(x, window, method=method), x, rtol=ULP)
    np.testing.assert_allclose(mean, x, rtol=ULP)
    # The map's own mean may be an ulp off, depending on how it is compiled.
    assert variance.max() <= (4 * 3 * ULP) ** 2


@pytest.mark.parametrize("method", METHODS)
def test_error_does_not_grow_along_the_axis(method):
    """As it does in differences of totals: along a bright axis they lose ever more digits."""
    x = image((1, 40_000), mean=100.0, batch=1, channels=1)
    exact = views(np.float64(x), (1, 64)).mean(axis=(-1, -2))
    error = np.abs(window_mean(x, (1, 64), method=method) - exact).max()
    assert error <= 64 * 100 * ULP / 4  # of 64 additions, each to half an ulp of the sum so far
    assert np.abs(integral_image_sum(np.asarray(x), (1, 64)) / 64 - exact).max() > 10 * error


def statistics(x, window, method="auto"):
    options = {"window": window, "method": method}
    return window_sum(x, **options), *window_moments(x, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [104, 191, 384, 385])
def test_windows_of_the_published_sizes(k, method):
    """Whose blocks have blocks; along either axis."""
    columns = image((3, k + 21), mean=0.5, batch=1, channels=2)
    for x, window in ((columns, (2, k)), (columns.transpose(0, 2, 1, 3), (k, 2))):
        inside = views(np.float64(x), window)
        exact = tuple(f(axis=(-1, -2)) for f in (inside.sum, inside.mean, inside.var))
        ours = jax.jit(statistics, static_argnums=(1, 2))(x, window, method)
        # Products take deviations from one of the pixels, which may be three times the usual one.
        rtol = 1e-5 if method == "products" else 2e-6
        chex.assert_trees_all_close(jax.tree.map(np.float64, ours), exact, rtol=rtol)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((55, 69), (24, 24)),
        ((41, 83), (17, 50)),
        ((83, 41), (50, 1)),
        ((30, 83), (50, 17)),  # covers the rows
        ((83, 30), (17, 50)),  # covers the columns
        ((9, 170), (3, 150)),
    ],
)
def test_a_bad_pixel_spoils_the_windows_that_hold_it(size, window, method):
    """And no other window, channel or picture: these keep every bit."""
    x = image(size)
    run = jax.jit(functools.partial(statistics, window=window, method=method))
    clean = jax.device_get(run(x))
    for row, column in ((0, 0), (size[0] - 1, 7), (size[0] // 2, size[1] // 2)):
        pixel = np.zeros(x.shape, bool)
        pixel[0, row, column, 1] = True
        holds = views(pixel, window).any(axis=(-1, -2))
        assert holds.any()
        for bad in BAD:
            spoilt = np.where(pixel, np.float32(bad), x)
            for ours, before in zip(map(np.asarray, run(spoilt)), clean, strict=True):
                assert np.array_equal(ours[~holds], before[~holds])
                assert np.isfinite(bad) or not np.isfinite(ours[holds]).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("window", [(24, 24), (17, 1), (64, 40), (2, 80), None])
def test_variances_beside_a_step(window, method):
    """The map's mean says nothing of a window: halves at -level and level, deviation 0.1."""
    moments = jax.jit(functools.partial(window_moments, window=window, method=method))
    for level in (100.0, 1000.0):
        x = image((64, 96), sd=0.1, batch=1)
        x = jnp.concatenate([x[:, :, :48] - level, x[:, :, 48:] + level], axis=2)
        inside = views(np.float64(x), window)
        mean, variance = moments(x)
        np.testing.assert_allclose(variance, inside.var(axis=(-1, -2)), rtol=1e-3)
        # Of about eight merges, each to half an ulp.
        np.testing.assert_allclose(mean, inside.mean(axis=(-1, -2)), rtol=0, atol=4 * level * ULP)


@pytest.mark.parametrize("window", [(24, 24), (17, 50), (60, 9), (1, 7), None])
def test_a_corner_is_as_the_map_that_it_is(window):
    """Whatever lies beyond it; a bad pixel spoils no more of it than of that map."""
    x = image((60, 75), sd=0.1, mean=100.0)

    @jax.jit
    def of_corner(x, extent):
        return window_mean_within(x, window, extent), *window_moments_within(x, window, extent)

    def within(x, h, w):
        return jax.device_get(of_corner(x, np.array([h, w], np.int32)))

    for h, w in ((60, 75), (33, 75), (23, 51), (1, 8)):
        corner = x[:, :h, :w]
        beyond = np.ones(x.shape, bool)
        beyond[:, :h, :w] = False
        inside = views(np.float64(corner), window)
        exact = [inside.mean(axis=(-1, -2))] * 2 + [inside.var(axis=(-1, -2))]
        pixel = np.zeros(x.shape, bool)
        pixel[1, h // 2, 0, 2] = True
        holds = views(pixel[:, :h, :w], window).any(axis=(-1, -2))
        for bad in map(np.float32, BAD):
            ours = within(np.where(beyond, bad, x), h, w)
            spoilt = within(np.where(beyond | pixel, bad, x), h, w)
            for y, z, expected in zip(ours, spoilt, exact, strict=True):
                rows, columns = (
                    np.minimum(np.arange(n), m - 1)
                    for n, m in zip(y.shape[1:3], expected.shape[1:3], strict=True)
                )
                laid_out = np.s_[:, rows[:, None], columns]
                np.testing.assert_allclose(y, expected[laid_out], rtol=1e-4, atol=1e-9)
                assert np.array_equal(z[~holds[laid_out]], y[~holds[laid_out]])


@pytest.mark.parametrize("method", METHODS)
def test_a_window_of_one_pixel_costs_nothing(method):
    def operations(window):
        run = functools.partial(statistics, window=window, method=method)
        return str(jax.make_jaxpr(run)(image((9, 40))))

    assert not any(name in operations((1, 1)) for name in (" add", "reduce", "concatenate"))
    # The other axis alone.
    assert len(operations((1, 5))) < 0.7 * len(operations((5, 5)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_float32(dtype, method):
    """4560 pixels of about 100: a bfloat16 sum stands still on its way, a float16 one overflows."""
    x = image((80, 90), mean=100.0, sd=10.0, dtype=dtype)
    window = (57, 80)
    exact = around(views(np.float64(x), window).mean(axis=(-1, -2)), (80, 90), window)
    with np.errstate(over="ignore"):
        naive = float(np.add.accumulate(np.asarray(x[0, :57, :80, 0]).ravel())[-1])
    assert not 0.5 < naive / np.float64(x[0, :57, :80, 0]).sum() < 2

    ours = local_mean(x, window, method=method)
    assert ours.dtype == dtype
    # Half an ulp for the rounding of the result, and a little for the float32 sum before it.
    half = float(jnp.finfo(dtype).eps) / 2
    np.testing.assert_allclose(np.float64(ours), exact, rtol=1.01 * half)

    mean, variance = local_moments(x, window, method=method)
    assert mean.dtype == variance.dtype == dtype
    exact = around(views(np.float64(x), window).var(axis=(-1, -2)), (80, 90), window)
    np.testing.assert_allclose(np.float64(variance), exact, rtol=1.01 * half)
    assert window_mean(x, window, method=method).dtype == jnp.float32


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("window", [(24, 24), (50, 53)])
def test_variance_of_bright_flat_maps(window, method):
    """Mean 30, standard deviation 0.1: E[x^2] - E[x]^2 in float32 is off by far more than 1%."""
    x = image((55, 60), mean=30.0, sd=0.1)
    exact = around(views(np.float64(x), window).var(axis=(-1, -2)), (55, 60), window)

    def worst(variance):
        return np.abs(np.asarray(variance) / exact - 1).max()

    square, mean = (local_mean(y, window, method=method) for y in (x * x, x))
    assert worst(square - mean * mean) > 0.01
    mean, variance = local_moments(x, window, method=method)
    assert worst(variance) < 1e-5
    np.testing.assert_allclose(
        mean, around(views(np.float64(x), window).mean(axis=(-1, -2)), (55, 60), window), rtol=4e-7
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("size", "window"), [((13, 17), (4, 5)), ((59, 70), (50, 11)), ((6, 5), None)]
)
def test_gradients(size, window, method):
    """Each window hands its cotangent to its own pixels: for variances, times 2 (x - mean) / n."""
    x = image(size, mean=1.0)
    k_h, k_w = clipped(size, window)
    inside = views(np.float64(x), window)
    cotangents = np.random.default_rng(1).normal(size=inside.shape[:4])
    deviation = inside - inside.mean(axis=(-1, -2), keepdims=True)
    of_mean, of_variance = np.zeros((2, *x.shape))
    for i in range(inside.shape[1]):
        for j in range(inside.shape[2]):
            pixels = np.s_[:, i : i + k_h, j : j + k_w]
            share = cotangents[:, i, j, :, None, None] / (k_h * k_w)
            of_mean[pixels] += share.transpose(0, 2, 3, 1)
            of_variance[pixels] += (2 * share * deviation[:, i, j]).transpose(0, 2, 3, 1)

    # Back from positions to windows: the rule of the border, transposed.
    n = np.arange(np.prod(inside.shape[1:3])).reshape(1, *inside.shape[1:3], 1)
    holders = np.bincount(around(n, size, window).ravel()).reshape(1, *inside.shape[1:3], 1)
    spread_out = jnp.asarray(around(cotangents / holders, size, window), jnp.float32)

    def functions(x):
        return local_mean(x, window, method=method), *local_moments(x, window, method=method)

    back = jax.jit(lambda x, cotangents: jax.vjp(functions, x)[1](cotangents)[0])
    for which, exact in enumerate((of_mean, of_mean, of_variance)):
        unit = tuple(jnp.float32(i == which) * spread_out for i in range(3))
        ours = back(x, unit)
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    # Where the variance is clamped at zero:
    assert jnp.isfinite(back(jnp.full(x.shape, 0.3), (spread_out,) * 3)).all()


@pytest.mark.parametrize("method", METHODS)
def test_vmap_is_a_batch(method):
    x = image((30, 70), batch=3)[:, None]
    mean = functools.partial(local_mean, window=(9, 51), method=method)
    np.testing.assert_array_equal(jax.vmap(mean)(x)[:, 0], mean(x[:, 0]))


def test_one_trace_for_each_size_and_window():
    @functools.partial(jax.jit, static_argnames="window")
    @chex.assert_max_traces(n=3)
    def mean(x, window):
        return local_mean(x, window)

    for _ in range(2):
        for size, window in [((8, 9), (3, 3)), ((8, 9), (4, 3)), ((9, 8), (3, 3))]:
            mean(image(size), window)


@pytest.mark.parametrize(
    "function", [window_sum, window_mean, window_moments, local_sum, local_mean, local_moments]
)
def test_mistakes_are_named(function):
    x = image((8, 9))
    with pytest.raises(ValueError, match=r"'box'.*reduce_window, cumsum, blocks"):
        function(x, (3, 3), method="box")
    with pytest.raises(ValueError, match=r"\(N, H, W, C\), got shape \(8, 9, 3\)"):
        function(x[0], (3, 3))
    for window in ((0, 3), [3, 3], (True, 3), (3.0, 3), (3, 3, 3), 3):
        with pytest.raises(ValueError, match=rf"whole pixels, got {re.escape(repr(window))}"):
            function(x, window)
    for traced in (jnp.asarray([3, 3]), (jnp.asarray(3), 3)):
        with pytest.raises(ValueError, match=r"whole pixels, got .*Tracer"):
            jax.jit(function)(x, traced)
    for shape in ((1, 0, 5, 2), (1, 5, 0, 2)):
        with pytest.raises(ValueError, match=r"rows and columns, got shape \(1, "):
            function(jnp.zeros(shape), (3, 3))
    with pytest.raises(TypeError, match="expected floats, got uint8"):
        function(x.astype(jnp.uint8), (3, 3))
    with pytest.raises(TypeError):
        function(x, (3, 3), "cumsum")  # the method goes by name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("window", [(3, 3), (24, 17), (50, 9), None])
def test_no_pictures_give_no_results(window, method):
    x = jnp.zeros((0, 30, 40, 2))
    for function in (window_sum, window_mean, local_mean):
        one = jax.eval_shape(
            lambda x, f=function: f(x, window, method=method), jnp.ones((1, 30, 40, 2))
        )
        assert function(x, window, method=method).shape == (0, *one.shape[1:])
    assert [y.shape for y in local_moments(x, window, method=method)] == [x.shape] * 2


def test_whole_numbers_of_numpy_are_numbers():
    x = image((8, 9))
    assert np.array_equal(local_mean(x, (np.int32(3), np.int64(4))), local_mean(x, (3, 4)))


def test_a_variance_is_never_negative():
    """Rounding alone would make it so here, and its root NaN."""
    x = jnp.zeros((1, 8, 64, 1)).at[:, :, 32:].set(1000.3)
    assert (window_moments(x, (5, 7))[1] >= 0).all()
