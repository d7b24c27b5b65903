"""`localize`: functions against the same written with local operations, and what it must refuse."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import tlc_jax as tlc
from tlc_jax import localize

TRAIN = (16, 16)
SIZE = (40, 56)
# Of (24, 24) is the default; oblong ones; those that cover one axis.
WINDOWS = [None, (17, 30), (40, 24), (9, 70)]
MATRIX = jnp.asarray(np.random.default_rng(1).normal(size=(4, 4)), jnp.float32)
TEMPERATURE = jnp.asarray([0.7, 3.0])


@pytest.fixture(autouse=True)
def as_others_write():
    """What is made local here is written without regard to types and ranks, as most code is."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def picture(*shape, mean=0.3):
    return jnp.asarray(np.random.default_rng(0).normal(mean, 1, shape), jnp.float32)


def mean(x, axis=(1, 2)):
    return x.mean(axis, keepdims=True)


def gate(x):
    return jax.nn.sigmoid(jnp.einsum("...c,cd->...d", x, MATRIX))


# Channel attention in the ways that it is written, and by hand.


def squeeze_excite(x):
    return x * gate(mean(x))


def without_dimensions(x):
    return x * gate(x.mean((1, 2)))[:, None, None, :]


def one_axis_after_the_other(x):
    return x * gate(mean(mean(x, 1), 2))


def sums_then_count(x):
    return x * gate(x.sum(2).sum(1) / (x.shape[1] * x.shape[2]))[:, None, None]


def average_pool(x):
    return x * gate(nn.avg_pool(x, x.shape[1:3]))


def flattened_mean(x):
    return x * gate(x.reshape(len(x), -1, 4).mean(1))[:, None, None]


def einsum_mean(x):
    return x * gate(jnp.einsum("nhwc->nc", x) / (x.shape[1] * x.shape[2]))[:, None, None]


def local_squeeze_excite(x, window):
    return x * gate(tlc.local_mean(x, window))


# Instance norm.


def normalised(x, mean, variance):
    return (x - mean) / jnp.sqrt(variance + 1e-5)


def two_passes(x):
    return normalised(x, mean(x), mean((x - mean(x)) ** 2))


def one_pass(x):
    return normalised(x, mean(x), mean(x * x) - mean(x) ** 2)


def numpy_variance(x):
    return (x - mean(x)) * lax.rsqrt(jnp.var(x, (1, 2), keepdims=True) + 1e-5)


def each_axis_of_both_passes(x):
    m = mean(mean(x, 1), 2)
    return normalised(x, m, ((x - m) ** 2).mean(1).mean(1)[:, None, None])


def flattened_norm(x):
    y = x.reshape(len(x), -1, 4)
    return normalised(y, mean(y, 1), jnp.var(y, 1, keepdims=True)).reshape(x.shape)


def flax_norm(x):
    return nn.InstanceNorm(use_bias=False, use_scale=False, epsilon=1e-5).apply({}, x)


def flax_norm_of_two_passes(x):
    norm = nn.InstanceNorm(
        use_bias=False, use_scale=False, epsilon=1e-5, use_fast_variance=False
    )  # fmt: skip
    return norm.apply({}, x)


def local_norm(x, window):
    return normalised(x, *tlc.local_moments(x, window))


def group_norm(x):
    return nn.GroupNorm(2, use_bias=False, use_scale=False, epsilon=1e-5).apply({}, x)


def local_group_norm(x, window):
    m, v = (y.reshape(*x.shape[:3], 2, 2) for y in tlc.local_moments(x, window))
    of_group = mean(m, -1)
    y = normalised(x.reshape(m.shape), of_group, mean(v + (m - of_group) ** 2, -1))
    return y.reshape(x.shape)


def contrast(x):
    return x * gate(mean(x) + jnp.std(x, (1, 2), keepdims=True))


def local_contrast(x, window):
    m, v = tlc.local_moments(x, window)
    return x * gate(m + jnp.sqrt(v))


def of_columns(x):
    return x * jax.nn.sigmoid(mean(x, 1))


def local_of_columns(x, window):
    return x * jax.nn.sigmoid(tlc.local_mean(x, (window[0], 1)))


# Attention.


