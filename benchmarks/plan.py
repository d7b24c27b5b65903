"""What XLA plans for a network on a TPU or a GPU, compiled ahead of time: no device is needed.

    pip install 'jax[tpu]'      # for --target v5e
    pip install 'jax[cuda12]'   # for --target h100; 6 GB
    python -m benchmarks plan --target v5e --network nafnet restormer --size 720x1280
    python -m benchmarks plan --target v5e --check   # has what TLC costs grown? a minute
    python -m benchmarks plan --target v5e --size 16384x16384 --devices 16   # one image over 16

Bytes are what the instructions of the program read and write in the device's memory, as padded by
the layout; an operand counts whole, even if a slice of it is read. Those in a TPU's on-chip memory,
which is ten times faster, are told apart. Of an image over several devices all figures are those of
one; there a loop over columns counts once, but for what it sends. Divided by the rate of the memory
(v5e 819 GB/s, H100 3350 GB/s) bytes are near the time of a network that is bound by memory. But a
plan is no measurement.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import report

RECORDED = Path(__file__).parent / "results" / "planned.json"
NETWORKS = ("nafnet", "hinet", "restormer", "mprnet", "maxim")
MODES = ("global", "local")
WORSE = 1.03  # how many times the recorded bytes count as grown

# As XLA describes the chip where there is one.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 patch: 0 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Before JAX looks for devices.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1", "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "XLA_FLAGS": f"--xla_gpu_autotune_level=0 {os.environ.get('XLA_FLAGS', '')}",
}  # fmt: skip
BITS = re.compile(r"\b(?:pred|[a-z]+?(\d+))\[([\d,]*)\](\{[^}]*\})?")
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(?.*?\)?) ([\w\-]+)\((.*)$")
MOVING_NOTHING = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, by its name in `MODELS` and fields, and what it is compiled for."""

    target: str
    network: str
    size: tuple[int, int] = (720, 1280)
    dtype: str = "bfloat16"
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    devices: int = 1

    def __str__(self) -> str:
        fields = "".join(f" {name}={value}" for name, value in self.fields.items())
        over = f" over {self.devices}" if self.devices > 1 else ""
        return f"{self.target} {self.network}{fields} {report.size(self.size)} {self.dtype}{over}"


