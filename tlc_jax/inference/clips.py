"""Video clips of any length, restored chunk by chunk."""

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlc_jax.inference.programs import frame_as_input
from tlc_jax.inference.ways import restore
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params, check_network
from tlc_jax.ops.pixels import like


@functools.partial(jax.jit, static_argnames=("model", "ahead"), donate_argnames="state")
def _forward_part(
    model: Network, params: Params, clip: jax.Array, state: Any, ahead: int
) -> tuple[jax.Array, Any]:
    restored, state = model.apply({"params": params}, clip[None], state, ahead, method="resume")
    return restored[0], state


def restore_clip(
    model: Network,
    params: Params,
    frames: Iterable[np.ndarray],
    *,
    chunk: int = 10,
    overlap: int = 5,
) -> Iterator[np.ndarray]:
    """Restore the frames of a clip of any length, holding `chunk + overlap` of them at a time.

    A network for single images restores each frame by itself. RNN-MBP's forward recurrence passes
    its state from chunk to chunk. Its backward recurrence would have to start at the end of the
    clip; it starts `overlap` frames after the chunk. So at least the last `overlap + 1` frames are
    as if the clip were restored at once; the others nearly so, the more nearly the larger `overlap`
    is. All frames are restored, even the first `past_frames` and the last `future_frames`, which
    have fewer neighbours than in training.

    Args:
      model, params: as for `restore`; a network for images or for clips.
      frames: (H, W, C) each, all of one size, float in [0, 1], uint8 or uint16.
      chunk: how many frames are restored at a time, 1 or more. RNN-MBP of 90 features keeps 1.44 kB
        for each pixel of each of them in float32, 1.3 GB for a frame of 1280 x 720, and about 2.4
        kB a pixel besides.
      overlap: how many further frames each chunk reads, 0 or more; their results are dropped. The
        last part of a clip has up to `chunk + overlap - 1` frames, restored at once and all kept.

    Returns:
      An iterator over the restored frames, of the same type. Errors are raised by iterating.

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
            f"chunk is at least 1, overlap at least 0, and both together {needed} frames or more, "
            f"got chunk={chunk} and overlap={overlap}."
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
        has_next = len(part) == chunk + overlap
        ahead = overlap if has_next else 0
        clip = np.stack([frame_as_input(model, frame) for frame in part])
        if state is None:  # zeros rather than nothing: one program serves all chunks
            _, shapes = _forward_part.eval_shape(model, params, clip, None, ahead)
            state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        restored, state = _forward_part(model, params, clip, state, ahead)
        # Copied from the device as a whole: slicing there would compile a program of its own.
        for frame, pixels in zip(part, np.asarray(restored), strict=False):
            yield like(frame, pixels)
        part = [*part[chunk:], *itertools.islice(frames, chunk)] if has_next else []
