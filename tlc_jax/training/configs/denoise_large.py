"""The last phase of the denoiser that comes with the package: crops as large as its windows.

    tlc-jax train denoise_large -o runs/denoise_large --target photographs/large \\
      --set init_from=runs/denoise/model

On crops of 96 it had learnt statistics of small parts, and in windows took film grain for noise.
1,400 steps of 3 crops, half an hour on two CPU cores, on the 105 photographs whose sides have 192
pixels or more.
"""

import dataclasses

from tlc_jax.training import Phase
from tlc_jax.training.configs import denoise

config = dataclasses.replace(
    denoise.config,
    model=denoise.config.model.clone(train_size=(192, 192)),
    phases=(Phase(steps=1_400, crop=192, batch=3),),
    learning_rate=2e-4,
    warmup=100,
)
