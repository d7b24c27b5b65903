"""Networks as files for other runtimes: they compute the same, and the command writes them."""

import contextlib
import itertools
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

import tlc_jax as tlc
from tlc_jax.ops.backends import forms_of
from tlc_jax.ops.box import window_moments, window_sum

SMALL = {"train_size": (16, 16)}  # windows of 24 pixels
UNET = {"enc_blk_nums": (1,), "middle_blk_num": 1, "dec_blk_nums": (1,)}
BLOCKS = {"num_blocks": (1, 1, 0, 0), "num_refinement_blocks": 0, "heads": (1, 2, 2, 4)}
NETWORKS = {
    "nafnet": tlc.NAFNet(width=8, **UNET, **SMALL),
    "baseline": tlc.Baseline(width=8, **UNET, **SMALL),
    "restormer": tlc.Restormer(dim=8, **BLOCKS, **SMALL),
    "hinet": tlc.HINet(wf=8, depth=3, hin_position_right=2, **SMALL),
    "mprnet": tlc.MPRNet(
        n_feat=8, scale_unetfeats=4, scale_orsnetfeats=4, num_cab=1, reduction=2, **SMALL
    ),
    "nafssr": tlc.NAFSSR(width=8, num_blks=1, train_size=(16, 16)),
    "maxim": tlc.Maxim(
        features=4, depth=2, num_stages=1, num_groups=1, num_bottleneck_blocks=1,
        block_size_hr=(2, 2), block_size_lr=(2, 2), **SMALL,
    ),
}  # fmt: skip
FOUR = "nafnet", "restormer", "hinet", "mprnet"
ODD = 45, 37
MODES = ("global", "local")
NET = NETWORKS["nafnet"].clone(local_mode=True)


def some_images(model, count=1, size=ODD):
    rng = np.random.default_rng(0)
    return rng.random((count, *size, model.inp_channels), np.float32)


def error(got, expected):
    return np.abs(got - expected).max() / np.ptp(expected)


def in_jax(model, params, image):
    return np.asarray(jax.jit(model.apply)({"params": params}, image))


def run_onnx(program, image):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    return session.run(["restored"], {"image": image})[0]


@pytest.mark.parametrize(
    ("name", "mode"),
    [*itertools.product(FOUR, MODES), *((name, "local") for name in NETWORKS if name not in FOUR)],
)
def test_onnx_computes_the_same(name, mode, random_params):
    pytest.importorskip("onnx")
    model = NETWORKS[name].clone(local_mode=mode == "local")
    params, image = random_params(model), some_images(model)
    program = tlc.export(model, params, ODD, format="onnx")
    expected = in_jax(model, params, image)
    assert error(run_onnx(program, image), expected) < 1e-4


def test_stablehlo_computes_the_same_and_is_for_all_platforms(random_params):
    model = NETWORKS["restormer"].clone(local_mode=True)
    params, image = random_params(model), some_images(model)
    program = jax_export.deserialize(bytearray(tlc.export(model, params, ODD)))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    expected = in_jax(model, params, image)
    assert error(np.asarray(program.call(image)), expected) < 1e-6


@pytest.mark.parametrize("name", ["restormer", "mprnet"])
def test_an_open_batch(name, random_params):
    """Each image is restored as alone; MPRNet makes batches of parts of images."""
    pytest.importorskip("onnx")
    model = NETWORKS[name].clone(local_mode=True)
    params, images = random_params(model), some_images(model, 3)
    program = tlc.export(model, params, ODD, format="onnx", batch=None)
    expected = in_jax(model, params, images)
    assert error(run_onnx(program, images), expected) < 1e-4
    assert error(run_onnx(program, images[:1]), expected[:1]) < 1e-4


def test_a_batch_that_cannot_be_open_says_so(random_params):
    model = NETWORKS["nafssr"]
    with pytest.raises(ValueError, match="NAFSSR has steps that depend on how many images"):
        tlc.export(model, random_params(model), ODD, batch=None)


def test_onnx_says_what_it_is_of(random_params):
    onnx = pytest.importorskip("onnx")
    about = {"weights_licence": "MIT"}
    program = tlc.export(NET, random_params(NET), ODD, format="onnx", about=about)
    model = onnx.load_from_string(program)
    onnx.checker.check_model(model, full_check=True)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["network"] == "NAFNet" and told["mode"] == "local"
    assert told["train_size"] == "16x16" and told["window"] == "24x24"
    assert told["weights_licence"] == "MIT"
    # Convolutions are convolutions, and the maps between them are not transposed.
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Transpose") <= 2
    groups = [a.i for node in model.graph.node for a in node.attribute if a.name == "group"]
    assert max(groups) == 32


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (tlc.RNNMBP(), {}, "RNNMBP restores clips"),
        (NET, {"size": (0, 5)}, "1 pixel and more"),
        (NET, {"batch": 0}, "1 pixel and more"),
        (NET, {"format": "pt"}, "choose 'stablehlo' or 'onnx'"),
        (NET.clone(dtype=jnp.bfloat16), {"format": "onnx"}, "float32, not in bfloat16"),
    ],
)
def test_refuses(model, options, words):
    with pytest.raises(ValueError, match=words):
        tlc.export(model, {}, **{"size": ODD, **options})


