"""Arrays in, arrays out: kinds of numbers, compilations, and the windows that are in force."""

import functools
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import tlc_jax as tlc
from tlc_jax.inference.programs import planned_memory
from tlc_jax.inference.timed import restore_timed
from tlc_jax.inference.ways import at_once, compile_way, tiled
from tlc_jax.layers import Downsample2x2
from tlc_jax.layers.network import abstract_params
from tlc_jax.ops.pixels import from_float

EXAMPLES = Path(tlc.__file__).parent / "examples"

# One block, so that it compiles fast; its windows are 24 pixels.
NET = tlc.NAFNet(
    width=4, enc_blk_nums=(), middle_blk_num=1, dec_blk_nums=(), train_size=(16, 16)
).clone(local_mode=True)

compilations: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: compilations.append(event) if "backend_compile" in event else None
)


def weights(model, seed=0):
    """Random, beta and gamma too: as they are initialised, blocks do nothing."""
    rng = np.random.default_rng(seed)
    shapes = abstract_params(model)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


PARAMS = weights(NET)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def test_memory_of_a_network_that_halves_often():
    """Whose parameters cannot be made from a small picture."""

    class Halving(tlc.Network):
        @nn.compact
        def forward(self, image):
            x = image
            for _ in range(4):
                x = Downsample2x2(3)(x)
            return image + jnp.repeat(jnp.repeat(x, 16, 1), 16, 2)

    assert planned_memory(Halving(), (64, 64)) > 2 * 4 * 3 * 64 * 64


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize(("task", "picture"), [("denoise", "noisy"), ("deblur", "shaken")])
def test_half_precision_costs_little(task, picture, dtype):
    """Of what the networks that come with the package gain, on a part of a photograph."""
    model, params = tlc.load(task)
    model = model.clone(local_mode=True)
    part = np.s_[100:356, 200:456]
    given, truth = (tlc.read_image(EXAMPLES / f"{name}.png")[part] for name in (picture, "kodim"))
    whole, half, before = (
        float(tlc.psnr(image, truth))
        for image in (
            tlc.restore(model, params, given),
            tlc.restore(model.clone(dtype=dtype), params, given),
            given,
        )
    )
    assert whole > before + 2
    assert abs(half - whole) < 0.02  # dB; 0.011 was measured with bfloat16, 0.001 with float16


def test_precision_is_that_of_the_products():
    """And of these alone; what was set before is set again."""
    seen = []

    class Looking(tlc.Network):
        @nn.compact
        def forward(self, image):
            seen.append(jax.config.values["jax_default_matmul_precision"])
            return image

    before = jax.config.values["jax_default_matmul_precision"]
    for precision in ("default", "high", "highest", None):
        tlc.restore(Looking(), {}, noise(8, 8, 3), precision=precision)
    assert seen[:2] == ["default", "high"] and "highest" in seen[2:]
    assert jax.config.values["jax_default_matmul_precision"] == before


# Kinds of numbers


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, jnp.bfloat16])
def test_floats_stay_what_they_are(dtype):
    image = noise(30, 34, 3).astype(dtype)
    before = image.copy()
    restored = tlc.restore(NET, PARAMS, image)
    assert isinstance(restored, np.ndarray) and restored.dtype == dtype
    np.testing.assert_array_equal(image, before)
    # Computed in float32, and neither clipped nor rounded on the way out but by the type itself.
    expected = jax.jit(NET.apply)({"params": PARAMS}, image[None].astype(np.float32))[0]
    assert expected.min() < 0 and expected.max() > 1
    tolerance = max(1e-5, 2 * float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(
        restored.astype(np.float32), expected, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_are_rounded_and_clipped(dtype):
    image = from_float(noise(30, 34, 3), dtype)
    restored = tlc.restore(NET, PARAMS, image)
    floats = tlc.restore(NET, PARAMS, image.astype(np.float32) / np.float32(np.iinfo(dtype).max))
    assert restored.dtype == dtype and floats.min() < 0 and floats.max() > 1
    np.testing.assert_array_equal(restored, from_float(floats, dtype))


def test_whole_numbers_cannot_say_nan():
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), PARAMS)
    assert np.isnan(tlc.restore(NET, broken, noise(30, 34, 3))).all()
    with pytest.raises(ValueError, match="NaN"):
        tlc.restore(NET, broken, np.zeros((30, 34, 3), np.uint8))


