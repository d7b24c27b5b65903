"""What a visitor sees: a picture is dropped, restored by a worker, looked at and kept.

Gradio draws it. `serve` imports this module once it has told Gradio where uploads go.
"""

import functools
import html
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
from gradio.themes import Default, LocalFont
from pydantic import Field, TypeAdapter
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from tlc_jax.app import requests
from tlc_jax.app.gate import Gate, Upload, one_of
from tlc_jax.app.offers import Offer
from tlc_jax.app.viewer import SCRIPT, viewer
from tlc_jax.app.visits import TOGETHER, VISITORS, Limits, Visit, Visits
from tlc_jax.app.workers import Unwanted, Work, Workers
from tlc_jax.files import checkpoints
from tlc_jax.files.choosing import AUTO
from tlc_jax.files.printable import printable
from tlc_jax.jobs import JobError

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = {"Noise": (FOLDER / "noisy.jpg", "denoise"), "Blur": (FOLDER / "shaken.jpg", "deblur")}
# On a phone they are below; it returns what the listener is given, nothing.
TO_RESULTS = """() => {
  document.querySelector('#results').scrollIntoView({behavior: 'smooth', block: 'nearest'});
  return [];
}"""
# A picture that is dropped or pasted anywhere is one for the box.
ANYWHERE = """() => {
  const take = (event, files) => {
    if (!files.length || event.target.closest('#upload')) return;
    event.preventDefault();
    const box = document.querySelector('#upload input[type=file]');
    box.files = files;
    box.dispatchEvent(new Event('change', {bubbles: true}));
  };
  document.addEventListener('dragover', (event) => event.preventDefault());
  document.addEventListener('drop', (event) => take(event, event.dataTransfer.files));
  document.addEventListener('paste', (event) => take(event, event.clipboardData.files));
}"""
MODES = ["local", "global", "auto"]
# Seconds for a megapixel, to say what comes first: measured with our networks on two cores, and a
# guess for those of others, which are larger.
OURS, OTHERS = 4.0, 80.0
QUALITIES = ["fast", "best"]
BAR = gr.Progress()  # found by Gradio among the defaults of a handler
# What Gradio would do elsewhere, or tell others of.
NEVER = ("share", "enable_monitoring", "run_history", "mcp_server", "ssr_mode", "pwa")
OF_MODES = (
    "Over windows (TLC), or the whole picture; auto is local, unless that makes false colours."
)
OF_WINDOWS = "Side in pixels; 0 is 1.5 x the training crops."
OF_STRENGTH = "0 is the picture as it came."
OF_LIMITS = (
    "Up to {} pictures, each of up to {:.3g} megapixels and {} MB. What you upload stays on the "
    "machine that serves this page, and is removed when you leave."
)


