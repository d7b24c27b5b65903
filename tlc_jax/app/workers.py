"""Processes that do the work of the page.

A computation of XLA can only be stopped with its process, and one that needs more memory than there
is ends its process: neither may be the page's.
"""

import bisect
import contextlib
import itertools
import math
import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax

from tlc_jax.app.visits import OF_SMALL, Limits
from tlc_jax.files.checkpoints import CheckpointError
from tlc_jax.files.limits import limit_pixels
from tlc_jax.files.pictures import ImageError
from tlc_jax.inference import memory
from tlc_jax.inference.programs import is_out_of_memory
from tlc_jax.inference.timed import NotFiniteError, Watch
from tlc_jax.jobs import JobError

FORGET_AFTER = 50  # times; each may have compiled a program, which stays in memory
STEP = 0.2  # seconds between two looks at whether work is still wanted
SMALL = 10.0  # seconds of an estimate, up to which work is small
SECONDS_OF_SMALL = 60.0  # after which it is stopped, on a slow machine, too
KILLED = (
    "the process that did this was killed twice, by the system if memory ran out; give a smaller "
    "picture, or try again."
)
NOT_ENOUGH_MEMORY = "not enough memory for this picture; give a smaller one."

Work = Callable[..., Any]  # tells its `watch` what it does next
Wanted = Callable[[], bool]


class Unwanted(JobError):
    """Work that was stopped because nobody waits for it any more."""


class _KilledError(JobError):
    """The process of some work was killed."""


class _Turn(NamedTuple):
    """What waits; what is due first comes first."""

    due: float
    number: int
    small: bool


