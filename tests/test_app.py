"""The page in the browser: a visitor's way through it in Chromium, its limits and what it leaves.

With TLC_JAX_SCREENSHOTS the pictures of docs/app.md are written into that folder. Without Chromium
or Gradio the browser's tests skip, but not where TLC_JAX_BROWSER says that they are there.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageCms

import tlc_jax as tlc
from tlc_jax.app import requests
from tlc_jax.app import workers as workers_module
from tlc_jax.app.visits import Limits, Visits
from tlc_jax.app.workers import Unwanted, Workers
from tlc_jax.files import checkpoints, limits
from tlc_jax.files.pictures import ImageError, read_picture
from tlc_jax.inference import guard
from tlc_jax.jobs import JobError

ROOT = Path(__file__).parent.parent
NOISY, SHAKEN = (ROOT / "tlc_jax/examples" / name for name in ("noisy.png", "shaken.png"))
EXAMPLE = ROOT / "tlc_jax/examples/noisy.jpg"
CHROMIUM = shutil.which("chromium")
COMMAND = str(Path(sys.executable).parent / "tlc-jax")
SECONDS = 180_000  # as Playwright counts, in thousandths; the machine of a test may be slow
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

there = CHROMIUM and all(map(importlib.util.find_spec, ("gradio", "playwright")))
in_browser = pytest.mark.skipif(
    not there and not os.environ.get("TLC_JAX_BROWSER"), reason="needs Chromium and Gradio"
)


# The page, from outside


def files(folder):
    """The names of all files below a folder, from which some may be going."""
    return {name for _, _, names in os.walk(folder) for name in names}


class Served(NamedTuple):
    process: subprocess.Popen
    address: str
    folder: Path  # its temporary one
    environment: dict[str, str]

    def workers(self):
        """The processes of the page that do its jobs."""
        found = set()
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # some may just have ended
                for pid in children.read_text().split():
                    if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.add(int(pid))
        return found

    def hold(self):
        """Stop its worker, so that whatever it is asked for next goes on for ever."""
        (worker,) = self.workers()
        os.kill(worker, signal.SIGSTOP)
        return worker


@contextlib.contextmanager
def serving(make_folder, *options):
    """The page as the command serves it. At the end nothing of it is left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = make_folder("page")
    environment = {
        "TMPDIR": str(folder),
        "GRADIO_HEARTBEAT_INTERVAL": "0.5",  # by which it sees that a visitor has left
    }
    process = subprocess.Popen(
        [COMMAND, "app", "--port", str(port), *options],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = process.stdout.readline()
        assert said.startswith(f"http://127.0.0.1:{port}/"), process.communicate()[1]
        yield Served(process, said.split()[0], folder, environment)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=180)
        assert (process.returncode, err) == (0, "")
        assert list(folder.iterdir()) == []
        wait_until(lambda: not alive(process.pid))
    finally:
        if alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def alive(group):
    """Whether there are processes of a group, besides those that have ended unnoticed."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def wait_until(happens):
    end = time.monotonic() + 180
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp, "--max-pixels", "16000000", "--jobs", "1") as served:
        yield served


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    arguments = (
        "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
        "--disable-sync --no-first-run"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=arguments.split(), timeout=SECONDS
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a page as somebody of whom it knows nothing. It asks no other machine for anything."""
    pages, elsewhere = [], []

    def visit(served):
        page = chromium.new_page(viewport={"width": 1280, "height": 800})
        pages.append(page)
        page.set_default_timeout(SECONDS)
        ours = (served.address, "data:", "blob:")
        page.on("request", lambda asked: asked.url.startswith(ours) or elsewhere.append(asked.url))
        page.goto(served.address)
        page.wait_for_selector("#upload")
        return page

    yield visit
    for page in pages:
        page.close()
    assert not elsewhere


@pytest.fixture
def page(served, visit):
    return visit(served)


def refusal(asks):
    """The status and the words by which the server refuses."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asks)
    with refused.value as answer:  # or its socket stays open
        return answer.code, answer.read().decode()


def asking(served, route, listener, data):
    """What the page's script sends to a listener, from nobody who visits."""
    with urllib.request.urlopen(f"{served.address}config") as answer:
        listeners = json.load(answer)["dependencies"]
    (number,) = [one["id"] for one in listeners if one["api_name"] == listener]
    return urllib.request.Request(
        f"{served.address}gradio_api/{route}",
        json.dumps({"data": data, "fn_index": number, "session_hash": "nobody"}).encode(),
        {"Content-Type": "application/json"},
    )


def drop(page, path, shows="#viewer img"):
    """Drops a picture; the page shows it, or what is wrong with it."""
    page.set_input_files("#upload input[type=file]", path)
    page.wait_for_selector(shows)


def choose(page, example):
    page.get_by_role("button", name=f"Example: {example}").click()


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def shown(page):
    """Where that lies which the slider uncovers: in a folder of its own for each result."""
    return page.locator("#viewer img").nth(1).get_attribute("src").rpartition("/")[0]


