"""What TLC costs: each network local and global, and the sliding mean by itself.

Local and global take turns in one process, so that what else the machine does falls on both. Times
are medians after one warm-up, compilation apart; the ratio is the median of the turns' own ratios.

    python -m benchmarks                       # NAFNet and the sliding mean, a few minutes
    python -m benchmarks --network restormer --repeats 2
"""

import argparse
import functools
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import tlc_jax as tlc
from tlc_jax.models import example_input
from tlc_jax.ops import window_mean
from tlc_jax.ops.box import METHODS

NETWORKS: dict[str, nn.Module] = {
    "nafnet": tlc.NAFNet(width=32),
    "nafnet64": tlc.NAFNet(width=64),
    "restormer": tlc.Restormer(),
    "maxim": tlc.Maxim(),
    "hinet": tlc.HINet(),
    "mprnet": tlc.MPRNet(),
    "nafssr": tlc.NAFSSR(),
    "rnn_mbp": tlc.RNNMBP(),
}
# The maps that NAFNet width 32 pools at 720x1280, with their windows.
MAPS = [
    ((720, 1280, 32), 384),
    ((360, 640, 64), 192),
    ((180, 320, 128), 96),
    ((90, 160, 256), 48),
    ((45, 80, 512), 24),
]


def seconds(run: Callable[[], Any]) -> float:
    """How long one run takes until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def bench_network(name: str, size: tuple[int, int], batch: int, dtype: str, repeats: int) -> str:
    """A row of the table: compile and run times of both modes, and their ratio."""
    model = NETWORKS[name].clone(dtype=jnp.dtype(dtype))
    _, *shape = example_input(model, size).shape
    image = jax.random.uniform(jax.random.key(0), (batch, *shape))
    params = jax.jit(model.init)(jax.random.key(1), image[..., :64, :64, :])["params"]
    runs, compile_seconds = {}, {}
    for mode in ("global", "local"):
        forward = jax.jit(model.clone(local_mode=mode == "local").apply)
        start = time.perf_counter()
        compiled = forward.lower({"params": params}, image).compile()
        compile_seconds[mode] = time.perf_counter() - start
        runs[mode] = functools.partial(compiled, {"params": params}, image)
        seconds(runs[mode])
    turns = [{mode: seconds(run) for mode, run in runs.items()} for _ in range(repeats)]
    whole, local = (statistics.median(turn[mode] for turn in turns) for mode in runs)
    ratio = statistics.median(turn["local"] / turn["global"] for turn in turns)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"| {name} {batch}x{size[0]}x{size[1]} {dtype} | {whole:.2f} | {local:.2f} | {ratio:.3f} "
        f"| {compile_seconds['global']:.1f} | {compile_seconds['local']:.1f} | {peak:.1f} |"
    )


def bench_mean(shape: tuple[int, int, int], window: int, repeats: int) -> str:
    """A row of the table of sliding means: milliseconds of each method, and of the global mean."""
    x = jax.random.uniform(jax.random.key(0), (1, *shape))
    cells = []
    for name in ("global", *METHODS):
        if name == "reduce_window" and window > 100:
            cells.append("-")  # its cost grows with the window: many seconds here
            continue
        mean = functools.partial(window_mean, method="auto" if name == "global" else name)
        run = functools.partial(
            jax.jit(functools.partial(mean, window=None if name == "global" else (window, window))),
            x,
        )
        seconds(run)
        cells.append(f"{1e3 * statistics.median(seconds(run) for _ in range(repeats)):.1f}")
    return f"| {'x'.join(map(str, shape))}, window {window} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--network", choices=NETWORKS, default="nafnet")
    parser.add_argument("--size", default="720x1280", metavar="HxW")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split("x"))

    device = jax.devices()[0].device_kind
    print(f"{device}, {os.cpu_count()} cores, jax {jax.__version__}, {platform.platform()}\n")
    print(
        "| network | global s | local s | local / global | compile global s | local s | peak GiB |"
    )
    print("|---|---|---|---|---|---|---|")
    print(
        bench_network(
            arguments.network,
            (height, width),
            arguments.batch,
            arguments.dtype,
            arguments.repeats,
        )
    )
    print(f"\n| sliding mean, ms | global | {' | '.join(METHODS)} |")
    print("|---" * (len(METHODS) + 2) + "|")
    for shape, window in MAPS:
        print(bench_mean(shape, window, arguments.repeats))


if __name__ == "__main__":
    main()
