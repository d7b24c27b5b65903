"""Windows that a network gives to its sites while it runs, whatever Flax and JAX make of it."""

import concurrent.futures
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tlc_jax as tlc
from tlc_jax import ops
from tlc_jax.inference.buckets import forward_within
from tlc_jax.inference.sites import at_sites
from tlc_jax.layers import Conv1x1, LocalPool
from tlc_jax.layers.network import _maps_of_a_crop, abstract_params

SIZE = (20, 27)


def photo(*size, channels=3):
    return np.random.default_rng(0).random((*size, channels), np.float32)


class Gate(nn.Module):
    """A map weighed by its means: the smallest block around a site."""

    @nn.compact
    def __call__(self, x):
        pooled = LocalPool(name="pool")(x)
        return x * ops.spread(Conv1x1(x.shape[-1], name="conv")(pooled), x.shape[1:3])


class Twice(tlc.Network):
    """One gate that two scales share."""

    multiple = 2

    @nn.compact
    def forward(self, image):
        gate = Gate(name="gate")
        half = gate(image[:, ::2, ::2])
        return gate(image) + half.repeat(2, axis=1).repeat(2, axis=2)


class Stack(tlc.Network):
    """Three gates, one after the other as they are, saved to be made anew, or in a loop."""

    way: str = "plain"

    @nn.compact
    def forward(self, image):
        if self.way == "scan":

            def step(gate, x, _):
                return gate(x), None

            loop = nn.scan(step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return loop(Gate(name="gates"), image, None)[0]
        block = nn.remat(Gate) if self.way == "remat" else Gate
        for i in range(3):
            image = block(name=f"gate_{i}")(image)
        return image


class Pair(tlc.Network):
    """A gate, then a network in the network."""

    inner: nn.Module = Twice(train_size=(4, 4))

    @nn.compact
    def forward(self, image):
        return self.inner(Gate(name="gate")(image))


SHARED = Twice(train_size=(8, 8))
STACK = Stack(train_size=(6, 8))


def start(model, size=(16, 16)):
    return jax.jit(model.init)(jax.random.key(0), photo(*size)[None])["params"]


def windows(model, size=SIZE):
    return [(site.name, site.size, site.window) for site in tlc.sites(model, size)]


def gated(x, params, window):
    """What `Gate` is, by the operation alone."""
    conv = params["conv"]
    return x * (ops.local_mean(x, window) @ conv["kernel"][0, 0] + conv["bias"][None, None, None])


def test_a_site_of_two_scales_has_a_window_for_each():
    local = SHARED.clone(local_mode=True)
    assert windows(local) == [("gate/pool", (10, 14), (6, 6)), ("gate/pool", (20, 28), (12, 12))]
    params, image = start(SHARED), jnp.asarray(photo(20, 28)[None])
    half = gated(image[:, ::2, ::2], params["gate"], (6, 6)).repeat(2, axis=1).repeat(2, axis=2)
    expected = gated(image, params["gate"], (12, 12)) + half
    np.testing.assert_allclose(local.apply({"params": params}, image), expected, atol=1e-5)


@pytest.mark.parametrize("way", ["plain", "remat", "scan"])
@pytest.mark.parametrize("jit", [False, True])
def test_gradients_through_loops_and_what_is_made_anew(way, jit):
    model = STACK.clone(way=way, local_mode=True)
    image = jnp.asarray(photo(*SIZE)[None])
    params = start(model)
    gates = [params.get(f"gate_{i}") for i in range(3)]
    if way == "scan":
        gates = [jax.tree.map(lambda x, i=i: x[i], params["gates"]) for i in range(3)]

    def expected(image):
        return functools.reduce(lambda x, gate: gated(x, gate, (9, 12)), gates, image)

    def restored(image):
        return model.apply({"params": params}, image)

    ours = jax.value_and_grad(lambda x: jnp.square(restored(x)).sum())
    theirs = jax.value_and_grad(lambda x: jnp.square(expected(x)).sum())
    ours = jax.jit(ours) if jit else ours
    for one, other in zip(ours(image), theirs(image), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())
    assert {window for *_, window in windows(model)} == {(9, 12)}


def test_vmap():
    local, params = SHARED.clone(local_mode=True), start(SHARED)
    images = jnp.asarray(np.stack([photo(*SIZE), photo(*SIZE)[::-1]]))
    mapped = jax.vmap(lambda one: local.apply({"params": params}, one[None])[0])(images)
    np.testing.assert_allclose(mapped, local.apply({"params": params}, images), atol=1e-5)


def test_as_an_nnx_module():
    local, image = SHARED.clone(local_mode=True), jnp.asarray(photo(*SIZE)[None])
    module = nnx.bridge.ToNNX(local, rngs=nnx.Rngs(0)).lazy_init(image)
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    np.testing.assert_allclose(module(image), local.apply({"params": params}, image), atol=1e-6)


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_a_network_in_a_network(outer, inner):
    """Each gives windows to its own sites; what is left global by the inner one, the outer does."""
    model = Pair(
        inner=Twice(train_size=(4, 4), local_mode=inner), train_size=(8, 8), local_mode=outer
    )
    own = (12, 12) if outer else (20, 28)
    whole = ((6, 6), (12, 12)) if outer else ((10, 14), (20, 28))
    halves, wholes = ((3, 3), (6, 6)) if inner else whole
    assert windows(model, (20, 28)) == [
        ("gate/pool", (20, 28), own),
        ("inner/gate/pool", (10, 14), halves),
        ("inner/gate/pool", (20, 28), wholes),
    ]


def test_a_network_in_another_module():
    class Both(nn.Module):
        @nn.compact
        def __call__(self, image):
            return SHARED.clone(local_mode=True, name="deep", parent=self)(image) + image

    image = photo(*SIZE)[None]
    params = start(Both())
    alone = SHARED.clone(local_mode=True).apply({"params": params["deep"]}, image)
    np.testing.assert_allclose(Both().apply({"params": params}, image), alone + image, atol=1e-6)


def test_threads():
    """Each has its own interceptors; what they find out of a crop serves all."""
    _maps_of_a_crop.cache_clear()
    params, image = start(SHARED), photo(*SIZE)[None]
    models = [SHARED.clone(local_mode=True, window=(2 + i, 9)) for i in range(8)]

    def restored(model):
        return jax.jit(model.apply)({"params": params}, image)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(restored, models))
    for model, ours in zip(models, together, strict=True):
        np.testing.assert_array_equal(ours, restored(model))


