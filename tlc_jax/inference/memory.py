"""How much memory there is: on the device, and of the machine, a container and the process."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import jax

CONTAINER, MEMORY, STATUS = Path("/sys/fs/cgroup"), Path("/proc/meminfo"), Path("/proc/self/status")


def available() -> int | None:
    """Bytes that may still be taken; `None` where nothing tells, as on other systems than Linux."""
    stats = jax.local_devices()[0].memory_stats()  # of a CPU there are none
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return free()


def free() -> int | None:
    """Bytes that the process may still take, on whatever device it computes; `None` as above."""
    return min((*_of_machine(), *_of_container(), *_of_process()), default=None)


def limit(count: int) -> None:
    """Let this process take so many bytes more, where the system allows to limit it."""
    with contextlib.suppress(ImportError, OSError, ValueError, KeyError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        taken = _kilobytes(STATUS)["VmSize"] * 1024
        resource.setrlimit(resource.RLIMIT_AS, (taken + count, hard))


def _of_machine() -> Iterator[int]:
    with contextlib.suppress(OSError, KeyError):
        yield _kilobytes(MEMORY)["MemAvailable"] * 1024


def _of_container() -> Iterator[int]:
    """What a limit of its control group, of either version, leaves."""
    for most, used, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # there is none, or "max"
            limit, taken = (int((CONTAINER / name).read_text()) for name in (most, used))
            stat = ((CONTAINER / used).parent / "memory.stat").read_text()
            cached = re.search(rf"^{reclaimable} (\d+)$", stat, re.M)
            yield limit - taken + (int(cached[1]) if cached else 0)


def _of_process() -> Iterator[int]:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:  # on Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, KeyError):
            yield limit - _kilobytes(STATUS)["VmSize"] * 1024


def _kilobytes(table: Path) -> dict[str, int]:
    return {name: int(n) for name, n in re.findall(r"^(\w+):\s+(\d+) kB$", table.read_text(), re.M)}