class Workers:
    """Processes, each of which does one thing at a time, for so many seconds at most.

    Where there are several, the last one is for what takes a few seconds alone: who has a small
    picture does not wait for those with large ones.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.all: list[_Worker] = []
        self.free: list[_Worker] = []
        self.waiting: list[_Turn] = []
        self.due: dict[object, float] = {}  # when the last work of each is
        self.numbers = itertools.count()
        self.changed = threading.Condition()

    def start(self, count: int) -> None:
        """Start that many processes; work waits for them."""
        for number in range(count):
            small = number == count - 1 > 0
            limits = self.limits._replace(gigabytes=OF_SMALL) if small else self.limits
            worker = _Worker(limits, small)
            self.all.append(worker)
            self.release(worker)

    def stop(self) -> None:
        """End the processes, even those at work, and start no others."""
        for worker in self.all:
            worker.stop()

    def healthy(self) -> bool:
        """Whether there is a process, or soon another one, for what is asked next."""
        return bool(self.all) and not any(worker.stopped for worker in self.all)

    def run(
        self,
        work: Work,
        *arguments: Any,
        watch: Watch = lambda words: None,
        wanted: Wanted = lambda: True,
        whose: object = None,
        estimate: float = 1.0,
    ) -> Any:
        """Return `work(*arguments, watch=watch)`, done as soon as it is its turn.

        Args:
          work, arguments: what to do.
          watch: told what is done.
          wanted: whether it still is; asked again and again.
          whose: for whom. Those who ask for much come after those who ask for little.
          estimate: seconds that it may take.

        Raises:
          JobError: it cannot be done, takes too long, or needs too much memory.
          Unwanted: it is not `wanted` any more.
        """
        seconds = min(self.limits.seconds, math.inf if estimate > SMALL else SECONDS_OF_SMALL)
        worker = self.turn(whose, estimate, watch, wanted)
        try:
            with contextlib.suppress(_KilledError):  # by somebody, or as others took the memory
                return worker.run(seconds, watch, wanted, work, *arguments)
            return worker.run(seconds, watch, wanted, work, *arguments)
        finally:
            if estimate > SMALL:
                worker.restart()  # which gives all of its memory back
            self.release(worker)

    def turn(self, whose: object, estimate: float, watch: Watch, wanted: Wanted) -> "_Worker":
        """Wait for a process.

        Work is due when it would be done if it alone were done, after what is done for the same
        one: so nobody waits for ever, and nobody waits for all that another asks for.
        """
        with self.changed:
            now = time.monotonic()
            self.due = {one: due for one, due in self.due.items() if due > now}
            self.due[whose] = self.due.get(whose, now) + estimate
            this = _Turn(self.due[whose], next(self.numbers), estimate <= SMALL)
            bisect.insort(self.waiting, this)
            try:
                told = 0
                while (worker := self.worker_for(this)) is None:
                    ahead = len(self.all) - len(self.free) + self.waiting.index(this)
                    if ahead != told:
                        told = ahead
                        watch(f"waiting for {ahead} other{'s' if ahead > 1 else ''}")
                    self.changed.wait(STEP)
                    if not wanted():
                        raise Unwanted
                self.free.remove(worker)
                return worker
            finally:
                self.waiting.remove(this)
                self.changed.notify_all()

    def worker_for(self, turn: _Turn) -> "_Worker | None":
        """The process whose turn it is, for small things rather the one that does these alone."""
        for worker in sorted(self.free, key=lambda one: not one.small):
            if next((one for one in self.waiting if one.small or not worker.small), None) == turn:
                return worker
        return None

    def release(self, worker: "_Worker") -> None:
        """Let others have a process."""
        with self.changed:
            self.free.append(worker)
            self.changed.notify_all()


class _Worker:
    def __init__(self, limits: Limits, small: bool) -> None:
        self.limits, self.small = limits, small
        self.stopped = False
        self.lock = threading.Lock()  # or one that is being stopped might start again
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would lose
        self.pipe, theirs = context.Pipe()
        cache = jax.config.values["jax_compilation_cache_dir"]
        self.process = context.Process(
            target=_serve, args=(theirs, cache, self.limits), daemon=True
        )
        self.ready = False
        # Ctrl-C is for the page, which ends this; what is blocked here is blocked there, too.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        self.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            self.process.kill()
            self.process.join()

    def restart(self) -> None:
        with self.lock:
            if not self.stopped:
                self.process.kill()
                self.start()

    def run(self, seconds: float, watch: Watch, wanted: Wanted, work: Work, *arguments: Any) -> Any:
        if not self.process.is_alive():  # nobody's fault who asks now
            self.restart()
        kind = ""
        try:
            if not self.ready:  # the seconds are for the work, not for the start of its process
                self.ready = self.receive(wanted)
            end = time.monotonic() + seconds
            self.pipe.send((work, arguments))
            while (message := self.receive(wanted, end))[0] == "words":
                watch(message[1])
            kind, content = message
        except TimeoutError:
            raise JobError(
                f"this took longer than {seconds:g} seconds; give a smaller picture."
            ) from None
        except (EOFError, OSError):  # of the pipe: there is nobody at its other end
            raise self.ended() from None
        finally:
            if not kind:  # it is still at work, or gone
                self.restart()
        if kind == "problem":
            raise JobError(content)
        return content

    def receive(self, wanted: Wanted, end: float = math.inf) -> Any:
        while wanted():
            if self.pipe.poll(STEP):
                return self.pipe.recv()
            if time.monotonic() > end:
                raise TimeoutError
        raise Unwanted

    def ended(self) -> JobError:
        """Why there is no process any more."""
        self.process.join()
        if self.stopped:
            return Unwanted()
        if self.process.exitcode == -signal.SIGKILL:
            return _KilledError(KILLED)
        if not self.ready:
            return JobError("this could not begin; the terminal that runs the page says why.")
        if self.process.exitcode == -signal.SIGABRT:  # by itself, as its memory has an end
            return JobError(NOT_ENOUGH_MEMORY)
        return JobError("the process that did this broke down; try again, or another picture.")


def _serve(pipe: Connection, cache: str | None, limits: Limits) -> None:
    """Do what is sent, and send "words" for `watch`, and last a "result" or a "problem"."""
    jax.config.update("jax_compilation_cache_dir", cache)
    limit_pixels(limits.pixels)
    if jax.default_backend() == "cpu":  # drivers of others reserve addresses without end
        memory.limit(round(limits.gigabytes * 2**30))
    pipe.send(True)  # ready
    for count in itertools.count(1):
        try:
            work, arguments = pipe.recv()
        except EOFError:
            return
        try:
            result = work(*arguments, watch=lambda words: pipe.send(("words", words)))
            pipe.send(("result", result))
        except Exception as error:
            pipe.send(("problem", _sentence(error)))
        if count % FORGET_AFTER == 0:
            jax.clear_caches()


def _sentence(error: Exception) -> str:
    if isinstance(error, ImageError | CheckpointError | NotFiniteError | JobError):
        return str(error)
    if is_out_of_memory(error):
        return NOT_ENOUGH_MEMORY
    traceback.print_exception(error)
    return "this failed; the terminal that runs the page says why."
