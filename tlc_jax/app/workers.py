"""Processes that do the jobs of the page.

A computation of XLA can only be stopped with its process, and one that wants more memory than there
is takes its process with it: neither may be the page's.
"""

import multiprocessing
import queue
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import jax

from tlc_jax.checkpoints import CheckpointError
from tlc_jax.image import ImageError
from tlc_jax.restore import is_out_of_memory

FORGET_AFTER = 50  # jobs; each may have compiled a program, which stays in memory

Job = Callable[..., Iterator[Any]]


class JobError(Exception):
    """A job that cannot be done; the message is the sentence to show."""


class Workers:
    """So many jobs at a time, each for so many seconds at most."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def start(self, count: int) -> None:
        """Start that many processes, which live as long as this one; jobs wait for them."""
        for _ in range(count):
            self.free.put(_Worker())

    def run(self, job: Job, *arguments: Any) -> Iterator[Any]:
        """What a job yields, once a process is free for it.

        Raises:
          JobError: it cannot be done, takes too long, or needs too much memory.
        """
        worker = self.free.get()
        try:
            yield from worker.run(self.seconds, job, *arguments)
        finally:
            self.free.put(worker)


class _Worker:
    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would lose
        self.pipe, theirs = context.Pipe()
        cache = jax.config.values["jax_compilation_cache_dir"]
        self.process = context.Process(target=_work, args=(theirs, cache), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, seconds: float, job: Job, *arguments: Any) -> Iterator[Any]:
        end = time.monotonic() + seconds
        done = False
        try:
            self.pipe.send((job, arguments))
            while True:
                if not self.pipe.poll(max(0, end - time.monotonic())):
                    raise JobError(
                        f"this took longer than {seconds:g} seconds; give a smaller picture."
                    )
                message = self.pipe.recv()
                done = message is None or isinstance(message, JobError)
                if isinstance(message, JobError):
                    raise message
                if done:
                    return
                yield message
        except (EOFError, OSError):  # of the pipe: there is nobody at its other end
            raise JobError("not enough memory for this picture; give a smaller one.") from None
        finally:
            if not done:
                self.process.kill()
                self.start()


def _work(pipe: Connection, cache: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the page, which ends this
    jax.config.update("jax_compilation_cache_dir", cache)
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
        return "not enough memory for this picture; give a smaller one."
    traceback.print_exception(error)
    return "this failed; the terminal that runs the page says why."
