"""The folder of each visitor, with a picture and what was made of it.

It lies in the folder where Gradio puts uploads, and is removed when the visitor leaves.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tlc_jax.app import requests
from tlc_jax.files.pictures import ImageError, picture_size
from tlc_jax.jobs import JobError

VISITORS = 100  # with a picture, before the page asks to come back later
# Seconds. Every hour Gradio removes what is a day old: uploads that no visit took over, but also
# the results of a visitor who is still there, so that sooner is no good.
AN_HOUR, A_DAY = 3600, 86400


class Limits(NamedTuple):
    """What the page takes from its visitors."""

    pixels: int = 16_000_000  # of a picture
    megabytes: int = 64  # of a file, 2^20 bytes, as Gradio counts where it refuses one
    seconds: float = 600  # for a job
    jobs: int = 1  # at a time


class Visit(NamedTuple):
    """A visitor's folder, the picture in it, and where Gradio put that first."""

    folder: Path
    source: Path
    upload: Path | None  # `None` for an example

    @contextlib.contextmanager
    def request(self, kind: str, *choices: Any) -> Iterator[requests.Request]:
        """A request for the picture; what it made takes the place of the last such results."""
        last = [*self.folder.glob(f"{kind}-*")]
        # A name of its own, or the browser would show the last result again.
        folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=self.folder))
        try:
            yield requests.Request(self.source, folder, *choices)
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

    def start(self, session: str | None, picture: Path) -> Visit:
        """Take over what was uploaded, or an example; what the session had before goes.

        Raises:
          JobError: the upload is gone, or there is no room for it or for another visitor.
        """
        self.sweep()
        upload = picture if picture.is_relative_to(self.folder) else None
        try:
            if len(self.present.keys() | {session}) > VISITORS:
                raise JobError("too many others have pictures here; come back later.")
            visit = Visit(*self.copy(picture), upload)
        except JobError:
            if upload:
                upload.unlink(missing_ok=True)
            raise
        self.end(session, but=upload)
        self.present[session] = visit
        return visit

    def copy(self, picture: Path) -> tuple[Path, Path]:
        """A new folder, and the picture in it."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        source = folder / "source" / picture.name
        source.parent.mkdir()
        try:
            shutil.copyfile(picture, source)
        except OSError as error:
            # Gradio keeps the same file once for all who send it: another may just have left.
            shutil.rmtree(folder)
            reason = (error.strerror or "unknown error").lower()
            raise JobError(f"cannot take {picture.name}: {reason}; drop it again.") from None
        return folder, source

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

    def end(self, session: str | None, but: Path | None = None) -> None:
        """Remove the files of a session, but an upload that is also the next visit's."""
        visit = self.present.pop(session, None)
        if visit is not None:
            shutil.rmtree(visit.folder, ignore_errors=True)
            if visit.upload not in (None, but):
                visit.upload.unlink(missing_ok=True)


def check_size(source: Path, most: int) -> str:
    """The size of a picture in words, from the head of its file.

    Raises:
      ImageError: it has more than `most` pixels, or is no picture.
    """
    with requests.by_name(source):
        height, width = picture_size(source)
    if height * width > most:
        raise ImageError(
            f"{source.name}: is {width} x {height}, {height * width / 1e6:.1f} megapixels, of "
            f"which this page takes {most / 1e6:g}; give a smaller picture."
        )
    return f"{width} x {height}, {height * width / 1e6:.1f} megapixels"