@pytest.mark.parametrize("axis", [1, 2])
def test_finite_products_are_exact(axis):
    """Far from zero, too, where the square of the mean is ten million times the variance."""
    rng = np.random.default_rng(0)
    x = (30 + 0.01 * rng.normal(size=(2, 40, 50, 3))).astype(np.float32)
    window = (7, 50) if axis == 1 else (40, 7)
    with forms_of("onnx"):
        mean, variance = window_moments(jnp.asarray(x), window)
        total = window_sum(jnp.asarray(x), window)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), window, (1, 2))
    np.testing.assert_allclose(total, windows.sum((-2, -1)), rtol=1e-6)
    np.testing.assert_allclose(mean, windows.mean((-2, -1)), rtol=1e-6)
    np.testing.assert_allclose(variance, windows.var((-2, -1)), rtol=1e-3)


@pytest.fixture(scope="module")
def world(tmp_path_factory, random_params):
    folder = tmp_path_factory.mktemp("world")
    tlc.save(folder / "net", NET, random_params(NET), weights_licence="MIT")
    (folder / "old.onnx").write_text("mine")
    return folder


def test_command_writes_what_runs(run, world, random_params):
    pytest.importorskip("onnx")
    image = some_images(NET)
    code, out, err = run("export", "net", "made.onnx", "--size", f"{ODD[1]}x{ODD[0]}")
    assert (code, err) == (0, "") and "licence of the weights: MIT" in out and "local" in out
    expected = in_jax(NET, random_params(NET), image)
    assert error(run_onnx((world / "made.onnx").read_bytes(), image), expected) < 1e-4

    options = ["--size", f"{ODD[1]}x{ODD[0]}", "--mode", "global", "--dynamic-batch"]
    code, out, err = run("export", "net", "made.stablehlo", *options)
    assert (code, err) == (0, "") and "6 months newer or 3 weeks older" in out
    program = jax_export.deserialize(bytearray((world / "made.stablehlo").read_bytes()))
    expected = in_jax(NETWORKS["nafnet"], random_params(NET), image)
    assert error(np.asarray(program.call(np.repeat(image, 2, 0)))[1:], expected) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("net old.onnx --size 9x9", "old.onnx: exists already; --overwrite replaces it."),
        ("net new.pt --size 9x9", "let the file end with .onnx or .stablehlo"),
        ("net new.stablehlo --size 9x9 --format onnx", "is not what the name says"),
        ("net new.onnx --size 9x9 --window 5 --mode global", "is of --mode local"),
        ("net new.onnx --size dynamic", "give width x height in pixels, as in --size 1280x720"),
        ("net new.onnx --size 99999x99999", "megapixels, of which 268.4 are allowed"),
        ("net new.onnx --size 9x9 --dtype bfloat16", "an ONNX model computes in float32"),
        ("net new.onnx --size 9x9 --batch 2 --dynamic-batch", "leave one of them out"),
        ("net old.onnx/new.onnx --size 9x9", "not a folder that can be written to"),
    ],
)
def test_command_refuses_in_one_sentence(run, world, arguments, words):
    code, out, err = run("export", *arguments.split())
    assert code == 2 and words in err and err.count("\n") == 1 and not out
    assert (world / "old.onnx").read_text() == "mine" and not (world / "new.onnx").exists()


def test_command_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "tlc_jax.inference.onnx", raising=False)
    code, _, err = run("export", "net", "new.onnx", "--size", "9x9")
    assert code == 2 and "pip install 'tlc-jax[onnx]'" in err


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The program of docs/exporting.md, with a file that the command has made."""
    for package in ("onnx", "onnxruntime", "uvicorn", "starlette"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("server")
    page = (Path(__file__).parent.parent / "docs/exporting.md").read_text()
    (program,) = re.findall(r"```python\n(\"\"\"Restores.*?)```", page, re.S)
    (folder / "serve.py").write_text(program)
    model, params = tlc.load("denoise")
    made = tlc.export(model.clone(local_mode=True), params, (48, 64), format="onnx")
    (folder / "denoise.onnx").write_bytes(made)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "serve:app", "--port", str(port)]
    environment = {**os.environ, "MODEL": "denoise.onnx"}
    process = subprocess.Popen(command, cwd=folder, env=environment)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert process.poll() is None
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


def post(address, data):
    request = urllib.request.Request(address, data=data)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_server_of_the_documents(server, terminal, tmp_path):
    """It answers as the command line restores, and refuses what is too large or no picture."""
    rng = np.random.default_rng(0)
    tlc.write_image(tmp_path / "noisy.png", rng.integers(0, 256, (48, 64, 3), np.uint8))
    code, _, err = terminal(tmp_path, "restore", "noisy.png", "-o", "out.png", "--task", "denoise")
    assert code == 0, err
    status, answer = post(server, (tmp_path / "noisy.png").read_bytes())
    assert status == 200
    (tmp_path / "answer.png").write_bytes(answer)
    ours, theirs = (np.int16(tlc.read_image(tmp_path / name)) for name in ("out.png", "answer.png"))
    assert np.abs(ours - theirs).max() <= 1 and (ours == theirs).mean() > 0.99
    assert post(server, b"no picture")[0] == 400
    assert post(server, bytes(17 * 2**20))[0] == 413
    tlc.write_image(tmp_path / "small.png", np.zeros((9, 9, 3), np.uint8))
    status, answer = post(server, (tmp_path / "small.png").read_bytes())
    assert status == 400 and b"64x48" in answer
