"""What a visitor sees: a picture is dropped, restored by a worker, looked at and kept.

Gradio draws it. `serve` imports this module once it has told Gradio where uploads go.
"""

import contextlib
import functools
import html
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import Depends, HTTPException, Request
from fastapi.responses import PlainTextResponse
from gradio.themes import Default, LocalFont

from tlc_jax.app import requests
from tlc_jax.app.visits import A_DAY, AN_HOUR, Limits, Visit, Visits, check_size
from tlc_jax.app.workers import Unwanted, Work, Workers
from tlc_jax.files.datasets import PICTURES
from tlc_jax.files.pictures import ImageError
from tlc_jax.jobs import JobError

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.jpg"))
WAITING = 16  # requests, before the page asks to come back later
BAR = gr.Progress()  # found by Gradio among the defaults of a handler
# What Gradio would do elsewhere, or tell others of.
NEVER = ("share", "enable_monitoring", "run_history", "mcp_server", "ssr_mode", "pwa")
OF_MODES = (
    "Over windows (TLC), or the whole picture; auto is local, unless that makes false colours."
)
OF_WINDOWS = "Side in pixels; 0 is 1.5 x the training crops."
OF_LIMITS = (
    "Pictures of up to {:g} megapixels and {} MB. What you upload stays on the machine that serves "
    "this page, and is removed when you leave."
)


