"""NAFSSR: pairs of views, and the attention along their rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.layers.network import abstract_params
from tlc_jax.models import NAFSSR
from tlc_jax.ops import parallax, parallax_attention

EPS = 2.0**-23  # of float32
NET = NAFSSR(2, width=4, num_blks=2, train_size=(8, 12))


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(NET)


def pair(*size, seed=0):
    return np.random.default_rng(seed).uniform(size=(*size, 6)).astype(np.float32)


def maps(count=4, size=(2, 5, 7, 3)):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=size), jnp.float32) for _ in range(count)]


def attend(q, other, v):
    """The definition, in float64."""
    q, other, v = (np.asarray(x, np.float64) for x in (q, other, v))
    scores = np.einsum("nhic,nhjc->nhij", q, other) / np.sqrt(q.shape[-1])
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    return np.einsum("nhij,nhjc->nhic", weights, v)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_parallax_attention(rows, monkeypatch):
    """Whatever number of rows is done at once."""
    monkeypatch.setattr(parallax, "LARGEST", rows * 7**2)
    q_left, q_right, v_left, v_right = maps()
    left, right = parallax_attention(q_left, q_right, v_left, v_right)
    np.testing.assert_allclose(left, attend(q_left, q_right, v_right), rtol=0, atol=16 * EPS)
    np.testing.assert_allclose(right, attend(q_right, q_left, v_left), rtol=0, atol=16 * EPS)
    with pytest.raises(ValueError, match=r"all four are \(N, H, W, C\)"):
        parallax_attention(q_left, q_right, v_left, v_right[:, 1:])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e20])
@pytest.mark.parametrize("which", range(4))
def test_a_bad_pixel_spoils_its_row(which, bad):
    arrays = maps()
    clean = parallax_attention(*arrays)
    arrays[which] = arrays[which].at[0, 3, 2, 1].set(bad)
    elsewhere = np.ones((2, 5), bool)
    elsewhere[0, 3] = False
    for ours, before in zip(parallax_attention(*arrays), clean, strict=True):
        assert np.array_equal(ours[elsewhere], before[elsewhere])


def test_no_pairs_and_no_rows():
    none = maps(size=(0, 5, 7, 3))
    assert [x.shape for x in parallax_attention(*none)] == [(0, 5, 7, 3)] * 2
    with pytest.raises(ValueError, match=r"rows and columns, got shape \(2, 0, 7, 3\)"):
        parallax_attention(*maps(size=(2, 0, 7, 3)))


def test_memory_of_the_attention_is_bounded():
    """Scores and weights of some rows: of all, each of the three alone is 30 x LARGEST numbers."""
    row = jax.ShapeDtypeStruct((1, 2000, 500, 8), jnp.float32)
    compiled = jax.jit(parallax_attention).lower(row, row, row, row).compile()
    # Besides the three, what the compiler keeps of them and the maps: 5 in all, 7 in older ones.
    assert compiled.memory_analysis().temp_size_in_bytes < 10 * 4 * parallax.LARGEST


def test_a_pair_comes_out_larger(params):
    restored = tlc.restore(NET, params, pair(9, 13))
    assert restored.shape == (18, 26, 6)


@pytest.mark.parametrize("scale", [2, 4])
def test_without_a_residual_it_is_bilinear(scale):
    """As PyTorch's interpolate: half-pixel centres, edges repeated."""
    net = NAFSSR(scale, width=2, num_blks=0)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), abstract_params(net))
    image = pair(5, 6)
    expected = jax.image.resize(image, (5 * scale, 6 * scale, 6), "linear")
    np.testing.assert_allclose(tlc.restore(net, zero, image), expected, rtol=0, atol=4 * EPS)


def test_views_look_at_each_other_along_rows(params):
    """A change in one row of the right view reaches the left one no farther than 3x3s carry it."""
    image = pair(31, 16)
    other = image.copy()
    other[0, :, 3:] = 1 - other[0, :, 3:]
    # The means over the map would carry it everywhere, so their weights are left out.
    still = jax.tree.map_with_path(
        lambda path, x: 0 * x if "sca" in {key.key for key in path} and x.ndim == 4 else x, params
    )
    changed = np.abs(tlc.restore(NET, still, other) - tlc.restore(NET, still, image))
    left = changed[..., :3].max(axis=(1, 2))
    # intro, a depthwise convolution in each block, and up, each one row further; twice as large.
    reach = 2 * (1 + NET.num_blks + 1 + 1)
    assert left[0] > 1e-3 and not left[reach:].any()


