"""`python -m checkpoints_convert SOURCE DESTINATION`, the same as `tlc-jax convert`."""

import sys
from importlib.metadata import entry_points

(command,) = entry_points(group="console_scripts", name="tlc-jax")
command.load()(["convert", *sys.argv[1:]])
