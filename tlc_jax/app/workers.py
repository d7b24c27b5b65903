"""Processes that do the jobs of the page.

A computation of XLA can only be stopped with its process, and one that wants more memory than there
is takes its process with it: neither may be the page's.
"""

import math
import multiprocessing
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import jax

from tlc_jax.files.checkpoints import CheckpointError
from tlc_jax.files.pictures import ImageError
from tlc_jax.inference.programs import is_out_of_memory

FORGET_AFTER = 50  # jobs; each may have compiled a program, which stays in memory
STEP = 0.2  # seconds between two looks at whether a job is still wanted
NOT_ENOUGH_MEMORY = "not enough memory for this picture; give a smaller one."

Job = Callable[..., Iterator[Any]]
Wanted = Callable[[], bool]


class JobError(Exception):
    """A job that cannot be done; the message is the sentence to show."""


class Unwanted(JobError):
    """A job that was stopped as nobody waits for it, so that there is nobody to tell, either."""


class Workers:
    """So many jobs at a time, each for so many seconds at most."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.all: list[_Worker] = []
        self.free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def start(self, count: int) -> None:
        """Start that many processes; jobs wait for them."""
        for _ in range(count):
            worker = _Worker()
            self.all.append(worker)
            self.free.put(worker)

    def stop(self) -> None:
        """End the processes, whatever they do; there will be no others."""
        for worker in self.all:
            worker.stop()

    def run(self, job: Job, *arguments: Any, wanted: Wanted = lambda: True) -> Iterator[Any]:
        """What a job yields, once a process is free for it.

        Raises:
          JobError: it cannot be done, takes too long, or needs too much memory.
          Unwanted: meanwhile it is not `wanted` any more.
        """
        worker = self.free.get()
        try:
            yield from worker.run(self.seconds, wanted, job, *arguments)
        finally:
            self.free.put(worker)


class _Worker:
    def __init__(self) -> None:
        self.stopped = False
        self.lock = threading.Lock()  # or one that is being stopped might start again
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would lose
        self.pipe, theirs = context.Pipe()
        cache = jax.config.values["jax_compilation_cache_dir"]
        self.process = context.Process(target=_work, args=(theirs, cache), daemon=True)
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

    def run(self, seconds: float, wanted: Wanted, job: Job, *arguments: Any) -> Iterator[Any]:
        if not self.process.is_alive():  # nobody's fault who asks now
            self.restart()
        done = False
        try:
            if not self.ready:  # the seconds are the job's, and none of them its process's
                self.ready = self.receive(wanted)
            end = time.monotonic() + seconds
            self.pipe.send((job, arguments))
            while True:
                message = self.receive(wanted, end)
                done = message is None or isinstance(message, JobError)
                if isinstance(message, JobError):
                    raise message
                if done:
                    return
                yield message
        except TimeoutError:
            raise JobError(
                f"this took longer than {seconds:g} seconds; give a smaller picture."
            ) from None
        except (EOFError, OSError):  # of the pipe: there is nobody at its other end
            raise self.ended() from None
        finally:
            if not done:
                self.restart()

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
        if not self.ready:
            return JobError("this could not begin; the terminal that runs the page says why.")
        # By the kernel or by itself, as its memory has an end.
        if self.process.exitcode in (-signal.SIGKILL, -signal.SIGABRT):
            return JobError(NOT_ENOUGH_MEMORY)
        return JobError("the process that did this broke down; try again, or another picture.")


def _work(pipe: Connection, cache: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", cache)
    pipe.send(True)  # ready
    count = 0
    while True:
        try:
            job, arguments = pipe.recv()
        except EOFError:
            return
        try:
            for message in job(*arguments):
                pipe.send(message)
            pipe.send(None)
        except Exception as error:
            pipe.send(JobError(_sentence(error)))
        count += 1
        if count % FORGET_AFTER == 0:
            jax.clear_caches()


def _sentence(error: Exception) -> str:
    if isinstance(error, ImageError | CheckpointError):
        return str(error)
    if is_out_of_memory(error):
        return NOT_ENOUGH_MEMORY
    traceback.print_exception(error)
    return "this failed; the terminal that runs the page says why."
