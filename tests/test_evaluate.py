"""Evaluation: the numbers of a report, what survives an interruption, and what the user is told."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import tlc_jax as tlc
from tlc_jax.evaluation import evaluating as evaluation
from tlc_jax.evaluation import reports
from tlc_jax.evaluation.evaluating import EvaluationError, evaluate, parse_modes
from tlc_jax.evaluation.metrics import Protocol, measure
from tlc_jax.files.datasets import pairs
from tlc_jax.inference import programs, timed
from tlc_jax.inference.ways import at_once
from tlc_jax.layers.network import abstract_params

# One block, so that it compiles fast; its windows are 24 pixels.
NET = tlc.NAFNet(width=4, enc_blk_nums=(), middle_blk_num=1, dec_blk_nums=(), train_size=(16, 16))
LOCAL = NET.clone(local_mode=True)
MODES = ["local", "global", "tiles:28/4"]  # larger than the window, so that local would be another
SIZE = (30, 40)
NAMES = ("a", "b", "deep/c")


def weights(model, scale=0.4):
    """Random, beta and gamma too: as they are initialised, blocks do nothing."""
    rng = np.random.default_rng(0)
    shapes = abstract_params(model)
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(np.float32), shapes)


PARAMS = weights(NET)


def write_pair(world, name, seed, size=SIZE, folders=("in", "out")):
    """A picture that is dark on one side, so that local is not global; and it under noise."""
    rng = np.random.default_rng(seed)
    light = np.linspace(0.1, 0.8, size[1])[:, None]
    truth = light * (1 + 0.2 * np.sin(np.arange(np.prod(size) * 3).reshape(*size, 3) / 41))
    noisy = truth + 0.05 * rng.standard_normal(truth.shape)
    for folder, image in zip(folders, (noisy, truth), strict=True):
        path = world / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        tlc.write_image(path, image)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    gray, two_views = NET.clone(inp_channels=1), NET.clone(inp_channels=6)
    tlc.save(folder / "net", NET, PARAMS, weights_licence="MIT")
    tlc.save(folder / "other", NET, weights(NET, 0.2), weights_licence="MIT")
    tlc.save(folder / "gray", gray, weights(gray))
    tlc.save(folder / "two-views", two_views, weights(two_views))
    tlc.save(folder / "nan", NET, jax.tree.map(lambda x: np.full_like(x, np.nan), PARAMS))
    return folder


@pytest.fixture
def world(checkpoints, tmp_path, monkeypatch):
    """A folder as a user may have it: checkpoints, and the pictures "in" and their truth "out"."""
    for checkpoint in checkpoints.iterdir():
        (tmp_path / checkpoint.name).symlink_to(checkpoint)
    for seed, name in enumerate(NAMES):
        write_pair(tmp_path, name, seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(world, terminal):
    """Runs the command in `world`; the arguments are lines."""

    def run(*lines):
        return terminal(world, "evaluate", *(word for line in lines for word in line.split()))

    return run


@pytest.fixture
def restored(monkeypatch):
    """Counts the pictures that are restored whole."""
    calls = []

    def restore_timed(model, params, image, *, way):
        if way is at_once:
            calls.append(model.local_mode)
        return timed.restore_timed(model, params, image, way=way)

    monkeypatch.setattr(evaluation, "restore_timed", restore_timed)
    return calls


PAIRED = "--input in --target out --checkpoint net"
REPORTED = f"{PAIRED} --report new/report.json"


def report_of(world):
    return json.loads((world / "new/report.json").read_text())


# Numbers


def test_padding_as_the_network_was_published(world, run):
    net = NET.clone(enc_blk_nums=(0, 0, 0, 0), dec_blk_nums=(0, 0, 0, 0), padding="end")
    params = weights(net)
    tlc.save(world / "padded", net, params)
    options = "--checkpoint padded --report new/report.json --mode global --limit 1"
    code, _, err = run("--input in --target out", options, "--set padding=end")
    assert (code, err) == (0, "")
    image, truth = (tlc.read_image(world / f"{folder}/a.png") for folder in ("in", "out"))
    psnr = report_of(world)["images"]["a"]["global"]["psnr"]
    expected, zeros = (
        float(measure(tlc.restore(network, params, image), truth, Protocol.RGB)[0])
        for network in (net, net.clone(padding="zeros"))
    )
    assert psnr == pytest.approx(expected, abs=1e-4) and psnr != pytest.approx(zeros, abs=1e-4)
    assert report_of(world)["settings"]["set"] == {"padding": "end"}


@pytest.mark.parametrize("mode", ["local,global", "local,tiles:16/4"])
def test_devices_change_no_number(world, run, mode):
    """But for rounding; tiles go one after the other."""
    write_pair(world, "b", 0, size=(31, 40))
    of = []
    for devices in (1, 8):
        assert run(REPORTED, f"--mode {mode}", f"--overwrite --devices {devices}").code == 0
        of.append(report_of(world)["images"])
    assert list(of[0]) == list(of[1]) == list(NAMES)
    for name in NAMES:
        for mode in set(of[0][name]) - {"size"}:
            one, eight = (images[name][mode] for images in of)
            assert one["psnr"] == pytest.approx(eight["psnr"], abs=1e-3)
            assert one["ssim"] == pytest.approx(eight["ssim"], abs=1e-5)


@pytest.mark.parametrize("protocol", [Protocol.RGB, Protocol.Y, Protocol.NAFNET_SIDD])
def test_what_is_measured(world, protocol):
    """Each mode is what a user gets by hand."""
    pair = pairs(world / "in", world / "out")[1]
    result = evaluate(NET, PARAMS, pair, MODES, protocol)
    image, truth = tlc.read_image(world / "in/b.png"), tlc.read_image(world / "out/b.png")
    images = {
        "input": image,
        "local": tlc.restore(LOCAL, PARAMS, image),
        "global": tlc.restore(NET, PARAMS, image),
        "tiles:28/4": tlc.restore(NET, PARAMS, image, way=tlc.tiled(28, 4)),
    }
    assert result.pop("size") == [30, 40]
    assert result.keys() == images.keys()
    for mode, image in images.items():
        psnr, ssim, _ = measure(image, truth, protocol)
        assert result[mode]["psnr"] == pytest.approx(float(psnr), abs=1e-4)
        assert result[mode]["ssim"] == pytest.approx(float(ssim), abs=1e-5)
        assert ("seconds" in result[mode]) == (mode != "input")
    assert np.diff(sorted(result[mode]["psnr"] for mode in images)).min() > 2e-4


def test_seconds_are_without_compilation(world, monkeypatch):
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    during = []

    def forward(*arguments):
        before = len(compilations)
        result = programs.forward(*arguments)
        during.append(len(compilations) - before)
        return result

    monkeypatch.setattr(timed, "forward", forward)
    write_pair(world, "a", 0, size=(33, 47))  # of a size that no other test compiles
    pair = pairs(world / "in", world / "out")[0]
    evaluate(NET, PARAMS, pair, ["local", "global", "tiles:19/4"])
    assert len(during) > 2 and not any(during) and compilations


def test_pictures_smaller_than_the_window_of_ssim(world, run):
    write_pair(world, "a", 0, size=(10, 40))
    code, out, err = run(REPORTED, "--mode tiles:20/4 --limit 1")
    assert (code, err) == (0, "")
    assert report_of(world)["images"]["a"]["input"]["ssim"] is None
    assert report_of(world)["mean"]["input"]["ssim"] is None and "nan" not in out.lower()


# The command


def test_command_and_report(world, run):
    code, out, err = run(REPORTED, f"--mode {','.join(MODES)}")
    assert (code, err) == (0, "")
    report = report_of(world)
    found = pairs(world / "in", world / "out")
    expected = {pair.name: evaluate(NET, PARAMS, pair, MODES) for pair in found}
    assert list(report["images"]) == list(expected) == list(NAMES)
    for name, image in report["images"].items():
        for mode in ("input", *MODES):
            for key in ("psnr", "ssim"):
                assert image[mode][key] == pytest.approx(expected[name][mode][key], abs=1e-5)
        assert all(image[mode]["seconds"] > 0 for mode in MODES)

    def mean(mode, key):
        return np.mean([image[mode][key] for image in report["images"].values()])

    # The table: in the terminal, in the file beside, and of the means in the report.
    written = (world / "new/report.md").read_text()
    table = out[out.index("| mean of 3 ") :].splitlines()[:6]
    assert "\n".join(table) in written
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    assert rows[0][1:] == ["PSNR dB", "SSIM", "over input dB", "over global dB", "s per image"]
    assert [row[0] for row in rows[2:]] == ["input", *MODES]
    for mode, psnr, ssim, over_input, over_global, seconds in rows[2:]:
        means = report["mean"][mode]
        assert means["psnr"] == pytest.approx(mean(mode, "psnr"))
        assert psnr == f"{mean(mode, 'psnr'):.3f}" and ssim == f"{mean(mode, 'ssim'):.4f}"
        for text, key, base in ((over_input, "input", "input"), (over_global, "global", "global")):
            gain = mean(mode, "psnr") - mean(base, "psnr")
            none = mode in ("input", base)
            assert text == ("" if none else f"{gain:+.3f}")
            assert means[f"over_{key}"] == (None if none else pytest.approx(gain))
        assert seconds == ("" if mode == "input" else f"{mean(mode, 'seconds'):.3g}")
    # Whatever decides the numbers is told, and which SSIM is meant.
    settings = report["settings"]
    described = json.loads((world / "net/model.json").read_text())
    assert settings["params_sha256"] == described["params_sha256"]
    assert settings["network"] == "nafnet" and settings["checkpoint"] == "net"
    assert settings["modes"] == MODES and settings["protocol"] == "rgb"
    assert settings["input"] == str(world / "in") and settings["target"] == str(world / "out")
    assert settings["jax"] == jax.__version__ and settings["tlc_jax"] == tlc.__version__
    assert all(f"- {key}: " in written for key in settings)
    assert all("Gaussian window of 11 x 11" in text for text in (out, written, report["notes"]))
    assert "\\n" not in out  # but lines
    with Image.open(world / "new/report.png") as plot:
        assert min(plot.size) > 500
    files = {path.name for path in (world / "new").iterdir()}
    assert files == {"report.json", "report.md", "report.png"}


def test_without_a_report_nothing_is_written(world, run):
    before = {path for path in world.rglob("*") if "cache" not in path.parts}
    code, out, err = run(PAIRED, "--mode global --limit 2")
    assert (code, err) == (0, "") and "| mean of 2 |" in out
    assert {path for path in world.rglob("*") if "cache" not in path.parts} == before


def test_default_modes(world, run, restored):
    code, out, _ = run(PAIRED)
    assert code == 0 and restored == [True, False] * 3
    assert "| local " in out and "| global " in out


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ("--window 12", LOCAL.clone(window=(12, 12))),
        ("--dtype bfloat16", LOCAL.clone(dtype=jnp.bfloat16)),
        ("--set train_size=[8,16]", LOCAL.clone(train_size=(8, 16))),
    ],
)
def test_options(world, run, options, model):
    code, _, err = run(REPORTED, "--mode local --limit 1", options)
    assert (code, err) == (0, "")
    image, truth = (tlc.read_image(world / f"{folder}/a.png") for folder in ("in", "out"))
    psnr = report_of(world)["images"]["a"]["local"]["psnr"]
    expected, plain = (
        float(measure(tlc.restore(network, PARAMS, image), truth, Protocol.RGB)[0])
        for network in (model, LOCAL)
    )
    assert psnr == pytest.approx(expected, abs=1e-4) and psnr != pytest.approx(plain, abs=1e-4)
    name, value = options.removeprefix("--").split()
    kept = report_of(world)["settings"][name]
    assert kept == {"12": 12, "bfloat16": "bfloat16"}.get(value, {"train_size": [8, 16]})


@pytest.mark.parametrize("protocol", [Protocol.Y, Protocol.SIDD, Protocol.NAFNET])
def test_protocol(world, run, protocol):
    code, out, _ = run(REPORTED, f"--mode local --limit 1 --protocol {protocol}")
    pair = pairs(world / "in", world / "out")[0]
    expected = evaluate(NET, PARAMS, pair, ["local"], protocol)
    assert code == 0 and report_of(world)["settings"]["protocol"] == protocol
    psnr = report_of(world)["images"]["a"]["local"]["psnr"]
    assert psnr == pytest.approx(expected["local"]["psnr"], abs=1e-4)
    words = {"y": "luma", "sidd": "not rounded", "nafnet": "window of three dimensions"}
    assert words[protocol] in out and words[protocol] in (world / "new/report.md").read_text()


def test_gray_networks(world, run):
    code, _, err = run("--input in --target out --checkpoint gray --mode local --report r.json")
    assert (code, err) == (0, "")


def test_a_data_set(world, run):
    for i, sequence in enumerate(("GOPR0384_11_00", "GOPR0385_11_01")):
        write_pair(world / f"GoPro/test/{sequence}", "000001", i, folders=("blur", "sharp"))
    code, _, err = run("--data GoPro --checkpoint net --mode local --report new/report.json")
    assert (code, err) == (0, "")
    assert list(report_of(world)["images"]) == [
        "test/GOPR0384_11_00/blur/000001",
        "test/GOPR0385_11_01/blur/000001",
    ]
    assert report_of(world)["settings"]["data"] == str(world / "GoPro")


def test_without_matplotlib(world, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run(REPORTED, "--mode local --limit 1")
    assert (code, err) == (0, "") and "[plot]" in out
    assert (world / "new/report.md").is_file() and not (world / "new/report.png").exists()


# Interruptions and failures


def test_an_interrupted_run_is_continued(world, run, restored, monkeypatch):
    write = reports.write_report

    def killed(done, path):
        if len(done["images"]) > 1:
            raise KeyboardInterrupt
        write(done, path)

    with monkeypatch.context() as patch:
        patch.setattr(reports, "write_report", killed)
        assert run(REPORTED, "--mode local").code != 0
    first = report_of(world)
    assert list(first["images"]) == ["a"]
    restored.clear()
    code, out, _ = run(REPORTED, "--mode local")
    assert code == 0 and len(restored) == 2 and "1 of 3 pictures are done" in out
    report = report_of(world)
    assert list(report["images"]) == list(NAMES)
    assert report["images"]["a"] == first["images"]["a"]  # seconds and all
    restored.clear()
    code, out, _ = run(REPORTED, "--mode local")
    assert code == 0 and not restored and "| mean of 3 |" in out
    assert report_of(world) == report


def test_a_full_disk_leaves_the_report_as_it_was(world, run, monkeypatch):
    run(REPORTED, "--mode local --limit 1")
    before = report_of(world)

    def full(file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tlc_jax.files.atomic.settle", full)
        code, _, err = run(REPORTED, "--mode local")
    assert code == 2 and "report.json: cannot be written (No space left on device)" in err
    assert report_of(world) == before
    assert {path.suffix for path in (world / "new").iterdir()} == {".json", ".md", ".png"}


def test_more_of_the_same(world, run, restored):
    """A limit is no setting: it says how far to go."""
    run(REPORTED, "--mode local --limit 1")
    code, _, _ = run(REPORTED, "--mode local --limit 2")
    assert code == 0 and len(restored) == 2
    assert list(report_of(world)["images"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--mode local,global", "modes"),
        ("--mode local --protocol sidd", "protocol rgb, now sidd"),
        ("--mode local --window 12", "window None, now 12"),
        ("--mode local --dtype bfloat16", "dtype float32, now bfloat16"),
        ("--mode local --set train_size=[8,16]", "set {}, now"),
        ("--mode local", "params_sha256"),
        ("--mode local --input again", "input"),
    ],
)
def test_other_settings_are_refused(world, run, restored, options, word):
    shutil.copytree(world / "in", world / "again")
    run(REPORTED, "--mode local --limit 1")
    before = (world / "new/report.json").read_text()
    restored.clear()
    again = REPORTED.replace("net", "other") if word == "params_sha256" else REPORTED
    code, _, err = run(again, options)
    assert code == 2 and not restored and len(err.splitlines()) == 1
    assert "new/report.json: made with other settings" in err and word in err
    assert "--overwrite" in err
    assert (world / "new/report.json").read_text() == before
    code, _, err = run(again, options, "--limit 1 --overwrite")
    assert (code, err) == (0, "") and restored


def test_pictures_that_are_measured_no_more(world, run):
    """Their numbers stay out of the means of others, and in the report."""
    run(REPORTED)
    before = (world / "new/report.json").read_bytes()
    for folder in ("in", "out"):
        (world / folder / f"{NAMES[0]}.png").unlink()
    for options in ("", "--limit 1"):
        code, _, err = run(REPORTED, options)
        assert code == 2 and f"pictures that are not measured now ({NAMES[0]}" in err
    assert (world / "new/report.json").read_bytes() == before


@pytest.mark.parametrize("psnr", ["30", float("nan"), float("inf"), [1]])
def test_edited_reports_are_refused(world, run, psnr):
    run(REPORTED)
    report = report_of(world)
    for images in ({NAMES[0]: report["images"][NAMES[0]] | {"global": {"psnr": psnr}}}, []):
        (world / "new/report.json").write_text(json.dumps(report | {"images": images}))
        code, _, err = run(REPORTED)
        assert (code, len(err.splitlines())) == (2, 1) and "not a report that can be resumed" in err


def test_a_damaged_picture_in_the_middle(world, run, restored):
    whole = (world / "in/b.png").read_bytes()
    (world / "in/b.png").write_bytes(whole[:500])
    code, out, err = run(REPORTED, "--mode local")
    assert code == 2 and len(err.splitlines()) == 1 and "in/b.png" in err
    assert list(report_of(world)["images"]) == ["a", "deep/c"] and "| mean of 2 of 3 |" in out
    (world / "in/b.png").write_bytes(whole)
    restored.clear()
    code, out, err = run(REPORTED, "--mode local")
    assert (code, err) == (0, "") and len(restored) == 1 and "| mean of 3 |" in out


def test_a_picture_of_another_size_than_its_partner(world, run):
    write_pair(world, "b", 0, size=(40, 30), folders=("in", "elsewhere"))
    code, _, err = run(REPORTED, "--mode local")
    assert code == 2 and err == (
        "tlc-jax: picture b: is 30x40, but its target is 40x30; mend one.\n"
    )
    assert list(report_of(world)["images"]) == ["a", "deep/c"]


def test_out_of_memory(world, run, monkeypatch):
    write_pair(world, "b", 0, size=(31, 40))

    def restore_timed(model, params, image, *, way):
        if image.shape[0] == 31:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return timed.restore_timed(model, params, image, way=way)

    monkeypatch.setattr(evaluation, "restore_timed", restore_timed)
    code, _, err = run(REPORTED, "--mode local")
    assert code == 2 and err.startswith("tlc-jax: b: not enough memory")
    assert list(report_of(world)["images"]) == ["a", "deep/c"]


# Each command, and words of its one sentence: what is meant, and what to do about it.
BAD = {
    "--input in --checkpoint net": ["--input and --target", "--data"],
    "--target out --checkpoint net": ["--input and --target", "--data"],
    "--checkpoint net": ["--input and --target", "--data"],
    "--input in --target out --data in --checkpoint net": ["--input and --target", "--data"],
    "--data in --checkpoint net": ["in: no data set", "test/*/blur"],
    "--input in --target nowhere --checkpoint net": ["nowhere", "no such folder"],
    "--input in --target net --checkpoint net": ["net", "no pictures"],
    "--input in --target out/deep --checkpoint net": ["out/deep: 3 (a, b, deep/c)"],
    "--input in --target out --checkpoint nowhere": ["nowhere", "tlc-jax convert"],
    "--input in --target out --checkpoint two-views": [
        "in: a is not called like a view",
        "X_L and X_R",
    ],
    "--input in --target out --checkpoint gray --protocol y": ["gray", "--protocol rgb"],
    "--input in --target in --checkpoint net": ["in: the input is the target", "two folders"],
    f"{PAIRED} --mode locally": ["'locally'", "tiles:256/32"],
    f"{PAIRED} --mode local,": ["''", "tiles:256/32"],
    f"{PAIRED} --mode tiles:16": ["'tiles:16'", "tiles:256/32"],
    f"{PAIRED} --mode tiles:16/16": ["'tiles:16/16'", "smaller than the size"],
    f"{PAIRED} --mode local,local": ["local,local", "once"],
    f"{PAIRED} --report report.txt": ["report.txt", ".json"],
    f"{PAIRED} --report in/a.png/report.json": ["in/a.png", "choose another output"],
    f"{PAIRED} --report notes.json": ["notes.json", "not a report", "--overwrite"],
    f"{PAIRED} --set wdth=8": ["wdth", "train_size"],
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input(world, run, command):
    (world / "notes.json").write_text('["my own"]')
    before = {path for path in world.rglob("*") if "cache" not in path.parts}
    code, out, err = run(command)
    assert code == 2
    assert len(err.splitlines()) == 1 and err.startswith("tlc-jax: "), err
    assert all(word in err for word in BAD[command]), err
    assert "Traceback" not in out and "| mean of" not in out
    assert {path for path in world.rglob("*") if "cache" not in path.parts} == before
    assert (world / "notes.json").read_text() == '["my own"]'


def test_nan(world, run):
    code, out, err = run("--input in --target out --checkpoint nan --report r.json --mode local")
    assert code == 2 and "| mean of" not in out
    for name, line in zip(NAMES, err.splitlines(), strict=True):
        assert line.startswith(f"tlc-jax: picture {name}: ") and "NaN" in line
    assert not (world / "r.json").exists()


def test_a_report_does_not_replace_what_is_not_its_own(world, run):
    (world / "notes.md").write_text("my own")
    code, _, err = run(f"{PAIRED} --mode local --report notes.json")
    assert code == 2 and "notes.md: would be replaced" in err
    assert (world / "notes.md").read_text() == "my own" and not (world / "notes.json").exists()


def test_a_report_of_equal_pictures_is_json(world, run):
    """Their PSNR is infinite, which JSON does not know."""
    shutil.rmtree(world / "out")
    shutil.copytree(world / "in", world / "out")
    code, _, _ = run(f"{PAIRED} --mode local --report r.json")
    text = (world / "r.json").read_text()
    assert code == 0 and "Infinity" not in text and "NaN" not in text


def test_gains_are_over_the_same_pictures():
    """Equal pictures have no PSNR, and count nowhere."""
    a = {"input": {"psnr": 20.0}, "local": {"psnr": 30.5}, "global": {"psnr": 30.0}}
    b = {"input": {"psnr": None}, "local": {"psnr": 50.0}, "global": {"psnr": None}}
    settings = {"modes": ["local", "global"]}
    found = reports.means({"settings": settings, "images": {"a": a, "b": b}})
    assert (found["local"]["psnr"], found["global"]["psnr"]) == (30.5, 30.0)
    assert (found["local"]["over_global"], found["local"]["over_input"]) == (0.5, 10.5)
    assert found["global"]["over_input"] == 10.0 and found["global"]["over_global"] is None


def test_modes():
    assert parse_modes("tiles:256/32,local") == ["tiles:256/32", "local"]
    with pytest.raises(EvaluationError, match="'tiles:0/0'"):
        parse_modes("tiles:0/0")


def test_as_a_process(world):
    """No traceback, and the progress bar is none where nobody looks."""
    (world / "in/b.png").write_text("damaged")
    command = [Path(sys.executable).parent / "tlc-jax", "evaluate", *REPORTED.split()]
    ended = subprocess.run(command, cwd=world, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("tlc-jax: ") and len(ended.stderr.splitlines()) == 1
    assert "| mean of 2 of 3 |" in ended.stdout
