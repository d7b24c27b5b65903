"""TLC as a transformation of any JAX function.

Chu et al., arXiv 2112.04491: what a network aggregates over the whole image becomes the same over
windows. The function is traced for the image, and for an image of the size of the window; the
equations of both traces are then run side by side. Feature maps follow the trace of the image.
Statistics over positions follow the trace of the window, once for each window.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tlc_jax.ops.windows import Window, check_pair, clip_window
from tlc_jax.transform.programs import COLUMNS, FULL, LONGER, ROWS, LocalizeError, folds
from tlc_jax.transform.rules import maps_of, walk
from tlc_jax.transform.values import Field

__all__ = ["LocalizeError", "localize"]


def localize(
    fn: Callable[..., Any],
    train_size: tuple[int, int],
    *,
    window: Window = None,
    axes: tuple[int, int] = (1, 2),
    argnum: int = -1,
) -> Callable[..., Any]:
    """TLC for any network: a function of the same signature, with local statistics.

    Means and sums over the image become those of the window around each position; so do variances,
    each window with its own mean. Attention, between channels or positions, is computed in the
    fewest windows that cover the image, and averaged where they overlap. Convolutions, pooling,
    resizing and operations on single positions stay as they are. An operation without a local form
    that is known to be right is refused, with its source line.

    The parameters are the same. `fn` may be of Flax (Linen, NNX), Equinox or plain JAX; the result
    works with `jax.jit`, `grad` and `vmap`. An image no larger than the window runs `fn` itself.
    Otherwise every call traces `fn` for four sizes: wrap the result in `jax.jit` to trace once.

    Args:
      fn: a function of arrays that returns feature maps or images, such as `model.apply`. If it
        pads images to a multiple, the window has to be such a multiple.
      train_size: (height, width) of the training crops, in pixels.
      window: (height, width) in pixels of the image; `None` is 1.5 x `train_size`.
      axes: which dimensions of the image are rows and columns: (1, 2) for NHWC, (2, 3) for NCHW.
      argnum: which positional argument is the image, or a batch of images; -1 is the last.

    Returns:
      A function that takes and returns what `fn` does.

    Raises:
      ValueError: a size that is not two positive integers; when called, `axes` or `argnum` that do
        not exist.
      TypeError: `fn` is no function; when called, an image that is no array.
      LocalizeError: when called, an operation without a local form.

    Examples:
      >>> import jax.numpy as jnp
      >>> def attend(image):
      ...     return image * image.mean((1, 2), keepdims=True)
      >>> image = jnp.arange(5.0).reshape(1, 1, 5, 1)
      >>> local = localize(attend, train_size=(2, 2))
      >>> [round(float(y), 3) for y in local(image).ravel()]
      [0.0, 1.0, 4.0, 9.0, 12.0]
    """
    if not callable(fn):
        raise TypeError(f"localize takes a function, got {fn!r}.")
    check_pair("train_size", train_size)
    if window is not None:
        check_pair("window", window)
    wanted = window or (train_size[0] * 3 // 2, train_size[1] * 3 // 2)

    def local(*args: Any, **kwargs: Any) -> Any:
        if not -len(args) <= argnum < len(args):
            raise ValueError(
                f"argument {argnum} is to be the image, but {len(args)} were passed by position; "
                "pass it by position, or give localize its argnum."
            )
        try:
            image = jnp.asarray(args[argnum])
        except (TypeError, ValueError):
            kind = type(args[argnum]).__name__
            raise TypeError(f"argument {argnum} is the image, an array, got {kind}.") from None
        rank = image.ndim
        there = {axis % rank for axis in axes if -rank <= axis < rank}
        if len(axes) != 2 or len(there) != 2:
            raise ValueError(
                f"axes {axes} are no rows and columns of an image of shape {image.shape}; give "
                "localize axes=(1, 2) for NHWC, or (2, 3) for NCHW."
            )

        def of_image(image: jax.Array) -> Any:
            others = list(args)
            others[argnum] = image
            return fn(*others, **kwargs)

        size = image.shape[axes[0]], image.shape[axes[1]]
        cut = clip_window(wanted, size)
        if cut == size or not image.size:
            return of_image(args[argnum])

        @functools.cache
        def traced(height: int, width: int) -> tuple[Any, Any]:
            shape = list(image.shape)
            shape[axes[0]], shape[axes[1]] = height, width
            try:
                of_size = jax.ShapeDtypeStruct(shape, image.dtype)
                return jax.make_jaxpr(of_image, return_shape=True)(of_size)
            except Exception as error:  # whatever the function raises
                if (height, width) == size or isinstance(error, LocalizeError):
                    raise
                raise LocalizeError(
                    f"the function takes an image of {size}, but fails on one of "
                    f"{(height, width)}, for which it is traced, too, with other arguments as they "
                    f"are ({str(error).strip().partition(chr(10))[0] or type(error).__name__})."
                ) from error

        sizes = {0: size, ROWS: (cut[0], size[1]), COLUMNS: (size[0], cut[1]), FULL: cut}
        if cut[0] == size[0]:
            sizes[LONGER * ROWS] = 2 * size[0], size[1]
        if cut[1] == size[1]:
            sizes[LONGER * COLUMNS] = size[0], 2 * size[1]
        programs = {name: traced(*of_size)[0] for name, of_size in sizes.items()}
        tree = jax.tree.structure(traced(*size)[1])
        shapes = {name: program.in_avals[0].shape for name, program in programs.items()}
        before = folds.set({})
        try:
            results = walk(programs, [Field(0, lambda: image, shapes, {})])
            return jax.tree.unflatten(tree, maps_of(results))
        finally:
            folds.reset(before)

    # As `functools.wraps`, but without `__wrapped__`: `fn` may be an Equinox module.
    local.__name__ = getattr(fn, "__name__", type(fn).__name__)
    local.__doc__ = fn.__doc__
    local.__signature__ = inspect.signature(fn)
    return local
