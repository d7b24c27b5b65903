"""Exported networks in ONNX Runtime and OpenVINO against JAX: errors, sizes and seconds.

    pip install 'tlc-jax[bench]'
    python -m benchmarks.export                           # some five minutes
    python -m benchmarks.export --network nafnet --size 720x1280

All run in one process and take turns, so that a busy machine hurts them alike. The error is the
largest difference from JAX in float32, as a share of the output's range.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import tlc_jax as tlc
from benchmarks import report

NETWORKS = {
    "nafnet": tlc.NAFNet(width=32),
    "restormer": tlc.Restormer(),
    "hinet": tlc.HINet.variant("sidd-half"),
    "mprnet": tlc.MPRNet.variant("deraining"),
}
MODES = ("global", "local")

Run = Callable[[], Any]


def some_params(model: tlc.Network) -> Any:
    """Parameters with which maps neither vanish nor grow: of a network as it is initialised."""
    rng = np.random.default_rng(0)
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))["params"]
    # Blocks that are initialised as the identity would hide errors in them.
    return jax.tree.map(lambda x: x + 0.02 * rng.normal(size=x.shape).astype(np.float32), params)


def in_jax(model: tlc.Network, params: Any, image: np.ndarray) -> Run:
    forward = jax.jit(model.apply)
    return lambda: np.asarray(forward({"params": params}, image))


def in_stablehlo(program: bytes, image: np.ndarray) -> Run:
    forward = jax.jit(jax.export.deserialize(bytearray(program)).call)
    return lambda: np.asarray(forward(image))


def in_onnxruntime(program: bytes, image: np.ndarray) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    return lambda: session.run(["restored"], {"image": image})[0]


def in_openvino(program: bytes, image: np.ndarray, precision: str) -> Run:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(program), "CPU", settings)
    return lambda: compiled(image)["restored"]


def contestants(model: tlc.Network, image: np.ndarray) -> Iterator[tuple[str, int, Run, float]]:
    """Each with the bytes of its file, and the seconds until its first result."""
    params, size = some_params(model), image.shape[1:3]
    makers: list[tuple[str, Any, Callable[..., Run], tuple[Any, ...]]] = [
        ("JAX float32", None, lambda _, image: in_jax(model, params, image), ()),
        ("StableHLO float32", "stablehlo", in_stablehlo, ()),
        ("onnxruntime float32", "onnx", in_onnxruntime, ()),
        ("OpenVINO float32", "onnx", in_openvino, ("f32",)),
        ("OpenVINO bfloat16", "onnx", in_openvino, ("bf16",)),
    ]
    programs = {
        form: tlc.export(model, params, size, format=form) for form in ("stablehlo", "onnx")
    }
    for name, form, make, options in makers:
        program = programs.get(form, b"")
        start = time.perf_counter()
        run = make(program, image, *options)
        run()
        yield name, len(program), run, time.perf_counter() - start


def race(model: tlc.Network, image: np.ndarray, repeats: int) -> list[dict[str, Any]]:
    """A row for each contestant."""
    ready = list(contestants(model, image))
    expected = ready[0][2]()
    seconds: dict[str, list[float]] = {name: [] for name, *_ in ready}
    for turn in range(repeats):
        for name, _, run, _ in ready[:: (-1) ** turn]:
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, length, run, first in ready:
        ratios = zip(seconds["JAX float32"], seconds[name], strict=True)
        rows.append({
            "form": name,
            "s": statistics.median(seconds[name]),
            "range": f"{min(seconds[name]):.3g} to {max(seconds[name]):.3g}",
            "JAX / it": statistics.median(jax_s / its for jax_s, its in ratios),
            "first s": first,
            "MB": length / 1e6 or "",
            "error": float(np.abs(run() - expected).max() / np.ptp(expected)),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--mode", choices=MODES, nargs="+", default=MODES)
    parser.add_argument("--size", type=report.parse_size, default=(480, 640), help="HxW")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    image = np.random.default_rng(0).random((1, *given.size, 3), np.float32)
    print(report.table([{"": name, "machine": it} for name, it in report.machine().items()]))
    for name, mode in itertools.product(given.network, given.mode):
        model = NETWORKS[name].clone(local_mode=mode == "local")
        case = f"{name} {report.size(given.size)} {mode}"
        rows = race(model, image, given.repeats)
        print(f"\n{report.table([{case: row.pop('form'), **row} for row in rows])}", flush=True)


if __name__ == "__main__":
    main()
