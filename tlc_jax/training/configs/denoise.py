"""The denoiser that comes with the package: noise as cameras and their files leave it.

    tlc-jax train gaussian -o runs/gaussian --target photographs/train
    tlc-jax train denoise -o runs/denoise --target photographs/train \\
      --set init_from=runs/gaussian/model

It begins as its first stage. 3,500 steps of 8 crops, three quarters of an hour on two CPU cores, on
the photographs of `benchmarks/tlc_gain/photographs.tsv`; the run was planned for 9,000 steps and
made shorter on the way. `denoise_large` goes on from it. Kodak with noise of sigma 25 as a JPEG of
quality 92 then: 23.17 to 30.98 dB, local; `tlc_jax/weights/README.md` has all of it.
"""

from tlc_jax.training import Config, Phase
from tlc_jax.training.configs import gaussian
from tlc_jax.training.degradations import (
    CameraNoise,
    EightBits,
    GaussianNoise,
    InTurn,
    Jpeg,
    LessLight,
    Sometimes,
)

config = Config(
    model=gaussian.config.model,
    phases=(Phase(steps=3_500, crop=96, batch=8),),
    scene=Sometimes(0.25, LessLight((0, 5))),
    # Each may be missing: noise alone, compression alone, and pictures to be left alone.
    degradation=InTurn((
        Sometimes(0.55, GaussianNoise((0, 55))), Sometimes(0.5, CameraNoise()),
        Sometimes(0.6, Jpeg((30, 98), full_chroma=0.3)), EightBits(),
    )),
    learning_rate=5e-4,
    final_learning_rate=1e-6,
    warmup=200,
)  # fmt: skip
