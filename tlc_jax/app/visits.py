"""The folder of each visitor, with a picture and what was made of it.

It lies in the folder where Gradio puts uploads, and is removed when the visitor leaves.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tlc_jax.app import requests
from tlc_jax.inference import memory
from tlc_jax.jobs import JobError

TOGETHER = 20  # pictures of one visitor
VISITORS = 100  # with a picture, before the page asks to come back later
# Seconds. Every hour Gradio removes what is a day old: uploads that no visit took over, but also
# the results of a visitor who is still there, so that sooner is no good.
AN_HOUR, A_DAY = 3600, 86400
BYTES = 120  # of a pixel, for all that is made of it; what restores parts takes up to 2 GiB besides


def most_memory(jobs: int) -> float:
    """GiB for a job: of what is free one half, shared by all, and 8 at most."""
    free = memory.free() or 2**33
    return min(max(free / 2**31 / jobs, 2.0), 8.0)


def most_pixels(gigabytes: float) -> int:
    """Of a picture, for which the memory of a job suffices: it is restored in parts."""
    return min(max(int(gigabytes * 2**30 - 2**31) // BYTES, 4_000_000), 100_000_000)


class Limits(NamedTuple):
    """What the page takes from its visitors."""

    pixels: int = 16_000_000  # of a picture
    megabytes: int = 64  # of a file, 2^20 bytes, as Gradio counts where it refuses one
    seconds: float = 600  # for a job
    jobs: int = 1  # at a time
    gigabytes: float = 8.0  # 2^30 bytes of memory, that a job may take on a CPU


class Visit(NamedTuple):
    """A visitor's folder, the pictures in it, and where Gradio put those first."""

    folder: Path
    sources: tuple[Path, ...]
    uploads: tuple[Path, ...]  # none for an example

    @contextlib.contextmanager
    def request(self, kind: str, *choices: Any) -> Iterator[requests.Request]:
        """A request for the pictures; what it made takes the place of the last such results."""
        last = [*self.folder.glob(f"{kind}-*")]
        # A name of its own, or the browser would show the last result again.
        folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=self.folder))
        try:
            yield requests.Request(self.sources, folder, *choices)
        except Exception:
            last = [folder]
            raise
        finally:
            for old in last:
                shutil.rmtree(old, ignore_errors=True)


class Visits:
    """The folders of those who look at the page, by Gradio's name of their session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.present: dict[str | None, Visit] = {}

    def start(self, session: str | None, pictures: Sequence[Path]) -> Visit:
        """Take over what was uploaded, or an example; what the session had before goes.

        Raises:
          JobError: an upload is gone, there are too many, or no room for another visitor.
        """
        self.sweep()
        uploads = tuple(picture for picture in pictures if picture.is_relative_to(self.folder))
        try:
            if len(self.present.keys() | {session}) > VISITORS:
                raise JobError("too many others have pictures here; come back later.")
            if len(pictures) > TOGETHER:
                raise JobError(f"{len(pictures)} pictures are too many; drop up to {TOGETHER}.")
            visit = Visit(*self.copy(pictures), uploads)
        except JobError:
            for upload in uploads:
                upload.unlink(missing_ok=True)
            raise
        self.end(session, but=uploads)
        self.present[session] = visit
        return visit

    def copy(self, pictures: Sequence[Path]) -> tuple[Path, tuple[Path, ...]]:
        """A new folder, and the pictures in it."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        sources = []
        for number, picture in enumerate(pictures):
            source = folder / f"source{number or ''}" / picture.name
            source.parent.mkdir()
            try:
                shutil.copyfile(picture, source)
            except OSError as error:
                # Gradio keeps the same file once for all who send it: another may just have left.
                shutil.rmtree(folder)
                reason = (error.strerror or "unknown error").lower()
                raise JobError(f"cannot take {picture.name}: {reason}; drop it again.") from None
            sources.append(source)
        return folder, tuple(sources)

    def sweep(self) -> None:
        """Remove what is left of visitors who never said that they left, and of broken uploads."""
        now = time.time()
        for session, visit in list(self.present.items()):
            with contextlib.suppress(FileNotFoundError):  # it has just left
                if now - visit.folder.stat().st_mtime > A_DAY:
                    self.end(session)
        for path in self.folder.glob("tmp*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and now - path.stat().st_mtime > AN_HOUR:
                    path.unlink()

    def find(self, session: str | None) -> Visit:
        """The visit of a session; a `JobError` if it has no picture."""
        if visit := self.present.get(session):
            return visit
        raise JobError("there is no picture yet; drop one, or take an example.")

    def has(self, session: str | None, visit: Visit) -> bool:
        """Whether a visit is still that of a session."""
        return self.present.get(session) is visit

    def end(self, session: str | None, but: Sequence[Path] = ()) -> None:
        """Remove the files of a session, but uploads that are also the next visit's."""
        visit = self.present.pop(session, None)
        if visit is not None:
            shutil.rmtree(visit.folder, ignore_errors=True)
            for upload in visit.uploads:
                if upload not in but:
                    upload.unlink(missing_ok=True)
