"""Sheets to look at: what TLC changes in a picture, and the windows that it aggregates over."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tlc_jax.inference.sites import Site
from tlc_jax.ops.pixels import from_float
from tlc_jax.ops.windows import axis_starts

PANEL = 480  # pixels, the longer side of a picture on a sheet
THINNEST = 16  # pixels; a shorter side that would be smaller is stretched to it
ZOOM = 96  # pixels, the longer side of a place that is shown enlarged
GAP, HEAD = 8, 28  # pixels between panels, and for the title above one
COLOURS = ("#e6194b", "#0082c8", "#f58231", "#3cb44b", "#911eb4")  # of places and of windows


class Place(NamedTuple):
    """A rectangle in an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def comparison(
    image: np.ndarray, globally: np.ndarray, locally: np.ndarray, zooms: int = 2
) -> np.ndarray:
    """A sheet with the input, both results, their difference, and below, enlarged places.

    The places are those where the results differ most; coloured frames mark them above.

    Args:
      image, globally, locally: as for `panels`.
      zooms: how many places.

    Returns:
      (height, width, 3) uint8.
    """
    pictures = panels(image, globally, locally)
    found = most_different(np.abs(locally - globally), zooms)
    places = list(zip(found, itertools.cycle(COLOURS), strict=False))
    rows = [[_panel(pixels, title, places) for title, pixels in pictures.items()]]
    for place in places:
        rows.append([_enlarged(pixels, *place) for pixels in pictures.values()])
    return np.vstack([np.hstack(row) for row in rows])


