"""The devices of this machine."""

import re
from typing import Literal

import jax

Devices = int | Literal["all"]


def count_devices(wanted: int | str) -> int:
    """So many devices of this machine, or "all".

    Raises:
      ValueError: there are fewer, or it is no such number.
    """
    if str(wanted) == "1":
        return 1  # which there is, before JAX looks for them
    there_are = jax.local_device_count()
    if wanted == "all":
        return there_are
    if re.fullmatch("[0-9]+", str(wanted)) and 1 <= int(wanted) <= there_are:
        return int(wanted)
    numbers = f"1 to {there_are}" if there_are > 1 else "1"
    raise ValueError(f"devices {wanted}: this machine has {there_are}; say {numbers}, or all.")