def qkv(x):
    return x, jnp.tanh(x) + 0.1 * x, 0.5 * x


def unit(x, axis):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=axis, keepdims=True), 1e-12)


def channel_attention(x):
    """As Restormer's: flattened first."""
    n, h, w, c = x.shape
    q, k, v = (y.reshape(n, h * w, 2, c // 2).transpose(0, 2, 3, 1) for y in qkv(x))
    weights = unit(q, -1) @ unit(k, -1).swapaxes(-1, -2) * TEMPERATURE[:, None, None]
    y = jax.nn.softmax(weights, -1) @ v
    return y.transpose(0, 3, 1, 2).reshape(x.shape)


def channel_attention_in_place(x):
    """Without flattening."""
    q, k, v = (y.reshape(*x.shape[:3], 2, 2) for y in qkv(x))
    q, k = (y / jnp.maximum(jnp.sqrt((y * y).sum((1, 2), keepdims=True)), 1e-12) for y in (q, k))
    weights = jnp.einsum("nhwac,nhwad->nacd", q, k) * TEMPERATURE[:, None, None]
    y = jnp.einsum("nacd,nhwad->nhwac", jax.nn.softmax(weights, -1), v)
    return y.reshape(x.shape)


def local_channel_attention(x, window):
    return tlc.transposed_attention(*qkv(x), TEMPERATURE, window)


def position_attention(x):
    q, k, v = (y.reshape(len(x), -1, 4) for y in qkv(x))
    weights = jax.nn.softmax(0.5 * jnp.einsum("nic,njc->nij", q, k), -1)
    return x + jnp.einsum("nij,njc->nic", weights, v).reshape(x.shape)


def position_attention_in_place(x):
    q, k, v = qkv(x)
    logits = 0.5 * jnp.einsum("nhwc,nijc->nhwij", q, k)
    return x + jnp.einsum("nhwij,nijc->nhwc", jax.nn.softmax(logits, (-2, -1)), v)


def local_position_attention(x, window):
    return x + tlc.spatial_attention(*qkv(x), window, scale=0.5)


# One after the other: what is pooled next is the map that came out.


def twice(x):
    y = channel_attention(x)
    return squeeze_excite(two_passes(channel_attention(squeeze_excite(y)) + x))


def local_twice(x, window):
    y = local_channel_attention(x, window)
    y = local_channel_attention(local_squeeze_excite(y, window), window) + x
    return local_squeeze_excite(local_norm(y, window), window)


def global_context(x):
    """GCNet's: positions weighed by a softmax, flattened, and so in windows that lie still."""
    n, _, _, c = x.shape
    y = x.reshape(n, -1, c)
    weights = jax.nn.softmax(y.sum(-1, keepdims=True), 1)
    return x + jnp.tanh(jnp.einsum("npc,npo->nc", y, weights))[:, None, None]


def weighed_and_summed(x):
    """The same, its softmax made first and summed by hand."""
    n, h, w, _ = x.shape
    weights = jax.nn.softmax(x.reshape(n, h * w, -1).sum(-1, keepdims=True), 1)
    return x + jnp.tanh((weights.reshape(n, h, w, 1) * x).sum((1, 2)))[:, None, None]


def median(x):
    """What sorts flattened positions leaves them no place, but they have a middle."""
    return x - jnp.median(x.reshape(len(x), -1, 4), 1)[:, None, None]


def linear_attention(x):
    """Two sums over positions, of which one divides the other."""
    q, k, v = (y.reshape(len(x), -1, 4) for y in qkv(x))
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    total = jnp.einsum("npc,nc->np", q, k.sum(1))
    y = jnp.einsum("npc,ncd->npd", q, jnp.einsum("npc,npd->ncd", k, v))
    return (y / (total[..., None] + 1e-6)).reshape(x.shape)


def in_tiles(fn):
    """A function in the windows that cover the picture, averaged where they overlap."""

    def of_windows(x, window):
        parts = fn(tlc.ops.extract_windows(x, window))
        return tlc.ops.average_windows(parts, x.shape[1:3])

    return of_windows


def added_context(x):
    """What statistics are added to is a new map, and so its own mean is that of the map."""
    y = jax.nn.relu(x + jnp.tile(gate(mean(x)), (1, *x.shape[1:3], 1)))
    return y * gate(mean(y)) + jax.image.resize(mean(x), x.shape, "bilinear")


def local_added_context(x, window):
    y = jax.nn.relu(x + gate(tlc.local_mean(x, window)))
    return y * gate(tlc.local_mean(y, window)) + tlc.local_mean(x, window)


def selected(x):
    """Maps stacked, and a choice among them by their means."""
    both = jnp.stack([x, jnp.tanh(x)], -1)
    weights = jax.nn.softmax(both.mean((1, 2), keepdims=True), -1)
    return (both * weights).sum(-1)


def local_selected(x, window):
    means = jnp.stack([tlc.local_mean(y, window) for y in (x, jnp.tanh(x))], -1)
    weights = jax.nn.softmax(means, -1)
    return x * weights[..., 0] + jnp.tanh(x) * weights[..., 1]


def rows_and_columns(x):
    return x * (jnp.tanh(mean(x, 1)) + mean(x, 2) - mean(x))


def local_rows_and_columns(x, window):
    h, w = window
    rows, columns = (tlc.local_mean(x, of) for of in ((h, 1), (1, w)))
    return x * (jnp.tanh(rows) + columns - tlc.local_mean(x, window))


def scaled_and_shifted(x):
    """A variance whose parts come in another order."""
    away = 1 - 2 * (mean(x) - x).transpose(0, 3, 1, 2)
    return x * gate((away * away).mean((2, 3)))[:, None, None]


def local_scaled_and_shifted(x, window):
    return x * gate(1 + 4 * tlc.local_moments(x, window)[1])


BY_HAND = {
    local_twice: (twice,),
    in_tiles(global_context): (global_context, weighed_and_summed),
    in_tiles(median): (median,),
    in_tiles(linear_attention): (linear_attention,),
    local_added_context: (added_context,),
    local_selected: (selected,),
    local_rows_and_columns: (rows_and_columns,),
    local_scaled_and_shifted: (scaled_and_shifted,),
    local_squeeze_excite: (
        squeeze_excite, without_dimensions, one_axis_after_the_other, sums_then_count,
        average_pool, flattened_mean, einsum_mean, jax.jit(squeeze_excite),
        jax.checkpoint(squeeze_excite),
    ),
    local_norm: (
        two_passes, one_pass, numpy_variance, each_axis_of_both_passes, flattened_norm, flax_norm,
        flax_norm_of_two_passes,
    ),
    local_group_norm: (group_norm,),
    local_contrast: (contrast,),
    local_of_columns: (of_columns,),
    local_channel_attention: (channel_attention, channel_attention_in_place),
    local_position_attention: (position_attention, position_attention_in_place),
}  # fmt: skip
CASES = [(fn, local) for local, functions in BY_HAND.items() for fn in functions]
NAMES = [getattr(fn, "__name__", "jit") for fn, _ in CASES]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(("fn", "by_hand"), CASES, ids=NAMES)
def test_as_written_by_hand(fn, by_hand, window):
    x = picture(2, *SIZE, 4)
    clipped = tuple(map(min, window or (24, 24), SIZE))
    exact = by_hand(x, clipped)
    ours = jax.jit(localize(fn, TRAIN, window=window))(x)
    assert ours.dtype == x.dtype and ours.shape == x.shape
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-5)
    if clipped != (40, 24) or by_hand is not local_of_columns:
        assert np.abs(fn(x) - exact).max() > 1e-3  # not what it is on the whole picture


@pytest.mark.parametrize(
    "fn",
    [squeeze_excite, flattened_mean, two_passes, flax_norm, channel_attention, position_attention],
)
def test_gradients_are_those_by_hand(fn):
    by_hand = dict(CASES)[fn]
    x = picture(1, *SIZE, 4)

    def gradient(of):
        return jax.jit(jax.grad(lambda x: jnp.square(of(x)).mean()))(x)

    ours, exact = gradient(localize(fn, TRAIN)), gradient(lambda x: by_hand(x, (24, 24)))
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


@pytest.mark.parametrize("fn", [squeeze_excite, two_passes, channel_attention])
def test_vmap_is_a_batch(fn):
    x = picture(3, 1, *SIZE, 4)
    local = localize(fn, TRAIN)
    np.testing.assert_allclose(jax.jit(jax.vmap(local))(x)[:, 0], local(x[:, 0]), atol=1e-5)


def test_a_window_that_covers_the_picture_is_the_function_itself():
    x = picture(1, *SIZE, 4)
    calls = []

    def fn(x):
        calls.append(x)
        return x.max((1, 2))  # which has no local form

    assert np.array_equal(localize(fn, (30, 40))(x), fn(x))
    assert calls[0] is x


def test_variance_of_bright_flat_maps():
    """Each window has its own mean, before it is squared: nothing is lost to the mean of all."""
    noise = picture(1, *SIZE, 4, mean=0)
    x = 0.1 * noise + jnp.where(jnp.arange(SIZE[1]) < 28, 100.0, -100.0)[:, None]
    ours = localize(lambda x: x + 0 * x + jnp.var(x, (1, 2), keepdims=True) - x, TRAIN)(x)
    wide = np.asarray(x, np.float64)
    for column in (0, 10, 46):
        begin = min(max(column - 11, 0), 32)
        exact = wide[:, 8:32, begin : begin + 24].var((1, 2))
        np.testing.assert_allclose(ours[:, 19, column], exact, rtol=0.05, atol=2e-5)


# Networks of one's own, in the frameworks that there are.


class Plain(nn.Module):
    """A small U-Net: NAFNet's blocks, HINet's or Restormer's, as one writes them in Linen."""

    kind: str
    window: tuple[int, int] | None = None  # of the picture, for the local one by hand

    @nn.compact
    def __call__(self, image):
        x = nn.Conv(8, (3, 3))(image)
        skip = x = self.block(x, 1, "high")
        x = nn.Conv(16, (2, 2), 2)(x)
        x = self.block(x, 2, "low")
        x = nn.Conv(32, (1, 1), use_bias=False)(x)
        n, h, w, c = x.shape
        x = x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(n, 2 * h, 2 * w, c // 4) + skip
        return image + nn.Conv(3, (3, 3))(x)

    def block(self, x, stride, name):
        window = self.window and tuple(n // stride for n in self.window)
        c = x.shape[-1]
        y = nn.LayerNorm(name=f"{name}_norm", use_fast_variance=False)(x)
        if self.kind == "nafnet":
            y = nn.Conv(2 * c, (1, 1), name=f"{name}_conv1")(y)
            y = nn.Conv(2 * c, (3, 3), feature_group_count=2 * c, name=f"{name}_conv2")(y)
            y = y[..., :c] * y[..., c:]
            pooled = tlc.local_mean(y, window) if window else mean(y)
            return x + y * nn.Conv(c, (1, 1), name=f"{name}_sca")(pooled)
        if self.kind == "hinet":
            y = nn.Conv(c, (3, 3), name=f"{name}_conv1")(y)
            first, second = jnp.split(y, 2, -1)
            first = local_norm(first, window) if window else flax_norm_of_two_passes(first)
            y = nn.leaky_relu(jnp.concatenate([first, second], -1), 0.2)
            return x + nn.Conv(c, (3, 3), name=f"{name}_conv2")(y)
        q, k, v = jnp.split(nn.Dense(3 * c, name=f"{name}_qkv")(y), 3, -1)
        if window:
            y = tlc.transposed_attention(q, k, v, TEMPERATURE, window)
        else:
            n, h, w, _ = q.shape
            q, k, v = (y.reshape(n, h * w, 2, -1).transpose(0, 2, 3, 1) for y in (q, k, v))
            weights = unit(q, -1) @ unit(k, -1).swapaxes(-1, -2) * TEMPERATURE[:, None, None]
            y = (nn.softmax(weights) @ v).transpose(0, 3, 1, 2).reshape(n, h, w, c)
        x = x + nn.Dense(c, name=f"{name}_out")(y)
        return x + nn.Dense(c, name=f"{name}_ffn")(nn.gelu(nn.LayerNorm(name=f"{name}_n2")(x)))


@pytest.mark.parametrize("window", [None, (24, 36), (40, 24)], ids=str)
@pytest.mark.parametrize("kind", ["nafnet", "hinet", "restormer"])
def test_linen(kind, window):
    image = picture(2, *SIZE, 3)
    model = Plain(kind)
    variables = model.init(jax.random.key(0), image)
    by_hand = model.clone(window=window or (24, 24))
    exact = jax.jit(by_hand.apply)(variables, image)
    ours = jax.jit(localize(model.apply, TRAIN, window=window))(variables, image)
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-5 * np.std(exact))
    assert np.abs(model.apply(variables, image) - exact).max() > 1e-3


def test_gradients_of_parameters():
    image = picture(1, *SIZE, 3)
    model = Plain("restormer")
    variables = model.init(jax.random.key(0), image)

    def gradient(apply):
        return jax.jit(jax.grad(lambda v: jnp.square(apply(v, image)).mean()))(variables)

    ours = gradient(localize(model.apply, TRAIN))
    exact = gradient(model.clone(window=(24, 24)).apply)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1e-2, np.abs(b).max()))