@pytest.mark.parametrize(
    "function", [tlc.restore, restore_timed, functools.partial(tlc.restore, way=tlc.tiled(16, 4))]
)
@pytest.mark.parametrize(
    "shape",
    [(), (30, 34), (30, 34, 1), (30, 34, 4), (0, 34, 3), (30, 0, 3), (1, 30, 34, 3)],
    ids=str,
)
def test_arrays_that_are_no_picture(function, shape):
    with pytest.raises(ValueError) as error:
        function(NET, PARAMS, np.zeros(shape, np.float32))
    assert str(error.value) == (
        f"NAFNet takes one picture (H, W, 3), got an array of shape {shape}."
    )


class NoNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x


class NoForward(tlc.Network):
    """Which would be global whatever its `local_mode`."""

    @nn.compact
    def __call__(self, x):
        return x


@pytest.mark.parametrize("model", [NoNetwork(), NoForward()])
@pytest.mark.parametrize(
    "function",
    [
        lambda model: tlc.restore(model, {}, noise(30, 34, 3)),
        lambda model: tlc.restore(model, {}, noise(30, 34, 3), way=tlc.tiled(16, 4)),
        lambda model: tlc.restore(model, {}, noise(30, 34, 3), way=tlc.shifted(2)),
        lambda model: list(tlc.restore_clip(model, {}, [noise(30, 34, 3)])),
        lambda model: tlc.restore_guarded(model, {}, noise(30, 34, 3)),
        lambda model: tlc.sites(model, (30, 34)),
        lambda model: tlc.planned_memory(model, (30, 34)),
    ],
)
def test_modules_that_are_no_network(function, model):
    words = "is no network: derive it from tlc_jax.Network .* name its method forward"
    with pytest.raises(TypeError, match=f"{type(model).__name__} {words}"):
        function(model)


def test_networks_with_lists_are_refused():
    with pytest.raises(ValueError, match=r"a field of this NAFNet holds a list.* write tuples"):
        tlc.restore(tlc.NAFNet(4, [1], 1, [1]), {}, noise(30, 34, 3))


@pytest.mark.parametrize("dtype", [np.int64, bool])
def test_other_numbers(dtype):
    with pytest.raises(TypeError, match=r"uint8, uint16 or floats, got (int64|bool)\."):
        tlc.restore(NET, PARAMS, np.zeros((30, 34, 3), dtype))


# Compilations


def test_compiled_once_for_each_network_and_size():
    def compiled(model, image, params=PARAMS):
        compilations.clear()
        tlc.restore(model, params, image)
        return len(compilations)

    image = noise(31, 37, 3)
    assert compiled(NET, image) == 1
    assert compiled(NET, noise(31, 37, 3, seed=1)) == 0
    assert compiled(NET, from_float(image, np.uint8)) == 0
    assert compiled(NET, image, weights(NET, seed=1)) == 0
    # Networks are values: an equal one, made anew as by every load, is the same one.
    assert compiled(tlc.NAFNet(**{name: getattr(NET, name) for name in FIELDS}), image) == 0
    assert compiled(NET.clone(local_mode=False), image) == 1
    assert compiled(NET, image.swapaxes(0, 1)) == 1


FIELDS = ("width", "enc_blk_nums", "middle_blk_num", "dec_blk_nums", "train_size", "local_mode")


