"""NAFNet width 32 on GoPro, as published (Chen et al., arXiv 2204.04676): motion deblurring.

    tlc-jax train nafnet_gopro -o runs/nafnet --input train/input --target train/target

200,000 steps of 32 crops. Published: 32.87 dB on GoPro's test set, with TLC.
Not trained here, so the time was not measured.
"""

from tlc_jax.models import NAFNet
from tlc_jax.training import Config, Phase

# The published rates, loss, betas and clipping are the defaults.
config = Config(
    model=NAFNet.variant("gopro-width32"),
    phases=(Phase(steps=200_000, crop=256, batch=32),),
    weight_decay=1e-3,
    average=0.0,
)
