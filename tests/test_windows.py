"""Where the windows lie: the papers' numbers, the releases', and what holds for every size."""

import itertools
import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints_convert import RELEASES as RELEASED
from checkpoints_convert import convert_state_dict
from checkpoints_convert.engine import Rule, _place
from tlc_jax.inference.sites import sites
from tlc_jax.models import NAFNet
from tlc_jax.ops.windows import (
    average_windows,
    axis_cells,
    axis_starts,
    axis_tiles,
    clip_window,
    extract_windows,
    site_window,
)

RELEASES = (
    "nafnet_a",
    "nafnet_b",
    "baseline_a",
    "baseline_b",
    "hinet_a",
    "hinet_right",
    "mprnet_a",
    "mprnet_denoise_like",
    "nafssr_a",
    "rnnmbp_a",
    "restormer_withbias",
    "restormer_biasfree",
    "restormer_gray",
    "restormer_dualpixel",
)


@pytest.mark.parametrize(
    ("size", "train_size", "window", "expected"),
    [
        ((256, 256), (256, 256), (384, 384), (384, 384)),
        ((16, 16), (256, 256), (384, 384), (24, 24)),
        ((32, 16), (256, 128), (384, 192), (48, 24)),
        ((64, 64), (256, 256), (512, 256), (128, 64)),
        # Floors: of 10 feature pixels of a crop of 32, times 50 / 32.
        ((10, 10), (32, 32), (50, 50), (15, 15)),
        # A crop of 100 is padded to 112 before the network divides it: 7 * 150 / 100 = 10.5.
        ((7, 7), (100, 100), (150, 150), (10, 10)),
        # A window far below the stride still holds one pixel.
        ((4, 4), (64, 64), (2, 2), (1, 1)),
    ],
)
def test_site_window(size, train_size, window, expected):
    assert site_window(size, train_size, window) == expected


def test_clip_window():
    assert clip_window(None, (7, 9)) == (7, 9)
    assert clip_window((48, 48), (32, 160)) == (32, 48)
    assert clip_window((7, 9), (7, 9)) == (7, 9)
    assert clip_window((np.int64(7), 9), (70, 90)) == (7, 9)
    for window in ((0, 3), (3, 0), (-1, 3)):
        with pytest.raises(ValueError, match="of whole pixels"):
            clip_window(window, (7, 9))


@pytest.mark.parametrize(
    ("length", "window", "expected"),
    [
        (720, 384, (0, 336)),
        (1280, 384, (0, 299, 598, 896)),
        (360, 192, (0, 168)),
        (640, 192, (0, 150, 300, 448)),
        (384, 384, (0,)),
        (385, 384, (0, 1)),
        (768, 384, (0, 384)),
        (769, 384, (0, 193, 385)),
        (3, 1, (0, 1, 2)),
        (1, 1, (0,)),
        (5, 9, (0,)),
    ],
)
def test_axis_starts(length, window, expected):
    assert axis_starts(length, window) == expected


PAIRS = [*itertools.product(range(1, 40), range(1, 45)), (720, 384), (1280, 384), (1279, 47)]


def test_windows_cover_every_axis():
    for length, window in PAIRS:
        starts, k = np.array(axis_starts(length, window)), min(window, length)
        assert starts[0] == 0 and starts[-1] == length - k, (length, window)  # both ends flush
        steps = np.diff(starts)
        assert (steps > 0).all() and (steps <= k).all(), (length, window)  # no repeat, no gap
        # No window too many: one less could not cover the axis.
        assert (len(starts) - 1) * k < length, (length, window)


def covered(length, window):
    """(windows, length): True where the window holds the pixel."""
    pixels, k = np.arange(length), min(window, length)
    starts = np.array(axis_starts(length, window))[:, None]
    return (starts <= pixels) & (pixels < starts + k)


def test_cells_partition_every_axis():
    for length, window in PAIRS:
        cells = axis_cells(length, window)
        pixels = [pixel for begin, end in cells for pixel in range(begin, end)]
        assert pixels == list(range(length)), (length, window)
        assert all(begin < end for begin, end in cells), (length, window)
        holders = covered(length, window)  # the same for all pixels of a cell
        assert all((holders[:, a:b] == holders[:, [a]]).all() for a, b in cells), (length, window)


