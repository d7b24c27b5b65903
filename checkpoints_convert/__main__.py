"""`python -m checkpoints_convert SOURCE DESTINATION`, the same as `tlc-jax convert`."""

import sys

from tlc_jax.cli import main

main(["convert", *sys.argv[1:]])