class Page:
    """What a visitor sees, and what happens at each click; Gradio has it as `blocks`."""

    def __init__(
        self, networks: Mapping[str, Path], limits: Limits, visits: Visits, workers: Workers
    ) -> None:
        self.networks, self.limits, self.visits, self.workers = networks, limits, visits, workers
        gr.set_static_paths([*EXAMPLES])  # never among the uploads, which go
        with gr.Blocks(title="tlc-jax", delete_cache=(AN_HOUR, A_DAY)) as self.blocks:
            gr.Markdown("# tlc-jax\nRestores photographs, on the machine that serves this page.")
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    self.add_choices()
                with gr.Column(scale=3):
                    self.add_results()
            self.taken = gr.Textbox(visible="hidden")  # changes with each picture that was taken
            gr.Markdown(OF_LIMITS.format(limits.pixels / 1e6, limits.megabytes), elem_id="limits")
            self.connect()

    def add_choices(self) -> None:
        """The left column."""
        self.drop = gr.File(
            label="Photograph", file_types=list(PICTURES), height=150, elem_id="upload"
        )
        images = [[str(example)] for example in EXAMPLES]
        self.examples = gr.Dataset(
            label="Examples", components=["image"], samples=images, type="index", elem_id="examples"
        )
        networks, modes = list(self.networks), ["local", "global", "auto"]
        self.network = gr.Radio(networks, value=networks[0], label="Network")
        self.mode = gr.Radio(modes, value="local", label="Statistics", info=OF_MODES)
        self.window = gr.Number(label="Window", value=0, info=OF_WINDOWS, minimum=0, precision=0)
        with gr.Row():
            self.restore_button = gr.Button("Restore", variant="primary", min_width=120)
            self.compare_button = gr.Button("Compare", min_width=120)

    def add_results(self) -> None:
        """The right column."""
        with gr.Tabs() as self.tabs:
            with gr.Tab("Before and after", id="restored"):
                # No button to download what it shows, which is not what there is to keep.
                self.slider = gr.ImageSlider(
                    show_label=False, interactive=False, height=560, max_height=560,
                    buttons=["fullscreen"], elem_id="slider",
                )  # fmt: skip
                self.download = gr.DownloadButton(
                    visible=False, variant="primary", elem_id="download"
                )
            with gr.Tab("Modes compared", id="compared"):
                self.gallery = gr.Gallery(
                    show_label=False, columns=3, height="auto", buttons=[], elem_id="gallery"
                )
        self.told = gr.HTML(elem_id="told")

    def connect(self) -> None:
        """Say what happens at each click: at once, or by a worker, which decodes pictures, too."""
        private: dict[str, Any] = {"api_visibility": "private"}
        at_once = private | {"queue": False, "show_progress": "hidden"}
        by_worker = private | {"concurrency_limit": self.limits.jobs, "concurrency_id": "jobs"}
        choices = [self.network, self.mode, self.window]
        shown = [self.slider, self.gallery, self.download, self.told, self.tabs]
        self.drop.upload(self.look, self.drop, [self.taken, *shown], **at_once)
        self.drop.clear(self.clear, None, shown, **at_once)
        self.examples.click(self.take, self.examples, [self.drop, self.taken, *shown], **at_once)
        self.taken.change(self.preview, None, shown, show_progress_on=self.slider, **by_worker)
        self.restore_button.click(
            self.restore, choices, shown, show_progress_on=self.slider, **by_worker
        )
        self.compare_button.click(
            lambda: gr.update(selected="compared"), None, self.tabs, **at_once
        ).then(self.compare, choices, shown, show_progress_on=self.gallery, **by_worker)
        self.blocks.unload(self.leave)

    def launch(self, host: str, port: int | None) -> str:
        """Serve the page, and return its address.

        Raises:
          OSError: it cannot listen there.
        """
        self.blocks.queue(max_size=WAITING, api_open=False)
        # From Gradio's own files, of which the half-bold one that it takes lacks most letters.
        font = LocalFont("Source Sans Pro", weights=(400, 700))
        never: dict[str, Any] = dict.fromkeys(NEVER, False)
        try:
            _, address, _ = self.blocks.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True,
                max_file_size=self.limits.megabytes * 2**20,
                app_kwargs={
                    "dependencies": [Depends(refuse_addresses)],
                    "exception_handlers": {RuntimeError: not_there},
                },
                css_paths=Path(__file__).with_name("page.css"),
                theme=Default(font=[font, "sans-serif"]), footer_links=[], **never,
            )  # fmt: skip
        except OSError:  # whose sentence is for those who program with Gradio
            where = "any of the 100 ports from 7860 on" if port is None else f"port {port}"
            raise OSError(f"cannot listen at {host}, {where}; choose another") from None
        return address

    def look(self, picture: str, request: gr.Request) -> dict:
        """A picture was dropped. Not by a worker, as only here an upload finds its owner."""
        visit = None
        try:
            visit = self.visits.start(request.session_hash, Path(picture))
            size = check_size(visit.source, self.limits.pixels)
        except (ImageError, JobError) as error:
            return self.give_up(error, request, visit)
        facts = {"picture": f"{visit.source.name}, {size}"}
        return self.nothing() | {self.told: _facts(facts), self.taken: visit.folder.name}

    def take(self, number: int, request: gr.Request) -> dict:
        """An example was chosen."""
        return {self.drop: None} | self.look(str(EXAMPLES[number]), request)

    def clear(self, request: gr.Request) -> dict:
        """The picture was taken away."""
        self.leave(request)
        return self.nothing()

    def leave(self, request: gr.Request) -> None:
        """The visitor is gone, or without a picture."""
        self.visits.end(request.session_hash)

    def give_up(self, error: Exception, request: gr.Request, visit: Visit | None) -> dict:
        """Of a picture that cannot be had; the visitor may have another one by now."""
        if visit is not None and not self.visits.has(request.session_hash, visit):
            return {self.told: gr.skip()}  # among those of others, as `take` has
        self.leave(request)
        return self.nothing() | {self.told: _complaint(error)}

    def nothing(self) -> dict:
        """The page without results."""
        return {
            self.slider: None,
            self.gallery: None,
            self.download: gr.update(visible=False),
            self.told: "",
            self.tabs: gr.update(selected="restored"),
        }

    def preview(self, request: gr.Request, progress: gr.Progress = BAR) -> dict:
        """A picture was taken, and may be gone again."""
        visit = self.visits.present.get(request.session_hash)
        if visit is None:
            return gr.skip()
        work = requests.preview, visit.source, visit.folder
        try:
            shown = self.work(visit, request, progress, *work)
        except JobError as error:
            return gr.skip() if isinstance(error, Unwanted) else self.give_up(error, request, visit)
        if any(visit.folder.glob("restored-*/after.jpg")):  # by another worker meanwhile
            return gr.skip()
        return {self.slider: (shown, shown)}

    def restore(
        self, name: str, mode: str, side: int, request: gr.Request, progress: gr.Progress = BAR
    ) -> dict:
        """The button of that name; so is `compare`."""
        return self.answer(requests.restored, name, mode, side, request, progress)

    def compare(
        self, name: str, mode: str, side: int, request: gr.Request, progress: gr.Progress = BAR
    ) -> dict:
        return self.answer(requests.compared, name, mode, side, request, progress)

    def answer(
        self, work: Work, name: str, mode: str, side: int, request: gr.Request, bar: gr.Progress
    ) -> dict:
        """Show what a function of `requests` makes of the picture, or say why it cannot."""
        try:
            visit = self.visits.find(request.session_hash)
            with visit.request(work.__name__, self.networks[name], mode, side or None) as asked:
                made: requests.Made = self.work(visit, request, bar, work, asked)
        except JobError as error:
            return gr.skip() if isinstance(error, Unwanted) else {self.told: _complaint(error)}
        if made.file is None:
            return {self.told: _facts(made.facts), self.gallery: made.pictures}
        label = f"Download {made.file.name}"
        return {
            self.told: _facts(made.facts),
            self.slider: tuple(path for path, _ in made.pictures),
            self.download: gr.update(value=made.file, label=label, visible=True),
            self.tabs: gr.update(selected="restored"),
        }

    def work(
        self, visit: Visit, request: gr.Request, bar: gr.Progress, work: Work, *arguments: Any
    ) -> Any:
        """What `work` makes, unless the visitor leaves, or takes the picture away or another."""
        wanted = functools.partial(self.visits.has, request.session_hash, visit)

        def watch(words: str) -> None:
            bar(requests.share(words), words)

        bar(0, "waiting")
        try:
            made = self.workers.run(work, *arguments, watch=watch, wanted=wanted)
            if not wanted():  # any more, at the last moment
                raise Unwanted
        except JobError as error:
            if wanted():
                raise
            shutil.rmtree(visit.folder, ignore_errors=True)  # what it wrote while this went
            raise Unwanted from error
        return made


