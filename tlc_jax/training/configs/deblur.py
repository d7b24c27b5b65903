"""A small deblurrer: the shake of a hand-held camera, along paths up to 14 pixels long.

    tlc-jax train gaussian -o runs/gaussian --target photographs/train
    tlc-jax train deblur -o runs/deblur --target photographs/train \\
      --set init_from=runs/gaussian/model

It begins as the denoiser's first stage, which knows photographs: from nothing it learns far slower.
25,000 steps of 8 crops, an hour and 40 minutes on two CPU cores, on the photographs that
`benchmarks/tlc_gain/photographs.tsv` lists. Kodak under camera shake: 26.35 to 28.93 dB, local.
"""

from tlc_jax.training import Config, Phase
from tlc_jax.training.configs import gaussian
from tlc_jax.training.degradations import EightBits, GaussianNoise, InTurn, MotionBlur, Sometimes

config = Config(
    model=gaussian.config.model,
    phases=(Phase(steps=25_000, crop=96, batch=8),),
    # Some are left sharp, so that it learns to leave alone what is.
    degradation=InTurn((
        Sometimes(0.85, MotionBlur((0, 14))), Sometimes(0.5, GaussianNoise((0, 1))), EightBits()
    )),
    margin=14,
    loss="l1",  # a loss in dB would be about what is sharp already
    learning_rate=1e-3,
    final_learning_rate=1e-6,
    warmup=200,
)  # fmt: skip