# For `--check`: the widest maps, which take most of the bytes, once each way.
CHECKED = (
    ("nafnet", {"enc_blk_nums": (1,), "middle_blk_num": 0, "dec_blk_nums": (1,)}),
    ("restormer", {"num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1}),
)


def arrays(kind: str) -> Iterator[tuple[int, bool]]:
    """The bytes of each array in an HLO type, as laid out, and whether it lies on the chip."""
    for bits, dims, layout in BITS.findall(kind):
        sizes = [int(size) for size in dims.split(",") if size]
        tiled = re.match(r"\{([\d,]+):T\((\d+),(\d+)\)", layout)
        if tiled and sizes:  # padded along the two axes that vary fastest
            order = map(int, tiled[1].split(","))
            for axis, tile in zip(order, (int(tiled[3]), int(tiled[2])), strict=False):
                sizes[axis] = -(-sizes[axis] // tile) * tile
        yield math.prod(sizes) * max(1, int(bits or 8) // 8), "S(1)" in layout


def traffic(program: str) -> tuple[Counter[str], int]:
    """Bytes that an optimised program moves in the device's memory by where, and on its chip."""
    entry = re.search(r"\nENTRY [^\n]*\{\n(.*?)\n\}", program, re.DOTALL)
    assert entry, "no program"
    known: dict[str, list[tuple[int, bool]]] = {}
    places: Counter[str] = Counter()
    on_chip = 0
    for line in entry[1].splitlines():
        if not (found := INSTRUCTION.match(line)):
            continue
        name, kind, operation, rest = found.groups()
        known[name] = list(arrays(kind))
        if operation in MOVING_NOTHING or operation.endswith("-done"):
            continue
        if operation in ("copy-start", "slice-start"):
            moved = known[name][:2]  # to and from
        else:
            operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
            moved = known[name] + [one for operand in operands for one in known.get(operand, [])]
        place = re.search(r'op_name="([^"]*)"', line)
        place = re.sub(r"\d+", "#", place[1].rpartition(".forward/")[2] if place else operation)
        places[place] += sum(size for size, chip in moved if not chip)
        on_chip += sum(size for size, chip in moved if chip)
    return places, on_chip


def sent(jaxpr: Any) -> int:
    """Bytes that each device sends to others in a traced program, loops as often as they run."""
    from jax.extend.core import jaxprs_in_params

    total = 0
    for step in jaxpr.eqns:
        if step.primitive.name in ("ppermute", "psum"):
            total += sum(x.aval.size * x.aval.dtype.itemsize for x in step.outvars)
        # Of the forms for several backends, of which one is compiled, the one that sends most.
        inner = [sent(each) for each in jaxprs_in_params(step.params)]
        total += step.params.get("length", 1) * max(inner, default=0)
    return total


def devices(target: str, count: int) -> list[Any]:
    """Devices to compile for, which are not there."""
    import jax
    from jax.experimental import topologies

    from tlc_jax.files.atomic import first_line

    jax.devices()  # looks for plugins
    try:
        if target == "v5e":
            name = "v5e:2x2" if count <= 4 else f"v5e:4x{-(-count // 4)}"
            topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
        else:
            topology = topologies.get_topology_desc(
                platform="cuda", topology_name="one", target_config=H100, topology="1x1x1"
            )
    except RuntimeError as error:  # JAX's, of a compiler that is not there
        extra = {"v5e": "tpu", "h100": "cuda12"}[target]
        raise SystemExit(
            f"--target {target}: {first_line(error)} Type pip install 'jax[{extra}]', of the "
            f"version that is here, {jax.__version__}."
        ) from None
    return topology.devices[:count]


def plan(case: Case, mode: str, top: int = 0) -> dict[str, Any]:
    """Compile for a target that is not there, and print where the most bytes go."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from tlc_jax.inference.divided import divided_shape, forward_divided
    from tlc_jax.layers.network import abstract_params
    from tlc_jax.models import MODELS
    from tlc_jax.ops.divided import ROWS

    model = MODELS[case.network](
        dtype=jnp.dtype(case.dtype), local_mode=mode == "local", **case.fields
    )
    mesh = Mesh(np.array(devices(case.target, case.devices)), (ROWS,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.tree.map(lambda leaf: leaf.update(sharding=everywhere), abstract_params(model))
    platform = "tpu" if case.target == "v5e" else "cuda"
    start = time.monotonic()
    if case.devices > 1:
        image, height = divided_shape(model, case.size, mesh)
        traced = forward_divided.trace(model, params, image, height, mesh)
    else:
        shape = 1, *case.size, model.inp_channels
        image = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=everywhere)
        traced = jax.jit(model.apply).trace({"params": params}, image)
    compiled = traced.lower(lowering_platforms=(platform,)).compile()
    seconds = time.monotonic() - start
    program = compiled.as_text()
    places, on_chip = traffic(program)
    for place, size in places.most_common(top):
        print(f"{size / 1e9:9.2f} GB  {place}")
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    cycles = map(int, re.findall(r'"estimated_cycles":"(\d+)"', program))
    figures = {
        "GB": places.total() / 1e9,
        "GB on chip": on_chip / 1e9,
        "GFLOP": cost.get("flops", 0.0) / 1e9,
        "Mcycles": sum(cycles) / 1e6,
        "GB sent": sent(traced.jaxpr.jaxpr) / 1e9,
        "temporaries GiB": memory.temp_size_in_bytes / 2**30,
        "compile s": round(seconds, 1),
        "jax": jax.__version__,
    }
    return {name: figure for name, figure in figures.items() if figure}  # a GPU tells less


def markdown(recorded: dict[str, dict[str, dict[str, Any]]]) -> str:
    rows = []
    for case, modes in recorded.items():
        for mode, figures in modes.items():
            row = {"planned, not measured": f"{case} {mode}"} | figures
            if mode == "local" and "global" in modes:
                row["local / global"] = figures["GB"] / modes["global"]["GB"]
            rows.append(row)
    return f"# Planned by XLA, not measured\n\n{report.table(rows)}\n"


def has_grown(case: Case, planned: dict[str, dict[str, Any]], recorded: dict[str, Any]) -> bool:
    """Whether a network moves more bytes than recorded, or TLC costs more of them."""
    before = recorded.get(str(case))
    if before is None:
        raise SystemExit(f"{RECORDED} has no {case}.")
    changes = {mode: planned[mode]["GB"] / before[mode]["GB"] for mode in MODES}
    changes["local / global"] = changes["local"] / changes["global"]
    for name, change in changes.items():
        print(f"{case} {name}: {change:.3f} of what is recorded")
    return max(changes.values()) > WORSE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks plan", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--target", choices=("v5e", "h100"), required=True)
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=["nafnet"])
    parser.add_argument("--size", type=report.parse_size, default=[(720, 1280)], nargs="+")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--devices", type=int, default=1, help="over which an image is divided")
    parser.add_argument("--width", type=int, help="of NAFNet")
    parser.add_argument("--top", type=int, default=0, help="so many places that move the most")
    parser.add_argument("--check", action="store_true", help="compare two small networks")
    parser.add_argument("--record", action="store_true", help=f"add to {RECORDED}")
    given = parser.parse_args()
    os.environ.update(ENVIRONMENT)

    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    fields = {"width": given.width} if given.width else {}
    cases = [
        Case(given.target, network, size, given.dtype, fields, given.devices)
        for network, size in itertools.product(given.network, given.size)
    ]
    if given.check:
        cases = [Case(given.target, network, fields=fields) for network, fields in CHECKED]
    grown = False
    for case in cases:
        planned = {}
        for mode in MODES:
            planned[mode] = plan(case, mode, given.top)
            told = (f"{name} {report.number(value)}" for name, value in planned[mode].items())
            print(f"{case} {mode}:", ", ".join(told), flush=True)
        print(f"{case} local / global: {planned['local']['GB'] / planned['global']['GB']:.3f}")
        if given.record:
            recorded = dict(sorted((recorded | {str(case): planned}).items()))
            RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")
            RECORDED.with_suffix(".md").write_text(markdown(recorded))
        elif given.check:
            grown |= has_grown(case, planned, recorded)
    raise SystemExit(grown)


if __name__ == "__main__":
    main()
