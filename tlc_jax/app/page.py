"""The page: a picture is dropped, restored by a worker, looked at and kept.

Gradio draws it. What a visitor uploads and gets lies in a folder of this process, and goes when the
visitor does.
"""

import contextlib
import html
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tlc_jax.app import requests
from tlc_jax.app.workers import JobError, Unwanted, Workers
from tlc_jax.files.datasets import PICTURES
from tlc_jax.files.pictures import ImageError, picture_size

if TYPE_CHECKING:
    import gradio

EXAMPLES = Path(__file__).parent.parent / "examples"
WAITING = 16  # jobs, before the page asks to come back later
VISITORS = 100  # with a picture, likewise
# Seconds. Every hour Gradio removes what is a day old: uploads that no visit took over, but also
# the results of a visitor who is still there, so that sooner is no good.
AN_HOUR, A_DAY = 3600, 86400

CSS = """
.gradio-container { max-width: 1280px !important; margin: auto }
.gradio-container main { width: 100% }
#told table { width: 100%; margin: 0; font-size: 0.9em }
#told table, #told tr, #told th, #told td { border: 0 !important; padding: 1px 4px }
#told th { font-weight: 400; opacity: 0.65; text-align: left; width: 12em }
#complaint { border-left: 4px solid #dc2626; padding: 6px 12px }
#limits { opacity: 0.65 }
#gallery .grid-wrap { max-height: none }
#gallery .thumbnail-item { aspect-ratio: auto }
"""


class Limits(NamedTuple):
    """What the page takes from its visitors."""

    pixels: int = 16_000_000  # of a picture
    megabytes: int = 64  # of a file, 2^20 bytes, as Gradio counts where it refuses one
    seconds: float = 600  # for a job
    jobs: int = 1  # at a time


class Visit(NamedTuple):
    """What there is of a visitor: a folder, the picture in it, and where Gradio put that first."""

    folder: Path
    source: Path
    upload: Path | None  # `None` for an example

    @contextlib.contextmanager
    def request(self, kind: str, *choices: Any) -> Iterator[requests.Request]:
        """A job for the picture; what it made takes the place of the last such results."""
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
            folder, source = self.copy(picture)
        except JobError:
            if upload:
                upload.unlink(missing_ok=True)
            raise
        self.end(session, but=upload)
        self.present[session] = Visit(folder, source, upload)
        return self.present[session]

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
        """What there is of a session.

        Raises:
          JobError: it has no picture.
        """
        visit = self.present.get(session)
        if visit is None:
            raise JobError("there is no picture yet; drop one, or take an example.")
        return visit

    def end(self, session: str | None, but: Path | None = None) -> None:
        """Remove all that there is of a session, but an upload that is the next one's, too."""
        visit = self.present.pop(session, None)
        if visit is not None:
            shutil.rmtree(visit.folder, ignore_errors=True)
            if visit.upload not in (None, but):
                visit.upload.unlink(missing_ok=True)