def result(page, but=None):
    """What is downloaded once the page shows a result: its name and its bytes."""
    page.locator(f'#viewer img[src$="after.jpg"]:not([src^="{but}"])').wait_for()
    with page.expect_download() as download:
        page.locator("#download").click()
    assert shown(page) in download.value.url
    return download.value.suggested_filename, download.value.path().read_bytes()


def restored(page):
    press(page, "Restore")
    return result(page)


@pytest.fixture
def by_command(served, tmp_path):
    """What `tlc-jax restore` writes, on the same machine with the same compiled programs."""

    def by_command(source, *options):
        target = tmp_path / "by-command.png"
        command = [COMMAND, "restore", source, "-o", target, "--overwrite", *map(str, options)]
        subprocess.run(
            command, env=os.environ | served.environment, check=True, capture_output=True
        )
        return target.read_bytes()

    return by_command


def photograph(page, name, full_page=True):
    """A picture for the documentation, below 300 kB."""
    if folder := os.environ.get("TLC_JAX_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)  # until what moves has come to rest
        file = Path(folder) / f"{name}.jpg"
        page.screenshot(path=file, type="jpeg", quality=85, full_page=full_page)


@in_browser
def test_a_picture_is_restored_as_by_the_command(page, by_command):
    drop(page, NOISY)
    assert "768 x 512" in page.locator("#told").inner_text()
    name, downloaded = restored(page)
    assert name == "noisy-restored.png"
    assert downloaded == by_command(NOISY, "--task", "auto")
    told = page.locator("#told").inner_text()
    assert "NAFNet, local statistics" in told and "MIT" in told
    assert re.search(r"\d\.\d s, and \d+\.\d s to compile", told)
    assert re.search(r"0\.\d\d GiB predicted", told)
    photograph(page, "app")


@in_browser
def test_the_slider_uncovers(page):
    """Left of it is the picture as it came, right of it the restored one."""
    drop(page, EXAMPLE)
    restored(page)
    before, after = page.locator("#viewer img").all()
    assert before.get_attribute("src").endswith("before.jpg")
    assert after.get_attribute("src").endswith("after.jpg")
    assert [words.inner_text() for words in page.locator("#viewer b").all()] == ["before", "after"]

    def hidden():
        return int(re.search(r"--covered: (\d+)%", stage.get_attribute("style"))[1])

    stage, slider = page.locator("#viewer .stage"), page.get_by_label("Move between before and")
    page.get_by_role("button", name="100%").focus()
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert hidden() == 48
    shown = before.bounding_box()
    page.mouse.move(shown["x"] + 20, shown["y"] + 20)
    page.mouse.down()
    page.mouse.move(shown["x"] + shown["width"] / 4, shown["y"] + 50, steps=5)
    page.mouse.up()
    assert hidden() == pytest.approx(25, abs=1) and slider.input_value() == str(hidden())
    # And pixel by pixel, where it is moved as a whole.
    page.set_viewport_size({"width": 420, "height": 800})
    assert before.bounding_box()["width"] < 480
    page.get_by_role("button", name="100%").click()
    assert before.bounding_box()["width"] == after.bounding_box()["width"] == 480
    start, shown = stage.evaluate("stage => stage.scrollLeft"), stage.bounding_box()
    assert start > 0
    page.mouse.move(shown["x"] + 50, shown["y"] + 50)
    page.mouse.down()
    page.mouse.move(shown["x"] + 80, shown["y"] + 50, steps=3)
    page.mouse.up()
    assert stage.evaluate("stage => stage.scrollLeft") == pytest.approx(start - 30, abs=1)
    assert hidden() == pytest.approx(25, abs=1)


def accessible(page):
    from axe_playwright_python.sync_playwright import Axe

    # A button on its way from one colour to another has neither.
    page.add_style_tag(content="* { transition: none !important }")
    # Gradio says the words below a picture of its gallery twice.
    rules = {"rules": {"image-redundant-alt": {"enabled": False}}}
    assert Axe().run(page, options=rules).response["violations"] == []


@in_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_screen_readers_and_weak_eyes(served, page, tmp_path, theme):
    page.goto(f"{served.address}?__theme={theme}")
    page.wait_for_selector("#upload")
    accessible(page)
    (tmp_path / "a.txt").write_text("a")
    drop(page, tmp_path / "a.txt", shows="#complaint")
    accessible(page)
    drop(page, NOISY)
    restored(page)
    page.get_by_role("button", name="Advanced").click()
    page.wait_for_timeout(1000)  # until it is open
    accessible(page)
    press(page, "Compare statistics")
    page.wait_for_selector("#gallery img")
    accessible(page)


@in_browser
def test_the_keyboard_suffices(page):
    def go_to(name):
        for _ in range(30):
            page.keyboard.press("Tab")
            if name in page.evaluate(
                "(({ariaLabel, innerText, value}) => [ariaLabel, innerText, value].join())"
                "(document.activeElement)"
            ):
                return
        raise AssertionError(f"no {name} among what Tab goes to")

    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    go_to("Click to upload")

    def chooses():
        page.keyboard.press("Enter")  # on a busy machine the page may not listen yet
        page.wait_for_timeout(500)
        return choosers

    wait_until(chooses)
    go_to("Example: noise")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer img")
    go_to("Remove blur")
    page.keyboard.press("Space")
    wait_until(page.get_by_label("Remove blur").is_checked)
    go_to("Restore")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer .after")
    go_to("Move between")
    page.keyboard.press("End")
    assert "--covered: 100%" in page.locator("#viewer .stage").get_attribute("style")
    go_to("100%")
    page.keyboard.press("Space")
    assert page.locator("#viewer .pixels").is_visible()
    go_to("Download")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "noisy-restored.jpg"


@in_browser
@pytest.mark.parametrize(
    ("event", "kind", "name"),
    [("paste", "ClipboardEvent", "clipboardData"), ("drop", "DragEvent", "dataTransfer")],
)
def test_a_picture_is_pasted_or_dropped_on_another(page, event, kind, name):
    drop(page, NOISY)
    page.locator("#viewer img").evaluate(
        f"""async (image) => {{
          const file = new File([await (await fetch(image.src)).blob()], 'second.jpg');
          const {name} = new DataTransfer();
          {name}.items.add(file);
          image.dispatchEvent(
            new {kind}('{event}', {{{name}, bubbles: true, cancelable: true}}));
        }}"""
    )
    page.wait_for_selector("#told >> text=second.jpg, 768 x 512")
    assert restored(page)[0] == "second-restored.jpg"


@in_browser
def test_on_a_phone_the_view_goes_to_the_result(served, page, tmp_path):
    page.goto(f"{served.address}?__theme=dark")
    page.set_viewport_size({"width": 390, "height": 844})
    choose(page, "noise")
    press(page, "Restore")
    page.wait_for_selector("#viewer .after")
    page.wait_for_timeout(1000)
    shown = page.locator("#viewer .stage").bounding_box()
    assert shown["y"] >= 0 and shown["y"] + shown["height"] <= 844
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="100%").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="100%").click()
    photograph(page, "app-phone", full_page=False)
    (tmp_path / "a.txt").write_text("a")
    drop(page, tmp_path / "a.txt", shows="#complaint")
    assert "no picture of a known kind" in page.locator("#complaint").inner_text()
    told = page.locator("#complaint").bounding_box()
    assert told["y"] >= 0 and told["y"] + told["height"] <= 844


