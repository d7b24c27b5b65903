"""Restormer with progressive learning, as published (Zamir et al., arXiv 2111.09881): GoPro.

    tlc-jax train restormer -o runs/restormer --input train/input --target train/target

300,000 steps on 8 GPUs in the paper; the time was not measured, as it was not trained here.
Published: 32.92 dB on GoPro's test set, 33.57 with TLC. Denoisers also have norm_bias=False and
mixup=1.2.
"""

from tlc_jax.models import Restormer
from tlc_jax.training import Config, Phase

config = Config(
    # train_size stays 256, the size for which the windows were published.
    model=Restormer.variant("deblurring"),
    phases=(
        Phase(steps=92_000, crop=128, batch=64),
        Phase(steps=64_000, crop=160, batch=40),
        Phase(steps=48_000, crop=192, batch=32),
        Phase(steps=36_000, crop=256, batch=16),
        Phase(steps=36_000, crop=320, batch=8),
        Phase(steps=24_000, crop=384, batch=8),
    ),
    loss="l1",
    learning_rate=3e-4,
    final_learning_rate=1e-6,
    constant=92_000,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    average=0.0,
)