def test_planning_leaves_nothing_to_compile():
    image = noise(29, 41, 3)
    compilations.clear()
    compile_way(at_once, NET, PARAMS, image)
    assert len(compilations) == 1
    tlc.restore(NET, PARAMS, image)
    assert len(compilations) == 1


# Tiles


def by_tiles(image, tile, overlap):
    """One tile after the other, found by walking along each axis, averaged in float64."""
    h, w, _ = image.shape
    total, count = np.zeros(image.shape), np.zeros((h, w, 1))

    def walk(length):
        start = 0
        while start + tile < length:
            yield start
            start += tile - overlap
        yield max(length - tile, 0)

    for i in walk(h):
        for j in walk(w):
            part = image[i : i + tile, j : j + tile]
            total[i : i + tile, j : j + tile] += tlc.restore(NET, PARAMS, part)
            count[i : i + tile, j : j + tile] += 1
    assert count.min() == 1 and count.max() > 1
    return total / count


@pytest.mark.parametrize(("tile", "overlap"), [(16, 4), (16, 0), (17, 9), (31, 2)])
def test_tiles(tile, overlap):
    image = noise(32, 45, 3)
    restored = tlc.restore(NET, PARAMS, image, way=tiled(tile, overlap))
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, by_tiles(image, tile, overlap), rtol=1e-5, atol=1e-5)
    whole = tlc.restore(NET, PARAMS, image)
    assert abs(restored - whole).max() > 1e-3  # the network sees less at a time


@pytest.mark.parametrize("size", [(16, 16), (11, 13), (16, 9)])
def test_a_picture_no_larger_than_a_tile_is_one(size):
    image = noise(*size, 3)
    restored = tlc.restore(NET, PARAMS, image, way=tiled(16, 4))
    np.testing.assert_array_equal(restored, tlc.restore(NET, PARAMS, image))


def test_tiles_are_compiled_once_for_all_pictures():
    sizes = (40, 50), (20, 70)
    compilations.clear()
    compile_way(tlc.tiled(18, 2), NET, PARAMS, noise(*sizes[0], 3))
    for size in sizes:
        tlc.restore(NET, PARAMS, noise(*size, 3), way=tiled(18, 2))
    assert len(compilations) == 1


@pytest.mark.parametrize(("tile", "overlap"), [(16, 16), (16, -1), (1, 1)])
def test_overlaps_that_leave_nothing_of_a_tile(tile, overlap):
    with pytest.raises(ValueError, match=f"for tiles of {tile}, got {overlap}"):
        tlc.restore(NET, PARAMS, noise(30, 34, 3), way=tiled(tile, overlap))


# Shifts


def test_shifts_lessen_what_the_place_of_the_blocks_changes():
    """Moved by three rows, a picture has the same result elsewhere, but for the blocks of MAXIM."""
    model = tlc.Maxim(
        features=4,
        depth=2,
        num_stages=1,
        num_groups=1,
        num_bottleneck_blocks=1,
        block_size_hr=(8, 8),
        block_size_lr=(8, 8),
        padding="end",
        local_mode=True,
        window=(16, 16),
    )
    params = jax.tree.map(lambda x: x / 4, weights(model))  # less chaotic
    image = noise(131, 64, 3)

    def change(shifts):
        upper, lower = (
            tlc.restore(model, params, part, way=tlc.shifted(shifts))
            for part in (image[:128], image[3:])
        )
        return np.abs(upper[40:88, 16:48] - lower[37:85, 16:48]).mean()

    assert change(5) < 0.3 * change(1)