class Page:
    """What a visitor sees, and what happens at each click; Gradio has it as `blocks`."""

    def __init__(
        self, offers: Mapping[str, Offer], limits: Limits, visits: Visits, workers: Workers
    ) -> None:
        self.offers, self.limits, self.visits, self.workers = offers, limits, visits, workers
        gr.set_static_paths([path for path, _ in EXAMPLES.values()])  # never among the uploads
        with gr.Blocks(title="tlc-jax") as self.blocks:
            gr.Markdown("# tlc-jax\nRestores photographs, on the machine that serves this page.")
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    self.add_choices()
                with gr.Column(scale=3, elem_id="results"):
                    self.add_results()
            self.taken = gr.Textbox(visible="hidden")  # changes with each picture that was taken
            told = OF_LIMITS.format(TOGETHER, limits.pixels / 1e6, limits.megabytes)
            gr.Markdown(told, elem_id="limits")
            self.connect()

    def add_choices(self) -> None:
        """The left column."""
        # Of all kinds, or Gradio refuses those that browsers do not know, and in its own words.
        self.drop = gr.File(
            label="Photographs", file_count="multiple", height=150, elem_id="upload"
        )
        with gr.Row(elem_id="examples"):
            self.examples = {
                name: gr.Button(f"Example: {name.lower()}", size="sm", icon=path)
                for name, (path, _) in EXAMPLES.items()
            }
        names = list(self.offers)
        both = any(len(offer.by_quality) > 1 for offer in self.offers.values())
        self.task = gr.Radio(names, value=names[0], label="What to do")
        self.quality = gr.Radio(
            QUALITIES, value="fast", label="Quality", visible=both,
            info="Fast is our small network, best the best that is installed.",
        )  # fmt: skip
        with gr.Row():
            self.restore_button = gr.Button("Restore", variant="primary", min_width=120)
            self.cancel_button = gr.Button("Cancel", visible=False, min_width=120)
        with gr.Accordion("Advanced", open=False):
            self.strength = gr.Slider(0, 100, 100, label="Strength, %", info=OF_STRENGTH)
            self.mode = gr.Radio(MODES, value="local", label="Statistics", info=OF_MODES)
            self.window = gr.Number(
                label="Window", value=0, info=OF_WINDOWS, minimum=0, precision=0
            )
            self.compare_button = gr.Button("Compare statistics", min_width=120)

    def add_results(self) -> None:
        """The right column."""
        with gr.Tabs() as self.tabs:
            with gr.Tab("Before and after", id="restored"):
                self.viewer = gr.HTML(js_on_load=SCRIPT, elem_id="viewer")
                self.download = gr.DownloadButton(
                    visible=False, variant="primary", elem_id="download"
                )
            with gr.Tab("Statistics compared", id="compared"):
                self.gallery = gr.Gallery(
                    show_label=False, columns=3, height="auto", buttons=[], elem_id="gallery"
                )
        self.told = gr.HTML(elem_id="told")

    def connect(self) -> None:
        """Say what happens at each click: at once, or by a worker, which decodes pictures, too."""
        private: dict[str, Any] = {"api_visibility": "private"}
        at_once = private | {"queue": False, "show_progress": "hidden"}
        by_worker: dict[str, Any] = private | {
            "concurrency_limit": None
        }  # it waits for its turn there
        choices = [self.task, self.quality, self.strength, self.mode, self.window]
        shown = [self.drop, self.viewer, self.gallery, self.download, self.told, self.tabs]
        buttons = [self.restore_button, self.compare_button, self.cancel_button]
        taking = [self.taken, *shown]
        self.drop.upload(self.look, self.drop, taking, **at_once)
        for name, button in self.examples.items():
            button.click(self.taker(name), None, [self.task, *taking], **at_once)
        self.taken.change(self.preview, None, shown, show_progress_on=self.viewer, **by_worker)
        begun = []
        for button, work, where, name in (
            (self.restore_button, requests.restored, self.viewer, "restore"),
            (self.compare_button, requests.compared, self.gallery, "compare"),
        ):
            begin = functools.partial(self.begin, work.__name__)  # which is also its tab's
            begun.append(
                button.click(begin, None, [*buttons, self.tabs], js=TO_RESULTS, **at_once).then(
                    self.shower(work),
                    choices,
                    shown,
                    show_progress_on=where,
                    api_name=name,
                    **by_worker,
                )
            )
            begun[-1].then(self.idle, None, buttons, js=TO_RESULTS, **at_once)
            begun[-1].failure(self.idle, None, buttons, **at_once)  # where too many wait
        self.cancel_button.click(self.cancel, None, [*buttons, self.told], cancels=begun, **at_once)
        self.blocks.unload(self.leave)

    def accepts(self) -> dict[int, list[TypeAdapter]]:
        """What each listener takes, by its number."""
        kinds = {
            self.drop: TypeAdapter(Annotated[list[Upload], Field(min_length=1)]),
            self.task: one_of(list(self.offers)),
            self.quality: one_of(QUALITIES),
            self.strength: TypeAdapter(Annotated[float, Field(ge=0, le=100)]),
            self.mode: one_of(MODES),
            self.window: TypeAdapter(Annotated[int, Field(ge=0, le=10**6)]),
        }
        return {
            number: [kinds[component] for component in listener.inputs]
            for number, listener in self.blocks.fns.items()
        }

    def launch(self, host: str, port: int | None, names: Sequence[str]) -> str:
        """Serve the page, and return its address.

        Raises:
          OSError: it cannot listen there.
        """
        self.blocks.queue(max_size=4 * VISITORS, api_open=False)
        # From Gradio's own files, of which the half-bold one that it takes lacks most letters.
        font = LocalFont("Source Sans Pro", weights=(400, 700))
        # Words and what they lie on differ by as much as weak eyes need.
        theme = Default(primary_hue="blue", font=[font, "sans-serif"]).set(
            button_primary_background_fill="*primary_600",
            button_primary_background_fill_hover="*primary_700",
            color_accent="*primary_600", body_text_color_subdued="*neutral_500",
        )  # fmt: skip
        never: dict[str, Any] = dict.fromkeys(NEVER, False)
        shown = {"/visits": self.visits.folder, "/examples": FOLDER}
        gate = Middleware(
            Gate, host=host, names=names, visits=self.visits, limits=self.limits,
            accepts=self.accepts(), shown=shown,
        )  # fmt: skip
        logging.getLogger("uvicorn.error").addFilter(worth_telling)
        try:
            _, address, _ = self.blocks.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True,
                max_file_size=self.limits.megabytes * 2**20,
                app_kwargs={"middleware": [gate], "routes": [Route("/health", self.health)]},
                max_threads=4 * VISITORS,  # most of which wait
                css_paths=Path(__file__).with_name("page.css"),
                js=ANYWHERE, theme=theme, footer_links=[], **never,
            )  # fmt: skip
        except OSError:  # whose sentence is for those who program with Gradio
            where = "any of the 100 ports from 7860 on" if port is None else f"port {port}"
            raise OSError(f"cannot listen at {host}, {where}; choose another") from None
        return address

    def health(self, _: Any) -> JSONResponse:
        """Whether work is done, for what watches over the machine."""
        healthy = self.workers.healthy()
        return JSONResponse({"healthy": healthy}, 200 if healthy else 503)

    def look(self, pictures: Sequence[str], request: gr.Request) -> dict:
        """Pictures were dropped. Not by a worker, as only here an upload finds its owner."""
        try:
            visit = self.visits.start(request.session_hash, [*map(Path, pictures)])
        except JobError as error:
            return self.give_up(error, request, None)
        facts = requests.of_sources(visit.sources)
        return self.nothing() | {self.told: _facts(facts), self.taken: visit.folder.name}

    def taker(self, name: str) -> Callable[[gr.Request], dict]:
        """What happens where an example is chosen, and with it what it is an example of."""
        path, task = EXAMPLES[name]
        offered = next((label for label, one in self.offers.items() if one.task == task), None)

        def take(request: gr.Request) -> dict:
            chosen = {self.task: gr.skip() if offered is None else offered}
            return chosen | self.look([str(path)], request)

        return take

    def begin(self, tab: str) -> dict:
        """Work is about to begin; its results are shown there."""
        return {
            self.restore_button: gr.update(interactive=False),
            self.compare_button: gr.update(interactive=False),
            self.cancel_button: gr.update(visible=True),
            self.tabs: gr.update(selected=tab),
        }

    def idle(self) -> dict:
        """Nothing is at work."""
        return {
            self.restore_button: gr.update(interactive=True),
            self.compare_button: gr.update(interactive=True),
            self.cancel_button: gr.update(visible=False),
        }

    def cancel(self, request: gr.Request) -> dict:
        """The visitor does not want to wait."""
        if visit := self.visits.present.get(request.session_hash):
            visit.asked = None
        return self.idle() | {self.told: "Cancelled."}

    async def leave(self, request: gr.Request) -> None:
        """The visitor is gone. Not in a thread, beside which uploads would get their places."""
        self.visits.end(request.session_hash)

    def give_up(self, error: Exception, request: gr.Request, visit: Visit | None) -> dict:
        """Of a picture that cannot be had; the visitor may have another one by now."""
        if visit is not None and not self.visits.has(request.session_hash, visit):
            return {self.told: gr.skip()}  # among those of others, as `take` has
        self.visits.end(request.session_hash)
        return self.nothing() | {self.told: _complaint(error)}

    def nothing(self) -> dict:
        """The page without results, and with room for the next picture."""
        return {
            self.drop: None,
            self.viewer: "",
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
        work = requests.preview, visit.sources, visit.folder
        try:
            asks = self.asking(visit, request, progress)
            made: requests.Made = asks(*work, estimate=1 + 0.1 * self.megapixels(visit, asks))
        except JobError as error:
            return gr.skip() if isinstance(error, Unwanted) else self.give_up(error, request, visit)
        if any(visit.folder.glob("restored-*/after.jpg")):  # by another worker meanwhile
            return gr.skip()
        return {self.viewer: viewer(made.pictures[0][0]), self.told: _facts(made.facts)}

    def shower(self, work: Work) -> Callable[..., dict]:
        """What a button does: show what a function of `requests` makes, or say why it cannot."""

        def show(
            task: str,
            quality: str,
            strength: float,
            mode: str,
            side: int,
            request: gr.Request,
            progress: gr.Progress = BAR,
        ) -> dict:
            offer = self.offers[task]
            chosen = offer.by_quality.get(quality) or next(iter(offer.by_quality.values()))
            asked = chosen, offer.task == AUTO, strength / 100, mode, side or None
            try:
                visit = self.visits.find(request.session_hash)
                asks = self.asking(visit, request, progress)
                ours = {checkpoints.find(name) for name in checkpoints.SHIPPED}
                seconds = sum(OURS if folder in ours else OTHERS for folder in chosen)
                estimate = seconds * self.megapixels(visit, asks)
                with visit.request(work.__name__, *asked) as wanted:
                    made: requests.Made = asks(work, wanted, estimate=estimate)
            except JobError as error:
                return gr.skip() if isinstance(error, Unwanted) else {self.told: _complaint(error)}
            if made.file is None:
                return {self.told: _facts(made.facts), self.gallery: made.pictures}
            label = f"Download {made.file.name}"
            before, after = (path for path, _ in made.pictures)
            return {
                self.told: _facts(made.facts),
                self.viewer: viewer(before, after, made.size),
                self.download: gr.update(value=made.file, label=label, visible=True),
            }

        return show

    def megapixels(self, visit: Visit, asks: Callable[..., Any]) -> float:
        """Of all pictures of a visit, by their heads."""
        if visit.pixels is None:
            visit.pixels = asks(requests.count_pixels, visit.sources)
        return (visit.pixels or 0) / 1e6

    def asking(self, visit: Visit, request: gr.Request, bar: gr.Progress) -> Callable[..., Any]:
        """A function that returns what work makes.

        It is not done if the visitor leaves, cancels, takes another picture, or asks for something
        else.
        """
        session = request.session_hash
        this = visit.asked = object()

        def wanted() -> bool:
            return self.visits.has(session, visit) and visit.asked is this

        def watch(words: str) -> None:
            bar(requests.share(words), words)

        def made(work: Work, *arguments: Any, estimate: float = 1.0) -> Any:
            watch("waiting")
            try:
                made = self.workers.run(
                    work, *arguments,
                    watch=watch, wanted=wanted, whose=session, estimate=estimate,
                )  # fmt: skip
                if not wanted():  # any more, at the last moment
                    raise Unwanted
            except JobError as error:
                if wanted():
                    raise
                if not self.visits.has(session, visit):
                    shutil.rmtree(visit.folder, ignore_errors=True)  # what it wrote meanwhile
                raise Unwanted from error
            return made

        return made


def worth_telling(record: logging.LogRecord) -> bool:
    """Whether the terminal should show this: not what became of a request, which the gate tells."""
    return not record.exc_info and "ASGI callable returned" not in record.getMessage()


def _facts(facts: Mapping[str, str]) -> str:
    escaped = (map(_escaped, fact) for fact in facts.items())
    rows = (f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in escaped)
    return f'<div role="status"><table>{"".join(rows)}</table></div>'


def _complaint(error: Exception) -> str:
    return f'<div id="complaint" role="alert">{_escaped(str(error))}</div>'


def _escaped(text: str) -> str:
    return html.escape(printable(text))
