"""The folder of each visitor, with a picture and what was made of it.

It lies in the folder where Gradio puts uploads, and is removed when the visitor leaves.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tlc_jax.app import requests
from tlc_jax.inference import memory
from tlc_jax.jobs import JobError

TOGETHER = 20  # pictures of one visitor
VISITORS = 100  # with a picture, before the page asks to come back later
GRACE = 60  # seconds, that a visitor stays who listens to no events, and an upload without one
UPLOAD_SECONDS = 900  # for one
BYTES = 120  # of a pixel, for all that is made of it; what restores parts takes up to 2 GiB besides
OF_SMALL = 2.0  # GiB for the process that takes small pictures alone, where there are several


def most_memory(jobs: int) -> float:
    """GiB for a job: of what is free one half, shared by all, and 8 at most."""
    half = (memory.free() or 2**33) / 2**31
    each = half if jobs == 1 else (half - OF_SMALL) / (jobs - 1)
    return min(max(each, 2.0), 8.0)


def most_pixels(gigabytes: float) -> int:
    """Of a picture, for which the memory of a job suffices: it is restored in parts."""
    return min(max(int(gigabytes * 2**30 - 2**31) // BYTES, 4_000_000), 100_000_000)


def most_disk(folder: Path) -> float:
    """GiB for pictures and results: of what is free one half, and 8 at most."""
    return min(shutil.disk_usage(folder).free / 2**31, 8.0)


class Limits(NamedTuple):
    """What the page takes from its visitors."""

    pixels: int = 16_000_000  # of a picture
    megabytes: int = 64  # of a file, 2^20 bytes, as Gradio counts where it refuses one
    seconds: float = 600  # for a job
    jobs: int = 2  # at a time, one of which is for small pictures
    gigabytes: float = 8.0  # 2^30 bytes of memory, that a job may take on a CPU
    disk: float = 8.0  # 2^30 bytes for the pictures of all visitors, and what is made of them


File = tuple[int, ...]  # what tells a file from another one of its name; none of one that is gone


@dataclasses.dataclass(eq=False)
class Visit:
    """A visitor's pictures, and what is made of them.

    Attributes:
      folder: for all of it.
      sources: the pictures.
      uploads: where Gradio put those first, and which file that is, as whoever sends the same
        picture puts another one there; none for an example.
      pixels: of all pictures, once their heads were read.
      asked: what the visitor waits for.
      heard: when there was last somebody who listens to events.
    """

    folder: Path
    sources: tuple[Path, ...]
    uploads: Mapping[Path, File]
    pixels: int | None = None
    asked: object | None = None
    heard: float = dataclasses.field(default_factory=time.monotonic)

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
        self.listeners: Counter[str | None] = Counter()  # open streams of events, by session
        self.coming = 0  # uploads

    def start(self, session: str | None, pictures: Sequence[Path]) -> Visit:
        """Take over what was uploaded, or an example; what the session had before goes.

        Raises:
          JobError: an upload is gone, there are too many, or no room for another visitor.
        """
        uploads = {path: _file(path) for path in pictures if path.is_relative_to(self.folder)}
        try:
            if len(pictures) > TOGETHER:
                raise JobError(f"{len(pictures)} pictures are too many; drop up to {TOGETHER}.")
            self.make_room(session)
            visit = Visit(*self.take(pictures), uploads)
        except JobError:
            _remove(uploads)
            raise
        self.end(session, but=uploads)
        self.present[session] = visit
        return visit

    def make_room(self, session: str | None) -> None:
        """Let those go to whom nobody listens any more, where there are too many others."""
        if len(self.present.keys() | {session}) <= VISITORS:
            return
        silent = [one for one in self.present if not self.listeners[one]]
        if not silent:
            raise JobError("too many others have pictures here; come back later.")
        self.end(min(silent, key=lambda one: self.present[one].heard))

    def take(self, pictures: Sequence[Path]) -> tuple[Path, tuple[Path, ...]]:
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

    @contextlib.contextmanager
    def listening(self, session: str | None) -> Iterator[None]:
        """While a stream of events is open; none for what is no such stream."""
        if session is None:
            yield
            return
        self.listeners[session] += 1
        try:
            yield
        finally:
            self.listeners[session] -= 1
            self.listeners += Counter()  # without those of whom there are none
            if visit := self.present.get(session):
                visit.heard = time.monotonic()

    @contextlib.contextmanager
    def uploading(self) -> Iterator[None]:
        """While an upload comes."""
        self.coming += 1
        try:
            yield
        finally:
            self.coming -= 1

    def used(self) -> int:
        """Bytes of all files here."""
        found = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # it has just gone
                    found += os.path.getsize(os.path.join(folder, name))
        return found

    def sweep(self) -> None:
        """Remove what is left of visitors who never said that they left, and of broken uploads."""
        now = time.monotonic()
        for session, visit in list(self.present.items()):
            if not self.listeners[session] and now - visit.heard > GRACE:
                self.end(session)
        visits = list(self.present.values())
        kept = {visit.folder for visit in visits}
        kept |= {upload.parent for visit in visits for upload in visit.uploads}
        oldest = time.time() - (UPLOAD_SECONDS + GRACE if self.coming else GRACE)
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path not in kept and path.stat().st_mtime < oldest:
                    shutil.rmtree(path, ignore_errors=True)
                    _remove({path: _file(path)})

    def find(self, session: str | None) -> Visit:
        """The visit of a session; a `JobError` if it has no picture."""
        if visit := self.present.get(session):
            return visit
        raise JobError("there is no picture yet; drop one, or take an example.")

    def has(self, session: str | None, visit: Visit) -> bool:
        """Whether a visit is still that of a session."""
        return self.present.get(session) is visit

    def end(self, session: str | None, but: Collection[Path] = ()) -> None:
        """Remove the files of a session, but uploads that are also the next visit's."""
        visit = self.present.pop(session, None)
        if visit is not None:
            shutil.rmtree(visit.folder, ignore_errors=True)
            _remove({path: file for path, file in visit.uploads.items() if path not in but})


def _file(path: Path) -> File:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_mtime_ns


def _remove(files: Mapping[Path, File]) -> None:
    """Remove files that are still the same, if they are no folders after all."""
    for path, file in files.items():
        if _file(path) == file:
            with contextlib.suppress(OSError):
                path.unlink()
