"""A small deblurrer: paths of a shaking camera up to 20 pixels long.

    tlc-jax train deblur -o runs/deblur --target photographs/train

Not trained to its end so far.
"""

from tlc_jax.degradations import EightBits, GaussianNoise, InTurn, MotionBlur, Sometimes
from tlc_jax.models import NAFNet
from tlc_jax.recipe import Config, Phase

config = Config(
    model=NAFNet(
        width=24, enc_blk_nums=(1, 1, 2), middle_blk_num=2, dec_blk_nums=(1, 1, 1),
        train_size=(96, 96),
    ),
    phases=(Phase(steps=15_000, crop=96, batch=8),),
    # Some are left sharp, so that it learns to leave alone what is.
    degradation=InTurn((
        Sometimes(0.9, MotionBlur((0, 20))), Sometimes(0.9, GaussianNoise((0, 2))), EightBits(),
    )),
    margin=20,
    learning_rate=1e-3,
    final_learning_rate=1e-6,
    warmup=200,
)  # fmt: skip
