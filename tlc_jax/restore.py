"""A network, its parameters and a photograph in; the restored photograph out."""

import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.module import InterceptorContext

from tlc_jax.buckets import forward_within, put_into
from tlc_jax.checkpoints import abstract_params
from tlc_jax.image import ImageError, from_float, to_float
from tlc_jax.layers import Network
from tlc_jax.layers.network import check_network, is_site
from tlc_jax.models import Params
from tlc_jax.ops.windows import Window, clip_window

LATTICE = 64  # pixels, the side of MAXIM's largest block; that of the others divides it


@functools.partial(jax.jit, static_argnames="model")
def _forward(model: Network, params: Params, image: jax.Array) -> jax.Array:
    return model.apply({"params": params}, image[None])[0]


@functools.partial(jax.jit, static_argnames=("model", "ahead"), donate_argnames="state")
def _forward_part(
    model: Network, params: Params, clip: jax.Array, state: Any, ahead: int
) -> tuple[jax.Array, Any]:
    variables = {"params": params}
    restored, state = model.apply(variables, clip[None], state, ahead, method="resume")
    return restored[0], state


def restore(
    model: Network,
    params: Params,
    image: np.ndarray,
    *,
    bucket: tuple[int, int] | None = None,
) -> np.ndarray:
    """Restore one picture with a network, global or local as `model.local_mode` says.

    The first picture of a size compiles; later ones of the same network and size do not.

    Args:
      model: a network; `model.clone(local_mode=True)` for TLC. One of your own derives from
        `tlc_jax.Network`, and has tuples for lists.
      params: its parameter tree.
      image: (H, W, C) with the network's channels, float in [0, 1], uint8 or uint16.
      bucket: (height, width) no smaller than the picture. One compiled program then serves all
        pictures of a bucket, with the same results but for rounding; `choose_buckets` finds some.

    Returns:
      (H, W, C) of the same type, 3 channels of a dual-pixel network; whole numbers are rounded and
      clipped, floats are not.

    Raises:
      ValueError: an array that is no picture, or not of the network's channels; a bucket that is
        too small, or of a network that has none; a network for clips, or one that JAX cannot
        compile by; a result that holds NaN, for a picture of whole numbers, which cannot.
      TypeError: other types of numbers; a module that is no `Network` with a `forward`.
    """
    _refuse_clips(model)
    image = np.asarray(image)
    forward, *arguments = _program(model, _checked(model, image), bucket)
    restored = np.asarray(forward(model, params, *arguments))
    if bucket is not None:
        restored = model.crop(restored, image.shape[:2])
    return like(image, restored)


def restore_tiles(
    model: Network, params: Params, image: np.ndarray, tile: int, overlap: int
) -> np.ndarray:
    """Restore one picture in overlapping tiles, averaged with equal weights where they overlap.

    What is done for want of memory, or instead of TLC: each tile is a picture of its own to the
    network. The first compiles what `warm_up` compiles for it; it serves all tiles of all pictures
    that are no smaller.

    Args:
      model, params, image: as of `restore`.
      tile: side in pixels; of a smaller picture, the whole side.
      overlap: pixels that neighbours share, less than `tile`. The last tile ends with the picture,
        so it may share more.

    Returns:
      As `restore`.

    Raises:
      ValueError: as `restore`, or an overlap that is not in 0 ... tile - 1.
      TypeError: as `restore`.
    """
    if not 0 <= overlap < tile:
        raise ValueError(
            f"an overlap is 0 to {tile - 1} pixels for tiles of {tile}, got {overlap}."
        )
    _refuse_clips(model)
    image = np.asarray(image)
    pixels = _checked(model, image)
    rows, columns = (
        (*range(0, length - tile, tile - overlap), max(0, length - tile))
        for length in pixels.shape[:2]
    )
    scale = model.scale
    size = [length * scale for length in pixels.shape[:2]]
    total, count = (np.zeros((*size, n), np.float32) for n in (model.out_channels, 1))
    for top, left in itertools.product(rows, columns):
        restored = np.asarray(_forward(model, params, pixels[top : top + tile, left : left + tile]))
        h, w, _ = restored.shape
        here = np.s_[top * scale : top * scale + h, left * scale : left * scale + w]
        total[here] += restored
        count[here] += 1
    return like(image, total / count)


