"""A deeper deblurrer for the shake of a hand-held camera, along paths up to 40 pixels long.

    tlc-jax train handheld -o runs/handheld --target photographs/large --set init_from=deblur

It begins as the deblurrer that comes with the package, and is not in it yet. On photographs whose
sides have 200 pixels or more, after 2,800 steps, 80 minutes on two busy CPU cores: a frame of GoPro
24.05 to 24.47 dB (the deblurrer: 23.99), its sharp one kept to 36.0 dB (34.9), but six Kodak
photographs under camera shake gain 1.91 dB (2.46).
"""

import dataclasses

from tlc_jax.training import Phase
from tlc_jax.training.configs import deblur
from tlc_jax.training.degradations import (
    EightBits,
    GaussianNoise,
    HandHeld,
    InTurn,
    Jpeg,
    Sometimes,
)

config = dataclasses.replace(
    deblur.config,
    # Deeper, to see as far as a path goes.
    model=deblur.config.model.clone(middle_blk_num=6, train_size=(128, 128)),
    phases=(Phase(steps=2_800, crop=128, batch=4),),
    degradation=InTurn((
        Sometimes(0.9, HandHeld((0, 40), (0, 8))), Sometimes(0.5, GaussianNoise((0, 3))),
        Sometimes(0.5, Jpeg((60, 98), full_chroma=0.3)), EightBits(),
    )),
    margin=24,
    learning_rate=5e-4,
)  # fmt: skip
