"""Strict arithmetic for every test: no silent promotion of dtypes or ranks."""

import functools
import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlc_jax import cli
from tlc_jax.files import limits
from tlc_jax.files.writing import write_image
from tlc_jax.layers.network import Params, abstract_params
from tlc_jax.ops.backends import forms_of

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# For those tests that divide work; all others use the first.
jax.config.update("jax_num_cpu_devices", 8)
# Parity means float32 products on GPUs and TPUs too, where the default is less.
jax.config.update("jax_default_matmul_precision", "highest")

# Tracing makes many objects and next to no garbage; looking for that took a quarter of its time.
gc.set_threshold(200_000)

GOLDEN = Path(__file__).parent / "golden"


def pytest_configure(config: pytest.Config) -> None:
    """For all workers, and the processes that tests start; what is compiled once is kept."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # has what the environment says already
    os.environ["TLC_JAX_HOME"] = os.devnull  # no test depends on what is installed
    os.environ["TLC_JAX_OFFLINE"] = "1"  # or reaches the network
    # Compiling takes most of the time, and LLVM's optimisations half of that.
    flags = "--xla_backend_optimization_level=0", os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    folder = tempfile.TemporaryDirectory(prefix="tlc-jax-compiled-")
    config.add_cleanup(folder.cleanup)
    for name, value in {
        "jax_compilation_cache_dir": folder.name,
        "jax_persistent_cache_min_compile_time_secs": 0,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


class Golden(NamedTuple):
    meta: dict[str, Any]
    image: np.ndarray  # (N, H, W, C), or a clip (N, T, H, W, C)
    expected: dict[str, np.ndarray]  # by mode, "global" and "local": float64, channels last
    tensors: dict[str, np.ndarray]  # by the release's names


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Reads a file of tests/golden of a PyTorch release."""

    def read(name: str) -> Golden:
        with np.load(GOLDEN / f"{name}.npz") as file:
            arrays = dict(file)
        nhwc = {
            key: np.moveaxis(array, -3, -1)
            for key, array in arrays.items()
            if key == "input" or key.startswith("output_")
        }
        meta = json.loads(str(arrays["meta"]))
        # The release of RNN-MBP takes and gives pictures about zero, ours in [0, 1].
        centre = 0.5 if meta["model"] == "rnn_mbp" else 0.0
        return Golden(
            meta,
            nhwc["input"] + np.float32(centre),
            {m: nhwc[f"output_{m}"].astype(np.float64) + centre for m in ("global", "local")},
            {
                key.removeprefix("param:"): x
                for key, x in arrays.items()
                if key.startswith("param:")
            },
        )

    return functools.cache(read)


@pytest.fixture(scope="module", params=["cpu", "tpu", "cuda"])
def platform(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each form of each operation, here all compiled for a CPU."""
    with forms_of(request.param):
        yield request.param


@pytest.fixture(scope="session")
def random_params() -> Callable[[nn.Module], Params]:
    """Parameters for a network. No leaf is zero, as some are when training starts: each matters."""

    @functools.cache
    def make(model: nn.Module) -> Params:
        rng = np.random.default_rng(0)

        def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
            spread = 0.3 if len(shape.shape) == 1 else 1 / np.sqrt(np.prod(shape.shape[:-1]))
            around = 1.0 if path[-1].key in ("scale", "temperature") else 0.0
            return jnp.asarray(rng.normal(around, spread, shape.shape), jnp.float32)

        return jax.tree.map_with_path(leaf, abstract_params(model))

    return make


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs a command of `tlc-jax` in a folder."""
    monkeypatch.setattr(limits, "_limit", limits.PIXELS)  # set back afterwards

    def run(folder: Path, *arguments: object) -> Result:
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        return Result(end.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def run(
    world: Path, terminal: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs a command in `world`, the folder that a file of tests prepares."""
    monkeypatch.chdir(world)
    return functools.partial(terminal, world)


@pytest.fixture(scope="session")
def write_photographs() -> Callable[..., None]:
    """Fills a folder with smooth colours, of another wave length in each picture."""

    def write(folder: Path, count: int, size: tuple[int, int]) -> None:
        rows, columns = np.mgrid[: size[0], : size[1]]
        for i in range(count):
            waves = [np.sin(rows / (5 + i) + k) * np.cos(columns / (3 + i) - k) for k in range(3)]
            write_image(folder / f"{i}.png", np.uint8(np.rint(127 + 100 * np.stack(waves, -1))))

    return write


@pytest.fixture(scope="session")
def check_gradients() -> Callable[..., None]:
    """Compares gradients with a definition in float64."""

    def check(
        ours: Callable[..., jax.Array],
        reference: Callable[..., np.ndarray],
        arrays: Sequence[jax.Array],
    ) -> None:
        """Along a random direction, against the central difference of `reference` in float64."""
        rng = np.random.default_rng(2)
        cotangent = rng.normal(size=arrays[2].shape)
        directions = [rng.normal(size=x.shape) for x in arrays]

        @jax.jit
        def gradients(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            _, back = jax.vjp(ours, *arrays)
            return back(jnp.asarray(cotangent, jnp.float32))

        def shifted(which: int, step: float) -> float:
            moved = [np.asarray(x, np.float64) for x in arrays]
            moved[which] = moved[which] + step * directions[which]
            return (reference(*moved) * cotangent).sum()

        for which, gradient in enumerate(gradients(*arrays)):
            slope = (shifted(which, 1e-4) - shifted(which, -1e-4)) / 2e-4
            scale = np.linalg.norm(gradient) * np.sqrt(directions[which].size)
            assert abs((np.asarray(gradient) * directions[which]).sum() - slope) <= 1e-5 * scale

    return check


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Compiled programs are mapped into memory, of which Linux allows a process 65,530 parts.

    Those that are needed again are read from the folder of `pytest_configure`.
    """
    yield
    jax.clear_caches()
