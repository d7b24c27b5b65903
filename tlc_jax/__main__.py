"""The command as a program of its own: `tlc-jax`, or `python -m tlc_jax`."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tlc_jax.files.atomic import remove_unfinished

_ending = threading.Lock()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of `tlc_jax.cli`, which a signal ends at any moment in one way."""
    _on_signals(_end)  # before what is imported next: JAX takes a second
    _look_for_signals()
    from tlc_jax import cli

    try:
        cli.main(arguments)
    finally:
        _on_signals(signal.SIG_IGN)  # all is done


def _on_signals(do: Callable[[int, Any], None] | signal.Handlers) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        known = getattr(signal, name, None)  # the last not on Windows
        if known is not None and signal.getsignal(known) is not signal.SIG_IGN:  # as by nohup
            signal.signal(known, do)


def _look_for_signals() -> None:
    """In a thread: while XLA computes, maybe for minutes, this one runs none of Python's."""
    there, here = socket.socketpair()
    here.setblocking(False)
    signal.set_wakeup_fd(here.fileno(), warn_on_full_buffer=False)

    def look() -> None:
        with here:
            while number := there.recv(1):
                if signal.getsignal(number[0]) is _end:
                    _end(number[0], None)

    threading.Thread(target=look, daemon=True).start()


def _end(number: int, _: object) -> None:
    """End at once. An exception in a callback of XLA, as it compiles, would break the process."""
    if not _ending.acquire(blocking=False):
        return  # the other thread is at it
    shown = b"\x1b[?25h" if sys.stderr.isatty() else b""  # the cursor, which bars hide
    # Not by `print`, in the midst of which this may be called.
    os.write(2, shown + b"tlc-jax: interrupted; the same command does what is not done yet.\n")
    remove_unfinished()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)


if __name__ == "__main__":
    main()
