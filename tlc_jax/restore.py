"""A network, its parameters and a photograph in; the restored photograph out."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tlc_jax.image import from_float, to_float
from tlc_jax.models import Params
from tlc_jax.ops import clip_window


@functools.partial(jax.jit, static_argnames="model")
def _forward(model: nn.Module, params: Params, image: jax.Array) -> jax.Array:
    return model.apply({"params": params}, image[None])[0]


def restore(model: nn.Module, params: Params, image: np.ndarray) -> np.ndarray:
    """Restore one picture with a network, global or local as `model.local_mode` says.

    The first picture of a size compiles; later ones of the same network and size do not.

    Args:
      model: a network; `model.clone(local_mode=True)` for TLC.
      params: its parameter tree.
      image: (H, W, C) with the network's channels, float in [0, 1], uint8 or uint16.

    Returns:
      (H, W, C) of the same type, 3 channels of a dual-pixel network; whole numbers are rounded and
      clipped, floats are not.

    Raises:
      ValueError: an array that is no picture, or not of the network's channels.
      TypeError: other types of numbers.
    """
    image = np.asarray(image)
    restored = np.asarray(_forward(model, params, _checked(model, image)))
    if np.issubdtype(image.dtype, np.integer):
        return from_float(restored, image.dtype)
    return restored.astype(image.dtype)


def warm_up(model: nn.Module, params: Params, image: np.ndarray) -> None:
    """Compile what `restore` runs for a picture of this size, without running it."""
    _forward.lower(model, params, _checked(model, np.asarray(image))).compile()


def _checked(model: nn.Module, image: np.ndarray) -> np.ndarray:
    """The picture as float32, if it is one that the network takes."""
    channels: int = model.inp_channels
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise ValueError(
            f"{type(model).__name__} takes one picture (H, W, {channels}), got an array of shape "
            f"{image.shape}."
        )
    return to_float(image)


class Site(NamedTuple):
    """One place where a network aggregates over positions."""

    name: str  # path of the module
    kind: str  # what is aggregated: "mean", "attention", "grid"
    size: tuple[int, int]  # of its feature map
    window: tuple[int, int]  # in force there, in feature pixels, no larger than the map


def sites(model: nn.Module, size: tuple[int, int]) -> list[Site]:
    """Every site of TLC in a network and the window in force there for a picture of `size`.

    Args:
      model: a network; of a global one every window is the whole map.
      size: (H, W) of the picture.

    Returns:
      The sites in the order in which they are run.

    Example:
      >>> from tlc_jax import NAFNet
      >>> site = sites(NAFNet(local_mode=True), (720, 1280))[0]
      >>> site.name, site.size, site.window
      ('encoders_0_0/pool', (720, 1280), (384, 384))
    """
    found: list[Site] = []

    def note(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        layer: Any = context.module
        if hasattr(layer, "site") and context.method_name == "__call__":
            size = args[0].shape[1:3]
            name = "/".join(layer.path)
            found.append(Site(name, layer.site, size, clip_window(layer.window, size)))
        return call(*args, **kwargs)

    image = jax.ShapeDtypeStruct((1, *size, model.inp_channels), jnp.float32)
    with nn.intercept_methods(note):
        jax.eval_shape(model.init, jax.random.key(0), image)
    return found
