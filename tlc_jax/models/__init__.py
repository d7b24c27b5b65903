"""The networks by the names that `model.json` records."""

from typing import Any

from tlc_jax.models.maxim import Maxim
from tlc_jax.models.nafnet import Baseline, NAFNet
from tlc_jax.models.restormer import Restormer

__all__ = ["MODELS", "Baseline", "Maxim", "NAFNet", "Params", "Restormer"]

Params = Any  # a tree of arrays, or of their shapes
MODELS = {"nafnet": NAFNet, "baseline": Baseline, "restormer": Restormer, "maxim": Maxim}
