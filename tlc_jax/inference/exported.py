"""A network with its parameters as one file, for runtimes that need none of this package."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jax import export as jax_export

from tlc_jax.inference.programs import refuse_clips
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.backends import forms_of
from tlc_jax.ops.windows import Size

try:
    from jax.errors import InconclusiveDimensionOperation
except ImportError:  # of older versions of JAX
    from jax.core import InconclusiveDimensionOperation

Format = Literal["stablehlo", "onnx"]
PLATFORMS = "cpu", "cuda", "tpu"
BATCH = "batch"  # what its size is called where it is open


def export(
    model: Network,
    params: Params,
    size: Size,
    *,
    format: Format = "stablehlo",
    batch: int | None = 1,
    about: Mapping[str, str] | None = None,
) -> bytes:
    """A network and its parameters as one program for images of one size.

    The program takes `image`, (batch, H, W, inp_channels) float32 in [0, 1], and returns
    `restored`, (batch, H scale, W scale, out_channels) float32, neither clipped nor rounded. Images
    are NHWC and RGB. The windows of a local network follow from the size, so that they are part of
    the program.

    Args:
      model: a network for images, of any size of theirs: it pads them itself.
      params: its parameter tree, which becomes part of the program.
      size: (H, W) of the images, in pixels.
      format: "stablehlo", as `jax.export` serializes it, for CPUs, CUDA and TPUs at once;
        `jax.export.deserialize` reads it. Or "onnx", for ONNX Runtime, OpenVINO and others, which
        needs the extra `onnx` and computes in float32 unless the runtime is told otherwise. While
        that is made no other thread may trace, and what JAX has compiled is dropped.
      batch: how many images the program takes at a time; `None` leaves that open.
      about: more to say in the metadata of an ONNX model than what it is of: the licence of the
        weights, or where they come from.

    Returns:
      The contents of the file.

    Raises:
      ValueError: a network for clips, a size or batch below 1, a batch that this network cannot
        leave open, an unknown format; for ONNX a `dtype` other than float32, or an operation that
        none of our networks has.
      TypeError: a module that is no `Network` with a `forward`.
      ModuleNotFoundError: `onnx` is not installed.

    Examples:
      >>> import numpy as np
      >>> import tlc_jax as tlc
      >>> model, params = tlc.load("denoise")
      >>> program = tlc.export(model.clone(local_mode=True), params, (48, 64))
      >>> image = np.zeros((1, 48, 64, 3), np.float32)
      >>> jax.export.deserialize(program).call(image).shape
      (1, 48, 64, 3)
    """
    refuse_clips(model)
    name = type(model).__name__
    if min(*size, 1 if batch is None else batch) < 1:
        raise ValueError(f"images have 1 pixel and more, got size={size}, batch={batch}.")
    if format not in ("stablehlo", "onnx"):
        raise ValueError(f"unknown format {format!r}: choose 'stablehlo' or 'onnx'.")
    if format == "onnx" and model.dtype not in (None, jnp.float32):
        raise ValueError(
            f"an ONNX model computes in float32, not in {jnp.dtype(model.dtype)}; its runtime may "
            "be told to use another type."
        )
    (images,) = jax_export.symbolic_shape(BATCH) if batch is None else (batch,)
    image = jax.ShapeDtypeStruct((images, *size, model.inp_channels), jnp.float32)

    def restore(image: jax.Array) -> jax.Array:
        return model.apply({"params": params}, image)  # pyright: ignore[reportReturnType]

    try:
        if format == "stablehlo":
            program = jax_export.export(jax.jit(restore), platforms=PLATFORMS)(image)
            return bytes(program.serialize())
        return _as_onnx(restore, image, {**_about(model), **(about or {})})
    except NotImplementedError as error:
        raise ValueError(f"{name} cannot be written as ONNX: {error}.") from None
    except InconclusiveDimensionOperation:
        raise ValueError(
            f"{name} has steps that depend on how many images there are; give the batch."
        ) from None


def _as_onnx(
    restore: Callable[[jax.Array], jax.Array],
    image: jax.ShapeDtypeStruct,
    about: Mapping[str, str],
) -> bytes:
    from onnx.helper import set_model_props  # an extra

    from tlc_jax.inference.onnx import convert

    with forms_of("onnx"):
        made = convert(restore, image)
    set_model_props(made, dict(about))
    return made.SerializeToString()


def _about(model: Network) -> dict[str, str]:
    """What a program is of, for its metadata."""
    height, width = model.input_window("mean") or (0, 0)
    crop = "x".join(map(str, model.train_size[::-1]))
    told = {"network": type(model).__name__, "mode": "local" if model.local_mode else "global"}
    if model.local_mode:
        told |= {"train_size": crop, "window": f"{width}x{height}"}
    return {**told, "image": "NHWC, RGB, float32 in [0, 1]", "sizes": "width x height, in pixels"}
