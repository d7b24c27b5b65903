"""Compiled programs: what runs for one picture, and the memory that XLA plans for it."""

import functools
from typing import Any

import jax
import numpy as np

from tlc_jax.inference.buckets import Size, forward_within, put_into
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params, abstract_params, check_network
from tlc_jax.ops.pixels import to_float


@functools.partial(jax.jit, static_argnames="model")
def _forward(model: Network, params: Params, image: jax.Array) -> jax.Array:
    return model.apply({"params": params}, image[None])[0]


def _program(model: Network, pixels: np.ndarray, bucket: Size | None) -> tuple:
    """The function that restores a picture, by itself or in its bucket, and what it takes."""
    if bucket is None:
        return _forward, pixels
    if not model.has_buckets:
        raise ValueError(
            f"{type(model).__name__} has no buckets; restore its pictures by themselves."
        )
    return forward_within, *put_into(model, pixels, bucket)


def forward(
    model: Network, params: Params, pixels: np.ndarray, bucket: Size | None = None
) -> np.ndarray:
    """Run a network on a picture that `as_input` made: (H, W, C) float32 in, float32 out."""
    program, *arguments = _program(model, pixels, bucket)
    restored = np.asarray(program(model, params, *arguments))
    return restored if bucket is None else model.crop(restored, pixels.shape[:2])


def compile_for(
    model: Network, params: Params, pixels: np.ndarray, bucket: Size | None = None
) -> int:
    """Compile what `forward` runs, without running it; the bytes that XLA plans for it."""
    program, *arguments = _program(model, pixels, bucket)
    return planned_bytes(program.lower(model, params, *arguments).compile())


def as_input(model: Network, image: np.ndarray) -> np.ndarray:
    """One picture as float32, if a network takes it.

    Raises:
      ValueError: an array that is no picture, or not of the network's channels; a network for
        clips, or one that JAX cannot compile by.
      TypeError: other types of numbers; a module that is no `Network` with a `forward`.
    """
    refuse_clips(model)
    return frame_as_input(model, image)


def refuse_clips(model: Network) -> None:
    """Refuse what restores no single pictures, as `as_input`."""
    check_network(model)
    if model.takes == "clips":
        raise ValueError(f"{type(model).__name__} restores clips; call restore_clip with frames.")


def frame_as_input(model: Network, image: np.ndarray) -> np.ndarray:
    """As `as_input`, for a frame of a clip, too."""
    image, channels = np.asarray(image), model.inp_channels
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
    refuse_clips(model)
    image = model.example_input(size)
    image = jax.ShapeDtypeStruct(image.shape[1:], image.dtype)
    return planned_bytes(_forward.lower(model, abstract_params(model, size), image).compile())


def planned_bytes(program: jax.stages.Compiled) -> int:
    """Bytes of what a program takes and returns, and of all between them."""
    plan: Any = program.memory_analysis()
    return plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
