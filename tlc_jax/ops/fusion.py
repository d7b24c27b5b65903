"""What the compiler is kept from doing."""

from typing import TypeVar

import jax
from jax import lax

Arrays = TypeVar("Arrays", bound=jax.Array | tuple[jax.Array, ...])


def stored(x: Arrays) -> Arrays:
    """The same array, or arrays, computed once.

    XLA:CPU fuses what is cheap into all that reads it, and a product or a concatenation then makes
    it anew for each of its parts. Other backends are left to fuse as they like.
    """
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
