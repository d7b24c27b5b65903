"""The page in the browser: `serving.py` shows it, `page.py` is what a visitor sees, `visits.py`
keeps their pictures, `requests.py` is what they ask for, and `workers.py` who does it."""

from tlc_jax.app.serving import serve
from tlc_jax.app.visits import Limits

__all__ = ["Limits", "serve"]
