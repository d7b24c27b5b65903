"""The published networks, one file for each paper."""

from tlc_jax.models.hinet import HINet
from tlc_jax.models.maxim import Maxim
from tlc_jax.models.mprnet import MPRNet
from tlc_jax.models.nafnet import Baseline, NAFNet
from tlc_jax.models.nafssr import NAFSSR
from tlc_jax.models.restormer import Restormer
from tlc_jax.models.rnn_mbp import RNNMBP

__all__ = [
    "MODELS", "NAFSSR", "RNNMBP", "Baseline", "HINet", "MPRNet", "Maxim", "NAFNet", "Restormer",
]  # fmt: skip

MODELS = {
    "nafnet": NAFNet,
    "baseline": Baseline,
    "restormer": Restormer,
    "maxim": Maxim,
    "hinet": HINet,
    "mprnet": MPRNet,
    "nafssr": NAFSSR,
    "rnn_mbp": RNNMBP,
}
"""The classes of the networks by the names that `model.json` records."""