def panels(
    image: np.ndarray, globally: np.ndarray, locally: np.ndarray, tiled: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The images to compare, by title: the input, the results, and the local one's differences.

    A difference is scaled, so that its brightest 1% is white.

    Args:
      image: (H, W, 1 or 3) floats in [0, 1].
      globally, locally: the results, larger than the input if the network enlarges.
      tiled: the result of overlapping tiles, if there is one.

    Returns:
      Images of the size of the results.
    """
    scale = len(locally) // len(image)
    results = {"global": globally, "local": locally} | ({} if tiled is None else {"tiles": tiled})
    pictures = {"input": image.repeat(scale, 0).repeat(scale, 1)} | results
    for name, result in results.items():
        if name != "local":
            difference = np.abs(locally - result)
            stretch = 1 / (np.quantile(difference, 0.99) or difference.max() or 1)
            pictures[f"|local - {name}| x {stretch:.3g}"] = difference * stretch
    return pictures


def most_different(difference: np.ndarray, count: int) -> list[Place]:
    """Up to `count` disjoint places where `difference`, (H, W, C), has the largest sums."""
    size = difference.shape[:2]
    height, width = (max(1, min(ZOOM, max(size)) * length // max(size)) for length in size)
    total = np.pad(difference.sum(-1, dtype=np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    columns = total[:, width:] - total[:, :-width]
    sums = columns[height:] - columns[:-height]
    places = []
    while len(places) < count and sums.max() > 0:
        top, left = map(int, np.unravel_index(sums.argmax(), sums.shape))
        places.append(Place(top, left, height, width))
        sums[max(0, top - height + 1) : top + height, max(0, left - width + 1) : left + width] = 0
    return places


def window_map(image: np.ndarray, sites: Sequence[Site]) -> np.ndarray:
    """An image with the windows of a network's sites drawn over it.

    Dots mark two pixels, one in the middle and one near a corner. Of sliding windows the one around
    each is drawn, near a border the nearest inside; of windows that do not slide (attention, grids)
    all that hold the pixel. Windows of MPRNet's first stages lie inside the half or quarter of the
    image that a stage sees. Each distinct window, in pixels of the image, has a colour of its own
    and a label that counts its sites.

    Args:
      image: (H, W, 1 or 3) floats in [0, 1].
      sites: what `tlc_jax.sites` returns for an image of that size.

    Returns:
      (H, W, 3) uint8.
    """
    size = image.shape[:2]
    windows: dict[tuple[tuple[int, ...], tuple[int, int], bool], list[str]] = {}
    # Feature maps include padding: those of full resolution tell how much.
    whole = (np.multiply(site.size, site.parts).tolist() for site in sites)
    padded = [max(sides) for sides in zip(size, *whole, strict=True)]
    for site in sites:
        sides = zip(site.window, site.size, site.parts, size, padded, strict=True)
        window = tuple(min(k * -(-p // (m * parts)), n // parts) for k, m, parts, n, p in sides)
        windows.setdefault((window, site.parts, site.slides), []).append(site.kind)
    sheet = _drawable(image)
    draw = ImageDraw.Draw(sheet)
    line = max(2, max(size) // 400)
    largest_first = sorted(windows.items(), reverse=True)
    for number, (((height, width), parts, slides), kinds) in enumerate(largest_first):
        colour = COLOURS[number % len(COLOURS)]
        label = f"{height} x {width} at {len(kinds)} sites: {', '.join(sorted(set(kinds)))}"
        for row, column in ((size[0] // 2, size[1] // 2), (size[0] // 16, size[1] // 16)):
            tops = _starts(size[0], parts[0], height, row, slides)
            lefts = _starts(size[1], parts[1], width, column, slides)
            for top, left in itertools.product(tops, lefts):
                box = (left, top, left + width - 1, top + height - 1)
                draw.rectangle(box, outline=colour, width=line)
            draw.circle((column, row), 2 * line, fill=colour)
            at = (lefts[0] + 3 * line, tops[0] + 3 * line + HEAD * number)
            _label(draw, at, colour, label)
    return np.asarray(sheet)


def _starts(length: int, parts: int, window: int, position: int, slides: bool) -> list[int]:
    """The starts of the windows for a position, on an axis that is cut into `parts`."""
    part = length // parts
    begin = min(position // part, parts - 1) * part
    if slides:  # as in `ops.spread`
        start = min(max(0, position - begin - (window - 1) // 2), part - window)
        return [begin + start]
    starts = (begin + start for start in axis_starts(part, window))
    return [start for start in starts if start <= position < start + window]


def _panel(pixels: np.ndarray, title: str, places: Sequence[tuple[Place, str]]) -> np.ndarray:
    """A whole image, framed in white, with a title above and the places marked in their colours."""
    width, height = _panel_size(pixels)
    picture = _drawable(pixels).resize((width, height))
    across, down = width / pixels.shape[1], height / pixels.shape[0]
    for place, colour in places:
        left, right = across * place.left, across * (place.left + place.width)
        top, bottom = down * place.top, down * (place.top + place.height)
        ImageDraw.Draw(picture).rectangle((left, top, right, bottom), outline=colour, width=2)
    framed = ImageOps.expand(picture, (GAP, HEAD, GAP, GAP), "white")
    _label(ImageDraw.Draw(framed), (GAP, 4), "black", title)
    return np.asarray(framed)


def _enlarged(pixels: np.ndarray, place: Place, colour: str) -> np.ndarray:
    """A place enlarged to the size of a panel, pixel by pixel, framed in its colour."""
    top, left, height, width = place
    part = _drawable(pixels[top : top + height, left : left + width])
    part = part.resize(_panel_size(pixels), Image.Resampling.NEAREST)
    framed = ImageOps.expand(ImageOps.crop(part, 3), 3, colour)
    return np.asarray(ImageOps.expand(framed, GAP, "white"))


def _panel_size(pixels: np.ndarray) -> tuple[int, int]:
    """(width, height) of an image on a sheet."""
    height, width, _ = pixels.shape
    scale = PANEL / max(height, width)
    return max(THINNEST, round(scale * width)), max(THINNEST, round(scale * height))


def _drawable(pixels: np.ndarray) -> Image.Image:
    rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return Image.fromarray(from_float(rgb, np.uint8))


def _label(draw: ImageDraw.ImageDraw, place: tuple[int, int], colour: str, text: str) -> None:
    font = ImageFont.load_default(18)
    draw.text(place, text, colour, font, stroke_width=2, stroke_fill="white")
