"""The time of the first picture of a new process besides restoring it, with a warm cache.

python -m benchmarks.start
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def first_picture() -> dict[str, float]:
    """Seconds of each step in the second of two processes: NAFNet width 32, local, 1280x720."""
    import tlc_jax as tlc
    from benchmarks.contestant import some_params

    model = tlc.NAFNet.variant("gopro-width32")
    params = some_params(model)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "nafnet"
        tlc.save(checkpoint, model, params)
        command = [sys.executable, "-m", "benchmarks.start", str(checkpoint)]
        cache = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder}
        for _ in range(2):
            start = time.perf_counter()
            steps = json.loads(subprocess.check_output(command, env=cache, text=True))
            whole = time.perf_counter() - start
    # The picture is restored twice; the difference is the time of reading the cache.
    return steps | {"all but the picture": whole - 2 * steps["picture"]}


def two_pictures(checkpoint: str) -> dict[str, float]:
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    import numpy as np

    import tlc_jax as tlc

    mark()
    model, params = tlc.load(checkpoint)
    model = model.clone(local_mode=True)
    mark()
    image = np.random.default_rng(0).uniform(size=(720, 1280, 3)).astype(np.float32)
    for _ in range(2):
        tlc.restore(model, params, image)
        mark()
    imports, parameters, first, second = np.diff(marks).tolist()
    return {
        "imports": imports,
        "parameters": parameters,
        "cache": first - second,
        "picture": second,
    }


if __name__ == "__main__":
    print(json.dumps(two_pictures(*sys.argv[1:]) if sys.argv[1:] else first_picture()))
