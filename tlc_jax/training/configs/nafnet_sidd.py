"""NAFNet width 32 on SIDD, as published (Chen et al., arXiv 2204.04676): noise of smartphones.

    tlc-jax train nafnet_sidd -o runs/sidd --input train/input_crops --target train/gt_crops

200,000 steps of 32 crops. Published: 39.97 dB on SIDD's validation blocks, global.
Not trained here, so the time was not measured.
"""

from tlc_jax.models import NAFNet
from tlc_jax.training import Config, Phase

# The published rates, loss, betas and clipping are the defaults.
config = Config(
    model=NAFNet.variant("sidd-width32"),
    phases=(Phase(steps=200_000, crop=256, batch=32),),
    flips=False,
    average=0.0,
)
