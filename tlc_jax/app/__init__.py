"""The page in the browser.

`page.py` is what a visitor sees, `gate.py` what is let through to it, `visits.py` keeps their
pictures, `requests.py` is what they ask for, and `workers.py` are the processes that do it.
"""

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tlc_jax.app.offers import Offer, of_folder, of_tasks
from tlc_jax.app.visits import Limits, Visits
from tlc_jax.app.workers import Workers

__all__ = ["Limits", "Offer", "of_folder", "of_tasks", "serve"]


def serve(
    offers: Mapping[str, Offer],
    limits: Limits,
    host: str,
    port: int | None,
    names: Sequence[str],
    ready: Callable[[str], None],
) -> None:
    """Show the page until Ctrl-C, or until the process is asked to end.

    Args:
      offers: what there is to do, by what visitors choose.
      limits: what visitors may ask for.
      host, port: where to listen; `None` is the first free one of the 100 ports from 7860 on.
      names: by which others call this machine, besides its own.
      ready: told the address as soon as the page answers there.

    Raises:
      ImportError: Gradio is not installed.
      OSError: it cannot listen there.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="tlc-jax-") as folder,
    ):
        # Gradio reads these when it is imported, which takes seconds: `page` is imported here.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several may share a GPU
        from tlc_jax.app.page import Page

        workers = Workers(limits)
        page = Page(offers, limits, Visits(Path(folder).resolve()), workers)
        try:
            ready(page.launch(host, port, names))
            workers.start(limits.jobs)
            threading.Event().wait()
        finally:
            workers.stop()  # before the page, which waits for them, and their folder
            page.blocks.close(verbose=False)