def test_a_crop_is_traced_once_and_only_where_it_has_to():
    _maps_of_a_crop.cache_clear()
    crops = lambda: _maps_of_a_crop.cache_info().misses  # noqa: E731
    params, image = start(SHARED), photo(*SIZE)
    tlc.restore(SHARED, params, image)
    abstract_params(SHARED.clone(local_mode=True))
    assert crops() == 0
    for fields in ({}, {"window": (3, 5)}, {"dtype": jnp.bfloat16}):
        local = SHARED.clone(local_mode=True, **fields)
        for size in (SIZE, (9, 30)):
            tlc.restore(local, params, photo(*size))
            windows(local, size)
    assert crops() == 1
    windows(SHARED.clone(local_mode=True, train_size=(4, 8)))
    assert crops() == 2


def test_one_trace_for_each_size_and_mode():
    params = start(SHARED)

    @functools.partial(jax.jit, static_argnames="model")
    @chex.assert_max_traces(4)
    def forward(model, image):
        return model.apply({"params": params}, image)

    for local_mode in (False, True, False, True):
        for size in (SIZE, (9, 30)):
            forward(SHARED.clone(local_mode=local_mode), photo(*size)[None])


def test_what_surrounds_a_network_does_not_see_the_crop():
    _maps_of_a_crop.cache_clear()
    local, params, image = SHARED.clone(local_mode=True), start(SHARED), photo(*SIZE)[None]
    seen = []

    def look(call, args, kwargs, context):
        if isinstance(context.module, LocalPool):
            seen.append(args[0].shape[1:3])
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        _, kept = local.apply({"params": params}, image, capture_intermediates=True)
    assert seen == [(10, 14), (20, 28)]
    pooled = kept["intermediates"]["gate"]["pool"]["__call__"]
    assert [x.shape[1:3] for x in pooled] == [(5, 9), (9, 17)]


def test_sites_are_shown_with_their_windows():
    params, image = start(SHARED), photo(*SIZE)[None]
    shown = []
    with at_sites(lambda name, layer, args, window: shown.append((name, layer.site, window))):
        SHARED.clone(local_mode=True).apply({"params": params}, image)
        SHARED.apply({"params": params}, image)
    given = [("gate/pool", "mean", window) for window in ((6, 6), (12, 12), None, None)]
    assert shown == given


