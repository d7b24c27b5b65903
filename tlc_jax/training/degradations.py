"""Degradations of photographs, as random processes to train and to measure on.

A degradation takes a key and one photograph (H, W, C) in [0, 1], and returns it degraded, of the
same size. The same key degrades it in the same way on any device; `jax.vmap` serves a batch:

    blurred = jax.vmap(MotionBlur(length=(3, 15)))(keys, photographs)
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Degradation = Callable[[jax.Array, jax.Array], jax.Array]

STEPS = 64  # of a camera's trajectory

# ITU-T T.81, annex K: what JPEG divides the frequencies of luma and of chroma by, at quality 50.
LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
], np.float32)  # fmt: skip
CHROMA = np.full((8, 8), 99, np.float32)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# The orthonormal transform of 8 samples; rows are frequencies.
COSINES = np.cos(np.pi / 16 * np.outer(np.arange(8), 2 * np.arange(8) + 1)) / 2
COSINES[0] /= math.sqrt(2)
COSINES = COSINES.astype(np.float32)
# ITU-T T.871: rows are luma, blue and red difference of an RGB colour.
YCC = np.array([
    [0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411],
], np.float32)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class GaussianNoise:
    """The same noise everywhere; `sigma` is drawn from a range, in levels of 8 bits."""

    sigma: tuple[float, float]

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        draw, noise = jax.random.split(key)
        sigma = _drawn(draw, self.sigma) / 255
        return image + sigma * jax.random.normal(noise, image.shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class PoissonNoise:
    """Noise of light: the `photons` of a sample of 1 are drawn evenly by their logarithm."""

    photons: tuple[float, float]

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        draw, noise = jax.random.split(key)
        photons = jnp.exp(_drawn_log(draw, self.photons))
        counts = jax.random.poisson(noise, jnp.maximum(image, 0) * photons)
        return counts.astype(jnp.float32) / photons


@dataclasses.dataclass(frozen=True)
class CameraNoise:
    """Noise of light and of its reading, as it comes out of a camera (arXiv 1811.11127, 3.2, 3.3).

    It is added in linear light, stronger where a white balance amplifies and by what makes colours
    vivid. In half of the cases it is demosaiced, too, so that neighbours share it; a camera's own
    smoothing makes them share more.

    Attributes:
      shot: range of the variance per unit of light, drawn evenly by its logarithm; what reading
        adds follows from it.
    """

    shot: tuple[float, float] = (1e-4, 0.012)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 8)
        log_shot = _drawn_log(keys[0], self.shot)
        log_read = 2.18 * log_shot + 1.2 + 0.26 * jax.random.normal(keys[1], (), jnp.float32)
        gains = jnp.ones((1, 1, 1), jnp.float32)
        if image.shape[-1] == 3:
            red, blue = _drawn(keys[2], (1.9, 2.4)), _drawn(keys[3], (1.5, 1.9))
            gains = jnp.stack([red, jnp.ones_like(red), blue])[None, None]
        light = to_linear(jnp.clip(image, 0, 1))
        variance = jnp.exp(log_shot) * gains * light + jnp.exp(log_read) * gains**2
        noise = jnp.sqrt(variance) * jax.random.normal(keys[4], image.shape, jnp.float32)
        if image.shape[-1] == 3:
            mosaic, row, column = jax.random.bernoulli(keys[5], 0.5, (3,))
            noise = jnp.where(mosaic, demosaiced(noise, row, column), noise)
            vivid = _drawn(keys[6], (0, 1))
            noise = noise + vivid * (noise - noise.mean(axis=-1, keepdims=True))
        shared = _drawn(keys[7], (0, 0.25))
        noise = _smoothed(noise, 1 - 2 * shared, shared)
        return to_srgb(jnp.clip(light + noise, 0, 1))


@dataclasses.dataclass(frozen=True)
class LessLight:
    """A darker scene: light falls by a number of `stops`, each half of it, drawn from a range."""

    stops: tuple[float, float]

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return to_srgb(to_linear(image) * 2.0 ** -_drawn(key, self.stops))


@dataclasses.dataclass(frozen=True)
class MotionBlur:
    """A camera that moves while it exposes, along a random path; `length` is a range, pixels."""

    length: tuple[float, float]

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        draw, path = jax.random.split(key)
        kernel = path_kernel(trajectory(path, _drawn(draw, self.length)), self.length[1])
        return blur(image, kernel)


@dataclasses.dataclass(frozen=True)
class CameraShake:
    """A camera that moves and turns about its axis: MotionBlur that differs from place to place.

    Attributes:
      length: range of the path's length in the middle of the photograph, pixels.
      turn: range of the most that the turn moves the corners, pixels; they move as far as a path of
        that length rises and falls, which is about 0.6 of it.
    """

    length: tuple[float, float]
    turn: tuple[float, float]

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        length, turn, path, turning = jax.random.split(key, 4)
        corner = math.hypot(*image.shape[:2]) / 2  # pixels from the middle
        angles = trajectory(turning, _drawn(turn, self.turn))[0] / corner
        return shake(image, trajectory(path, _drawn(length, self.length)), angles)


@dataclasses.dataclass(frozen=True)
class HandHeld:
    """A part of a photograph by a camera that shakes, in which something else may move.

    The shake differs from place to place, as by a camera that turns, too.
    What is white may have been brighter than a sensor can tell, and leaves trails.

    Attributes:
      length: range of the path's length in the middle, pixels; also of what moves by itself.
      turn: range of the path's length that a turn about the middle adds at the corners, pixels.
      moving: share of the cases in which something moves by itself, in some third of the picture.
      brightest: range of what white is, 1 for no more than it seems.
    """

    length: tuple[float, float]
    turn: tuple[float, float]
    moving: float = 0.3
    brightest: tuple[float, float] = (1.0, 4.0)

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 9)
        h, w, _ = image.shape
        light = to_linear(image)
        light += (_drawn(keys[0], self.brightest) - 1) * jnp.maximum(light - 0.9, 0) * 10
        path = trajectory(keys[1], _drawn(keys[2], self.length))
        turning = trajectory(keys[3], _drawn(keys[4], self.turn))[0]
        # Each of 3 x 3 places is moved by the turn, too, across its way to the middle.
        rows, columns = np.mgrid[-1:2, -1:2].reshape(2, 9, 1).astype(np.float32)
        turned = np.stack([-columns, rows], axis=1) / math.sqrt(2)
        paths = path[None] + turned * turning[None, None]
        own = trajectory(keys[5], _drawn(keys[6], self.length))
        reach = self.length[1] + self.turn[1]
        kernels = jax.vmap(lambda path: path_kernel(path, reach))(paths)
        still = _blended(convolved(light, kernels).reshape(3, 3, *light.shape))

        wild = jax.image.resize(
            jax.random.normal(keys[7], (4, 4, 1), jnp.float32), (h, w, 1), "cubic"
        )
        part = (wild > 0.4) & _happens(keys[8], self.moving)
        light = jnp.concatenate([light, part.astype(jnp.float32)], axis=-1)
        moved = convolved(light, path_kernel(own, self.length[1])[None])[0]
        moved, part = moved[..., :-1], moved[..., -1:]
        return to_srgb(jnp.clip(still + part * (moved - still), 0, 1))


@dataclasses.dataclass(frozen=True)
class Defocus:
    """A lens out of focus: every point becomes a disc, of a `radius` drawn from a range, pixels."""

    radius: tuple[float, float]

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return blur(image, disc_kernel(_drawn(key, self.radius), math.ceil(self.radius[1])))


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """JPEG compression, 4:2:0 as cameras do it; its blocks may begin anywhere, as in a cut-out.

    Attributes:
      quality: range from which it is drawn, 1 to 100.
      full_chroma: share of the cases that are 4:4:4 instead, as of many editors.
    """

    quality: tuple[float, float]
    full_chroma: float = 0.0

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        draw, chroma, place = jax.random.split(key, 3)
        h, w, c = image.shape
        corner = jax.random.randint(place, (3,), 0, np.array([16, 16, 1]), jnp.int32)
        around = jnp.pad(image, ((16, 16), (16, 16), (0, 0)), mode="edge")
        whole = jax.lax.dynamic_slice(around, corner, (h + 16, w + 16, c))
        full = _happens(chroma, self.full_chroma)
        whole = jpeg(whole, _drawn(draw, self.quality), full)
        return jax.lax.dynamic_slice(whole, jnp.array([16, 16, 0], jnp.int32) - corner, image.shape)


@dataclasses.dataclass(frozen=True)
class EightBits:
    """Clipped and rounded as an 8-bit file is."""

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return jnp.round(jnp.clip(image, 0, 1) * 255) / 255


@dataclasses.dataclass(frozen=True)
class InTurn:
    """One degradation after the other, as in a camera: blur, noise, then the file."""

    parts: tuple[Degradation, ...]

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        for i, part in enumerate(self.parts):
            image = part(jax.random.fold_in(key, i), image)
        return image


@dataclasses.dataclass(frozen=True)
class Sometimes:
    """A degradation in a `share` of the cases, and the photograph as it is in the others."""

    share: float
    part: Degradation

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        draw, key = jax.random.split(key)
        return jnp.where(_happens(draw, self.share), self.part(key, image), image)


def _drawn(key: jax.Array, limits: tuple[float, float]) -> jax.Array:
    """A number drawn evenly between two, float32 whatever JAX's default is."""
    return jax.random.uniform(key, (), jnp.float32, *limits)


