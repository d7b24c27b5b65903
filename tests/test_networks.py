"""The networks: the releases' numbers, and what users do with a Flax module."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tlc_jax as tlc
from checkpoints_convert import convert_state_dict
from tlc_jax.files.checkpoints import count_params
from tlc_jax.layers import NAFBlock
from tlc_jax.layers.network import abstract_params
from tlc_jax.models import (
    MODELS,
    NAFSSR,
    RNNMBP,
    Baseline,
    HINet,
    MPRNet,
    NAFNet,
    Restormer,
    restormer,
)
from tlc_jax.models.nafnet import BaselineBlock

GOLDEN = (
    *("nafnet_a", "nafnet_b", "baseline_a", "baseline_b", "hinet_a", "hinet_right"),
    *("restormer_withbias", "restormer_biasfree", "restormer_gray", "restormer_dualpixel"),
    *("mprnet_a", "mprnet_denoise_like", "nafssr_a", "rnnmbp_a"),
)
FLOAT32_ERROR = json.loads((Path(__file__).parent / "golden/float32_error.json").read_text())
EPS = 2.0**-23  # of float32
MODES = {"global": False, "local": True}

# All kinds of layer, few of each: what takes time is compiling. Windows are 24 pixels.
TINY = {
    "nafnet": NAFNet(4, (1,), 1, (1,), train_size=(16, 16)),
    "baseline": Baseline(4, (1,), 1, (1,), dw_expand=2, train_size=(16, 16)),
    "restormer": Restormer(
        dim=4, num_blocks=(1, 0, 0, 1), num_refinement_blocks=0, heads=(1, 2, 4, 8),
        train_size=(16, 16),
    ),
    "hinet": HINet(4, 2, 0, 1, train_size=(16, 16)),
    "mprnet": MPRNet(8, 4, 4, num_cab=1, reduction=2, train_size=(16, 16)),
}  # fmt: skip
MULTIPLE = {"nafnet": 2, "baseline": 2, "restormer": 8, "hinet": 16, "mprnet": 8}
SIZE = (33, 53)

traces = []


@functools.partial(jax.jit, static_argnames="model")
def compiled(model, params, image):
    traces.append((model, image.shape))
    return model.apply({"params": params}, image)


def forward(model, params, image):
    return np.asarray(compiled(model, params, image))


def photo(*size, batch=2, seed=0):
    return np.random.default_rng(seed).uniform(size=(batch, *size, 3)).astype(np.float32)


@pytest.fixture(params=TINY)
def name(request):
    return request.param


@pytest.fixture(params=MODES)
def network(request, name, random_params):
    """A tiny network in either mode, and its parameters: the same in both."""
    return TINY[name].clone(local_mode=MODES[request.param]), random_params(TINY[name])


@pytest.fixture(scope="module")
def converted(golden):
    @functools.cache
    def convert(name):
        meta, _, _, tensors = golden(name)
        told = {"train_size": tuple(meta["train_size"])}
        told |= {key: meta["config"][key] for key in meta["config"] if key.endswith("_frames")}
        return convert_state_dict(tensors, **told)

    return convert


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GOLDEN)
def test_numbers_of_the_release(golden, converted, name, mode):
    """We may err three times as much as the release in float32 does, from its float64."""
    _, image, expected, _ = golden(name)
    model, params = converted(name)
    network = model.clone(local_mode=MODES[mode])
    optimised = jax.jit(network.apply, compiler_options={"xla_backend_optimization_level": 3})
    ours = np.asarray(optimised({"params": params}, image))  # by the program that users run
    exact = expected[mode]
    error = np.abs(ours - exact).max() / max(1, exact.std())
    release = FLOAT32_ERROR.get(name, {mode: 0})[mode]
    assert ours.dtype == np.float32 and ours.shape == exact.shape
    assert error <= max(1e-5, 3 * release), f"ours {error:.1e}, the release {release:.1e}"


@pytest.mark.parametrize("name", ["nafnet_a", "hinet_a", "restormer_withbias", "mprnet_a"])
@pytest.mark.parametrize("platform", ["tpu", "cuda"], indirect=True)
def test_numbers_in_every_form(golden, converted, platform, name):
    """As other platforms compile them, local, where most forms are; a CPU rounds otherwise."""
    _, image, expected, _ = golden(name)
    model, params = converted(name)
    ours = np.asarray(compiled(model.clone(local_mode=True), params, image))
    exact = expected["local"]
    error = np.abs(ours - exact).max() / max(1, exact.std())
    assert error <= max(1e-5, 3 * FLOAT32_ERROR.get(name, {"local": 0})["local"])


def test_strips_of_a_large_picture_are_the_picture(random_params, monkeypatch):
    """The widest maps of Restormer are made strip by strip where they would take gigabytes."""
    model = TINY["restormer"].clone(local_mode=True)
    variables, image = {"params": random_params(model)}, photo(64, 96)

    def cuts():  # each is one after the other
        return str(jax.make_jaxpr(model.apply)(variables, image)).count("optimization_barrier")

    whole, before = model.apply(variables, image), cuts()
    monkeypatch.setattr(restormer, "MOST_BYTES", 40_000)
    assert cuts() >= before + 6
    np.testing.assert_allclose(jax.jit(model.apply)(variables, image), whole, atol=2e-5)


def test_goldens_tell_the_modes_apart(golden):
    """Else parity would not prove that there is a local mode."""
    for name in GOLDEN:
        expected = golden(name).expected
        assert np.abs(expected["global"] - expected["local"]).max() > 5e-3


def test_modes_share_parameters(name):
    """Every name and shape of a checkpoint is the same, so that `clone` is all there is to do."""
    model = TINY[name]
    local = model.clone(local_mode=True)
    assert abstract_params(model) == abstract_params(local)
    assert not model.local_mode
    # They are settings of a jitted function: equal ones share what is compiled.
    assert hash(local) == hash(model.clone(local_mode=True)) and local == model.clone(
        local_mode=True
    )
    assert local != model


@pytest.mark.parametrize("train_size", [(16, 16), (20, 37), (9, 90)])
@pytest.mark.parametrize("name", [*TINY, "nafssr", "rnn_mbp"])
def test_windows_follow_from_the_maps_of_a_training_crop(name, train_size):
    """Wherever a site is, it has 1.5 times the map that it had in training, here by its stride."""
    others = {"nafssr": NAFSSR(2, 4, 1), "rnn_mbp": RNNMBP(4, num_cab=1)}
    local = (TINY | others)[name].clone(train_size=train_size, local_mode=True)
    multiple = (MULTIPLE | {"nafssr": 1, "rnn_mbp": 4})[name]
    picture = 400, 600

    def along(axis, size):
        whole, crop = (-(-n[axis] // multiple) * multiple for n in (picture, train_size))
        of_crop = crop // (whole // size)
        return min(size, max(1, of_crop * (train_size[axis] * 3 // 2) // train_size[axis]))

    found = tlc.sites(local, picture)
    assert len(found) > 0
    for site in found:
        assert site.window == (along(0, site.size[0]), along(1, site.size[1])), site


def test_window_that_covers_the_map_is_global(name, random_params):
    model, params = TINY[name], random_params(TINY[name])
    local, image = model.clone(local_mode=True), photo(*SIZE)
    whole = forward(model, params, image)
    covering = forward(local.clone(window=(64, 64)), params, image)
    assert np.array_equal(covering, whole)
    assert np.abs(forward(local, params, image) - whole).max() > 1e-3  # and a smaller one is not


def test_pictures_of_a_batch_do_not_mix(network):
    model, params = network
    image = photo(*SIZE)
    together = forward(model, params, image)
    mapped = jax.jit(jax.vmap(lambda one: model.apply({"params": params}, one)))(image[:, None])
    mapped = np.asarray(mapped)
    tolerance = {"rtol": 0, "atol": 32 * EPS * np.abs(together).max()}
    np.testing.assert_allclose(mapped[:, 0], together, **tolerance)
    for i in range(2):
        single = forward(model, params, image[i : i + 1])
        np.testing.assert_allclose(single, together[i : i + 1], **tolerance)


@pytest.mark.parametrize("size", [(1, 1), (5, 300)])
def test_any_size(network, name, size):
    """As if the picture came with zeros below and to the right: they enter the statistics."""
    model, params = network
    image = photo(*size, batch=1)
    h, w = size
    below, right = (-n % MULTIPLE[name] for n in size)
    padded = np.pad(image, ((0, 0), (0, below), (0, right), (0, 0)))
    ours = forward(model, params, image)
    assert ours.shape == image.shape
    expected = forward(model, params, padded)[:, :h, :w]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=32 * EPS * np.abs(expected).max())


def test_one_trace_for_each_size_and_mode(name, random_params):
    """Neither other pixels, other parameters nor another clone compile anew."""
    params = random_params(TINY[name])
    for seed in range(2):
        for local_mode in MODES.values():
            for size in (SIZE, (5, 300)):
                model = TINY[name].clone(local_mode=local_mode)
                image = photo(*size, batch=2 if size == SIZE else 1, seed=seed)
                forward(
                    model, jax.tree.map(lambda x, seed=seed: np.asarray(x) + seed, params), image
                )
                assert traces.count((model, image.shape)) == 1


def test_gradients_reach_every_parameter(network):
    model, params = network
    image = photo(16, 32)  # one axis is covered by its window, the other is not

    def loss(params):
        return jnp.square(model.apply({"params": params}, image) - 0.5).mean()

    gradients = jax.device_get(jax.jit(jax.grad(loss))(params))
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), path
        assert gradient.any(), path


def test_float32_whatever_the_default(network):
    """Forward and backward, as for those who need float64 elsewhere."""
    model, params = network
    with jax.enable_x64(True):
        program = jax.make_jaxpr(
            jax.value_and_grad(lambda p, x: model.apply({"params": p}, x).sum())
        )
        arrays = re.search(r"f64\[\d", str(program(params, photo(16, 32))))  # but Python's scalars
    assert arrays is None


@pytest.mark.parametrize("network", MODELS.values())
def test_whole_numbers_are_refused(network):
    """Rather than the residual cut off to them."""
    image = network().example_input(SIZE).update(dtype=jnp.uint8)
    with pytest.raises(TypeError, match=r"floats in \[0, 1\], got uint8"):
        jax.eval_shape(network().init, jax.random.key(0), image)


@pytest.mark.parametrize("block", [NAFBlock(), BaselineBlock(1, 2)], ids=["nafnet", "baseline"])
def test_blocks_start_as_the_identity(block):
    """beta and gamma start at zero, so that deep stacks can be trained."""
    x = photo(6, 5)
    y, _ = jax.jit(block.init_with_output)(jax.random.key(0), x)
    assert np.array_equal(y, x)


def test_bfloat16(network):
    model, params = network
    image = photo(*SIZE)
    exact = forward(model, params, image)
    half = forward(model.clone(dtype=jnp.bfloat16), params, image)
    assert half.dtype == jnp.float32
    # A layer rounds a few times (norm, product, bias, gate), by 2**-9 at most; independent errors
    # grow with the root of their number, here taken as 9 a layer. The picture itself is added in
    # float32, so the error is one of the residual.
    layers = sum(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
    residual, error = (np.sqrt(np.square(x).mean()) for x in (exact - image, half - exact))
    assert 0 < error <= 3 * np.sqrt(layers) * 2.0**-9 * residual


@pytest.mark.parametrize("computed", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("given", [jnp.float32, jnp.bfloat16])
def test_result_is_of_the_type_of_the_picture(network, given, computed):
    model, params = network
    image = jax.ShapeDtypeStruct((1, *SIZE, 3), given)
    out = jax.eval_shape(model.clone(dtype=computed).apply, {"params": params}, image)
    assert (out.shape, out.dtype) == (image.shape, given)


def test_as_an_nnx_module():
    """Whoever writes NNX can take these networks through Flax's bridge."""
    model, image = NAFNet(2, (1,), 0, (1,), train_size=(4, 4), local_mode=True), photo(8, 12)
    module = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(image)
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    expected = forward(model, params, image)
    np.testing.assert_allclose(module(image), expected, atol=8 * EPS * np.abs(expected).max())


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (NAFNet.variant("gopro-width32"), 17_111_907),
        (NAFNet.variant("gopro-width64"), 67_888_835),
        (NAFNet.variant("sidd-width32"), 29_159_715),
        (NAFNet.variant("sidd-width64"), 115_982_915),
        (Baseline.variant("gopro-width32"), 17_023_875),
        (Baseline.variant("gopro-width64"), 112_036_291),
        (Restormer.variant("deblurring"), 26_126_644),
        (Restormer.variant("denoising"), 26_111_668),
        (Restormer.variant("gray-denoising"), 26_109_076),
        (Restormer.variant("dual-pixel"), 26_132_548),
    ],
    ids=lambda value: type(value).__name__,
)
def test_published_parameter_counts(model, count):
    assert count_params(abstract_params(model)) == count


def test_a_variant_with_changes():
    model = NAFNet.variant("sidd-width64", local_mode=True, width=16)
    assert model == NAFNet(16, (2, 2, 4, 8), 12, (2, 2, 2, 2), local_mode=True)
    with pytest.raises(ValueError, match=r"RNNMBP has no variant 'reds'; it has gopro\."):
        RNNMBP.variant("reds")