@in_browser
def test_an_example_sets_its_task(page):
    for name, label in (("blur", "Remove blur"), ("noise", "Remove noise")):
        choose(page, name)
        page.wait_for_function(
            "label => document.querySelector('input:checked').parentNode.innerText == label",
            arg=label,
        )
        assert page.get_by_label(label).is_checked()


@in_browser
def test_cancel(served, page):
    """What was asked for is stopped, and something else can be asked for."""
    drop(page, EXAMPLE)
    worker = served.hold()
    press(page, "Restore")
    page.wait_for_selector("text=waiting")
    assert page.get_by_role("button", name="Restore", exact=True).is_disabled()
    press(page, "Cancel")
    page.wait_for_selector("#told >> text=Cancelled")
    assert not page.locator("#results >> text=/^Error$/").is_visible()
    wait_until(lambda: worker not in served.workers())
    assert not page.get_by_role("button", name="Cancel").is_visible()
    assert restored(page)[0] == "noisy-restored.jpg"


@in_browser
def test_several_pictures_come_as_a_zip(page, tmp_path):
    """Each in its own format, also two with one name."""
    (tmp_path / "other").mkdir()
    names = ("a.png", "b.jpg", "other/a.png")
    for number, name in enumerate(names):
        level = 60 + 60 * number
        tlc.write_image(tmp_path / name, np.full((48, 64, 3), level, np.uint8))
    drop(page, [tmp_path / name for name in names])
    assert "a.png, 64 x 48" in page.locator("#told").inner_text()
    assert "and 2 more" in page.locator("#told").inner_text()
    page.get_by_label("Remove noise").check()
    name, downloaded = restored(page)
    assert name == "restored.zip"
    assert "left out" not in page.locator("#told").inner_text()
    with zipfile.ZipFile(io.BytesIO(downloaded)) as archive:
        assert archive.namelist() == ["a-restored.png", "b-restored.jpg", "a-restored-3.png"]
        for number, one in enumerate(archive.namelist()):
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(one))))
            assert abs(pixels.mean() - (60 + 60 * number)) < 20


@in_browser
def test_all_that_a_picture_holds_is_kept(served, page, by_command, tmp_path):
    """16 bits, alpha and a colour profile, with choices that the page does not start at."""
    rng = np.random.default_rng(0)
    pixels, alpha = (rng.integers(0, 2**16, shape, np.uint16) for shape in ((60, 90, 3), (60, 90)))
    source = tmp_path / "deep & <b>odd.png"
    tlc.write_image(source, pixels, alpha=alpha, icc_profile=SRGB)
    drop(page, source)
    page.get_by_label("Remove blur").check()
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("global").check()
    page.get_by_label("Window").fill("40")
    _, downloaded = restored(page)
    assert downloaded == by_command(source, "--task", "deblur", "--mode", "global", "--window", 40)
    page.get_by_label("auto").check()
    first = shown(page)
    worker = served.hold()
    press(page, "Restore")
    page.wait_for_selector("text=waiting")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: served.workers() - {worker})
    os.kill(served.hold(), signal.SIGKILL)
    page.wait_for_selector("#complaint >> text=killed twice")
    assert result(page)[1] == downloaded  # there still is what was made before
    press(page, "Restore")
    _, downloaded = result(page, but=first)
    assert downloaded == by_command(source, "--task", "deblur", "--mode", "auto", "--window", 40)