def test_a_window_that_is_given_by_hand_stays():
    class ByHand(tlc.Network):
        @nn.compact
        def forward(self, image):
            return LocalPool(name="own")(image, window=(2, 3))

    assert windows(ByHand(local_mode=True)) == [("own", SIZE, (2, 3))]


def test_a_site_that_no_crop_comes_to_is_refused():
    class Large(tlc.Network):
        @nn.compact
        def forward(self, image):
            return image * LocalPool()(image) if image.shape[1] > 100 else image

    with pytest.raises(ValueError, match="LocalPool_0: this site does not run on a training crop"):
        windows(Large(local_mode=True, train_size=(32, 32)), (200, 200))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train_size": (0, 8)}, r"train_size is a tuple .* whole pixels, got \(0, 8\)"),
        ({"window": (2.5, 8)}, r"window is a tuple .* whole pixels, got \(2.5, 8\)"),
    ],
)
def test_what_no_windows_can_be_made_of(fields, words):
    with pytest.raises(ValueError, match=words):
        windows(Pair(local_mode=True).clone(**fields))


# What a network takes and gives


@pytest.mark.parametrize(
    ("model", "takes", "scale", "channels"),
    [
        (tlc.NAFNet(), "pictures", 1, 3),
        (tlc.Restormer(inp_channels=1, out_channels=1), "pictures", 1, 1),
        (tlc.Restormer(inp_channels=6), "pairs", 1, 3),
        (tlc.NAFSSR(2), "pairs", 2, 6),
        (tlc.RNNMBP(), "clips", 1, 3),
        (Twice(inp_channels=4), "arrays", 1, 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_networks_say_what_they_are_for(model, takes, scale, channels):
    assert (model.takes, model.scale, model.out_channels) == (takes, scale, channels)
    shape = (1, 5, 7, 9, 3) if takes == "clips" else (1, 7, 9, model.inp_channels)
    assert model.example_input((7, 9)).shape == shape


def test_a_network_that_derives_from_one_with_buckets_has_none():
    class Farther(tlc.NAFNet):
        pass

    class Told(tlc.NAFNet):
        buckets = True

    assert tlc.NAFNet().has_buckets and tlc.Baseline().has_buckets and Told().has_buckets
    assert not Farther().has_buckets and not tlc.MPRNet().has_buckets
    with pytest.raises(ValueError, match="Farther has no buckets"):
        tlc.restore(Farther(4, (1,), 0, (1,)), {}, photo(*SIZE), bucket=(30, 30))


# Padding

PADDED = {
    "restormer": tlc.Restormer(
        dim=4, num_blocks=(1, 0, 0, 1), num_refinement_blocks=0, heads=(1, 2, 4, 8),
        train_size=(16, 16), padding="end",
    ),
    "mprnet": tlc.MPRNet(8, 4, 4, num_cab=1, reduction=2, train_size=(16, 16), padding="end"),
}  # fmt: skip


@pytest.mark.parametrize("local_mode", [False, True])
@pytest.mark.parametrize("name", PADDED)
def test_padding_at_the_end_is_that_of_the_releases(name, local_mode, random_params):
    """Who published them reflects the picture before the network, and crops the result."""
    model, image = PADDED[name].clone(local_mode=local_mode), photo(1, 29)
    run = jax.jit(model.apply)
    variables = {"params": random_params(PADDED[name])}
    outside = np.pad(image, ((0, 7), (0, 3), (0, 0)), mode="reflect")
    expected = run(variables, outside[None])[:, :1, :29]
    np.testing.assert_array_equal(run(variables, image[None]), expected)


def test_buckets_pad_as_the_network_does(random_params):
    model = tlc.NAFNet(4, (1, 1), 1, (1, 1), train_size=(16, 16), local_mode=True, padding="both")
    params = random_params(model)
    before = forward_within._cache_size()
    for size in ((43, 61), (1, 9)):
        image = photo(*size)
        alone = tlc.restore(model, params, image)
        within = tlc.restore(model, params, image, bucket=(45, 70))
        assert within.shape == alone.shape
        np.testing.assert_allclose(within, alone, atol=1e-5 * max(1, np.abs(alone).max()))
    assert forward_within._cache_size() == before + 1
