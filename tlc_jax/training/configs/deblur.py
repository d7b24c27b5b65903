"""The deblurrer that comes with the package: the shake of a hand-held camera.

    tlc-jax train deblur -o runs/deblur --target photographs/train \\
      --set init_from=runs/gaussian/model
"""

import dataclasses

from tlc_jax.training import Config, Phase
from tlc_jax.training.configs import gaussian
from tlc_jax.training.degradations import (
    EightBits,
    GaussianNoise,
    HandHeld,
    InTurn,
    Jpeg,
    Sometimes,
)

config = Config(
    # Deeper than the denoiser, whose receptive field is too small for long paths.
    model=dataclasses.replace(gaussian.config.model, middle_blk_num=6, train_size=(160, 160)),
    phases=(Phase(steps=40_000, crop=160, batch=4),),
    # Some are left sharp, so that it learns to leave alone what is.
    degradation=InTurn((
        Sometimes(0.9, HandHeld((0, 40), (0, 8))), Sometimes(0.5, GaussianNoise((0, 3))),
        Sometimes(0.5, Jpeg((60, 98), full_chroma=0.3)), EightBits(),
    )),
    margin=24,
    loss="l1",  # a loss in dB would be about what is sharp already
    learning_rate=5e-4,
    final_learning_rate=1e-6,
    warmup=200,
)  # fmt: skip