@in_browser
def test_modes_are_compared(page):
    """Of an example of the package, which needs no upload, and is there for the next, too."""
    for name, file in (("noise", "noisy"), ("blur", "shaken")):
        choose(page, name)
        page.wait_for_selector(f"#told >> text={file}.jpg")
        page.wait_for_selector("#viewer img")
    assert all(
        page.locator("#examples img").evaluate_all("images => images.map(i => i.naturalWidth)")
    )
    page.get_by_role("button", name="Advanced").click()
    press(page, "Compare statistics")
    page.wait_for_selector("#gallery img")
    captions = [re.sub(r"[\d.]+", "N", text) for text in page.locator(
        "#gallery .caption-label").all_inner_texts()]  # fmt: skip
    assert captions == [
        "input", "global, N s", "local, N s", "tiles, N s",
        "|local - global| x N", "|local - tiles| x N",
        "global, enlarged", "local, enlarged", "tiles, enlarged",
    ]  # fmt: skip
    page.wait_for_selector("#told >> text=96 x 96")
    photograph(page, "app-compare")


@in_browser
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.write_text("a"), "cannot read it.png: it is no picture of a known kind"),
        (lambda path: path.write_bytes(NOISY.read_bytes()[:5000]), "cannot read it.png: it is dam"),
        (
            lambda path: Image.new("1", (5000, 4000)).save(path),
            "cannot read it.png: it is 5000x4000, 20.0 megapixels, of which 16.0 are allowed;",
        ),
    ],
    ids=["text", "cut", "large"],
)  # fmt: skip
def test_what_cannot_be_restored_gets_a_sentence(page, tmp_path, make, sentence):
    make(tmp_path / "it.png")
    drop(page, tmp_path / "it.png", shows="#complaint")
    said = page.locator("#complaint").inner_text()
    assert said.startswith(sentence) and said.endswith(".") and "/" not in said
    page.get_by_role("button", name="Restore", exact=True).click()
    page.wait_for_function(
        "document.querySelector('#complaint').innerText.includes('no picture y')"
    )


