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
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Done = TypeVar("Done")

END: Any = object()
THREADS = max(2, os.cpu_count() or 1)


class Together(NamedTuple):
    """What is computed at once: items of one key, so many of them."""

    key: Hashable
    count: int


ALONE = Together(None, 1)


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
    together: Callable[[Read], Together] = lambda read: ALONE,
    weigh: Callable[[Item], float] = lambda item: 0.0,
    room: float = 0.0,
) -> "Iterator[tuple[Item, Future[Done]]]":
    """Read items, compute, and write what was made, all at the same time.

    Args:
      items: what there is to do.
      read, write: called in threads.
      begin: begins to compute for some items, and returns a function that waits for what is made of
        each. Both are called in this thread, and the next are begun before the wait.
      together: which are computed at once.
      weigh: bytes that an item takes from its reading to its writing.
      room: bytes that all on their way may take; a heavier one goes alone.

    Returns:
      Each item in their order, and what `write` made of it, or the exception that kept it from that.
    """
    flying: deque[_Flight] = deque()
    begun: deque[tuple[list[_Flight], Callable[[], list[Made]]]] = deque()
    coming = ((item, weigh(item)) for item in items)
    following = next(coming, END)
    most = 3 * THREADS  # on their way
    pool = ThreadPoolExecutor(THREADS)
    try:
        while flying or following is not END:
            while following is not END and (
                not flying
                or len(flying) < most
                and sum(flight.weight for flight in flying) + following[1] <= room
            ):
                flying.append(_Flight(*following, pool.submit(read, following[0])))
                following = next(coming, END)
            fresh = [flight for flight in flying if not flight.begun]
            first = flying[0].done
            if first and first.done():
                yield flying.popleft().item, first
            elif fresh and (not begun or len(begun) < 2 and fresh[0].read.done()):
                if fresh[0].read.exception():
                    fresh[0].begun, fresh[0].done = True, fresh[0].read
                    continue
                at_once = together(fresh[0].read.result())
                if most < 3 * at_once.count + THREADS:
                    most = 3 * at_once.count + THREADS
                    continue  # as more of them may be there
                group = _group(fresh, at_once, together)
                with _failing(group):
                    begun.append((group, begin([flight.read.result() for flight in group])))
            elif begun:
                group, wait = begun.popleft()
                with _failing(group):
                    for flight, made in zip(group, wait(), strict=True):
                        flight.done = pool.submit(write, flight.read.result(), made)
            else:
                assert first  # all are computed
                yield flying.popleft().item, first
    finally:
        pool.shutdown(cancel_futures=True)


def _group(
    fresh: list[_Flight], at_once: Together, together: Callable[[Any], Together]
) -> list[_Flight]:
    """The first, and those after it that are computed with it; from now on they are begun."""
    group: list[_Flight] = []
    for flight in fresh:
        if len(group) < at_once.count and not flight.read.exception():  # which waits for it
            if not group or together(flight.read.result()).key == at_once.key:
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
    """The items of a source, which a thread makes up to `count` before they are asked for."""
    coming = iter(source)
    with ThreadPoolExecutor(1) as thread:
        made = deque(thread.submit(next, coming, END) for _ in range(count))
        try:
            while (item := made.popleft().result()) is not END:
                made.append(thread.submit(next, coming, END))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
