"""Networks with three kinds of site, trained alike on crops of 64 pixels to remove noise."""

import dataclasses
from pathlib import Path

import tlc_jax as tlc
from benchmarks.tlc_gain.gain import Network
from benchmarks.tlc_gain.shipped import noise
from tlc_jax.models import HINet, NAFNet, Restormer
from tlc_jax.training.config import Phase
from tlc_jax.training.configs import gaussian
from tlc_jax.training.run import train

SEEDS = (0, 1, 2)
CROP = (64, 64)
MODELS = {
    "NAFNet, channel attention": NAFNet(16, (1, 1, 2), 2, (1, 1, 1), train_size=CROP),
    "HINet, instance norm": HINet(wf=12, depth=4, hin_position_right=3, train_size=CROP),
    "Restormer, attention between channels": Restormer(
        dim=16, num_blocks=(1, 1, 1, 2), num_refinement_blocks=1, heads=(1, 2, 4, 8),
        train_size=CROP,
    ),
}  # fmt: skip


def trained(name: str, seed: int, photographs: Path, runs: Path) -> Network:
    """A network of `MODELS`, trained in a folder of `runs`; an interrupted run is resumed."""
    config = dataclasses.replace(
        gaussian.config,
        model=MODELS[name],
        phases=(Phase(steps=500, crop=CROP[0], batch=8),),
        target=str(photographs),
        seed=seed,
    )
    run = runs / f"{name.split(',')[0].lower()}-{seed}"
    checkpoint = train(config, run, lambda report: print(run.name, report, flush=True))
    return Network(*tlc.load(checkpoint), noise(25))