@pytest.mark.parametrize("tile", [1, 3, 8, 50])
def test_tiles_hold_every_pixel_once(tile):
    for length, window in PAIRS[::7]:
        tiles = axis_tiles(length, window, tile)
        assert np.array_equal(tiles.source[tiles.inside], np.arange(length)), (length, window)
        assert np.array_equal(tiles.source[tiles.place], np.arange(length)), (length, window)
        assert tiles.inside[tiles.place].all(), (length, window)
        # `cover` says in which windows all pixels of a tile lie, those that fill it up included.
        of_pixel = np.repeat(tiles.cover, tile, axis=1)
        assert np.array_equal(of_pixel, covered(length, window)[:, tiles.source]), (length, window)


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((13, 22), (5, 8)),
        ((13, 22), (20, 8)),
        ((13, 22), (13, 22)),
        ((7, 5), (1, 1)),
        ((9, 4), (8, 9)),
    ],
)
def test_average_of_extracted_windows_is_the_map(size, window):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    windows = extract_windows(x, window)
    h, w = clip_window(window, size)
    rows, columns = axis_starts(size[0], h), axis_starts(size[1], w)
    assert windows.shape == (2 * len(rows) * len(columns), h, w, 3)
    last = windows[-2:]  # the batch stays together within a window
    assert np.array_equal(last, x[:, rows[-1] : rows[-1] + h, columns[-1] : columns[-1] + w])
    np.testing.assert_allclose(average_windows(windows, size), x, rtol=3e-7)


def test_overlapping_windows_have_equal_weights():
    # 4 pixels in windows 0-2 and 1-3 whose values are 1 and 4: the two shared pixels get 2.5.
    windows = jnp.stack([jnp.full((1, 3, 1), 1.0), jnp.full((1, 3, 1), 4.0)])
    assert average_windows(windows, (1, 4)).ravel().tolist() == [1.0, 2.5, 2.5, 4.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e20])
def test_a_bad_window_spoils_what_it_covers(bad):
    windows = extract_windows(jnp.ones((2, 13, 22, 3)), (5, 8))
    averaged = average_windows(windows.at[2].set(bad), (13, 22))
    column = axis_starts(22, 8)[1]  # the second place, of the first picture
    touched = np.zeros((2, 13, 22), bool)
    touched[0, :5, column : column + 8] = True
    np.testing.assert_allclose(averaged[~touched], 1.0, rtol=3e-7)
    assert not np.isclose(averaged[touched], 1.0).any()


@pytest.mark.parametrize("name", RELEASES)
def test_every_site_has_the_window_of_the_release(golden, name):
    meta, image, _, tensors = golden(name)
    model, _ = convert_state_dict(tensors, train_size=tuple(meta["train_size"]))
    # On a picture that no window covers they are in force as they are.
    larger = (112, 104)
    found = sites(model.clone(local_mode=True), larger)
    windows = {site.name: site.window for site in found}
    rules = RELEASED[meta["model"]].rules
    assert windows == {_path(site, rules): tuple(k) for site, k in meta["windows"].items()}
    # On the release's own picture they are no larger than the maps.
    for site in sites(model.clone(local_mode=True), image.shape[-3:-1]):
        assert site.window == tuple(map(min, windows[site.name], site.size)), site
    assert all(site.window == site.size for site in sites(model, larger))


def _path(site: str, rules: Sequence[Rule]) -> str:
    """Our name of a site, by where the converter puts a tensor that lies beside it."""
    beside = {
        r"(sca|se)\.0": r"\1.1.weight",
        r"CA\.avg_pool": "CA.conv_du.0.weight",
        r"norm\.avgpool": "norm.weight",
        r"attn": "attn.temperature",
    }
    for pattern, tensor in beside.items():
        site = re.sub(rf"{pattern}$", tensor, site)
    path, _, _ = _place(site, rules)
    ours = {"/(sca|Conv_0)/kernel": "/pool", "/scale": "/moments", "/temperature": "/attend"}
    for tensor, module in ours.items():
        path = re.sub(f"{tensor}$", module, path)
    return path


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (48, 72)),
        ({"train_size": (64, 96)}, (96, 144)),
        ({"window": (32, 100)}, (32, 100)),
    ],
)
def test_windows_follow_training_size_and_choice(fields, expected):
    tiny = NAFNet(2, (1, 1), 0, (1, 1), local_mode=True, train_size=(32, 48))
    first, second, *_ = sites(tiny.clone(**fields), (160, 200))
    assert first.window == expected
    assert second.window == (expected[0] // 2, expected[1] // 2)  # at half the resolution