@pytest.mark.parametrize("name", ["nafnet", "baseline", "hinet"])
@pytest.mark.parametrize("size", [(40, 56), (37, 53)], ids=str)
def test_named_networks_from_their_global_form(random_params, name, size):
    """Also where they pad the picture to a multiple, and cut the result."""
    model = {
        "nafnet": tlc.NAFNet(8, (1, 1), 1, (1, 1), train_size=TRAIN),
        "baseline": tlc.Baseline(8, (1, 1), 1, (1, 1), train_size=TRAIN),
        "hinet": tlc.HINet(8, 3, 0, 2, train_size=(32, 32), window=(32, 32)),
    }[name]
    variables, image = {"params": random_params(model)}, picture(1, *size, 3)
    exact = jax.jit(model.clone(local_mode=True).apply)(variables, image)
    local = localize(model.apply, model.train_size, window=model.window)
    ours = jax.jit(local)(variables, image)
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-5 * np.std(exact))


def test_equinox():
    class Block(eqx.Module):
        conv: eqx.nn.Conv2d
        dense: eqx.nn.Linear

        def __call__(self, image):  # (C, H, W)
            x = jax.nn.relu(self.conv(image))
            return image + x * jax.nn.sigmoid(self.dense(x.mean((1, 2))))[:, None, None]

    first, second = jax.random.split(jax.random.key(0))
    block = Block(eqx.nn.Conv2d(4, 4, 3, padding=1, key=first), eqx.nn.Linear(4, 4, key=second))
    image = picture(4, *SIZE)

    def by_hand(image):
        x = jax.nn.relu(block.conv(image))
        pooled = tlc.local_mean(jnp.moveaxis(x, 0, -1)[None], (24, 24))[0]
        weights = jax.nn.sigmoid(pooled @ block.dense.weight.T + block.dense.bias[None, None])
        return image + x * jnp.moveaxis(weights, -1, 0)

    ours = jax.jit(localize(block, TRAIN))(image)
    np.testing.assert_allclose(ours, by_hand(image), atol=1e-5)
    batch = jnp.stack([image, image[:, ::-1]])
    local = localize(jax.vmap(block), TRAIN, axes=(2, 3))
    np.testing.assert_allclose(local(batch)[0], ours, atol=1e-5)


