"""Compiled programs: what runs for one image, and the memory that XLA plans for it."""

import functools
from typing import Any

import jax
import numpy as np

from tlc_jax.inference.buckets import forward_within, put_into
from tlc_jax.inference.divided import divide, divided_shape, forward_divided, mesh_of, replicated
from tlc_jax.inference.machine import Devices
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params, abstract_params, check_network
from tlc_jax.ops.pixels import check_range, to_float
from tlc_jax.ops.windows import Size


@functools.partial(jax.jit, static_argnames="model")
def _forward(model: Network, params: Params, image: jax.Array) -> jax.Array:
    return model.apply({"params": params}, image[None])[0]


def _program(
    model: Network, params: Params, pixels: np.ndarray, bucket: Size | None, devices: Devices
) -> tuple:
    """The jitted function for an image, alone, in its bucket or divided, and its last arguments."""
    if bucket is not None and devices != 1:
        raise ValueError("an image in a bucket is not divided over devices; leave one of them out.")
    if devices != 1:
        mesh = mesh_of(model, devices)
        return forward_divided, replicated(params, mesh), *divide(model, pixels, mesh), mesh
    if bucket is None:
        return _forward, params, pixels
    if not model.has_buckets:
        raise ValueError(f"{type(model).__name__} has no buckets; restore its images without one.")
    return forward_within, params, *put_into(model, pixels, bucket)


def forward(
    model: Network,
    params: Params,
    pixels: np.ndarray,
    bucket: Size | None = None,
    devices: Devices = 1,
) -> np.ndarray:
    """Run a network on an image from `as_input`: (H, W, C) float32 in, float32 out."""
    program, *arguments = _program(model, params, pixels, bucket, devices)
    restored = np.asarray(program(model, *arguments))
    alone = bucket is None and devices == 1
    return restored if alone else model.crop(restored, pixels.shape[:2])


def compile_for(
    model: Network,
    params: Params,
    pixels: np.ndarray,
    bucket: Size | None = None,
    devices: Devices = 1,
) -> int:
    """Compile what `forward` runs, without running it; return the bytes that XLA plans for it."""
    program, *arguments = _program(model, params, pixels, bucket, devices)
    return planned_bytes(program.lower(model, *arguments).compile())


def as_input(model: Network, image: np.ndarray) -> np.ndarray:
    """Refuse what a network does not take as one image, and convert it to float32.

    Raises:
      ValueError: an array that is not (H, W, C) with the network's channels; floats that are NaN
        or far from [0, 1]; a network for clips, or one with a field that cannot be hashed.
      TypeError: other types of numbers; a module that is no `Network` with a `forward`.
    """
    refuse_clips(model)
    return frame_as_input(model, image)


def refuse_clips(model: Network) -> None:
    """Refuse networks for clips, and modules that are no `Network`, as `as_input` does."""
    check_network(model)
    if model.takes == "clips":
        raise ValueError(f"{type(model).__name__} restores clips; call restore_clip with frames.")


def frame_as_input(model: Network, image: np.ndarray) -> np.ndarray:
    """`as_input`, also for a frame of a clip."""
    image, channels = np.asarray(image), model.inp_channels
    try:
        hash(model)
    except TypeError:
        raise ValueError(
            f"a field of this {type(model).__name__} holds a list or another value that cannot be "
            "hashed, so JAX cannot compile for it; write tuples."
        ) from None
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise ValueError(
            f"{type(model).__name__} takes one picture (H, W, {channels}), got an array of shape "
            f"{image.shape}."
        )
    pixels = to_float(image)
    check_range(pixels)
    return pixels


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error, of Python or of JAX, means that memory did not suffice."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def planned_memory(model: Network, size: Size, *, devices: Devices = 1) -> int:
    """Bytes that XLA plans for one image: parameters, image, result and all intermediates.

    It compiles what `restore` runs for an image without a bucket, and runs nothing.

    Args:
      model: a network for single images.
      size: (H, W) of the image.
      devices: over which the image is divided, see `restore`.

    Returns:
      Bytes, of each device's memory; on a CPU the process itself takes up to 1.5 GiB besides.

    Raises:
      ValueError: a network for video, or as `restore` for more than one device.
      TypeError: a module that is no `Network` with a `forward`.
    """
    refuse_clips(model)
    params = abstract_params(model, size)
    if devices != 1:
        mesh = mesh_of(model, devices)
        program = forward_divided.lower(model, params, *divided_shape(model, size, mesh), mesh)
    else:
        image = model.example_input(size)
        image = jax.ShapeDtypeStruct(image.shape[1:], image.dtype)
        program = _forward.lower(model, params, image)
    return planned_bytes(program.compile())


def planned_bytes(program: jax.stages.Compiled) -> int:
    """Bytes of a program's arguments, results and intermediates."""
    plan: Any = program.memory_analysis()
    return plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
