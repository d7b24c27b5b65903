"""NAFNet, Restormer and TLC in the usual idiom of PyTorch: a peer for benchmarks.

It stands for what users of PyTorch run today, and loads the published weights. It is not part of
the library.
"""

from .nafnet import NAFNet
from .restormer import Restormer
from .tlc import make_local

__all__ = ["NAFNet", "Restormer", "make_local"]