def test_nnx():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)
            self.attention = nnx.Linear(4, 4, rngs=rngs)

        def __call__(self, image, pool=mean):
            x = nnx.relu(self.conv(image))
            return image + x * nnx.sigmoid(self.attention(pool(x)))

    block, image = Block(nnx.Rngs(0)), picture(2, *SIZE, 4)
    exact = block(image, functools.partial(tlc.local_mean, window=(24, 24)))
    np.testing.assert_allclose(localize(block, TRAIN)(image), exact, atol=1e-5)
    jitted = nnx.jit(lambda block, image: localize(block, TRAIN)(image))
    np.testing.assert_allclose(jitted(block, image), exact, atol=1e-5)


def test_channels_first():
    x = picture(2, *SIZE, 4)
    fn = jax.vmap(lambda x: x * gate(x.mean((1, 2)))[:, None, None])
    ours = jax.jit(localize(fn, TRAIN, axes=(2, 3)))(jnp.moveaxis(x, -1, 1))
    exact = local_squeeze_excite(x, (24, 24))
    np.testing.assert_allclose(jnp.moveaxis(ours, 1, -1), exact, atol=1e-5)


def test_columns_first():
    x = picture(2, *SIZE, 4)
    for fn, by_hand in ((numpy_variance, local_norm), (channel_attention, local_channel_attention)):
        turned = localize(fn, (16, 20), axes=(2, 1))(x.swapaxes(1, 2)).swapaxes(1, 2)
        np.testing.assert_allclose(turned, by_hand(x, (24, 30)), atol=1e-5)


