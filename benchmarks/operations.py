"""The operations that TLC changes, and those that take most of a network's time, one by one.

Prints the rows of tables as JSON: milliseconds of each implementation, medians over turns, and the
largest errors against float64. Local operations are listed beside the global one.

    python -m benchmarks.operations
"""

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import tlc_jax as tlc
from tlc_jax.ops import depthwise_conv, transposed_attention, window_mean
from tlc_jax.ops.box import METHODS

SIZE = (720, 1280)
NETWORKS = (
    tlc.NAFNet.variant("gopro-width32"),
    tlc.NAFNet.variant("gopro-width64"),
    tlc.MPRNet.variant("deblurring"),
    tlc.HINet.variant("sidd"),
)
LONGEST_DIRECT = 100  # pixels, side of a window; for larger ones it takes many seconds


def milliseconds(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Medians over turns; in each, every implementation runs once, compiled before."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(of_way) for name, of_way in times.items()}


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return functools.partial(jax.jit(function), *arguments)


def means(repeats: int) -> list[dict[str, Any]]:
    """The means of every feature map that these networks pool, by every method."""
    local = (model.clone(local_mode=True) for model in NETWORKS)
    found = [site for model in local for site in tlc.sites(model, SIZE)]
    cases = sorted({(*site.size, site.channels, *site.window) for site in found}, reverse=True)
    results = []
    for h, w, c, k_h, k_w in cases:
        x = jax.random.uniform(jax.random.key(0), (1, h, w, c))
        ways = {"global": compiled(functools.partial(window_mean, window=None), x)}
        for method in METHODS:
            if method != "reduce_window" or max(k_h, k_w) <= LONGEST_DIRECT:
                mean = functools.partial(window_mean, window=(k_h, k_w), method=method)
                ways[method] = compiled(mean, x)
        exact = prefix_sum_mean(np.asarray(x, np.float64), (k_h, k_w))
        rough = prefix_sum_mean(np.asarray(x), (k_h, k_w))
        row = {"map": f"{h}x{w}x{c}", "window": f"{k_h}x{k_w}", **milliseconds(ways, repeats)}
        for method in ("auto", "blocks"):
            row[f"error of {method}"] = float(np.abs(np.asarray(ways[method]()) - exact).max())
        row["error of a 2-D prefix sum"] = float(np.abs(rough - exact).max())
        results.append(row)
    return results


def prefix_sum_mean(x: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """The mean as releases compute it, from four corners of a summed-area table in x's type.

    PyTorch adds up in float64 on a CPU, and rounds each sum that it stores.
    """
    k_h, k_w = window
    total = np.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    for axis in (1, 2):
        total = total.cumsum(axis=axis, dtype=np.float64).astype(x.dtype)
    lower = total[:, k_h:, k_w:] - total[:, k_h:, :-k_w]
    upper = total[:, :-k_h, k_w:] - total[:, :-k_h, :-k_w]
    return (lower - upper) / x.dtype.type(k_h * k_w)


def attention(repeats: int) -> list[dict[str, Any]]:
    """Restormer's attention at its four levels."""
    model = tlc.Restormer.variant("deblurring", local_mode=True)
    cases = dict.fromkeys(
        (*site.size, site.channels, site.window) for site in tlc.sites(model, SIZE)
    )
    results = []
    for h, w, c, window in cases:
        heads = model.heads[(SIZE[0] // h).bit_length() - 1]
        q, k, v = jax.random.normal(jax.random.key(0), (3, 1, h, w, c))
        ways = {
            name: compiled(
                functools.partial(transposed_attention, window=way), q, k, v, jnp.ones(heads)
            )
            for name, way in {"global": None, "local": window}.items()
        }
        case = {"map": f"{h}x{w}x{c}", "window": f"{window[0]}x{window[1]}", "heads": heads}
        results.append(case | milliseconds(ways, repeats))
    return results


def depthwise(repeats: int) -> list[dict[str, Any]]:
    """Our sum of shifted products against XLA's grouped convolution."""
    results = []
    for h, w, c in ((256, 256, 64), (64, 64, 256), (32, 32, 512)):
        x = jax.random.normal(jax.random.key(0), (1, h, w, c))
        kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, c))
        grouped = functools.partial(
            lax.conv_general_dilated,
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=c,
        )
        ways = {
            "shifted products": compiled(depthwise_conv, x, kernel),
            "feature_group_count": compiled(grouped, x, kernel),
            "copy": compiled(jnp.negative, x),
        }
        results.append({"map": f"{h}x{w}x{c}", **milliseconds(ways, repeats)})
    return results


def ceilings(repeats: int) -> list[dict[str, Any]]:
    """The limits of the device: TFLOP/s of matrix products, and GB/s of a copy."""
    n = 4096
    row = {}
    for dtype, precision in (
        ("float32", "highest"),
        ("float32", "tensorfloat32"),
        ("bfloat16", "default"),
    ):
        a, b = jax.random.normal(jax.random.key(0), (2, n, n), dtype)
        product = compiled(functools.partial(jnp.matmul, precision=precision), a, b)
        name = f"{dtype} {precision}"
        row[name] = 2e-9 * n**3 / milliseconds({name: product}, repeats)[name]
    x = jnp.ones(2**26)
    row["copy GB/s"] = 2e-6 * x.nbytes / milliseconds({"": compiled(jnp.negative, x)}, repeats)[""]
    return [row]


def main() -> None:
    tables = {
        "What the device can do: products of matrices in TFLOP/s, and a copy": ceilings,
        "The means of every map that the networks pool at 1280x720, ms": means,
        "Restormer's attention at 1280x720, ms": attention,
        "The depthwise 3x3 convolution, ms": depthwise,
    }
    print(json.dumps({title: of_table(repeats=5) for title, of_table in tables.items()}))


if __name__ == "__main__":
    main()