def restore_shifted(model: Network, params: Params, image: np.ndarray, shifts: int) -> np.ndarray:
    """Restore one picture several times, moved against the network's blocks, and average.

    MAXIM mixes pixels within blocks, and it matters what falls into one: on a frame of GoPro the
    mean over five places is 0.17 dB better than its members are on average.

    Args:
      model, params, image: as of `restore`.
      shifts: how often, each time at another place; it takes as many times as long. All runs are
        of one size, the picture's and 64 pixels more.

    Returns:
      As `restore`.

    Raises:
      ValueError: as `restore`, or less than one shift.
      TypeError: as `restore`.
    """
    if shifts < 1:
        raise ValueError(f"a picture is restored at one place or more, got shifts={shifts}.")
    image = np.asarray(image)
    pixels = _checked(model, image)
    results = []
    for shift in alignments(shifts):
        around = moved(pixels, shift)
        restored = restore(model, params, around)
        top, left, h, w = (model.scale * length for length in (*shift, *pixels.shape[:2]))
        results.append(restored[top : top + h, left : left + w])
    return like(image, np.mean(results, axis=0))


def alignments(count: int) -> list[tuple[int, int]]:
    """Rows and columns to move a picture by, so that its places on a lattice differ evenly.

    Examples:
      >>> alignments(5)
      [(0, 0), (13, 39), (26, 14), (39, 53), (52, 28)]
    """
    # Steps of a fifth and three fifths; odd ones, so that places differ on finer lattices, too.
    return [(13 * n % LATTICE, 39 * n % LATTICE) for n in range(count)]


