"""MAXIM against Google's release, and what holds whatever the parameters are."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tlc_jax.inference.sites import sites
from tlc_jax.models.maxim import Maxim, resize_bilinear

GOLDEN = Path(__file__).parent / "golden"
MODES = {
    "output_global": {"local_mode": False},
    "output_local_ca": {"local_mode": True, "local_grid": False},
    "output_local": {"local_mode": True},
}


class Golden(NamedTuple):
    model: Maxim
    params: dict
    arrays: dict[str, np.ndarray]


@functools.cache
def golden(name: str) -> Golden:
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    meta = json.loads(str(arrays["meta"]))
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["config"].items()}
    model = Maxim(**config, num_bottleneck_blocks=1, train_size=tuple(meta["train_size"]))
    # The smaller pictures of the last stage, which the result does not need.
    unused = tuple(f"param:stage_{model.num_stages - 1}_output_conv_{i}/" for i in (1, 2))
    params = {
        k.removeprefix("param:"): jnp.asarray(v)
        for k, v in arrays.items()
        if k.startswith("param:") and not k.startswith(unused)
    }
    return Golden(model, unflatten_dict(params, sep="/"), arrays)


@functools.cache
def compiled(model: Maxim):
    return jax.jit(model.apply)


def run(model: Maxim, params: dict, image: np.ndarray) -> np.ndarray:
    return np.asarray(compiled(model)({"params": params}, jnp.asarray(image)))


def shapes(model: Maxim) -> dict[str, jax.ShapeDtypeStruct]:
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    tree = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    return flatten_dict(tree, sep="/")


def picture(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


# The goldens are float32 outputs of the release. This is how far the worst of each lies from this
# network run in float64, which the network in float32 meets to 2e-6 to 1.2e-5.
OWN_ERROR = {"maxim_a": 2e-5, "maxim_b": 7.4e-5}


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("maxim_a", "output_global"),
        ("maxim_a", "output_local"),
        ("maxim_b", "output_global"),
        ("maxim_b", "output_local_ca"),
        ("maxim_b", "output_local"),
    ],
)
def test_equals_the_release(name: str, output: str) -> None:
    model, params, arrays = golden(name)
    expected = arrays[output]
    error = run(model.clone(**MODES[output]), params, arrays["input"]) - expected
    error = error / max(1, expected.std())
    assert np.abs(error).max() < 2 * OWN_ERROR[name]
    assert np.sqrt(np.square(error).mean()) < 1e-5


def test_the_tree_is_the_releases_in_every_mode() -> None:
    model, params, _ = golden("maxim_a")
    expected = {k: v.shape for k, v in flatten_dict(params, sep="/").items()}
    for mode in ({}, {"local_mode": True, "padding": "end", "dtype": jnp.bfloat16}):
        tree = shapes(model.clone(**mode))
        assert {k: v.shape for k, v in tree.items()} == expected
        assert {v.dtype for v in tree.values()} == {jnp.dtype("float32")}


def test_the_defaults_are_the_published_network() -> None:
    tree = shapes(Maxim())
    assert len(tree) == 2750
    assert sum(leaf.size for leaf in tree.values()) == 22_207_605


@pytest.mark.parametrize("padding", ["both", "end"])
def test_any_size_and_batch_is_padded_by_reflection(padding: str) -> None:
    model, params, _ = golden("maxim_b")  # pads to multiples of 16
    images = picture(2, 1, 5, 3)
    (top, bottom), (left, right) = {"both": ((7, 8), (5, 6)), "end": ((0, 15), (0, 11))}[padding]
    padded = np.pad(images, ((0, 0), (top, bottom), (left, right), (0, 0)), mode="reflect")
    restored = run(model.clone(padding=padding), params, images)
    for i in range(2):
        single = run(model, params, padded[i : i + 1])[0, top : top + 1, left : left + 5]
        np.testing.assert_allclose(restored[i], single, atol=1e-4)


def test_windows_that_cover_the_map_give_the_global_result() -> None:
    model, params, _ = golden("maxim_b")
    image = picture(1, 16, 16, 3)
    local = run(model.clone(local_mode=True), params, image)
    np.testing.assert_array_equal(local, run(model, params, image))


def test_the_two_kinds_of_site_and_their_windows() -> None:
    model = Maxim(num_stages=1, num_groups=1, num_bottleneck_blocks=1, train_size=(192, 256))

    def windows(**mode: bool) -> set[tuple]:
        found = sites(model.clone(**mode), (720, 1270))
        return {(site.kind, site.size[0], *site.window) for site in found}

    pads_to = {768: 1280, 384: 640, 192: 320, 96: 160}
    means = {("mean", 768, 288, 384), ("mean", 384, 144, 192), ("mean", 192, 72, 96)}
    means |= {("mean", 96, 36, 48)}
    grids = {("grid", 768, 192, 256), ("grid", 384, 96, 128), ("grid", 192, 48, 64)}
    grids |= {("grid", 96, 24, 32)}
    whole_means, whole_grids = (
        {(kind, h, h, w) for h, w in pads_to.items()} for kind in ("mean", "grid")
    )
    assert windows() == whole_means | whole_grids
    assert windows(local_mode=True) == means | grids
    assert windows(local_mode=True, local_grid=False) == means | whole_grids
    assert windows(local_mode=True, local_attention=False) == whole_means | grids


def test_windows_of_crops_that_are_padded() -> None:
    """1.5 times what a crop of 100 becomes, as wherever a network pads."""
    model = Maxim(
        features=4, depth=2, num_stages=1, num_groups=1, num_bottleneck_blocks=1,
        train_size=(100, 100), local_mode=True, local_grid=False,
    )  # fmt: skip
    found = {site.window for site in sites(model, (512, 512)) if site.kind == "mean"}
    assert found == {(192, 192), (96, 96), (48, 48)}


def test_says_which_train_size_the_grid_divides() -> None:
    model = golden("maxim_b").model.clone(train_size=(40, 48), local_mode=True)
    with pytest.raises(ValueError, match=r"set train_size=\(48, 48\)"):
        shapes(model)
    shapes(model.clone(local_grid=False))
    shapes(model.clone(local_mode=False))


def test_refuses_an_unknown_padding() -> None:
    with pytest.raises(ValueError, match="unknown padding 'none': choose 'zeros', 'end', 'both'"):
        shapes(golden("maxim_b").model.clone(padding="none"))


def test_bfloat16_is_close() -> None:
    model, params, _ = golden("maxim_b")
    image = picture(1, 16, 16, 3)
    expected = run(model, params, image)
    restored = run(model.clone(dtype=jnp.bfloat16), params, image)
    assert restored.dtype == np.float32
    error = restored - expected
    assert np.sqrt(np.square(error).mean()) < 0.05 * expected.std()


@pytest.mark.parametrize("levels", [-2, -1, 0, 1, 2])
def test_resizes_as_jax_image(levels: int) -> None:
    x = jnp.asarray(picture(2, 12, 20, 3))
    shape = (2, int(12 * 2.0**levels), int(20 * 2.0**levels), 3)
    expected = jax.image.resize(x, shape, "bilinear", antialias=True)
    np.testing.assert_allclose(resize_bilinear(x, levels), expected, atol=1e-6)
