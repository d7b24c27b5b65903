"""The page in the browser: `page.py` is what a visitor sees, `requests.py` what it asks for, and
`workers.py` who does it."""

from tlc_jax.app.page import Limits, serve

__all__ = ["Limits", "serve"]
