"""Pictures of one shape restored at once, shared out among the devices of this machine.

Each device runs the network on pictures of its own, and none waits for another: a program that XLA
divides by itself would exchange features within attention and mixing.
"""

import functools
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlc_jax.inference.buckets import forward_within, put_into
from tlc_jax.inference.fitting import room_for
from tlc_jax.inference.programs import planned_bytes
from tlc_jax.inference.timed import NotFiniteError, Timed
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import to_float
from tlc_jax.ops.windows import Size
from tlc_jax.ops.within import zero_beyond

AXIS = "batch"
ENOUGH = 2**22  # pixels on a GPU or TPU at once; more would only wait for their files
MANY = 2**30  # pictures, of which nobody knows how many there are


def batches_pay(devices: int) -> bool:
    """Whether several pictures at once take less time: one CPU is busy with a single one."""
    return devices > 1 or jax.default_backend() != "cpu"


class Program(NamedTuple):
    """A compiled program for `count` pictures, the bytes that each device takes, and seconds."""

    run: Callable[..., Any]
    mesh: Mesh
    count: int
    memory: int
    compiling: float


class Batches:
    """A network that restores pictures of one shape at once, with its parameters on each device.

    Args:
      model, params: a network for single images.
      devices: how many of this machine's share the work.
    """

    def __init__(self, model: Network, params: Params, devices: int):
        self.model, self.devices = model, devices
        self.on_cpu = jax.default_backend() == "cpu"
        self._params = functools.cache(
            lambda mesh: jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        )
        self.program = functools.cache(self._program)
        self._idle_since = 0.0

    def _program(
        self, size: Size, dtype: np.dtype, to: np.dtype, count: int = MANY, within: bool = False
    ) -> Program | None:
        """The program for pictures of one size and type; `None` where not even one fits.

        Args:
          size: (height, width) of the pictures, or of their bucket.
          dtype: of the pictures.
          to: of the results; integers are rounded and clipped.
          count: how many there are, of which as many are restored at once as pays.
          within: whether pictures lie in the corner of a bucket.
        """
        model = self.model
        most = 1 if self.on_cpu else max(1, ENOUGH // math.prod(size))
        shape = (*size, model.inp_channels)
        if within:
            shape = put_into(model, np.zeros(shape, dtype), size)[0].shape
        stays = dtype == to and model.scale == 1 and model.inp_channels == model.out_channels
        jitted = _forward_in_place if stays else _forward
        start = time.perf_counter()
        while most:
            rounds = math.ceil(count / (most * self.devices))
            each = math.ceil(math.ceil(count / rounds) / self.devices)
            used = math.ceil(math.ceil(count / rounds) / each)
            mesh = Mesh(np.array(jax.local_devices()[:used]), (AXIS,))
            of_all = functools.partial(
                jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, PartitionSpec(AXIS))
            )
            run = jitted.lower(
                model, mesh, to, self._params(mesh), of_all((each * used, *shape), dtype),
                of_all((each * used, 2), np.int32) if within else None,
            ).compile()  # fmt: skip
            memory = planned_bytes(run)
            room = room_for(model, np.broadcast_to(np.float32(0), shape))
            if memory * (used if self.on_cpu else 1) <= room:
                return Program(run, mesh, each * used, memory, time.perf_counter() - start)
            most = each // 2
        return None

    def begin(
        self, program: Program, images: Sequence[np.ndarray], bucket: Size | None = None
    ) -> Callable[[], list[Timed | NotFiniteError]]:
        """Begin to restore images, no more than a program takes; the result waits for each."""
        model, extents, shapes = self.model, None, [image.shape for image in images]
        if bucket:
            images, places = zip(*(put_into(model, x, bucket) for x in images), strict=True)
            extents = np.ones((program.count, 2), np.int32)
            extents[: len(images)] = places
        batch = np.zeros((program.count, *images[0].shape), images[0].dtype)
        for place, image in zip(batch, images, strict=False):
            place[:] = image
        start = time.perf_counter()
        batch, extents = jax.device_put(
            (batch, extents), NamedSharding(program.mesh, PartitionSpec(AXIS))
        )
        made = program.run(self._params(program.mesh), batch, extents)

        def wait() -> list[Timed | NotFiniteError]:
            restored, finite = map(np.asarray, made)
            end = time.perf_counter()
            running = (end - max(start, self._idle_since)) / len(shapes)
            self._idle_since = end
            mode = "local" if model.local_mode else "global"
            results: list[Timed | NotFiniteError] = []
            for shape, pixels, is_finite in zip(shapes, restored, finite, strict=False):
                pixels = model.crop(pixels, shape[:2]) if bucket else pixels
                timed = Timed(pixels, mode, 0.0, running, program.memory)
                results.append(timed if is_finite else NotFiniteError())
            return results

        return wait

    def each(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Images of one shape and type, restored one after the other, in batches.

        Raises:
          NotFiniteError: a result holds NaN or infinite numbers.
          MemoryError: not even one fits.
        """
        coming = iter(images)
        for first in itertools.islice(coming, 1):
            program = self.program(first.shape[:2], first.dtype, first.dtype)
            if program is None:
                raise MemoryError("no room for one picture")
            coming = itertools.chain([first], coming)
            waits: deque[Callable[[], list[Timed | NotFiniteError]]] = deque()
            while (part := list(itertools.islice(coming, program.count))) or waits:
                if part:
                    waits.append(self.begin(program, part))
                if len(waits) > 1 or not part:
                    for made in waits.popleft()():
                        if isinstance(made, NotFiniteError):
                            raise made
                        yield made.pixels


def _restored(
    model: Network,
    mesh: Mesh,
    to: np.dtype,
    params: Params,
    images: jax.Array,
    extents: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """(N, H, W, C) as files or floats hold them, restored, and of each whether it is finite."""

    def within(params: Params, image: jax.Array, extent: jax.Array) -> jax.Array:
        restored = forward_within(model, params, image, extent)
        return zero_beyond(restored[None], model.scale * extent)[0]

    def on_device(
        params: Params, images: jax.Array, extents: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        pixels = to_float(images)
        if extents is None:
            restored: Any = model.apply({"params": params}, pixels)
        else:
            restored = jax.vmap(within, in_axes=(None, 0, 0))(params, pixels, extents)
        finite = jnp.isfinite(restored).all(axis=(1, 2, 3))
        if to.kind == "u":  # as `from_float`
            whole = np.float32(np.iinfo(to).max)
            restored = jnp.rint(jnp.clip(restored.astype(jnp.float32), 0, 1) * whole)
        return restored.astype(to), finite

    split = PartitionSpec(AXIS)
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(PartitionSpec(), split, split), out_specs=split
    )(params, images, extents)


_forward = jax.jit(_restored, static_argnums=(0, 1, 2))
_forward_in_place = jax.jit(_restored, static_argnums=(0, 1, 2), donate_argnums=4)
