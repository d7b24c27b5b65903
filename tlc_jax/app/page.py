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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tlc_jax.app import jobs
from tlc_jax.app.workers import JobError, Workers
from tlc_jax.data import PICTURES
from tlc_jax.image import ImageError, picture_size

if TYPE_CHECKING:
    import gradio

EXAMPLES = Path(__file__).parent.parent / "examples"
WAITING = 16  # jobs, before the page asks to come back later
AN_HOUR = 3600  # seconds, after which files go that no visitor came to own

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


class Visits:
    """The folders of those who look at the page, by Gradio's name of their session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.present: dict[str | None, Visit] = {}

    def start(self, session: str | None, picture: Path) -> Visit:
        """Take over what was uploaded, or an example; what the session had before goes."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        source = folder / "source" / picture.name
        source.parent.mkdir()
        shutil.copyfile(picture, source)
        upload = picture if picture.is_relative_to(self.folder) else None
        self.end(session, but=upload)
        self.present[session] = Visit(folder, source, upload)
        return self.present[session]

    def end(self, session: str | None, but: Path | None = None) -> None:
        """Remove all that there is of a session, but an upload that is the next one's, too."""
        visit = self.present.pop(session, None)
        if visit is not None:
            shutil.rmtree(visit.folder, ignore_errors=True)
            if visit.upload not in (None, but):
                visit.upload.unlink(missing_ok=True)

    def request(self, session: str | None, kind: str, *choices: Any) -> jobs.Request:
        """A job for the picture of a session, whose results take the place of the last such ones.

        Raises:
          JobError: the session has no picture.
        """
        visit = self.present.get(session)
        if visit is None:
            raise JobError("there is no picture yet; drop one, or take an example.")
        for old in visit.folder.glob(f"{kind}-*"):
            shutil.rmtree(old)
        # A name of its own, or the browser would show the last result again.
        folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=visit.folder))
        return jobs.Request(visit.source, folder, *choices)


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
      host, port: where to listen; `None` is the first free port from 7860 on.
      ready: told the address as soon as the page answers there.

    Raises:
      ImportError: Gradio is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="tlc-jax-") as folder:
        # Gradio looks at these when it is imported.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        workers = Workers(limits.seconds)
        from gradio.themes import Default, LocalFont

        page = build(networks, limits, Visits(Path(folder)), workers)
        page.queue(max_size=WAITING, api_open=False)
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            max_file_size=limits.megabytes * 2**20,
            css=CSS,
            # From Gradio's own files, of which the half-bold one that it takes lacks most letters.
            theme=Default(font=[LocalFont("Source Sans Pro", weights=(400, 700)), "sans-serif"]),
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
        ready(address)
        workers.start(limits.jobs)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        page.close(verbose=False)


def build(
    networks: Mapping[str, Path], limits: Limits, visits: Visits, workers: Workers
) -> "gradio.Blocks":
    """The page, which `serve` shows."""
    import gradio as gr

    gr.set_static_paths(EXAMPLES)  # never among the uploads, which go
    bar = gr.Progress()  # found by Gradio among the defaults

    def look(upload: str, request: gr.Request) -> Iterator[dict]:
        """A picture was dropped."""
        yield from show(Path(upload), request)

    def take(number: int, request: gr.Request) -> Iterator[dict]:
        """An example was chosen."""
        yield {drop: None}
        yield from show(samples[number], request)

    def show(picture: Path, request: gr.Request) -> Iterator[dict]:
        visit = visits.start(request.session_hash, picture)
        try:
            size = check_size(visit.source, limits.pixels)
            yield empty() | {told: _facts({"picture": f"{picture.name}, {size}"})}
            *_, shown = workers.run(jobs.preview, visit.source, visit.folder)
            yield {slider: (shown, shown)}
        except (ImageError, JobError) as error:
            leave(request)
            yield empty() | {told: _complaint(error)}

    def clear(request: gr.Request) -> dict:
        """The picture was taken away."""
        leave(request)
        return empty()

    def leave(request: gr.Request) -> None:
        visits.end(request.session_hash)

    def empty() -> dict:
        return {
            slider: None,
            gallery: None,
            download: gr.update(visible=False),
            told: "",
            tabs: gr.update(selected="restored"),
        }

    def work(
        job: Callable[[jobs.Request], Iterator[Any]],
        progress: gr.Progress,
        request: gr.Request,
        *choices: Any,
    ) -> Any:
        """The last that a job yields, which is its result."""
        made = None
        progress(0, "waiting")
        for made in workers.run(job, visits.request(request.session_hash, job.__name__, *choices)):
            if isinstance(made, jobs.Progress):
                progress(made.share, made.text)
        return made

    def restore(name: str, mode: str, side: int, request: gr.Request, progress=bar) -> dict:
        try:
            made = work(jobs.restored, progress, request, networks[name], mode, side or None)
        except JobError as error:
            return {told: _complaint(error)}
        label = f"Download {made.file.name}"
        return {
            slider: (made.before, made.after),
            download: gr.update(value=made.file, label=label, visible=True),
            told: _facts(made.facts),
            tabs: gr.update(selected="restored"),
        }

    def compare(name: str, side: int, request: gr.Request, progress=bar) -> dict:
        try:
            made = work(jobs.compared, progress, request, networks[name], "local", side or None)
        except JobError as error:
            return {told: _complaint(error)}
        return {gallery: made.pictures, told: _facts(made.facts)}

    samples = sorted(EXAMPLES.iterdir())
    with gr.Blocks(title="tlc-jax", analytics_enabled=False, delete_cache=(60, AN_HOUR)) as page:
        gr.Markdown("# tlc-jax\nTakes noise or camera shake from photographs, on this machine.")
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
        gr.Markdown(
            f"Pictures of up to {limits.pixels / 1e6:g} megapixels and {limits.megabytes} MB. "
            "What you upload stays on this machine and is removed when you leave.",
            elem_id="limits",
        )

        # Previews are jobs, too: what a visitor sends is decoded by a worker.
        as_job: dict[str, Any] = {"concurrency_limit": limits.jobs, "concurrency_id": "jobs"}
        private: dict[str, Any] = {"api_visibility": "private"}
        shown = [slider, gallery, download, told, tabs]
        drop.upload(look, drop, shown, show_progress="hidden", **as_job, **private)
        drop.clear(clear, None, shown, queue=False, **private)
        examples.click(take, examples, [drop, *shown], show_progress="hidden", **as_job, **private)
        restore_button.click(
            restore, [network, mode, window], shown, show_progress_on=slider, **as_job, **private
        )
        compare_button.click(
            lambda: gr.update(selected="compared"), None, tabs, queue=False, **private
        ).then(compare, [network, window], shown, show_progress_on=gallery, **as_job, **private)
        page.unload(leave)
    return page


def check_size(source: Path, most: int) -> str:
    """The size of a picture in words, from the head of its file.

    Raises:
      ImageError: it has more than `most` pixels, or is no picture.
    """
    with jobs.by_name(source):
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