@in_browser
def test_a_file_may_be_too_large(page, served, tmp_path):
    """The page does not send it, and the server takes it from nobody."""
    large = bytes(64 * 2**20 + 1)
    (tmp_path / "large.png").write_bytes(large)
    page.set_input_files("#upload input[type=file]", tmp_path / "large.png")
    page.wait_for_selector("text=exceed the maximum allowed size of 64.0 Mb")
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="large.png"\r\n\r\n'
    sent = urllib.request.Request(
        f"{served.address}gradio_api/upload",
        head + large + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert refusal(sent)[0] == 413
    assert "large.png" not in files(served.folder)


@in_browser
def test_what_no_page_sends(served):
    """Nothing is fetched, nothing of the machine is told, and the terminal stays silent."""
    address = {"path": "http://192.0.2.1/a.png", "meta": {"_type": "gradio.FileData"}}
    for asks in (
        asking(served, "run/predict", "look", [[address]]),
        asking(served, "run/predict", "look", [[{"path": str(served.folder)}]]),
        asking(served, "run/predict", "look", []),
        asking(served, "queue/join", "restore", ["Remove noise", "fast", 101, "local", 0]),
        f"{served.address}gradio_api/file={address['path']}",
        f"{served.address}gradio_api/file={served.folder}",
        urllib.request.Request(served.address, headers={"Host": "evil.example"}),
        urllib.request.Request(served.address, headers={"Origin": "http://evil.example"}),
    ):
        status, said = refusal(asks)
        assert status in (403, 422) and said.endswith('."}')
    assert "a.png" not in files(served.folder)
    for path in ("", "config", "health"):
        with urllib.request.urlopen(served.address + path) as answer:
            said = answer.read().decode()
        assert str(ROOT) not in said and str(served.folder) not in said
    assert said == '{"healthy":true}'


@in_browser
def test_a_visitor_leaves_nothing(served, page):
    drop(page, SHAKEN)
    restored(page)
    assert {"shaken.png", "shaken-restored.png", "after.jpg"} <= files(served.folder)
    page.close()
    # But what Gradio leaves of each upload, which is empty.
    wait_until(lambda: all(name.startswith("tmp") for name in files(served.folder)))


@in_browser
def test_two_visitors_get_their_own(served, page, visit, tmp_path):
    """Of pictures of one size, at the same time."""
    other = visit(served)
    for visitor, level in ((page, 60), (other, 190)):
        tlc.write_image(tmp_path / f"{level}.png", np.full((64, 96, 3), level, np.uint8))
        drop(visitor, tmp_path / f"{level}.png")
    press(page, "Restore")
    press(other, "Restore")
    for visitor, level in ((page, 60), (other, 190)):
        name, downloaded = result(visitor)
        assert name == f"{level}-restored.png"
        assert abs(np.asarray(Image.open(io.BytesIO(downloaded))).mean() - level) < 20


@in_browser
def test_nobody_waits_for_one_who_left(served, page, visit):
    drop(page, EXAMPLE)
    worker = served.hold()
    press(page, "Restore")
    page.wait_for_selector("text=waiting")
    other = visit(served)
    choose(other, "noise")
    other.wait_for_selector("#told >> text=noisy.jpg")  # though its preview waits
    other.wait_for_selector("text=waiting for 1 other")
    page.close()
    other.wait_for_selector("#viewer img")
    assert worker not in served.workers()
    assert restored(other)[0] == "noisy-restored.jpg"


@in_browser
def test_a_killed_process_is_no_visitors_trouble(served, page):
    """What it did is done again."""
    drop(page, EXAMPLE)
    worker = served.hold()
    press(page, "Restore")
    page.wait_for_selector("text=waiting")
    os.kill(worker, signal.SIGKILL)
    assert result(page)[0] == "noisy-restored.jpg"


@in_browser
def test_a_job_is_stopped_with_its_picture(served, page, tmp_path):
    """Another one is taken meanwhile, and then none."""
    drop(page, SHAKEN)
    served.hold()
    press(page, "Restore")
    page.wait_for_selector("text=waiting")
    choose(page, "noise")
    page.wait_for_selector("#told >> text=noisy.jpg")
    page.wait_for_selector("#viewer img")
    worker = served.hold()
    page.get_by_role("button", name="Advanced").click()
    press(page, "Compare statistics")
    page.wait_for_selector("text=waiting")
    drop(page, NOISY, shows="#told >> text=noisy.png")
    wait_until(lambda: worker not in served.workers())
    page.wait_for_selector("#viewer img")
    served.hold()
    press(page, "Restore")
    page.wait_for_selector("text=waiting")
    (tmp_path / "a.txt").write_text("a")
    drop(page, tmp_path / "a.txt", shows="#complaint")
    wait_until(lambda: "noisy.png" not in files(served.folder))
    page.wait_for_selector("text=waiting", state="detached")
    assert page.locator("#complaint").is_visible()  # each has its own answer


@in_browser
def test_a_job_has_its_time_and_no_more_than_the_page(tmp_path_factory, visit):
    """The page is asked to end while one is under way."""
    with serving(tmp_path_factory.mktemp, "--timeout", "8", "--jobs", "1") as served:
        page = visit(served)
        drop(page, EXAMPLE)
        served.hold()
        press(page, "Restore")
        page.wait_for_selector("#complaint >> text=longer than 8 seconds")
        wait_until(served.workers)
        served.hold()
        press(page, "Restore")
        page.wait_for_selector("text=waiting")


@in_browser
def test_ports_may_be_taken(tmp_path):
    """All those which are tried where none is given."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        few = {"GRADIO_SERVER_PORT": str(taken.getsockname()[1]), "GRADIO_NUM_PORTS": "1"}
        ended = subprocess.run(
            [COMMAND, "app"], env=os.environ | few | {"TMPDIR": str(tmp_path)},
            capture_output=True, text=True, timeout=180,
        )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("tlc-jax: cannot listen at 127.0.0.1, any of the 100 ports")
    assert len(ended.stderr.splitlines()) == 1 and list(tmp_path.iterdir()) == []


# What it is made of


def sleeps(seconds, watch):
    watch("slept")
    time.sleep(seconds)
    return "awake"


def dies(of, watch):
    watch("alive")
    os.kill(os.getpid(), of)


def takes(count, watch):
    return len(bytearray(count))


def dies_once(where, watch):
    if not where.exists():
        where.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def fails(watch):
    watch("begun")
    raise ZeroDivisionError


def refuses(watch):
    raise ImageError("this is a sentence.")


def out_of_memory(watch):
    raise MemoryError


@pytest.fixture
def one_worker():
    workers = Workers(Limits(seconds=60))
    workers.start(1)
    yield workers
    workers.stop()


def test_a_job_has_its_time(one_worker, tmp_path, capfd):
    """And whatever becomes of one, the next is done."""
    workers, told = one_worker, []
    assert (workers.run(sleeps, 0, watch=told.append), told) == ("awake", ["slept"])
    workers.limits = workers.limits._replace(seconds=3)
    with pytest.raises(JobError, match="longer than 3 seconds"):
        workers.run(sleeps, 600)
    workers.limits = workers.limits._replace(seconds=60)
    for job, sentence in (
        ((dies, signal.SIGKILL), "killed twice"),
        ((dies, signal.SIGABRT), "not enough memory"),
        ((dies, signal.SIGTERM), "broke down"),
        ((out_of_memory,), "not enough memory"),
        ((fails,), "the terminal .* says why"),
        ((refuses,), "this is a sentence"),
    ):
        with pytest.raises(JobError, match=sentence):
            workers.run(*job)
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert workers.run(dies_once, tmp_path / "once") == "alive"

    def leave(words):
        raise LookupError(words)

    with pytest.raises(LookupError, match="slept"):  # nobody waits for the rest
        workers.run(sleeps, 600, watch=leave)
    assert workers.run(sleeps, 0) == "awake"
    answers = iter([True, False])
    with pytest.raises(Unwanted):
        workers.run(sleeps, 600, wanted=lambda: next(answers))


def test_a_process_may_not_begin(one_worker):
    """One that died with nothing to do is replaced; that one ends before it is ready."""
    process = one_worker.all[0].process
    process.kill()
    process.join()

    def wanted():
        one_worker.all[0].process.terminate()
        return True

    with pytest.raises(JobError, match="could not begin"):
        one_worker.run(sleeps, 0, wanted=wanted)
    one_worker.stop()
    with pytest.raises(Unwanted):
        one_worker.run(sleeps, 0)


def test_visits_are_apart(tmp_path):
    """Two may bring the same picture, and one another; each keeps its own until it leaves."""
    upload, other = tmp_path / "a.png", tmp_path / "b.png"
    visits = Visits(tmp_path)
    for path in (upload, other):
        path.write_text(path.name)
    first, second = visits.start("first", [upload]), visits.start("second", [upload])
    visits.end("first")
    assert not first.folder.exists() and not upload.exists()
    assert second.sources[0].read_text() == "a.png"
    visits.end("first")
    with pytest.raises(JobError, match="no picture yet"):
        visits.find("first")
    with pytest.raises(JobError, match=r"^cannot take a\.png: no such file or directory; drop it"):
        visits.start("first", [upload])
    second = visits.find("second")
    again = tmp_path / "again.png"
    again.write_text("the same")
    fourth = visits.start("fourth", [again])
    (tmp_path / "new").write_text("the same")
    (tmp_path / "new").replace(again)  # as Gradio does, where another sends it, too
    visits.end("fourth")
    assert not fourth.folder.exists() and again.exists()
    again.unlink()
    results = []
    for error in (None, None, JobError("it failed")):
        request = second.request("restored", (Path("net"),), False, 1.0, "local", None)
        with contextlib.suppress(JobError), request as result:
            results.append(result)
            if error:
                raise error
    assert [result.folder.exists() for result in results] == [False, True, False]
    third = visits.start("second", [other])
    assert not second.folder.exists() and third.sources[0].read_text() == "b.png"
    assert visits.start("second", [other]).sources[0].exists() and other.exists()
    assert visits.start("second", [EXAMPLE]).sources[0].exists() and not other.exists()
    visits.end("second")
    assert EXAMPLE.exists()
    assert list(tmp_path.iterdir()) == []


def test_turns():
    """Who asks for little comes first, and who asks again and again after the others."""
    workers = Workers(Limits())
    worker = workers_module._Worker.__new__(workers_module._Worker)  # that does nothing itself
    worker.small = False
    workers.all.append(worker)
    done, threads, told = [], [], []

    def ask(whose, estimate):
        worker = workers.turn(whose, estimate, told.append, lambda: True)
        done.append((whose, estimate))
        workers.release(worker)

    for number, asks in enumerate(
        [("large", 100), ("small", 1), ("often", 2), ("often", 2), ("often", 2), ("late", 4)], 1
    ):
        threads.append(threading.Thread(target=ask, args=asks))
        threads[-1].start()
        wait_until(lambda number=number: len(workers.waiting) == number)
    workers.release(worker)
    for thread in threads:
        thread.join()
    names = [whose for whose, _ in done]
    assert names == ["small", "often", "late", "often", "often", "large"] or names == [
        "small", "often", "often", "late", "often", "large",
    ]  # fmt: skip
    assert "waiting for 1 other" in told and "waiting for 2 others" in told


def test_small_pictures_have_a_process():
    """Where there are several, nobody with a small one waits for those with large ones."""
    workers = Workers(Limits(jobs=2, gigabytes=2, seconds=60))
    workers.start(2)
    try:
        answers = []

        def large():
            with contextlib.suppress(Unwanted):  # at the end
                answers.append(workers.run(sleeps, 600, estimate=100))

        for _ in range(2):
            threading.Thread(target=large).start()
        wait_until(lambda: len(workers.waiting) == 1)
        assert workers.run(sleeps, 0) == "awake"
        assert len(workers.waiting) == 1 and not answers
        assert workers.healthy()
    finally:
        workers.stop()
    assert not workers.healthy()


def test_what_nobody_removes_goes_with_time(tmp_path, monkeypatch):
    """Of a visitor to whom nobody listens, uploads that no visit took, and what broke off."""
    monkeypatch.setattr("tlc_jax.app.visits.VISITORS", 2)
    visits, broken, new = Visits(tmp_path), tmp_path / "tmp0", tmp_path / "tmp1"
    orphan = tmp_path / ("0" * 64) / "a.png"
    upload = tmp_path / ("1" * 64) / "a.png"
    for path in (orphan, upload):
        path.parent.mkdir()
        path.write_text("a picture")
    for path in (broken, new):
        path.touch()
    ago = time.time() - 100
    for path in (broken, orphan.parent, upload.parent):
        os.utime(path, (ago, ago))
    first, second = visits.start("first", [upload]), visits.start("second", [EXAMPLE])
    with visits.uploading():  # which may be of several files, the first of them as old
        visits.sweep()
    assert broken.exists() and orphan.exists()
    visits.sweep()
    assert set(tmp_path.iterdir()) == {new, first.folder, second.folder, upload.parent}
    with visits.listening("first"):
        first.heard -= 100
        visits.sweep()
        assert first.folder.exists()
        third = visits.start("third", [EXAMPLE])  # in place of the one who does not listen
        assert not second.folder.exists()
        with visits.listening("third"), pytest.raises(JobError, match="come back later"):
            visits.start("fourth", [upload])
    visits.sweep()
    assert first.folder.exists()  # for a while
    for visit in (first, third):
        visit.heard -= 100
    visits.sweep()
    assert set(tmp_path.iterdir()) == {new, upload.parent}


@pytest.mark.parametrize("name", ["", "folder", "folder/a.png", "none"])
def test_only_files_are_taken(tmp_path, name):
    """Whatever path comes, nothing but an upload is removed."""
    (tmp_path / "page/folder").mkdir(parents=True)
    kept = tmp_path / "page/folder/b.png"
    kept.touch()
    with pytest.raises(JobError, match="cannot take"):
        Visits(tmp_path / "page").start("one", [tmp_path / "page" / name])
    assert kept.exists() and set((tmp_path / "page").iterdir()) == {kept.parent}


def test_heads_are_looked_at_first(tmp_path, monkeypatch):
    """Of all pictures, as the first one is shown."""
    monkeypatch.setattr(limits, "_limit", 60_000)
    sources = [tmp_path / name for name in ("a.png", "b.png")]
    for source, width in zip(sources, (300, 301), strict=True):
        Image.new("RGB", (width, 200)).save(source)
    made = requests.preview(sources[:1], tmp_path, watch=print)
    assert made.facts == {"picture": "a.png, 300 x 200, 0.1 megapixels"}
    with pytest.raises(
        ImageError, match=r"^cannot read b\.png: it is 301x200, 0\.1 megapixels, of"
    ):
        requests.preview(sources[1:], tmp_path, watch=print)
    assert requests.of_sources(sources) == {"picture": "a.png, and 1 more"}


def test_one_bad_picture_is_left_out(tmp_path):
    """And the others are restored; what is wrong with it is told."""
    sources = tuple(tmp_path / name for name in ("bad.jpg", "a.png", "b.png"))
    sources[0].write_text("a")
    for source in sources[1:]:
        tlc.write_image(source, np.full((32, 48, 3), 99, np.uint8))
    made = requests.preview(sources, tmp_path, watch=print)
    assert made.facts["picture"] == "a.png, 48 x 32, 0.0 megapixels, and 1 more"
    assert made.facts["left out"].startswith("cannot read bad.jpg: it is no picture")
    request = requests.Request(
        sources, tmp_path, (checkpoints.find("denoise"),), False, 1.0, "local", None
    )
    made = requests.restored(request, watch=print)
    assert made.facts["left out"].startswith("cannot read bad.jpg: it is no picture")
    with zipfile.ZipFile(made.file) as archive:
        assert archive.namelist() == ["a-restored.png", "b-restored.png"]


def test_a_job_has_its_memory():
    """What takes more is told, and its process goes on; also what the system then kills."""
    workers = Workers(Limits(gigabytes=1))
    workers.start(1)
    try:
        with pytest.raises(JobError, match="not enough memory"):
            workers.run(takes, 2**31)
        assert workers.run(takes, 2**28) == 2**28
        process = workers.all[0].process
        assert workers.run(takes, 2**26, estimate=100) == 2**26
        process.join()  # and gave its memory back
        assert workers.run(takes, 2**26) == 2**26
    finally:
        workers.stop()


def test_what_is_shown_is_small_enough(tmp_path):
    """And of the colours of the picture; a picture of one pixel's width stays one."""
    pixels = np.zeros((2, 5000, 3), np.uint16)
    pixels[:, 2500:] = [65535, 0, 32768]
    tlc.write_image(tmp_path / "a.png", pixels)
    made = requests.preview([tmp_path / "a.png"], tmp_path, watch=print)
    shown = read_picture(made.pictures[0][0]).pixels
    assert shown.shape[1:] == (requests.SHOWN, 3)
    assert np.abs(shown[0, requests.SHOWN * 3 // 4] - np.array([255.0, 0, 128])).max() < 8


def asked(source, folder, checkpoint, mode="local", window=None):
    return requests.Request((source,), folder, (checkpoint,), False, 1.0, mode, window)


def test_what_is_compared(tmp_path, monkeypatch):
    """Each picture is what its words say, at the window that was asked for."""
    picture = tlc.read_image(SHAKEN)[:160, :200]
    tlc.write_image(tmp_path / "a.png", picture)
    picture = tlc.read_image(tmp_path / "a.png")
    request = asked(tmp_path / "a.png", tmp_path, checkpoints.find("deblur"), window=8)
    kept = {}
    monkeypatch.setattr(
        requests, "_show", lambda path, pixels, _: kept.update({path: pixels}) or path
    )
    told = []
    made = requests.compared(request, watch=told.append)
    assert [*map(requests.share, told)] == sorted(map(requests.share, told))
    shown = {words.partition(",")[0]: kept[path] for path, words in made.pictures[:4]}
    model, params = tlc.load("deblur")
    expected = {
        "input": picture,
        "global": tlc.restore(model, params, picture),
        "local": tlc.restore(model.clone(local_mode=True, window=(8, 8)), params, picture),
        "tiles": tlc.restore(model, params, picture, way=tlc.tiled(tile=96, overlap=12)),
    }
    assert shown.keys() == expected.keys()
    for name, pixels in shown.items():
        np.testing.assert_array_equal(pixels, expected[name])
    enlarged = kept[made.pictures[-2][0]]
    assert made.pictures[-2][1] == "local, enlarged" and enlarged.shape[1] == 5 * 96
    assert (shown["local"][:, :, None, None] == enlarged[::5, ::5][0, 0]).all(-1).any()
    assert "predicted" in made.facts["memory"]


def test_auto_tells_what_it_chose(tmp_path, monkeypatch):
    tlc.write_image(tmp_path / "a.png", np.full((32, 48, 1), 99, np.uint8))
    chosen = guard.Guarded(np.full((32, 48, 3), 0.5, np.float32), "global")
    monkeypatch.setattr("tlc_jax.inference.timed.guarded", lambda *_: chosen)
    network = checkpoints.find("denoise")
    request = asked(tmp_path / "a.png", tmp_path, network, mode="auto")
    told = []
    made = requests.restored(request, watch=told.append)
    assert [*map(requests.share, told)] == sorted(map(requests.share, told))
    assert "global statistics" in made.facts["network"] and "false colours" in made.facts["auto"]
    assert made.facts["note"] == "gray repeated to RGB"
    assert (read_picture(made.file).pixels == 128).all()


def test_visitors_learn_no_path(tmp_path):
    """Of a damaged checkpoint, and of a folder that cannot be written to."""
    source, network, folder = (tmp_path / "a" / name for name in ("b c.png", "net", "out"))
    shutil.copytree(checkpoints.find("denoise"), network)
    tlc.write_image(source, np.zeros((32, 48, 3), np.float32))
    with pytest.raises(ImageError, match="out") as refused:
        requests.preview([source], folder, watch=print)
    assert str(tmp_path) not in str(refused.value)
    next(file for file in (network / "params").rglob("*") if file.is_file()).unlink()
    with pytest.raises(checkpoints.CheckpointError, match=r"^net/params: damaged"):
        requests.restored(asked(source, folder, network), watch=print)


def test_networks_have_names(terminal, tmp_path, monkeypatch):
    """Those of their folders, or of the run that made them; whole paths where these are alike."""
    offered = {}
    monkeypatch.setattr("tlc_jax.cli.serving.serve", lambda some, *_: offered.update(some))
    folders = ["mine", "runs/noise/model", "runs/shake/model", "other/mine"]
    for folder in folders:
        shutil.copytree(checkpoints.find("denoise"), tmp_path / folder)
    options = [text for folder in folders for text in ("--checkpoint", folder)]
    assert terminal(tmp_path, "app", *options)[0] == 0
    assert list(offered) == ["mine", "noise", "shake", "other/mine"]
    assert offered["shake"].by_quality == {"fast": (tmp_path / folders[2],)}
    offered.clear()
    assert terminal(tmp_path, "app", "--checkpoint", "mine", "--checkpoint", "denoise")[0] == 0
    assert [one.by_quality["fast"] for one in offered.values()] == [
        (tmp_path / "mine",), (checkpoints.find("denoise"),)
    ]  # fmt: skip
    offered.clear()
    assert terminal(tmp_path, "app")[0] == 0
    assert list(offered) == [
        "What it needs", "Remove noise", "Remove blur", "Brighten", "Remove rain", "Remove haze"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--checkpoint", "pairs"), "pairs: NAFNet does not restore single pictures"),
        (("--checkpoint", "nowhere"), "nowhere"),
        (("--port", "TAKEN"), r"cannot listen at 127\.0\.0\.1, port \d+: address already in use"),
        (("--host", "192.0.2.1"), r"cannot listen at 192\.0\.2\.1: "),
        ((), r"needs Gradio, which is not installed; pip install 'tlc-jax\[app\]'"),
    ],
)
def test_the_command_says_what_is_wrong(terminal, tmp_path, monkeypatch, options, sentence):
    (tmp_path / "pairs").mkdir()
    single = (checkpoints.find("denoise") / "model.json").read_text()
    (tmp_path / "pairs/model.json").write_text(
        single.replace('"inp_channels": 3', '"inp_channels": 6')
    )
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = [taken.getsockname()[1] if text == "TAKEN" else text for text in options]
        code, out, err = terminal(tmp_path, "app", *options)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert re.search(sentence, err)