def test_the_picture_is_any_argument():
    x = picture(2, *SIZE, 4)

    def fn(x, scale, *, shift):
        return {"out": scale * squeeze_excite(x) + shift, "in": (x, scale)}

    local = localize(fn, TRAIN, argnum=0)
    assert local.__name__ == "fn"
    result = local(x, jnp.float32(2.0), shift=1.0)
    exact = 2 * local_squeeze_excite(x, (24, 24)) + 1
    np.testing.assert_allclose(result["out"], exact, atol=1e-5)
    assert np.array_equal(result["in"][0], x) and result["in"][1] == 2


def test_layers_in_a_loop():
    """A scan over layers goes through, as it carries a map from one to the next."""
    x, factors = picture(2, *SIZE, 4), jnp.asarray([0.5, 2.0, -1.0])

    def fn(x, of_layer=squeeze_excite):
        return lax.scan(lambda x, factor: (of_layer(factor * x), x.mean(-1)), x, factors)

    ours = jax.jit(localize(fn, TRAIN))(x)
    exact = fn(x, functools.partial(local_squeeze_excite, window=(24, 24)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), ours, exact)


def test_neighbours_are_left_as_they_are():
    """Pooling, padding, resizing and strides are local already."""

    def fn(x, attend=squeeze_excite):
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        x = nn.avg_pool(attend(x[:, 1:-1, 1:-1]), (2, 2), (2, 2))
        x = x + jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)), mode="edge")[:, :-1]
        x = attend(nn.max_pool(x, (3, 3), padding="SAME"))
        y = jax.image.resize(x, (len(x), *(2 * n for n in x.shape[1:3]), 4), "bilinear")
        z = jax.image.resize(x, y.shape, "nearest")
        return attend(y + jnp.repeat(jnp.repeat(x[:, ::1], 2, 1), 2, 2)) - z

    x = picture(1, *SIZE, 4)

    def by_hand(x):
        window = tuple(n * 3 // 5 if n == 40 else n * 3 // 7 for n in x.shape[1:3])
        return local_squeeze_excite(x, {20: (12, 12), 40: (24, 24)}.get(x.shape[1], window))

    np.testing.assert_allclose(localize(fn, TRAIN)(x), fn(x, by_hand), atol=1e-5)


def test_a_bad_pixel_stays_in_its_windows():
    x = picture(1, *SIZE, 4)
    clean = {}
    for fn in (squeeze_excite, two_passes, channel_attention, position_attention):
        local = jax.jit(localize(fn, (6, 6)))
        clean = local(x)
        spoilt = local(x.at[0, 3, 4].set(jnp.nan))
        far = np.s_[:, 13:, 14:]
        np.testing.assert_allclose(spoilt[far], clean[far], atol=1e-6)
        assert np.isnan(spoilt[0, 3, 4]).all()


# What has no local form must not pass for one.


def centred(x):
    return x - mean(x)


def grid_mixing(x):
    n, h, w, c = x.shape
    cells = x.reshape(n, 4, h // 4, w, c)
    return jnp.einsum("ngiwc,gk->nkiwc", cells, MATRIX).reshape(x.shape)


def along(matrix):
    """Rows joined by a matrix as large as the picture."""
    return lambda x: jnp.einsum("nhwc,hk->nkwc", x, matrix(jnp.arange(x.shape[1], dtype=x.dtype)))


REFUSED = {
    "the maximum": lambda x: x * x.max((1, 2), keepdims=True),
    "the maximum of an axis": lambda x: x * x.max(2, keepdims=True),
    "where the maximum is": lambda x: x * jnp.argmax(x, 1, keepdims=True).astype(x.dtype),
    "the product": lambda x: x * x.prod((1, 2), keepdims=True),
    "softmax over positions": lambda x: x + mean(jax.nn.softmax(x, (1, 2)) * x),
    "sorting": lambda x: jnp.sort(x, 1),
    "cumulative sums": lambda x: jnp.cumsum(x, 2),
    "Fourier": lambda x: jnp.fft.fft2(x, axes=(1, 2)).real,
    "a scan that carries a statistic": lambda x: x * lax.scan(
        lambda c, w: (jnp.tanh(c * w), None), mean(x), jnp.ones(3))[0],
    "a while loop": lambda x: lax.while_loop(lambda c: c.sum() > 1e9, lambda c: c / 2, x),
    "a choice by a statistic": lambda x: lax.cond(x.mean() > 0, jnp.sin, jnp.cos, x),
    "a scan along rows": lambda x: lax.scan(
        lambda c, row: (c + row, c), jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))[1],
    "equations by size": lambda x: jnp.sin(x) if x.shape[1] > 30 else x,
    "as many equations as rows": lambda x: sum((x for _ in range(x.shape[1])), x),
    "divided by the count before": lambda x: x * mean(x / (x.shape[1] * x.shape[2])),
    "scaled by the size": lambda x: x * (x.shape[1] / 100),
    "where in the picture": lambda x: x * jnp.linspace(0, 1, x.shape[1])[:, None, None],
    "noise": lambda x: squeeze_excite(x + jax.random.normal(jax.random.key(0), x.shape)),
    "mean absolute deviation": lambda x: x * mean(jnp.abs(centred(x))),
    "scaled mean absolute deviation": lambda x: x * mean(jnp.abs(centred(x)) * mean(x)),
    "skewness": lambda x: x * mean(centred(x) ** 3),
    "the positive part": lambda x: x * mean(jax.nn.relu(centred(x))),
    "covariance": lambda x: x * mean(centred(x) * centred(jnp.tanh(x))),
    "a sum by channels first": lambda x: x * mean(jnp.abs(centred(x)).sum(-1, keepdims=True)),
    "only a statistic": lambda x: x.mean((1, 2)),
    "a statistic besides": lambda x: (x, x.mean()),
    "upside down": lambda x: x + x[:, ::-1],
    "indices upside down": lambda x: x + jnp.take(x, jnp.arange(x.shape[1])[::-1], axis=1),
    "around": lambda x: x + jnp.roll(x, 3, 1),
    "halves": lambda x: x[:, : x.shape[1] // 2] + x[:, x.shape[1] // 2 :],
    "a corner": lambda x: x - x[:, :1, :1],
    "the middle": lambda x: x - x[:, x.shape[1] // 2][:, None],
    "a grid": grid_mixing,
    "a cosine transform": along(lambda n: jnp.cos(jnp.outer(n, n))),
    "an antidiagonal": along(lambda n: jnp.eye(len(n))[::-1]),
    "weights by place": lambda x: x * jnp.einsum(
        "nhwc,h->nwc", x, jax.nn.softmax(jnp.linspace(-1, 1, x.shape[1])))[:, None],
    "a kernel of the picture": lambda x: lax.conv_general_dilated(
        x, (mean(x)[0] * MATRIX)[None], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
    "dilation by the size": lambda x: lax.conv_general_dilated(
        x, jnp.ones((3, 3, 4, 4)), (1, 1), "SAME", rhs_dilation=(x.shape[1] // 8, 1),
        dimension_numbers=("NHWC", "HWIO", "NHWC")),
    "two resolutions": lambda x: x * (mean(nn.avg_pool(x, (2, 2), (2, 2))) + mean(x)),
    "another resolution": lambda x: x * mean(nn.avg_pool(x, (2, 2), (2, 2))),
    "counting": lambda x: x * (x > 0).sum((1, 2), keepdims=True).astype(x.dtype),
    "adaptive pooling": lambda x: x.reshape(
        len(x), 2, x.shape[1] // 2, 2, x.shape[2] // 2, 4).mean((2, 4)),
    "sorted positions": lambda x: jnp.sort(x.reshape(len(x), -1, 4), 1).reshape(x.shape),
    "side by side": lambda x: jnp.tile(x, (1, 2, 1, 1)),
    "other results by size": lambda x: x * gate(mean(x)) if x.shape[1] * x.shape[2] > 2000 else x,
    "an assertion": lambda x: squeeze_excite(x) if x.shape[1:3] == SIZE else 1 / 0,
    "one size only": lambda x: x * jnp.ones((1, *SIZE, 1)),
    "written to": lambda x: x.at[:, 0].set(0),
    "a callback": lambda x: jax.pure_callback(lambda x: x, x, x),
    "in a layer of a loop": lambda x: lax.scan(
        lambda x, _: (x * x.max((1, 2), keepdims=True), None), x, length=2)[0],
}  # fmt: skip

OF_COLUMNS = {"the maximum of an axis", "cumulative sums"}
OF_ROWS = {
    "where the maximum is", "sorting", "equations by size", "scaled by the size",
    "where in the picture", "indices upside down", "a cosine transform", "an antidiagonal",
}  # fmt: skip


@pytest.mark.parametrize("window", [(24, 24), (24, 56), (40, 24)], ids=str)
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, window):
    fn, x = REFUSED[name], picture(2, *SIZE, 4)
    jax.eval_shape(fn, x)
    # What happens along an axis that the window covers is as it is.
    if (window == (40, 24) and name in OF_ROWS) or (window == (24, 56) and name in OF_COLUMNS):
        localize(fn, TRAIN, window=window)(x)
        return
    with pytest.raises(tlc.LocalizeError) as error:
        jax.eval_shape(localize(fn, TRAIN, window=window), x)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_the_line_is_named():
    def inner(x):
        return x.max((1, 2), keepdims=True)  # this one

    def fn(x):
        return jax.jit(lambda x: x * inner(x))(x)

    line = inner.__code__.co_firstlineno + 1
    with pytest.raises(
        tlc.LocalizeError, match=rf"reduce_max at test_localize.py:{line}\b.*positions"
    ):
        localize(fn, TRAIN)(picture(1, *SIZE, 4))


def test_a_window_that_the_function_pads_is_refused():
    def fn(x):
        _, h, w, _ = x.shape
        x = jnp.pad(x, ((0, 0), (0, -h % 8), (0, -w % 8), (0, 0)))
        return squeeze_excite(x)[:, :h, :w]

    x = picture(1, 37, 53, 4)
    padded = jnp.pad(x, ((0, 0), (0, 3), (0, 3), (0, 0)))
    exact = local_squeeze_excite(padded, (24, 24))[:, :37, :53]
    np.testing.assert_allclose(localize(fn, TRAIN)(x), exact, atol=1e-5)
    with pytest.raises(tlc.LocalizeError, match="window that is a multiple"):
        localize(fn, TRAIN, window=(20, 24))(x)


def test_empty_batches_and_types():
    x = picture(2, *SIZE, 4)
    local = localize(lambda x: x * jax.nn.sigmoid(mean(x)), TRAIN)
    assert local(x[:0]).shape == (0, *SIZE, 4)
    exact = local(x)
    np.testing.assert_allclose(local(np.asarray(x)), exact, atol=1e-6)
    for dtype in (jnp.bfloat16, jnp.float16):
        half = local(x.astype(dtype))
        assert half.dtype == dtype
        np.testing.assert_allclose(np.float32(half), exact, atol=0.03)


def test_bad_arguments():
    x = picture(1, *SIZE, 4)
    for train_size in ([16, 16], (16,), (0, 16), 16, (16.0, 16)):
        with pytest.raises(ValueError, match="train_size is a tuple"):
            localize(squeeze_excite, train_size)
    with pytest.raises(ValueError, match="window is a tuple"):
        localize(squeeze_excite, TRAIN, window=[24, 24])
    with pytest.raises(TypeError, match="takes a function, got 3"):
        localize(3, TRAIN)
    for axes in ((1, 7), (1, 1), (1, -3), (1, 2, 3)):
        with pytest.raises(ValueError, match="no rows and columns"):
            localize(squeeze_excite, TRAIN, axes=axes)(x)
    with pytest.raises(ValueError, match="argument 1 is to be the image, but 1 were passed"):
        localize(squeeze_excite, TRAIN, argnum=1)(x)
    with pytest.raises(TypeError, match="an array, got dict"):
        localize(squeeze_excite, TRAIN)({"image": x})