async def refuse_addresses(request: Request) -> None:
    """Refuse addresses, which Gradio would fetch, of any size, for anybody.

    They stand in the path, or in the JSON of the body as the "path" of a file.
    """

    def check(file: dict[str, Any]) -> dict[str, Any]:
        if str(file.get("path")).startswith(("http://", "https://")):
            raise HTTPException(403, "only what is uploaded is taken.")
        return file

    for value in request.path_params.values():
        check({"path": value})
    if not request.headers.get("content-type", "").startswith("multipart/"):  # an upload
        with contextlib.suppress(ValueError):  # no JSON, which Gradio does not take, either
            json.loads(await request.body(), object_hook=check)


async def not_there(request: Request, error: RuntimeError) -> PlainTextResponse:
    """Answer for a file that went as it was about to be sent, with the visitor or a new picture."""
    if not re.fullmatch(r"File at path .* does not exist\.", str(error)):
        raise error
    return PlainTextResponse("This file is gone.", 404)


def _facts(facts: Mapping[str, str]) -> str:
    escaped = (map(html.escape, fact) for fact in facts.items())
    rows = (f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in escaped)
    return f"<table>{''.join(rows)}</table>"


def _complaint(error: Exception) -> str:
    return f'<div id="complaint">{html.escape(str(error))}</div>'
