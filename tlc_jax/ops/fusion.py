"""What the compiler is kept from doing."""

import jax
from jax import lax


def stored(x: jax.Array) -> jax.Array:
    """The same array, computed once.

    XLA:CPU fuses what is cheap into all that reads it, and a product or a concatenation then makes
    it anew for each of its parts. Other backends are left to fuse as they like.
    """
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