@pytest.mark.parametrize("shifts", [1, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_shifts_keep_size_and_numbers(shifts, dtype):
    """Without blocks, each place has the same result, but near the border."""
    model = NET.clone(window=(1, 1))
    image = (noise(12, 70, 3) * (255 if dtype == np.uint8 else 1)).astype(dtype)
    restored = tlc.restore(model, PARAMS, image, way=tlc.shifted(shifts))
    assert restored.dtype == dtype and restored.shape == image.shape
    inside, expected = (
        x[4:-4, 4:-4].astype(float) for x in (restored, tlc.restore(model, PARAMS, image))
    )
    np.testing.assert_allclose(inside, expected, rtol=2e-3, atol=2e-3)


def test_at_least_one_shift():
    with pytest.raises(ValueError, match="shifts=0"):
        tlc.restore(NET, PARAMS, noise(8, 8, 3), way=tlc.shifted(0))


# Sites

NAFNET = tlc.NAFNet(enc_blk_nums=(1, 1, 1, 2))
RESTORMER = tlc.Restormer(num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
MAXIM = tlc.Maxim(features=4, num_stages=1, num_groups=1, num_bottleneck_blocks=1)
# By network: blocks at each resolution, and at each resolution size of the map, window by kind.
# MAXIM pads 720 to 768, and its grids keep windows of the training size.
WINDOWS_720P = {
    NAFNET: (
        [2, 2, 2, 3, 1],
        [
            ((720, 1280), {"mean": (384, 384)}),
            ((360, 640), {"mean": (192, 192)}),
            ((180, 320), {"mean": (96, 96)}),
            ((90, 160), {"mean": (48, 48)}),
            ((45, 80), {"mean": (24, 24)}),
        ],
    ),
    RESTORMER: (
        [3, 2, 2, 1],
        [
            ((720, 1280), {"attention": (384, 384)}),
            ((360, 640), {"attention": (192, 192)}),
            ((180, 320), {"attention": (96, 96)}),
            ((90, 160), {"attention": (48, 48)}),
        ],
    ),
    MAXIM: (
        [6, 6, 6, 2],
        [
            ((768, 1280), {"mean": (384, 384), "grid": (256, 256)}),
            ((384, 640), {"mean": (192, 192), "grid": (128, 128)}),
            ((192, 320), {"mean": (96, 96), "grid": (64, 64)}),
            ((96, 160), {"mean": (48, 48), "grid": (32, 32)}),
        ],
    ),
}
networks = pytest.mark.parametrize("model", WINDOWS_720P, ids=lambda model: type(model).__name__)


@networks
def test_sites(model):
    counts, resolutions = WINDOWS_720P[model]
    local = tlc.sites(model.clone(local_mode=True), (720, 1280))
    assert {(site.size, site.kind, site.window) for site in local} == {
        (size, kind, window) for size, kinds in resolutions for kind, window in kinds.items()
    }
    assert [sum(site.size == size for site in local) for size, _ in resolutions] == counts

    assert len({site.name for site in local}) == len(local)
    # What aggregates has no parameters: the layer that holds it is the one to look for.
    paths = flatten_dict(abstract_params(model), sep="/")
    for site in local:
        layer = re.sub("/(pool|moments|attend)$", "", site.name)
        assert any(path.startswith(f"{layer}/") for path in paths), site.name

    everywhere = tlc.sites(model, (720, 1280))
    assert [site[:3] for site in everywhere] == [site[:3] for site in local]
    assert all(site.window == site.size for site in everywhere)


@networks
def test_windows_are_no_larger_than_the_map(model):
    for site in tlc.sites(model.clone(local_mode=True), (33, 640)):
        assert site.window[0] == site.size[0] and site.window[1] < site.size[1]


@pytest.mark.parametrize(
    ("fields", "window"),
    [
        ({"train_size": (128, 256)}, (192, 384)),  # 1.5 times
        ({"window": (100, 200)}, (100, 200)),
        ({"train_size": (128, 128), "window": (100, 2000)}, (100, 1280)),
        ({"window": (1, 1)}, (1, 1)),
    ],
    ids=str,
)
def test_windows_as_the_fields_say(fields, window):
    model = NET.clone(**({"train_size": (256, 256)} | fields))
    assert [site.window for site in tlc.sites(model, (720, 1280))] == [window]
