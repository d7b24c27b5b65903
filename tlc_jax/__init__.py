"""TLC in JAX."""
