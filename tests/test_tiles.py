"""Tiles with a context: parts of one picture, that fade into each other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.inference.programs import forward
from tlc_jax.inference.ways import FADE, compile_way, context_of, restore, shifted, tiled
from tlc_jax.layers.network import abstract_params
from tlc_jax.models import NAFSSR, Maxim
from tlc_jax.ops import pixel_shuffle

EPS = 2.0**-23  # of float32


class Near(tlc.Network):
    """What comes out depends on few pixels around, and on where blocks of 4 lie."""

    multiple = 4

    @nn.compact
    def forward(self, image):
        x = nn.relu(nn.Conv(6, (3, 3))(image))
        x = nn.relu(nn.Conv(8, (4, 4), strides=(4, 4))(x))
        return image + 0.3 * pixel_shuffle(nn.Conv(48, (3, 3))(x), 4)


class Twice(tlc.Network):
    """Every pixel becomes four."""

    scale = 2

    @nn.compact
    def forward(self, image):
        return jnp.repeat(jnp.repeat(image, 2, 1), 2, 2)


def weights(model, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), abstract_params(model)
    )


NET = Near()
PARAMS = weights(NET)
# A tile's own, smaller, thinner than its context, no multiples, with a last part of a row.
SIZES = [(64, 64), (30, 41), (3, 150), (97, 131), (64, 105), (193, 66)]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padding", ["zeros", "end", "both"])
def test_tiles_are_the_whole_where_all_is_near(size, padding):
    model, image = NET.clone(padding=padding), noise(*size, 3)
    in_tiles = restore(model, PARAMS, image, way=tiled(64, context=12))
    np.testing.assert_allclose(in_tiles, restore(model, PARAMS, image), atol=64 * EPS)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("context", [0, 5, 12, None])
def test_weights_are_one_together(size, context):
    """Pixels come out as often as they are in the picture, each at its place."""
    image = noise(*size, 3)
    twice = restore(Twice(), {}, image, way=tiled(64, context=context))
    np.testing.assert_allclose(twice, image.repeat(2, 0).repeat(2, 1), rtol=16 * EPS)


def test_tiles_fade_smoothly_and_say_nothing_of_their_context():
    """What part each of two tiles has, of a column of the picture."""
    tile, context, width = 96, 16, 128  # the second one begins at 32

    def share(which):
        """Restore with what makes 1 of one tile, 0 of the other."""
        calls = iter(range(2))
        run = tiled(tile, context=context)(
            lambda model, params, pixels: np.full(pixels.shape, next(calls) == which, np.float32)
        )
        return run(NET, PARAMS, noise(64, width, 3))[0, :, 0]

    first, second = share(0), share(1)
    np.testing.assert_allclose(first + second, 1, atol=2 * EPS)
    assert (first[: 32 + context] == 1).all() and (first[tile - context :] == 0).all()
    steps = -np.diff(first)[32 + context : tile - context - 1]
    assert (steps > 0).all() and steps.max() < 2 / FADE


def test_tiles_see_what_statistics_need():
    """The farther a tile sees the closer its windows are to those of the whole."""
    model = tlc.NAFNet(4, (1,), 1, (1,), train_size=(32, 32), local_mode=True)
    params, image = weights(model), noise(100, 330, 3)
    image[:, 150:] *= 0.3
    whole = restore(model, params, image)
    farthest = [
        np.abs(restore(model, params, image, way=tiled(192, context=context)) - whole).max()
        for context in (0, 12, context_of(model, (192, 192)))
    ]
    assert farthest[0] > 1.5 * farthest[1] > 2 * farthest[2], farthest


def test_half_of_a_tile_is_its_own():
    model = tlc.NAFNet(4, (1,), 1, (1,), train_size=(256, 256))
    assert context_of(model, (1024, 2048)) == 192
    assert context_of(model, (512, 2048)) == 512 // 4 - FADE // 2
    assert context_of(model, (20, 20)) == 0


def test_one_program_serves_all_sizes():
    shapes = []

    def run(model, params, pixels):
        shapes.append(pixels.shape)
        return forward(model, params, pixels)

    for size in [(97, 131), (64, 200), (301, 66), (65, 65)]:
        tiled(64, context=8)(run)(NET, PARAMS, noise(*size, 3))
    assert set(shapes) == {(64, 64, 3)} and len(shapes) > 20


def test_the_plan_is_that_of_one_tile():
    planned = compile_way(tiled(64, context=8), NET, PARAMS, noise(97, 131, 3))
    assert planned.memory == tlc.planned_memory(NET, (64, 64))


def test_sides_that_are_no_multiples_are_rounded_down():
    seen = set()

    def run(model, params, pixels):
        seen.add(pixels.shape)
        return pixels

    tiled((67, 90), context=8)(run)(NET, PARAMS, noise(150, 300, 3))
    assert seen == {(64, 88, 3)}


@pytest.mark.parametrize("size", [(300, 500), (70, 400)])
def test_tiles_lie_on_the_lattice_of_maxim(size):
    """Where its blocks of 64 lie in the whole, which is reflected around."""
    image, model, parts = noise(*size, 3), Maxim(), []

    def run(model, params, pixels):
        parts.append(pixels)
        return pixels

    made = tiled(200)(run)(model, {}, image)
    np.testing.assert_allclose(made, image, rtol=8 * EPS)
    whole = model.pad(image)
    on_lattice = {
        whole[top : top + 192, left : left + 192].tobytes()
        for top in range(0, whole.shape[0], 64)
        for left in range(0, whole.shape[1], 64)
    }
    assert len(parts) > 1 and all(part.tobytes() in on_lattice for part in parts)


def test_tiles_of_pairs_that_come_out_larger():
    model = NAFSSR(2, width=4, num_blks=1, train_size=(8, 12))
    image = noise(40, 100, 6)
    params = jax.tree.map(lambda x: 0 * x, weights(model))  # which leaves the interpolation
    in_tiles = restore(model, params, image, way=tiled((72, 64), context=4))
    np.testing.assert_allclose(in_tiles, restore(model, params, image), atol=16 * EPS)


def test_tiles_of_shifted_pictures():
    """Whose reflected margins are cut off again."""
    image = noise(80, 90, 3)
    way = lambda run: shifted(2)(tiled(96, context=12)(run))  # noqa: E731
    in_tiles = restore(NET, PARAMS, image, way=way)
    np.testing.assert_allclose(in_tiles, restore(NET, PARAMS, image, way=shifted(2)), atol=64 * EPS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tile": 64, "context": 17}, "tiles of 64 pixels leave nothing beside a context of 17"),
        ({"tile": 34}, "tiles of 32 pixels leave nothing"),
        ({"tile": 64, "context": -1}, "a context of -1"),
        ({"tile": 64, "overlap": 8, "context": 8}, "give one of them"),
    ],
)
def test_contexts_that_leave_nothing_of_a_tile(arguments, words):
    with pytest.raises(ValueError, match=words):
        restore(NET, PARAMS, noise(100, 120, 3), way=tiled(**arguments))


@pytest.mark.parametrize("tile", [-5, 0, "a", (64,), (64, 0), (64, 64, 3)])
def test_what_is_no_tile(tile):
    with pytest.raises(ValueError, match="a tile is a side in pixels or"):
        tlc.tiled(tile)


def test_a_tile_of_any_size_takes_no_more_memory_than_the_picture(random_params):
    model = tlc.NAFNet(4, (1,), 1, (1,), train_size=(16, 16))
    params, image = random_params(model), np.zeros((20, 30, 3), np.float32)
    whole = tlc.restore(model, params, image)
    for way in (tlc.tiled(2**62), tlc.tiled(2**62, 8), tlc.tiled(2**62, context=8)):
        assert np.array_equal(tlc.restore(model, params, image, way=way), whole)
