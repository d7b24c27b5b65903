"""Training: from pairs of pictures, or from clean photographs and a degradation, to a checkpoint.

    config = Config(model=NAFNet(width=32), phases=(Phase(200_000, crop=256, batch=32),),
                    input="GoPro/train/input", target="GoPro/train/target")
    train(config, "runs/nafnet")

`train` with the same folder resumes a run that was interrupted.
"""

import importlib.util

for package in ("grain", "pydantic"):
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"training needs the package {package}; install the extra [train].")

from tlc_jax.training.config import Config, Phase, TrainingError  # noqa: E402
from tlc_jax.training.run import train  # noqa: E402

__all__ = ["Config", "Phase", "TrainingError", "train"]