def serve(
    networks: Mapping[str, Path],
    limits: Limits,
    host: str,
    port: int | None,
    ready: Callable[[str], None],
) -> None:
    """Show the page until Ctrl-C, or until the process is asked to end.

    Args:
      networks: folders of checkpoints for single pictures, by what visitors choose.
      limits: what visitors may ask for.
      host, port: where to listen; `None` is the first free one of the 100 ports from 7860 on.
      ready: told the address as soon as the page answers there.

    Raises:
      ImportError: Gradio is not installed.
      OSError: it cannot listen there.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="tlc-jax-") as folder,
    ):
        # Gradio looks at these when it is imported.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        workers = Workers(limits.seconds)
        from gradio import processing_utils
        from gradio.themes import Default, LocalFont

        processing_utils.async_ssrf_protected_download = _refuse_address
        page = build(networks, limits, Visits(Path(folder)), workers)
        page.queue(max_size=WAITING, api_open=False)
        # From Gradio's own files, of which the half-bold one that it takes lacks most letters.
        font = LocalFont("Source Sans Pro", weights=(400, 700))
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                max_file_size=limits.megabytes * 2**20,
                css=CSS,
                theme=Default(font=[font, "sans-serif"]),
                footer_links=[],
                prevent_thread_lock=True,
                quiet=True,
                # What Gradio would do elsewhere, or tell others of.
                share=False,
                enable_monitoring=False,
                run_history=False,
                mcp_server=False,
                ssr_mode=False,
                pwa=False,
            )
        except OSError:  # whose sentence is for those who program with Gradio
            where = "any of the 100 ports from 7860 on" if port is None else f"port {port}"
            raise OSError(f"cannot listen at {host}, {where}; choose another") from None
        try:
            ready(address)
            workers.start(limits.jobs)
            threading.Event().wait()
        finally:
            workers.stop()  # before the page, which waits for them, and their folder
            page.close(verbose=False)


def build(
    networks: Mapping[str, Path], limits: Limits, visits: Visits, workers: Workers
) -> "gradio.Blocks":
    """The page, which `serve` shows."""
    import gradio as gr

    gr.set_static_paths(EXAMPLES)  # never among the uploads, which go
    bar = gr.Progress()  # found by Gradio among the defaults

    def look(upload: str, request: gr.Request) -> dict:
        """A picture was dropped."""
        return begin(Path(upload), request)

    def take(number: int, request: gr.Request) -> dict:
        """An example was chosen."""
        return {drop: None} | begin(samples[number], request)

    def begin(picture: Path, request: gr.Request) -> dict:
        """At once, as only here an upload finds its owner; what takes time is a job."""
        visit = None
        try:
            visit = visits.start(request.session_hash, picture)
            size = check_size(visit.source, limits.pixels)
        except (ImageError, JobError) as error:
            return give_up(error, request, visit)
        facts = _facts({"picture": f"{picture.name}, {size}"})
        return empty() | {told: facts, taken: visit.folder.name}

    def preview(request: gr.Request, progress=bar) -> dict:
        """A picture was taken, and may be gone again."""
        visit = visits.present.get(request.session_hash)
        if visit is None:
            return gr.skip()
        try:
            shown = work(visit, progress, request, requests.preview, visit.source, visit.folder)
        except Unwanted:
            return gr.skip()
        except JobError as error:
            return give_up(error, request, visit)
        if any(visit.folder.glob("restored-*/after.jpg")):  # by another worker meanwhile
            return gr.skip()
        return {slider: (shown, shown)}

    def clear(request: gr.Request) -> dict:
        """The picture was taken away."""
        leave(request)
        return empty()

    def give_up(error: Exception, request: gr.Request, visit: Visit | None) -> dict:
        """Of a picture that cannot be had; the visitor may have another one by now."""
        if visit is not None and not is_present(visit, request):
            return {told: gr.skip()}  # among those of others, as `take` has
        leave(request)
        return empty() | {told: _complaint(error)}

    def leave(request: gr.Request) -> None:
        visits.end(request.session_hash)

    def is_present(visit: Visit, request: gr.Request) -> bool:
        return visits.present.get(request.session_hash) is visit

    def empty() -> dict:
        return {
            slider: None,
            gallery: None,
            download: gr.update(visible=False),
            told: "",
            tabs: gr.update(selected="restored"),
        }

    def work(
        visit: Visit,
        progress: gr.Progress,
        request: gr.Request,
        job: Callable[..., Iterator[Any]],
        *arguments: Any,
    ) -> Any:
        """The last that a job yields, which is its result.

        It is stopped when the visitor leaves, or takes the picture away or another one.
        """

        def wanted() -> bool:
            return is_present(visit, request)

        made = None
        progress(0, "waiting")
        try:
            for made in workers.run(job, *arguments, wanted=wanted):
                if isinstance(made, requests.Progress):
                    progress(made.share, made.text)
            if not wanted():  # any more, at the last moment
                raise Unwanted
        except JobError as error:
            if wanted():
                raise
            shutil.rmtree(visit.folder, ignore_errors=True)  # what it wrote while this went
            raise Unwanted from error
        return made

    def complain(error: JobError) -> dict:
        return gr.skip() if isinstance(error, Unwanted) else {told: _complaint(error)}

    def restore(name: str, mode: str, side: int, request: gr.Request, progress=bar) -> dict:
        try:
            visit = visits.find(request.session_hash)
            with visit.request("restored", networks[name], mode, side or None) as asked:
                made = work(visit, progress, request, requests.restored, asked)
        except JobError as error:
            return complain(error)
        label = f"Download {made.file.name}"
        return {
            slider: (made.before, made.after),
            download: gr.update(value=made.file, label=label, visible=True),
            told: _facts(made.facts),
            tabs: gr.update(selected="restored"),
        }

    def compare(name: str, side: int, request: gr.Request, progress=bar) -> dict:
        try:
            visit = visits.find(request.session_hash)
            with visit.request("compared", networks[name], "local", side or None) as asked:
                made = work(visit, progress, request, requests.compared, asked)
        except JobError as error:
            return complain(error)
        return {gallery: made.pictures, told: _facts(made.facts)}

    samples = sorted(EXAMPLES.glob("*.jpg"))
    with gr.Blocks(title="tlc-jax", analytics_enabled=False, delete_cache=(AN_HOUR, A_DAY)) as page:
        gr.Markdown("# tlc-jax\nRestores photographs, on the machine that serves this page.")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                drop = gr.File(
                    label="Photograph", file_types=list(PICTURES), height=150, elem_id="upload"
                )
                examples = gr.Dataset(
                    label="Examples",
                    components=[gr.Image(render=False)],
                    samples=[[str(sample)] for sample in samples],
                    type="index",
                    elem_id="examples",
                )
                network = gr.Radio(list(networks), value=next(iter(networks)), label="Network")
                mode = gr.Radio(
                    ["local", "global", "auto"],
                    value="local",
                    label="Statistics",
                    info="Over windows (TLC), or the whole picture; auto is local, unless that "
                    "makes false colours.",
                )
                window = gr.Number(
                    label="Window",
                    value=0,
                    info="Side in pixels; 0 is 1.5 x the training crops.",
                    minimum=0,
                    precision=0,
                )
                with gr.Row():
                    restore_button = gr.Button("Restore", variant="primary", min_width=120)
                    compare_button = gr.Button("Compare", min_width=120)
            with gr.Column(scale=3):
                with gr.Tabs() as tabs:
                    with gr.Tab("Before and after", id="restored"):
                        slider = gr.ImageSlider(
                            show_label=False,
                            interactive=False,
                            height=560,
                            max_height=560,
                            buttons=["fullscreen"],  # what it shows is not what there is to keep
                            elem_id="slider",
                        )
                        download = gr.DownloadButton(
                            visible=False, variant="primary", elem_id="download"
                        )
                    with gr.Tab("Modes compared", id="compared"):
                        gallery = gr.Gallery(
                            show_label=False,
                            columns=3,
                            height="auto",
                            buttons=[],
                            elem_id="gallery",
                        )
                told = gr.HTML(elem_id="told")
        taken = gr.Textbox(visible="hidden")  # changes with each picture that was taken
        gr.Markdown(
            f"Pictures of up to {limits.pixels / 1e6:g} megapixels and {limits.megabytes} MB. "
            "What you upload stays on the machine that serves this page, and is removed when you "
            "leave.",
            elem_id="limits",
        )

        # Previews are jobs, too: what a visitor sends is decoded by a worker.
        as_job: dict[str, Any] = {"concurrency_limit": limits.jobs, "concurrency_id": "jobs"}
        private: dict[str, Any] = {"api_visibility": "private"}
        shown = [slider, gallery, download, told, tabs]
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        drop.upload(look, drop, [taken, *shown], **at_once, **private)
        drop.clear(clear, None, shown, **at_once, **private)
        examples.click(take, examples, [drop, taken, *shown], **at_once, **private)
        taken.change(preview, None, shown, show_progress_on=slider, **as_job, **private)
        restore_button.click(
            restore, [network, mode, window], shown, show_progress_on=slider, **as_job, **private
        )
        compare_button.click(
            lambda: gr.update(selected="compared"), None, tabs, queue=False, **private
        ).then(compare, [network, window], shown, show_progress_on=gallery, **as_job, **private)
        page.unload(leave)
    return page


async def _refuse_address(url: str, **where: Any) -> str:
    """In place of what fetches a file whose address a request names: of any size, for anybody."""
    from gradio import Error

    raise Error("only what is uploaded is taken.", print_exception=False)


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


def _facts(facts: Mapping[str, str]) -> str:
    rows = (
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _complaint(error: Exception) -> str:
    return f'<div id="complaint">{html.escape(str(error))}</div>'