def test_swapped_views_with_swapped_weights_swap(params):
    def swap(path):
        name = {"beta": "gamma", "gamma": "beta", "norm_l": "norm_r", "norm_r": "norm_l"}
        name |= {f"{a}_proj{i}": f"{b}_proj{i}" for a, b in ("lr", "rl") for i in (1, 2)}
        return name.get(path, path)

    swapped = {
        module: {swap(name): x for name, x in inside.items()} if "fusion" in module else inside
        for module, inside in params.items()
    }
    image = pair(9, 13)
    turned = np.concatenate([image[..., 3:], image[..., :3]], axis=-1)
    restored = tlc.restore(NET, params, image)
    again = tlc.restore(NET, swapped, turned)
    again = np.concatenate([again[..., 3:], again[..., :3]], axis=-1)
    np.testing.assert_allclose(again, restored, rtol=0, atol=64 * EPS * np.abs(restored).max())


def test_pairs_of_a_batch_do_not_mix(params):
    two, local = np.stack([pair(9, 14), pair(9, 14, seed=1)]), NET.clone(local_mode=True)
    together = local.apply({"params": params}, two)
    for i in range(2):
        one = local.apply({"params": params}, two[i : i + 1])[0]
        np.testing.assert_allclose(one, together[i], rtol=0, atol=64 * EPS * np.abs(one).max())


@pytest.mark.parametrize("given", [jnp.float32, jnp.bfloat16])
def test_result_is_of_the_type_of_the_pair(params, given):
    image = jax.ShapeDtypeStruct((1, 5, 6, 6), given)
    out = jax.eval_shape(NET.clone(dtype=jnp.bfloat16).apply, {"params": params}, image)
    assert (out.shape, out.dtype) == ((1, 10, 12, 6), given)


def test_other_scales_are_refused():
    with pytest.raises(ValueError, match="1, 2, 4 or 8, got 3"):
        abstract_params(NAFSSR(3, num_blks=0))


def test_tiles_come_out_larger(params):
    """One tile is the whole picture; several come out at their places."""
    image = pair(16, 20)
    assert np.array_equal(
        tlc.restore(NET, params, image, way=tlc.tiled(32, 4)), tlc.restore(NET, params, image)
    )
    small = jax.tree.map(lambda x: 0 * x, params)  # which leaves the bilinear interpolation
    tiled, whole = (
        tlc.restore(NET, small, image, way=tlc.tiled(8, 4)),
        tlc.restore(NET, small, image),
    )
    assert tiled.shape == (32, 40, 6) and np.abs(tiled - whole)[1:-1, 1:-1].mean() < 0.05


def test_local_mode(params):
    image, local = pair(20, 30), NET.clone(local_mode=True)
    whole = tlc.restore(NET, params, image)
    assert np.abs(tlc.restore(local, params, image) - whole).max() > 1e-4
    assert np.array_equal(tlc.restore(local.clone(window=(20, 30)), params, image), whole)
    assert {site.window for site in tlc.sites(local, (20, 30))} == {(12, 18)}
    published = NAFSSR(num_blks=1, local_mode=True)
    assert {site.window for site in tlc.sites(published, (300, 400))} == {(45, 135)}


def test_gradients_reach_every_parameter(params):
    def loss(params):
        local = NET.clone(local_mode=True)
        return jnp.square(local.apply({"params": params}, pair(14, 20)[None]) - 0.5).mean()

    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert jnp.isfinite(gradient).all() and gradient.any(), path


def test_softmax_is_float32_in_bfloat16(params):
    half = [x.astype(jnp.bfloat16) for x in maps()]
    left, _ = parallax_attention(*half)
    assert left.dtype == jnp.bfloat16
    exact = attend(
        half[0].astype(jnp.float32), half[1].astype(jnp.float32), half[3].astype(jnp.float32)
    )
    assert np.abs(left.astype(jnp.float32) - exact).max() < 4 * 2.0**-9 * np.abs(exact).max()