def _drawn_log(key: jax.Array, limits: tuple[float, float]) -> jax.Array:
    """The logarithm of a number between two, drawn evenly."""
    return _drawn(key, (math.log(limits[0]), math.log(limits[1])))


def _happens(key: jax.Array, share: float) -> jax.Array:
    """True in a share of the cases, which may be a whole number, 0 or 1."""
    return jax.random.bernoulli(key, float(share))


def trajectory(key: jax.Array, length: jax.Array | float) -> jax.Array:
    """The path of a hand-held camera about its centroid, `length` pixels long: (2, STEPS).

    Rows and columns; it turns and changes its speed smoothly, both as integrated noise.
    """
    first, bend, much, pace = jax.random.split(key, 4)
    bends = jnp.cumsum(jax.random.normal(bend, (STEPS,), jnp.float32)) / math.sqrt(STEPS)
    angle = 2 * jnp.pi * (_drawn(first, (0, 1)) + _drawn(much, (0, 1)) * bends)
    speed = jnp.exp(jnp.cumsum(jax.random.normal(pace, (STEPS,), jnp.float32)) / math.sqrt(STEPS))
    step = length * speed / speed.sum()
    path = jnp.stack([jnp.cumsum(step * jnp.sin(angle)), jnp.cumsum(step * jnp.cos(angle))])
    return path - path.mean(axis=1, keepdims=True)


