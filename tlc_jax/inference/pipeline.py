"""Work in the order of its items: reading runs ahead of the computing, and writing behind it.

Decoders and encoders of pictures leave Python's lock to others, as JAX does while it computes, so
that threads are enough.
"""

import contextlib
import dataclasses
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tlc_jax.inference import memory

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Done = TypeVar("Done")

END: Any = object()
SHARE = 0.25  # of the memory, for what is read already or not written yet
UNKNOWN = 2**31  # bytes, where nothing tells how much there is
THREADS = max(2, os.cpu_count() or 1)


@dataclasses.dataclass(eq=False)
class _Flight:
    """An item on its way."""

    item: Any
    weight: float
    read: Future
    begun: bool = False
    done: Future | None = None


def pipeline(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    begin: Callable[[list[Read]], Callable[[], list[Made]]],
    write: Callable[[Read, Made], Done],
    *,
    key: Callable[[Read], Hashable] = lambda read: None,
    at_once: Callable[[Read], int] = lambda read: 1,
    weigh: Callable[[Item], float] = lambda item: 0.0,
) -> Iterator[tuple[Item, Future[Done]]]:
    """Read items, compute, and write what was made, all at the same time.

    Args:
      items: what there is to do.
      read, write: called in threads.
      begin: begins to compute for some items, and returns a function that waits for what is made of
        each. Both are called in this thread, and the next are begun before the wait.
      key: those of one key may be computed at once; those of `None` never are.
      at_once: how many of them.
      weigh: bytes that an item takes from its reading to its writing. All on their way take no more
        than a part of what is free; a heavier one goes alone.

    Returns:
      Each item in their order, and what `write` made of it, or the exception that came before.
    """
    flying: deque[_Flight] = deque()
    begun: deque[tuple[list[_Flight], Callable[[], list[Made]]]] = deque()
    coming = iter(items)
    item, weight, most = next(coming, END), 0.0, 3 * THREADS
    free = memory.free()
    room = UNKNOWN if free is None else SHARE * free

    def has_room() -> bool:
        nonlocal weight
        weight = weigh(item)
        taken = sum(flight.weight for flight in flying)
        return not flying or (len(flying) < most and taken + weight <= room)

    pool = ThreadPoolExecutor(THREADS)
    try:
        while flying or item is not END:
            while item is not END and has_room():
                flying.append(_Flight(item, weight, pool.submit(read, item)))
                item = next(coming, END)
            first = flying[0].done
            fresh = [flight for flight in flying if not flight.begun]
            if first and first.done():
                yield flying.popleft().item, first
            elif fresh and (not begun or (fresh[0].read.done() and len(begun) < 2)):
                if fresh[0].read.exception():
                    fresh[0].begun, fresh[0].done = True, fresh[0].read
                    continue
                loaded = fresh[0].read.result()
                count = 1 if key(loaded) is None else at_once(loaded)
                if most < 3 * count + THREADS:
                    most = 3 * count + THREADS
                    continue  # as more of them may be there
                group = _group(fresh, key, count)
                with _failing(group):
                    begun.append((group, begin([flight.read.result() for flight in group])))
            elif begun:
                group, wait = begun.popleft()
                with _failing(group):
                    for flight, made in zip(group, wait(), strict=True):
                        flight.done = pool.submit(write, flight.read.result(), made)
            elif first:
                yield flying.popleft().item, first
    except BaseException:  # or nobody asks for more
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _group(fresh: list[_Flight], key: Callable[[Any], Hashable], count: int) -> list[_Flight]:
    """The first, and those after it that are computed with it; from now on they are begun."""
    wanted = key(fresh[0].read.result())
    group: list[_Flight] = []
    for flight in fresh:
        if len(group) == count:
            break
        if not flight.read.exception() and key(flight.read.result()) == wanted:  # which wait
            flight.begun = True
            group.append(flight)
    return group


@contextlib.contextmanager
def _failing(group: list[_Flight]) -> Iterator[None]:
    """What is raised here becomes the end of these."""
    try:
        yield
    except Exception as error:
        for flight in group:
            flight.done = Future()
            flight.done.set_exception(error)


def ahead(source: Iterable[Item], count: int) -> Iterator[Item]:
    """The items of a source, up to `count` of which a thread makes before they are asked for."""
    coming = iter(source)
    with ThreadPoolExecutor(1) as thread:
        made = deque(thread.submit(next, coming, END) for _ in range(count))
        try:
            while (item := made.popleft().result()) is not END:
                made.append(thread.submit(next, coming, END))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


def behind(do: Callable[[Item], Done], items: Iterable[Item], count: int) -> Iterator[Done]:
    """What a thread does with each item, in their order; up to `count` wait for it."""
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[Done]] = deque()
        for item in items:
            waiting.append(thread.submit(do, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
