"""The public names."""

from . import evaluation, files, inference, jobs, layers, models, ops, transform
from .evaluation.metrics import psnr, ssim
from .files.checkpoints import CheckpointError, save
from .files.pictures import ImageError, read_image
from .files.writing import write_image
from .inference.buckets import choose_buckets
from .inference.clips import restore_clip
from .inference.exported import export
from .inference.guard import restore_guarded
from .inference.programs import planned_memory
from .inference.sites import Site, sites
from .inference.ways import restore, shifted, tiled
from .jobs.folder import restore_files
from .jobs.one import restore_file
from .layers import Network
from .models import MODELS, NAFSSR, RNNMBP, Baseline, HINet, Maxim, MPRNet, NAFNet, Restormer
from .ops import (
    local_mean,
    local_moments,
    local_sum,
    parallax_attention,
    spatial_attention,
    transposed_attention,
)
from .published import download, load
from .transform import LocalizeError, localize

__version__: str
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
    "download",
    "evaluation",
    "export",
    "files",
    "inference",
    "jobs",
    "layers",
    "load",
    "local_mean",
    "local_moments",
    "local_sum",
    "localize",
    "models",
    "ops",
    "parallax_attention",
    "planned_memory",
    "psnr",
    "read_image",
    "restore",
    "restore_clip",
    "restore_file",
    "restore_files",
    "restore_guarded",
    "save",
    "shifted",
    "sites",
    "spatial_attention",
    "ssim",
    "tiled",
    "transform",
    "transposed_attention",
    "write_image",
]
