"""TLC as a transformation of any JAX function.

Chu et al., arXiv 2112.04491. The function is traced twice over, for the picture and for a picture
of the size of the window, and both programs are run in step: maps as the former has them, and what
is aggregated over positions as the latter does.
"""

from tlc_jax.transform.localize import localize
from tlc_jax.transform.programs import LocalizeError

__all__ = ["LocalizeError", "localize"]
