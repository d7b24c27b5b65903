"""The first stage of the denoiser that comes with the package: Gaussian noise, without a camera.

    tlc-jax train gaussian -o runs/gaussian --target photographs/train

12,000 steps of 8 crops, an hour on two CPU cores, on the photographs that
`benchmarks/tlc_gain/photographs.tsv` lists. Kodak with 8-bit noise of sigma 15, 25 and 50: 34.15,
31.63 and 28.36 dB, local.
"""

from tlc_jax.models import NAFNet
from tlc_jax.training import Config, Phase
from tlc_jax.training.degradations import EightBits, GaussianNoise, InTurn

config = Config(
    model=NAFNet(
        width=24, enc_blk_nums=(1, 1, 2), middle_blk_num=2, dec_blk_nums=(1, 1, 1),
        train_size=(96, 96),
    ),
    phases=(Phase(steps=12_000, crop=96, batch=8),),
    degradation=InTurn((GaussianNoise((0, 55)), EightBits())),
    learning_rate=1e-3,
    final_learning_rate=1e-6,
    warmup=200,
)  # fmt: skip
