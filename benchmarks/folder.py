"""How little time a folder of pictures takes besides computing.

python -m benchmarks.folder             a network that only waits, as for a faster device
python -m benchmarks.folder nafnet      NAFNet of width 32
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np
from PIL import Image

import tlc_jax as tlc
from benchmarks.contestant import some_params

WAIT = 0.3  # seconds for each picture
PHOTOGRAPH = Path(tlc.__file__).parent / "examples/kodim.png"


class Waiting(tlc.Network):
    """Gives back what it takes, after a while."""

    buckets: ClassVar[bool] = True

    @nn.compact
    def forward(self, image: jax.Array) -> jax.Array:
        def wait(pixel: Any) -> Any:
            time.sleep(WAIT)
            return pixel

        pixel = image[:, 0, 0, 0]
        waited = jax.pure_callback(wait, jax.ShapeDtypeStruct(pixel.shape, pixel.dtype), pixel)
        return image + 0 * waited[:, None, None, None]


def folder_of(path: Path, count: int) -> None:
    """Pictures of 1280x720: crops of a photograph, enlarged, with a little noise."""
    rng = np.random.default_rng(0)
    with Image.open(PHOTOGRAPH) as photograph:
        for i in range(count):
            crop = photograph.convert("RGB").crop((i, i, i + 640, i + 360)).resize((1280, 720))
            noisy = np.asarray(crop) + rng.normal(0, 3, (720, 1280, 3))
            tlc.write_image(path / f"{i}.png", np.uint8(np.clip(noisy, 0, 255)))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("network", nargs="?", choices=["waiting", "nafnet"], default="waiting")
    arguments.add_argument("--count", type=int, default=40)
    given = arguments.parse_args()
    model, params = Waiting(), {}
    if given.network == "nafnet":
        model = tlc.NAFNet.variant("gopro-width32", local_mode=True)
        params = some_params(model)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        folder_of(source, given.count)
        summary = tlc.restore_files(model, params, source, Path(folder) / "out")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    share = summary.steps["computing"] / (summary.seconds - summary.steps["compiling"])
    print(summary)
    print(f"computing is {share:.1%} of the time but compiling; peak {peak / 2**30:.2f} GiB")
    if given.network == "waiting":
        print(f"{summary.seconds / (WAIT * given.count):.2f} times what was waited")


if __name__ == "__main__":
    main()