def moved(image: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, C) at a place in one of (H + 64, W + 64), reflected around it."""
    return np.pad(image, [*((n, LATTICE - n) for n in shift), (0, 0)], mode="reflect")


def restore_clip(
    model: Network,
    params: Params,
    frames: Iterable[np.ndarray],
    *,
    chunk: int = 10,
    overlap: int = 5,
) -> Iterator[np.ndarray]:
    """Restore the frames of a clip of any length, holding `chunk + overlap` of them at a time.

    A network for single pictures restores each frame by itself. RNN-MBP's forward recurrence goes
    through the whole clip, from chunk to chunk. Its backward one would have to start at the end of
    the clip; it starts `overlap` frames after the chunk. So the last `overlap + 1` frames at least
    are those of the whole clip, and the ones before nearly so, the nearer the larger `overlap` is.
    All frames are restored, also the first `past_frames` and the last `future_frames`, which have
    fewer neighbours than in training.

    Args:
      model, params: as of `restore`; a network for pictures or for clips.
      frames: (H, W, C) each, all of one size, float in [0, 1], uint8 or uint16.
      chunk: how many frames are restored at a time, 1 or more. RNN-MBP of 90 features keeps 1.44 kB
        for each pixel of each of them in float32, 1.3 GB for a frame of 1280 x 720, and about 2.4
        kB a pixel besides.
      overlap: how many frames more are looked at, 0 or more; they are not kept. The last part of a
        clip has up to `chunk + overlap - 1` frames, all of which are restored at once, and kept.

    Returns:
      An iterator over the restored frames, of the same type. It raises what there is to raise.

    Raises:
      ValueError: as `restore`; a clip shorter than the network was trained for, or whose frames
        are not all of one size.
      TypeError: as `restore`.
    """
    check_network(model)
    if model.takes != "clips":
        yield from (restore(model, params, frame) for frame in frames)
        return
    needed = model.example_input((1, 1)).shape[1]
    if chunk < 1 or overlap < 0 or chunk + overlap < needed:
        raise ValueError(
            f"chunk is at least 1, overlap 0 and both together {needed} frames, got {chunk} and "
            f"{overlap}."
        )
    frames = (np.asarray(frame) for frame in frames)
    part = list(itertools.islice(frames, chunk + overlap))
    if len(part) < needed:
        raise ValueError(
            f"{type(model).__name__} restores clips of {needed} frames or more, got {len(part)}."
        )
    size, state = part[0].shape, None
    while part:
        if other := next((frame.shape for frame in part if frame.shape != size), None):
            raise ValueError(f"the frames of a clip are of one shape, got {size} and {other}.")
        goes_on = len(part) == chunk + overlap
        ahead = overlap if goes_on else 0
        clip = np.stack([_checked(model, frame) for frame in part])
        if state is None:  # zeros rather than nothing: one program serves all chunks
            _, shapes = _forward_part.eval_shape(model, params, clip, None, ahead)
            state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        restored, state = _forward_part(model, params, clip, state, ahead)
        # Of the whole part, not of each frame: a slice on the device would be a program of its own.
        for frame, pixels in zip(part, np.asarray(restored), strict=False):
            yield like(frame, pixels)
        part = [*part[chunk:], *itertools.islice(frames, chunk)] if goes_on else []


def warm_up(
    model: Network,
    params: Params,
    image: np.ndarray,
    *,
    bucket: tuple[int, int] | None = None,
) -> int:
    """Compile what `restore` runs for a picture of this size, or bucket, without running it.

    Returns:
      Bytes that XLA plans for it, as `planned_memory`.
    """
    forward, *arguments = _program(model, _checked(model, np.asarray(image)), bucket)
    return planned_bytes(forward.lower(model, params, *arguments).compile())


def _program(model: Network, image: np.ndarray, bucket: tuple[int, int] | None) -> tuple:
    """The function that restores a picture, by itself or in its bucket, and what it takes."""
    if bucket is None:
        return _forward, image
    if not model.has_buckets:
        raise ValueError(
            f"{type(model).__name__} has no buckets; restore its pictures by themselves."
        )
    return forward_within, *put_into(model, image, bucket)


def _refuse_clips(model: Network) -> None:
    check_network(model)
    if model.takes == "clips":
        raise ValueError(f"{type(model).__name__} restores clips; call restore_clip with frames.")


def _checked(model: Network, image: np.ndarray) -> np.ndarray:
    """The picture as float32, if it is one that the network takes."""
    check_network(model)
    channels = model.inp_channels
    try:
        hash(model)
    except TypeError:
        raise ValueError(
            f"a field of this {type(model).__name__} holds a list, but what is compiled for has to "
            "be hashable; write tuples."
        ) from None
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise ValueError(
            f"{type(model).__name__} takes one picture (H, W, {channels}), got an array of shape "
            f"{image.shape}."
        )
    return to_float(image)


def like(image: np.ndarray, restored: np.ndarray) -> np.ndarray:
    """The restored picture as numbers of the type that the picture has."""
    if np.issubdtype(image.dtype, np.integer):
        return from_float(restored, image.dtype)
    return restored.astype(image.dtype)


def check_finite(source: str | os.PathLike, restored: np.ndarray) -> None:
    """Refuse what is no picture.

    Raises:
      ImageError: what was made of `source` holds NaN or infinite numbers.
    """
    if not np.isfinite(restored).all():
        raise ImageError(
            f"{source}: the restored picture holds NaN or infinite numbers; convert the weights "
            "again, and compute in float32."
        )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error, of the machine or of JAX, means that memory did not suffice."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def planned_memory(model: Network, size: tuple[int, int]) -> int:
    """Bytes that XLA plans for one picture: parameters, picture, result and all between them.

    It compiles what `restore` runs for a picture by itself, and runs nothing.

    Args:
      model: a network for pictures.
      size: (H, W) of the picture.

    Returns:
      Bytes, of the device's memory; on a CPU the process itself takes up to 1.5 GiB besides.

    Raises:
      ValueError: a network for video.
      TypeError: a module that is no `Network` with a `forward`.
    """
    _refuse_clips(model)
    image = model.example_input(size)
    image = jax.ShapeDtypeStruct(image.shape[1:], image.dtype)
    return planned_bytes(_forward.lower(model, abstract_params(model, size), image).compile())


def planned_bytes(program: jax.stages.Compiled) -> int:
    """Bytes of what a program takes and returns, and of all between them."""
    plan: Any = program.memory_analysis()
    return plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes


class Site(NamedTuple):
    """One place where a network aggregates over positions.

    Attributes:
      name: path of the module.
      kind: what is aggregated: "mean", "moments", "attention", "position attention" or "grid".
      size: (H, W) of its feature map.
      window: (height, width) in force there, in feature pixels, no larger than the map.
      channels: of the map.
      parts: how many maps the picture is cut into, down and across; MPRNet's first stages do that.
    """

    name: str
    kind: str
    size: tuple[int, int]
    window: tuple[int, int]
    channels: int
    parts: tuple[int, int] = (1, 1)

    @property
    def slides(self) -> bool:
        """Whether each position has the window around it, rather than a few that lie still.

        Those of attention and of grids are the fewest that cover the map, averaged where they
        overlap: see `tlc_jax.ops.extract_windows`.
        """
        return self.kind in ("mean", "moments")


def at_sites(
    see: Callable[[str, Any, tuple, Window], None],
) -> contextlib.AbstractContextManager[None]:
    """Within it, `see` is shown each site that a network meets.

    Args:
      see: called with the site's path, the layer, its inputs, and the window that it is given, in
        pixels of its map and perhaps larger than it; `None` is the whole map.
    """

    running: list[nn.Module] = []  # networks, the innermost last

    def enter(call: Any, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        network = context.module
        if not isinstance(network, Network) or context.method_name != "forward":
            return call(*args, **kwargs)

        def note(call: Any, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
            if is_site(context) and running[-1] is network:
                see("/".join(context.module.path), context.module, args, kwargs.get("window"))
            return call(*args, **kwargs)

        running.append(network)
        try:
            with nn.intercept_methods(note):  # entered last, it sees what the networks have added
                return call(*args, **kwargs)
        finally:
            running.pop()

    return nn.intercept_methods(enter)


def sites(model: Network, size: tuple[int, int]) -> list[Site]:
    """Every site of TLC in a network and the window in force there for a picture of `size`.

    Args:
      model: a network; of a global one every window is the whole map.
      size: (H, W) of the picture.

    Returns:
      The sites in the order in which they are run.

    Raises:
      TypeError: a module that is no `Network` with a `forward`.

    Examples:
      >>> from tlc_jax import NAFNet
      >>> site = sites(NAFNet(local_mode=True), (720, 1280))[0]
      >>> site.name, site.size, site.window
      ('encoders_0_0/pool', (720, 1280), (384, 384))
    """
    check_network(model)
    picture = model.example_input(size)
    whole = jax.eval_shape(model.pad, picture).shape[-3:-1]
    found: dict[Site, None] = {}  # a loop over frames is met more than once

    def note(name: str, layer: Any, args: tuple, window: Window) -> None:
        maps, h, w, channels = args[0].shape
        window = clip_window(window, (h, w))
        parts = _parts(maps, (h, w), whole)
        found[Site(name, layer.site, (h, w), window, channels, parts)] = None

    with at_sites(note):
        jax.eval_shape(model.init, jax.random.key(0), picture)
    return list(found)


def _parts(maps: int, size: tuple[int, int], whole: tuple[int, int]) -> tuple[int, int]:
    """Down and across, the maps of `size` that a picture is cut into: they fill its sides alike."""
    down = math.isqrt(maps * whole[0] * size[1] // (size[0] * whole[1]))
    across = maps // max(1, down)
    if down * across != maps or down * size[0] * whole[1] != across * size[1] * whole[0]:
        return 1, 1
    return down, across
