"""TLC as a transformation of any JAX function.

Chu et al., arXiv 2112.04491: what a network aggregates over its whole picture becomes the same over
windows. The function is traced for the picture and for a picture of the size of the window, and its
equations are run in step. Maps are computed as the former has them; what was aggregated over
positions, as the latter does, for each window.
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

    Means and sums over the picture become those of the window around each position; so do
    variances, each window with its own mean. Attention, between channels or positions, is that of
    the fewest windows that cover the picture, averaged where they overlap. Convolutions, pooling,
    resizing and what acts on single positions stay as they are. Whatever has no local form that is
    known to be right is refused, with its line.

    The parameters are the same. It takes functions of Flax (Linen, NNX), Equinox or plain JAX, and
    goes with `jax.jit`, `grad` and `vmap`. A picture that the window covers runs `fn` itself.
    Otherwise `fn` is traced for four sizes: put `jax.jit` around, so that it is once only.

    Args:
      fn: a function of arrays that returns maps, such as `model.apply`. Networks that pad their
        picture to a multiple take a window that is such a multiple.
      train_size: (height, width) of the training crops, in pixels.
      window: (height, width) in pixels of the picture; `None` is 1.5 x `train_size`.
      axes: rows and columns of the picture among its dimensions, (2, 3) of NCHW.
      argnum: which positional argument is the picture, or a batch of pictures; the last one.

    Returns:
      A function that takes and returns what `fn` does.

    Raises:
      ValueError: sizes that are not two whole numbers; when it is called, axes or an argument that
        are not there.
      TypeError: no function; when it is called, a picture that is no array.
      LocalizeError: when it is called, what has no local form.

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
                f"argument {argnum} is the picture, of {len(args)} by position; pass it so."
            )
        try:
            image = jnp.asarray(args[argnum])
        except (TypeError, ValueError):
            kind = type(args[argnum]).__name__
            raise TypeError(f"argument {argnum} is the picture, an array, got {kind}.") from None
        rank = image.ndim
        there = {axis % rank for axis in axes if -rank <= axis < rank}
        if len(axes) != 2 or len(there) != 2:
            raise ValueError(f"axes {axes} are no rows and columns of a picture {image.shape}.")

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
                    f"the function takes a picture of {size}, but none of {(height, width)}, for "
                    "which it has to be traced, too, with its other arguments as they are "
                    f"({str(error).strip().partition(chr(10))[0] or type(error).__name__})."
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

    # As `functools.wraps`, but without the function itself, which may be an Equinox module.
    local.__name__ = getattr(fn, "__name__", type(fn).__name__)
    local.__doc__ = fn.__doc__
    local.__signature__ = inspect.signature(fn)
    return local
