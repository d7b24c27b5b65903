"""One contestant, in a process of its own so that its memory can be measured.

It compiles, answers with what that took, and then restores the picture once for each line that it
reads. Every answer is one line of JSON.

    python -m benchmarks.contestant '{"network": "nafnet", "size": [256, 256]}'
"""

import dataclasses
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from tlc_jax.layers.network import Network, Params

# Those behind the first are of PyTorch; "compile" is channels_last, too. The last two run the ONNX
# graph that PyTorch exports, on a CPU.
FORMS = ("ours", "eager", "channels_last", "compile", "onnxruntime", "openvino")
ONNX = ("onnxruntime", "openvino")
PEERS = ("nafnet", "nafnet64", "restormer")  # have a PyTorch version here
NETWORKS = (*PEERS, "mprnet", "hinet")
DTYPES = ("float32", "tf32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Contestant:
    network: str
    size: tuple[int, int]
    batch: int = 1
    dtype: str = "float32"  # "tf32": products of float32 with 10 bits, on GPUs
    form: str = "ours"
    mode: str = "local"  # or "global"
    platform: str = "cpu"  # or "gpu"; the same for all contestants

    @property
    def case(self) -> str:
        height, width = self.size
        return f"{self.network} {self.batch}x{height}x{width} {self.dtype}"


class Ready(NamedTuple):
    run: Callable[[], Any]
    device_peak: Callable[[], int | None]  # bytes; None on a CPU
    about: dict[str, float]  # figures from the compiler


def some_params(model: "Network") -> "Params":
    """Parameters of no meaning. To compile `model.init` takes as long as the whole network."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from tlc_jax.layers.network import abstract_params

    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.02 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract_params(model),
    )


def ours(what: Contestant) -> Callable[[], Ready]:
    """A contestant of this library; the function returned is timed as compiling."""
    import jax

    import tlc_jax as tlc
    from tlc_jax.inference.programs import planned_bytes

    networks = {
        "nafnet": tlc.NAFNet.variant("gopro-width32"),
        "nafnet64": tlc.NAFNet.variant("gopro-width64"),
        "restormer": tlc.Restormer.variant("deblurring"),
        "mprnet": tlc.MPRNet.variant("deblurring"),
        "hinet": tlc.HINet.variant("sidd"),
    }
    precision = "tensorfloat32" if what.dtype == "tf32" else "highest"
    jax.config.update("jax_default_matmul_precision", precision)
    dtype = "bfloat16" if what.dtype == "bfloat16" else "float32"
    model = networks[what.network].clone(dtype=dtype, local_mode=what.mode == "local")
    image = jax.random.uniform(jax.random.key(0), (what.batch, *what.size, 3))
    params = some_params(model)
    device = jax.devices(what.platform)[0]

    def device_peak() -> int | None:
        stats = device.memory_stats()
        return stats and stats["peak_bytes_in_use"]

    def get_ready() -> Ready:
        compiled = jax.jit(model.apply).lower({"params": params}, image).compile()
        return Ready(
            lambda: jax.block_until_ready(compiled({"params": params}, image)),
            device_peak,
            {"flop": compiled.cost_analysis()["flops"], "planned": planned_bytes(compiled)},
        )

    return get_ready


def peer(what: Contestant) -> tuple["torch.nn.Module", "torch.Tensor"]:
    """The network in PyTorch, in float32 on the CPU, and a picture for it."""
    import torch

    from benchmarks import torch_peer

    networks = {
        "nafnet": lambda: torch_peer.NAFNet(width=32),
        "nafnet64": lambda: torch_peer.NAFNet(width=64),
        "restormer": torch_peer.Restormer,
    }
    model = networks[what.network]().eval()
    if what.mode == "local":
        torch_peer.make_local(model)
    return model, torch.rand(what.batch, 3, *what.size)


def theirs(what: Contestant) -> Callable[[], Ready]:
    """A contestant of the PyTorch peer, whose compiler gives no figures."""
    import torch

    device = {"gpu": "cuda"}.get(what.platform, what.platform)
    torch.set_float32_matmul_precision("high" if what.dtype == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = what.dtype == "tf32"
    torch.backends.cudnn.benchmark = True  # fixed sizes: let it choose its kernels by trial
    dtype = torch.bfloat16 if what.dtype == "bfloat16" else torch.float32
    layout = torch.contiguous_format if what.form == "eager" else torch.channels_last
    model, image = (it.to(device, dtype, memory_format=layout) for it in peer(what))
    forward = torch.compile(model) if what.form == "compile" else model

    def run() -> None:
        with torch.inference_mode():
            forward(image)
        if device == "cuda":
            torch.cuda.synchronize()

    def device_peak() -> int | None:
        return torch.cuda.max_memory_allocated() if device == "cuda" else None

    return lambda: Ready(run, device_peak, {})


def exported(what: Contestant) -> Callable[[], Ready]:
    """A contestant of the PyTorch peer as an ONNX graph; exporting it is not timed."""
    import torch

    if what.form == "onnxruntime" and what.dtype != "float32":
        raise SystemExit("onnxruntime computes in float32 on CPUs.")
    model, image = peer(what)
    folder = tempfile.TemporaryDirectory()
    path = f"{folder.name}/network.onnx"
    torch.onnx.export(model, (image,), path, dynamo=True, verbose=False)
    picture = image.numpy()

    def in_onnxruntime() -> Callable[[], Any]:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return lambda: session.run(None, {given.name: picture})

    def in_openvino() -> Callable[[], Any]:
        import openvino

        precision = {"bfloat16": "bf16", "float32": "f32"}[what.dtype]
        settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        return lambda: compiled(picture)

    def get_ready() -> Ready:
        run = in_onnxruntime() if what.form == "onnxruntime" else in_openvino()
        folder.cleanup()
        return Ready(run, lambda: None, {})

    return get_ready


def kernel_bytes(file: str, key: str) -> int:
    """The bytes in a line of a /proc file, such as "VmHWM: 1024 kB"."""
    with open(file) as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def main() -> None:
    asked = json.loads(sys.argv[1])
    what = Contestant(**asked | {"size": tuple(asked["size"])})
    # A limit, so that a process that does not fit fails before the system kills some other one.
    free = kernel_bytes("/proc/meminfo", "MemAvailable")
    resource.setrlimit(resource.RLIMIT_DATA, (int(0.95 * free),) * 2)

    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print, too

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    made_by = {"ours": ours} | dict.fromkeys(ONNX, exported)
    get_ready = made_by.get(what.form, theirs)(what)
    start = time.perf_counter()
    run, device_peak, about = get_ready()
    run()
    answer({"first": time.perf_counter() - start, **about})
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        answer(time.perf_counter() - start)
    answer(device_peak() or kernel_bytes("/proc/self/status", "VmHWM"))


if __name__ == "__main__":
    main()
