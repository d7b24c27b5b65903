"""Configurations of runs, for `tlc-jax train NAME`."""
