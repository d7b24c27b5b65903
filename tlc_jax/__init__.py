"""Image-restoration networks in JAX with TLC, the Test-time Local Converter.

    import tlc_jax as tlc

    model, params = tlc.load("checkpoints/nafnet-gopro-width32")
    local = model.clone(local_mode=True)  # same parameters, windowed statistics
    sharp = tlc.restore(local, params, tlc.read_image("blurry.png"))

Images are NHWC, RGB, in [0, 1].
"""

from tlc_jax.evaluation.metrics import psnr, ssim
from tlc_jax.files.checkpoints import CheckpointError, load, save
from tlc_jax.files.pictures import ImageError, read_image
from tlc_jax.files.writing import write_image
from tlc_jax.inference.buckets import choose_buckets
from tlc_jax.inference.clips import restore_clip
from tlc_jax.inference.guard import restore_guarded
from tlc_jax.inference.programs import planned_memory
from tlc_jax.inference.sites import Site, sites
from tlc_jax.inference.ways import restore, shifted, tiled
from tlc_jax.jobs.one import restore_file
from tlc_jax.layers import Network
from tlc_jax.models import MODELS, NAFSSR, RNNMBP, Baseline, HINet, Maxim, MPRNet, NAFNet, Restormer
from tlc_jax.ops import (
    local_mean,
    local_moments,
    local_sum,
    parallax_attention,
    spatial_attention,
    transposed_attention,
)
from tlc_jax.transform import LocalizeError, localize

__version__ = "0.1.0"
__all__ = [
    "MODELS",
    "NAFSSR",
    "RNNMBP",
    "Baseline",
    "CheckpointError",
    "HINet",
    "ImageError",
    "LocalizeError",
    "MPRNet",
    "Maxim",
    "NAFNet",
    "Network",
    "Restormer",
    "Site",
    "choose_buckets",
    "load",
    "local_mean",
    "local_moments",
    "local_sum",
    "localize",
    "parallax_attention",
    "planned_memory",
    "psnr",
    "read_image",
    "restore",
    "restore_clip",
    "restore_file",
    "restore_guarded",
    "save",
    "shifted",
    "sites",
    "spatial_attention",
    "ssim",
    "tiled",
    "transposed_attention",
    "write_image",
]
