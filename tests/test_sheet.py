"""Sheets and maps: what they show lies where it should."""

import itertools

import numpy as np
import pytest
from PIL import ImageColor

import tlc_jax as tlc
from tlc_jax.evaluation import sheets as sheet

SIZE = (200, 300)
RED, BLUE, ORANGE = (ImageColor.getrgb(colour) for colour in sheet.COLOURS[:3])


def flat(value, size=SIZE, channels=3):
    return np.full((*size, channels), value, np.float32)


def test_the_places_are_where_the_results_differ():
    difference = np.zeros((*SIZE, 3))
    difference[10:20, 10:20] = 1
    difference[150:160, 250:260] = 2
    first, second = sheet.most_different(difference, 2)
    assert first.height / first.width == pytest.approx(2 / 3, abs=0.02)
    for place, (row, column) in ((first, (150, 250)), (second, (10, 10))):
        assert place.top <= row and row + 10 <= place.top + place.height
        assert place.left <= column and column + 10 <= place.left + place.width


@pytest.mark.parametrize(("count", "size"), [(3, (64, 4096)), (1, (5, 9)), (9, (120, 130))])
def test_the_places_lie_inside_and_apart(count, size):
    difference = np.random.default_rng(0).random((*size, 1))
    places = sheet.most_different(difference, count)
    assert 1 <= len(places) <= count
    covered = np.zeros(size, int)
    for top, left, height, width in places:
        assert top + height <= size[0] and left + width <= size[1]
        covered[top : top + height, left : left + width] += 1
    assert covered.max() == 1


@pytest.mark.parametrize("size", [(20, 4096), (3, 4096), (4096, 3), (1, 1)])
def test_strips(size):
    """Panels are no thinner than what shows a picture and, below, a frame with something in it."""
    random = np.random.default_rng(0)
    image, globally, locally = random.random((3, *size, 3), np.float32)
    made = sheet.comparison(image, globally, locally, zooms=1)
    height, width = (max(sheet.THINNEST, sheet.PANEL * n // max(size)) for n in size)
    assert made.shape == (
        height + sheet.HEAD + sheet.GAP + height + 2 * sheet.GAP, 4 * (width + 2 * sheet.GAP), 3
    )  # fmt: skip
    enlarged = made[-sheet.GAP - height : -sheet.GAP, sheet.GAP : sheet.GAP + width]
    assert (enlarged[:3] == RED).all() and not (enlarged[3:-3, 3:-3] == RED).all(-1).any()
    assert sheet.window_map(image, [tlc.Site("s", "mean", size, size, 3)]).shape == (*size, 3)


def test_more_places_than_colours():
    locally = np.random.default_rng(0).random((500, 600, 3), np.float32)
    six, seven = (sheet.comparison(locally, 0 * locally, locally, zooms) for zooms in (6, 7))
    assert len(seven) > len(six)


def test_nothing_differs():
    assert sheet.most_different(np.zeros((*SIZE, 3)), 2) == []
    made = sheet.comparison(flat(0.5), flat(0.25), flat(0.25))
    assert made.dtype == np.uint8 and len(made) < 2 * sheet.PANEL


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 4])
def test_a_sheet_shows_each_picture(channels, scale):
    """In columns; a difference, here of one pixel, is shown white, marked, and enlarged."""
    larger = tuple(scale * n for n in SIZE)
    globally, locally = flat(0.4, larger, channels), flat(0.4, larger, channels)
    locally[50 * scale, 30 * scale] = 0.6
    made = sheet.comparison(flat(0.2, SIZE, channels), globally, locally, zooms=1)
    columns = np.split(made, 4, axis=1)
    height = sheet.PANEL * SIZE[0] // SIZE[1]
    at_the_pixel = []
    for column, value in zip(columns, (0.2, 0.4, 0.4, 0), strict=True):
        panel = column[sheet.HEAD : sheet.HEAD + height, sheet.GAP : -sheet.GAP]
        assert panel.shape == (height, sheet.PANEL, 3)
        assert (panel[-20:, -20:] == round(255 * value)).all()  # no place lies there
        assert (panel == RED).all(-1).any()
        below = column[-height // 2, sheet.PANEL // 2 :]
        assert (below == round(255 * value)).all(-1).any()
        enlarged = column[sheet.HEAD + height + sheet.GAP :]
        at_the_pixel.append((enlarged == round(255 * 0.6)).all(-1).any())
    assert at_the_pixel == [False, False, True, False]
    assert (columns[3][sheet.HEAD + height + sheet.GAP :] == 255).all(-1).sum() > (
        columns[1][sheet.HEAD + height + sheet.GAP :] == 255
    ).all(-1).sum()


def test_windows_lie_where_they_are_in_force():
    """The middle one around the middle, the other moved inside; padded maps are not larger."""
    model = tlc.NAFNet(
        4, (1, 1, 1, 1), 1, (1, 1, 1, 1), local_mode=True, train_size=(64, 64)
    )  # windows of 96, as maps of 161 x 302 have at 1/16 of it, which are 11 x 19 by padding
    made = sheet.window_map(flat(1, (161, 302)), tlc.sites(model, (161, 302)))
    assert made.shape == (161, 302, 3)
    marked = np.argwhere((made == RED).all(-1))
    assert marked.min(0).tolist() == [0, 0]
    top, left = 80 - 47, 151 - 47  # of an even side, the longer half lies below and to the right
    for row, column in ((top, 151), (top + 95, 151), (80, left), (80, left + 95), (95, 20)):
        assert (made[row, column] == RED).all()
    assert not (made[[top - 1, top + 96], 151] == RED).all(-1).any()
    assert not (made == BLUE).all(-1).any()


def test_windows_that_lie_still_are_all_that_hold_the_pixel():
    """Of attention in windows of 96, which begin at 0, 52, 104 down and at 0, 68, 136, 204 across:
    the pixel in the middle, (100, 150), is in two of them."""
    model = tlc.Restormer(
        dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, train_size=(64, 64),
        local_mode=True,
    )  # fmt: skip
    made = sheet.window_map(flat(1), tlc.sites(model, SIZE))
    marked = (made == RED).all(-1)
    for column, row in itertools.product((68, 163, 136, 231), (100, 60)):
        assert marked[row, column]
    for row in (52, 147):
        assert marked[row, [80, 220]].all()
    assert not marked[100, [102, 103]].any()  # where it would begin around the pixel
    assert marked[[95, 80], [20, 95]].all()  # that at the corner


def test_windows_of_parts_lie_inside_them():
    """Of MPRNet, for the pixel in the middle: in the lower half of the picture one of 48 x 96, in
    its lower right quarter one of 48 x 48."""
    model = tlc.MPRNet(8, 4, 4, num_cab=1, train_size=(64, 64), local_mode=True)
    made = sheet.window_map(flat(1, (200, 304)), tlc.sites(model, (200, 304)))
    for colour, left, right in ((BLUE, 152 - 47, 148), (ORANGE, 152, 200)):
        marked = (made == colour).all(-1)
        assert marked[100, left:right].all() and marked[100:148, left].all()
        assert not marked[86:96, left:right].any()


def test_windows_that_differ_have_colours_of_their_own():
    model = tlc.Maxim(
        features=4, depth=2, num_stages=1, num_groups=1, num_bottleneck_blocks=1,
        block_size_hr=(2, 2), block_size_lr=(2, 2), train_size=(64, 64), local_mode=True,
    )  # fmt: skip
    made = sheet.window_map(flat(1), tlc.sites(model, SIZE))
    assert (made == RED).all(-1).any() and (made == BLUE).all(-1).any()