def path_kernel(path: jax.Array, length: float) -> jax.Array:
    """The blur along a path (2, moments) about 0, no longer than `length`: (k, k), sum 1, k odd."""
    reach = math.ceil(length)
    pixels = jnp.arange(-reach, reach + 1, dtype=jnp.float32)
    # Each instant's light falls on the four pixels around its place.
    distances = jnp.abs(path[..., None] - pixels[None, None])
    rows, columns = jnp.maximum(1 - distances, 0)
    kernel = jnp.einsum("ti,tj->ij", rows, columns, precision="highest")
    return kernel / kernel.sum()


def disc_kernel(radius: jax.Array | float, largest: int) -> jax.Array:
    """A disc of `radius` pixels with a soft edge: (2 largest + 1, 2 largest + 1), sum 1."""
    pixels = jnp.arange(-largest, largest + 1, dtype=jnp.float32)
    disc = jnp.clip(radius + 0.5 - jnp.hypot(pixels[:, None], pixels[None]), 0, 1)
    return disc / disc.sum()


def blur(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve a photograph with one kernel, in linear light, where exposures add up.

    Args:
      image: (H, W, C) in [0, 1], encoded as sRGB; mirrored beyond its edges.
      kernel: (k, k), k odd and k // 2 smaller than the image.

    Returns:
      (H, W, C) in [0, 1], encoded as sRGB.
    """
    return to_srgb(jnp.clip(convolved(to_linear(image), kernel[None])[0], 0, 1))


def convolved(light: jax.Array, kernels: jax.Array) -> jax.Array:
    """(H, W, C), mirrored beyond its edges, with each of (n, k, k), k odd: (n, H, W, C)."""
    reach = kernels.shape[-1] // 2
    light = jnp.pad(light, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    size = light.shape[:2]
    response = jnp.fft.rfft2(kernels, size)[..., None]
    product = jnp.fft.rfft2(light, axes=(0, 1))[None] * response
    return jnp.fft.irfft2(product, size, axes=(1, 2))[:, 2 * reach :, 2 * reach :]


def _blended(places: jax.Array) -> jax.Array:
    """Of (n, n, H, W, C) each at its own place of a grid, and between them mixed linearly."""
    n, _, h, w, _ = places.shape

    def shares(size: int) -> jax.Array:
        across = jnp.linspace(0, n - 1, size, dtype=jnp.float32)
        return jnp.maximum(1 - jnp.abs(across[None] - jnp.arange(n, dtype=jnp.float32)[:, None]), 0)

    weights = shares(h).reshape(n, 1, h, 1, 1) * shares(w).reshape(1, n, 1, w, 1)
    return (weights * places).sum(axis=(0, 1))


def shake(image: jax.Array, path: jax.Array, angles: jax.Array) -> jax.Array:
    """The mean, in linear light, of a photograph moved along a path and turned about its middle.

    Args:
      image: as for `blur`, and so is the result.
      path: (2, moments) rows and columns, pixels.
      angles: (moments,) radians.
    """
    light = to_linear(image)
    h, w, _ = image.shape
    y, x = (jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2 for n in (h, w))
    y, x = y[:, None], x[None]

    def expose(total: jax.Array, moment: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        down, right, angle = moment
        rows = y * jnp.cos(angle) - x * jnp.sin(angle) + (h - 1) / 2 - down
        columns = y * jnp.sin(angle) + x * jnp.cos(angle) + (w - 1) / 2 - right
        look = functools.partial(
            jax.scipy.ndimage.map_coordinates, coordinates=[rows, columns], order=1, mode="mirror"
        )
        return total + jax.vmap(look, in_axes=-1, out_axes=-1)(light), None

    exposed, _ = jax.lax.scan(expose, jnp.zeros_like(light), (*path, angles))
    return to_srgb(jnp.clip(exposed / len(angles), 0, 1))


def to_linear(image: jax.Array) -> jax.Array:
    """Light from sRGB samples, both in [0, 1] (IEC 61966-2-1)."""
    return jnp.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


def to_srgb(light: jax.Array) -> jax.Array:
    """sRGB samples from light, both in [0, 1] (IEC 61966-2-1)."""
    # The floor keeps the gradient of black finite.
    curve = 1.055 * jnp.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(light <= 0.0031308, 12.92 * light, curve)


def demosaiced(
    image: jax.Array, odd_row: jax.Array | bool, odd_column: jax.Array | bool
) -> jax.Array:
    """Keep one colour of each pixel of (H, W, 3), and make the others of their neighbours again.

    The mosaic is Bayer's, whose red lies in rows and columns that are odd or even; it is filled in
    linearly. Beyond its edges the picture is black.
    """
    h, w, _ = image.shape
    row = ((np.arange(h) % 2 == 1) == odd_row).reshape(h, 1)
    column = ((np.arange(w) % 2 == 1) == odd_column).reshape(1, w)
    mosaic = jnp.where(jnp.stack([row & column, row ^ column, ~row & ~column], -1), image, 0)
    straight = _smoothed(mosaic, 1, 0.5)
    # Of green there is twice as much: the mean of the four beside, and nothing of the corners.
    across = mosaic[..., 1]
    beside = jnp.pad(across, 1)
    beside = beside[:-2, 1:-1] + beside[2:, 1:-1] + beside[1:-1, :-2] + beside[1:-1, 2:]
    return straight.at[..., 1].set(across + beside / 4)


def _smoothed(image: jax.Array, middle: jax.Array | float, beside: jax.Array | float) -> jax.Array:
    """(H, W, C) times `middle` and its neighbours times `beside`, on each axis; black beyond."""
    padded = jnp.pad(image, ((1, 1), (0, 0), (0, 0)))
    image = middle * image + beside * (padded[:-2] + padded[2:])
    padded = jnp.pad(image, ((0, 0), (1, 1), (0, 0)))
    return middle * image + beside * (padded[:, :-2] + padded[:, 2:])


def jpeg(
    image: jax.Array, quality: jax.Array | float, full_chroma: jax.Array | bool = False
) -> jax.Array:
    """What JPEG compression leaves of a photograph.

    Args:
      image: (H, W, 3) or (H, W, 1) in [0, 1], to which it is clipped.
      quality: 1 to 100, as of libjpeg.
      full_chroma: whether chroma keeps its resolution (4:4:4), else it has half (4:2:0).

    Returns:
      The same shape, in whole levels of 8 bits.
    """
    h, w, c = image.shape
    levels = jnp.round(jnp.clip(image, 0, 1) * 255)
    padded = jnp.pad(levels, ((0, -h % 16), (0, -w % 16), (0, 0)), mode="edge")
    if c == 3:
        padded = jnp.einsum("hwc,yc->hwy", padded, YCC, precision="highest")
    y, *chroma = jnp.moveaxis(padded, -1, 0)
    y = _quantised(y - 128, LUMA, quality) + 128
    if c == 1:
        return jnp.clip(y, 0, 255)[:h, :w, None] / 255
    halves = [x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean((1, 3)) for x in chroma]
    small = jnp.stack([_quantised(x, CHROMA, quality) for x in halves], -1)
    whole = jnp.stack([_quantised(x, CHROMA, quality) for x in chroma], -1)
    chroma = jnp.where(full_chroma, whole, jax.image.resize(small, whole.shape, "linear"))
    ycc = jnp.concatenate([y[..., None], chroma], axis=-1)
    rgb = jnp.einsum("hwy,cy->hwc", ycc, np.linalg.inv(YCC), precision="highest")
    return jnp.round(jnp.clip(rgb, 0, 255))[:h, :w] / 255


def _quantised(plane: jax.Array, table: np.ndarray, quality: jax.Array | float) -> jax.Array:
    """A plane of levels about 0, rounded, whose 8x8 blocks were rounded in frequency, too."""
    scale = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    steps = jnp.clip(jnp.floor((table * scale + 50) / 100), 1, 255)[None, :, None, :]
    blocks = jnp.round(plane).reshape(plane.shape[0] // 8, 8, plane.shape[1] // 8, 8)
    frequencies = jnp.einsum("ui,vj,aibj->aubv", COSINES, COSINES, blocks, precision="highest")
    rounded = jnp.round(frequencies / steps) * steps
    blocks = jnp.einsum("ui,vj,aubv->aibj", COSINES, COSINES, rounded, precision="highest")
    return jnp.round(blocks).reshape(plane.shape)
