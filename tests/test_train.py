"""Training: it learns, it resumes after any end, and devices and processes make no difference."""

import contextlib
import dataclasses
import json
import math
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.cli import training
from tlc_jax.cli.training import open_config
from tlc_jax.files import checkpoints
from tlc_jax.files.datasets import DataError
from tlc_jax.layers.network import abstract_params
from tlc_jax.training import Config, Phase, TrainingError, folder, train
from tlc_jax.training.config import check
from tlc_jax.training.degradations import (
    EightBits,
    GaussianNoise,
    InTurn,
    LessLight,
    MotionBlur,
    to_linear,
)
from tlc_jax.training.step import LOSSES, init, learning_rate, samples, step

TINY = tlc.NAFNet(8, (1,), 1, (1,), train_size=(16, 16))
CONFIG = """
from tlc_jax import NAFNet
from tlc_jax.training.degradations import EightBits, GaussianNoise, InTurn
from tlc_jax.training import Config, Phase

config = Config(
    model=NAFNet(8, (1,), 1, (1,), train_size=(16, 16)),
    phases=(Phase(steps=24, crop=16, batch=8), Phase(steps=16, crop=24, batch=8)),
    degradation=InTurn((GaussianNoise((0, 50)), EightBits())),
    mixup=1.2, constant=20, warmup=4, report_every=1, save_every=4,
)
"""


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """As most machines have it; what takes several starts a process of its own."""
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@dataclasses.dataclass(frozen=True)
class Halved:
    """Somebody's own degradation, a wrong one."""

    def __call__(self, key: jax.Array, image: jax.Array) -> jax.Array:
        return image[::2]


@pytest.fixture(autouse=True)
def usual_promotion():
    """optax mixes types, and ranks, as JAX allows by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def photographs(tmp_path_factory, write_photographs):
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, 4, (60, 72))
    return folder


def configuration(photographs, **changes):
    config = Config(
        model=TINY,
        phases=(Phase(steps=12, crop=16, batch=8),),
        target=str(photographs),
        degradation=InTurn((GaussianNoise((0, 50)), EightBits())),
        report_every=4,
        save_every=6,
        validate_every=6,
    )
    return dataclasses.replace(config, **changes)


def lines(run: Path) -> list[dict]:
    return [strict_json(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def strict_json(text: str) -> dict:
    return json.loads(text, parse_constant=pytest.fail)


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(run) if "loss" in line}


def test_it_learns_to_denoise(tmp_path, photographs):
    """And validates whole pictures, both ways; `model` is what restores them."""
    config = configuration(
        photographs,
        phases=(Phase(steps=300, crop=16, batch=8),),
        clip=None, learning_rate=3e-3, average=0.9, validation_target=str(photographs),
        degradation=GaussianNoise((25, 25)), report_every=100, validate_every=150, save_every=300,
    )  # fmt: skip
    reports = []
    made = train(config, tmp_path / "run", reports.append)
    assert reports == lines(tmp_path / "run")
    scores = [report for report in reports if "global" in report]
    assert [report["step"] for report in scores] == [150, 300]
    assert scores[0]["input"] == scores[1]["input"] == pytest.approx(20.2, abs=0.5)
    assert scores[1]["global"] > max(scores[0]["global"], scores[1]["input"] + 3)
    assert abs(scores[1]["local"] - scores[1]["global"]) > 1e-4

    model, params = tlc.load(made)
    assert model == TINY
    described = checkpoints.describe(made)
    assert described["steps"] == 300 and described["local"] == scores[1]["local"]
    image = tlc.read_image(photographs / "0.png")
    noisy = image + np.random.default_rng(0).normal(0, 25 / 255, image.shape).astype(np.float32)
    gained = tlc.psnr(tlc.restore(model, params, noisy), image) - tlc.psnr(noisy, image)
    assert gained > 3
    assert not (tmp_path / "run" / "pictures").exists()


@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss):
    random = np.random.default_rng(0)
    image, target = random.random((2, 3, 5, 4, 3), np.float32)
    error = np.float64(image) - target
    exact = {
        "psnr": np.mean(10 * np.log10((error**2).mean((1, 2, 3)))),
        "l1": np.abs(error).mean(),
        "mse": (error**2).mean(),
        "charbonnier": np.sqrt(error**2 + 1e-6).mean(),
    }
    assert float(LOSSES[loss](image, target)) == pytest.approx(exact[loss], rel=1e-5)
    assert np.isfinite(jax.grad(LOSSES[loss])(target, target)).all()


def test_learning_rate(photographs):
    config = configuration(
        photographs, phases=(Phase(100, 16, 8), Phase(100, 16, 8)), warmup=10, constant=50,
        learning_rate=1e-3, final_learning_rate=1e-5,
    )  # fmt: skip
    rate = learning_rate(config)
    expected = {0: 0, 5: 5e-4, 10: 1e-3, 60: 1e-3, 130: (1e-3 + 1e-5) / 2, 200: 1e-5}
    for number, value in expected.items():
        assert float(rate(number)) == pytest.approx(value, rel=1e-3, abs=1e-9)


def test_pairs_and_several_sizes_of_crops(tmp_path, photographs):
    """What is learnt from pairs of equal pictures is to leave them alone."""
    config = configuration(
        photographs, input=str(photographs), degradation=None,
        phases=(Phase(3, 16, 4), Phase(3, 32, 2)), validation_target=str(tmp_path / "black"),
        validation_input=str(tmp_path / "black"),
    )  # fmt: skip
    (tmp_path / "black").mkdir()
    tlc.write_image(tmp_path / "black" / "0.png", np.zeros((24, 40, 3), np.uint8))
    reports = []
    train(config, tmp_path / "run", reports.append)
    assert reports[-1]["input"] == math.inf  # dB, of equal pictures
    assert lines(tmp_path / "run")[-1]["input"] is None
    assert strict_json((tmp_path / "run/model/model.json").read_text())["input"] is None

    model = TINY.clone(train_size=(32, 32))
    fine = dataclasses.replace(config, model=model, init_from=str(tmp_path / "run" / "model"))
    described = tmp_path / "run/model/model.json"
    licensed = json.loads(described.read_text()) | {"weights_licence": "for friends"}
    described.write_text(json.dumps(licensed))
    train(fine, tmp_path / "fine", reports.append)
    made = checkpoints.describe(tmp_path / "fine/model")
    assert made["weights_licence"] == "for friends"
    assert made["source"] == "trained with tlc-jax from: trained with tlc-jax"
    assert max(losses(tmp_path / "fine").values()) < losses(tmp_path / "run")[4]
    wider = configuration(photographs, model=TINY.clone(width=16), init_from=fine.init_from)
    with pytest.raises(TrainingError, match="holds another network"):
        train(wider, tmp_path / "wider")


def test_further_blocks_begin_anew(photographs, tmp_path):
    """Those of NAFNet change nothing before they are trained."""
    picture = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    params = init(configuration(photographs, seed=1)).params
    tlc.save(tmp_path / "small", TINY, params)
    larger = TINY.clone(middle_blk_num=3, enc_blk_nums=(2,))
    begun = init(configuration(photographs, model=larger, init_from=str(tmp_path / "small")))
    np.testing.assert_allclose(
        larger.apply({"params": begun.params}, picture),
        TINY.apply({"params": params}, picture),
        atol=1e-6,
    )
    tlc.save(tmp_path / "large", larger, begun.params)
    with pytest.raises(TrainingError, match="holds another network"):
        init(configuration(photographs, init_from=str(tmp_path / "large")))


def test_margins_are_cut_off(photographs):
    """What a blur makes of the edges of a crop is not what it makes of the middle of a picture."""
    config = configuration(photographs, degradation=MotionBlur((1, 5)), margin=5)
    target = np.random.default_rng(0).integers(0, 256, (4, 26, 26, 3), np.uint8)
    batch = {"target": jax.numpy.asarray(target), "seed": jax.numpy.arange(4, dtype="uint32")}
    image, targets = samples(config, batch)
    assert image.shape == targets.shape == (4, 16, 16, 3)
    np.testing.assert_allclose(targets, target[:, 5:-5, 5:-5] / np.float32(255), atol=1e-7)
    elsewhere = batch | {"target": batch["target"].at[:, 0].set(0)}
    np.testing.assert_allclose(samples(config, elsewhere)[0], image, atol=1e-4)
    uncut = dataclasses.replace(config, margin=0)
    edge = samples(uncut, elsewhere)[0] - samples(uncut, batch)[0]
    assert np.abs(edge[:, 1:4]).max() > 0.1


def test_a_scene_changes_the_ground_truth_too(photographs):
    dark = configuration(photographs, scene=LessLight((2, 2)), degradation=EightBits())
    target = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    batch = {"target": jax.numpy.asarray(target), "seed": jax.numpy.arange(4, dtype="uint32")}
    image, ground_truth = samples(dark, batch)
    light = to_linear(jax.numpy.asarray(target / np.float32(255)))
    np.testing.assert_allclose(to_linear(ground_truth), light / 4, atol=1e-6)
    assert 0 < np.abs(image - ground_truth).max() <= 0.5 / 255 + 1e-6
    with pytest.raises(TrainingError, match="changes clean photographs"):
        configuration(photographs, scene=LessLight((2, 2)), degradation=None, input="pairs")


def test_mixup(photographs):
    """Half of the samples are mixed with their neighbours, inputs and targets alike."""
    config = configuration(photographs, degradation=None, input="pairs", mixup=1.2)
    levels = np.uint8(np.arange(200).reshape(-1, 1, 1, 1) * np.ones((1, 2, 2, 3)))
    batch = {"target": levels, "input": levels, "seed": np.arange(200, dtype=np.uint32)}
    image, target = samples(config, jax.tree.map(jax.numpy.asarray, batch))
    assert np.array_equal(image, target)
    mixed = np.abs(np.asarray(target[1:, 0, 0, 0]) * 255 - levels[1:, 0, 0, 0]) > 1e-3
    assert 0.35 < mixed.mean() < 0.65


def test_bfloat16_computes_in_it_and_keeps_float32(photographs, tmp_path):
    config = configuration(photographs, model=TINY.clone(dtype=jax.numpy.bfloat16))
    made = train(config, tmp_path / "run")
    _, params = tlc.load(made)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    exact = train(configuration(photographs), tmp_path / "exact").parent
    ours, theirs = losses(tmp_path / "run")[12], losses(exact)[12]
    assert ours != theirs and ours == pytest.approx(theirs, abs=0.1)


def test_moving_average(photographs):
    """It follows faster in the first steps, when there is little to remember."""
    config = configuration(photographs, average=0.2)
    target = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    batch = {"target": jax.numpy.asarray(target), "seed": jax.numpy.arange(4, dtype="uint32")}
    state = init(config)
    expected = np.array(state.average["intro"]["kernel"])
    for decay in (1 / 10, 2 / 11, 0.2, 0.2):
        state, _ = step(config, state, batch)
        expected = decay * expected + (1 - decay) * np.array(state.params["intro"]["kernel"])
        np.testing.assert_allclose(state.average["intro"]["kernel"], expected, atol=1e-6)


def test_two_in_one_folder(tmp_path):
    """The second is refused, and leaves what is the first one's."""
    fcntl = pytest.importorskip("fcntl")
    run = tmp_path / "run"
    with folder.alone(run):
        second = folder.alone(run)
        with pytest.raises(TrainingError, match=r"run: another process trains there; wait"):
            second.__enter__()
        assert (run / folder.LOCK).exists()
        with (run / folder.LOCK).open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert list(run.iterdir()) == []


def test_a_refused_run_leaves_nothing(tmp_path):
    """Neither its folder nor those that were made for it, but what was there."""
    run = tmp_path / "a/run"
    with pytest.raises(TrainingError), folder.alone(run):
        (run / "pictures").mkdir()
        raise TrainingError("no such pictures.")
    assert list(tmp_path.iterdir()) == []
    run.mkdir(parents=True)
    with pytest.raises(TrainingError), folder.alone(run):
        raise TrainingError("no such pictures.")
    assert list(run.iterdir()) == []


# Of another process each: what ends or divides one cannot be tried inside of this one.


def command(folder: Path, photographs: Path) -> list[str]:
    """Begins or resumes a run of `CONFIG` in a folder."""
    (folder / "config.py").write_text(CONFIG)
    program = "from tlc_jax.__main__ import main; main()"
    options = folder / "config.py", "-o", folder / "run", "--target", photographs
    return [sys.executable, "-c", program, "train", *map(str, options)]


@pytest.fixture
def arguments(tmp_path, photographs):
    return command(tmp_path, photographs)


def environment(flags: str = "") -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flags}"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, photographs):
    """A run of `CONFIG` that nothing disturbed: its folder."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(command(folder, photographs), env=environment(), check=True)
    return folder / "run"


def assert_same_parameters(one: Path, other: Path) -> None:
    (_, ours), (_, theirs) = tlc.load(one / "model"), tlc.load(other / "model")
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.array_equal(a, b)


def wait_for(steps: int | None, process: subprocess.Popen, folder: Path) -> None:
    """Until a run has reported so many steps, or, for none, has begun to decode its pictures."""
    path = folder / "run" / ("pictures" if steps is None else "metrics.jsonl")
    while process.poll() is None and not (
        path.exists() and (steps is None or len(path.read_text().splitlines()) >= steps)
    ):
        time.sleep(0.02)


def kill_after(steps: int | None, arguments: list[str], folder: Path) -> None:
    """Start a run in `folder` and end it at no moment in particular after so many steps."""
    process = subprocess.Popen(arguments, env=environment())
    wait_for(steps, process, folder)
    time.sleep(np.random.default_rng(steps or 0).uniform(0, 0.2))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not ended before


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, arguments, whole):
    """To the last bit, wherever it is killed: starting, training or saving."""
    for steps in (None, 0, 3, 15):
        kill_after(steps, arguments, tmp_path)
    subprocess.run(arguments, env=environment(), check=True)
    assert_same_parameters(tmp_path / "run", whole)
    assert losses(tmp_path / "run") == losses(whole)  # each step once


def children(process: int) -> set[str]:
    found = set()
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # some threads may just have ended
            found.update(task.read_text().split())
    return found


def is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux for the processes")
@pytest.mark.parametrize(("end", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_run_that_ends_leaves_no_process_behind(tmp_path, arguments, end, code):
    long = [*arguments, "--set", "workers=1", "--set", "phases=[[100000,16,8]]"]
    process = subprocess.Popen(long, env=environment())
    wait_for(2, process, tmp_path)
    workers = children(process.pid)
    process.send_signal(end)
    assert process.wait() == code
    assert workers
    until = time.monotonic() + 30
    while any(map(is_running, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(is_running, workers))


def test_a_request_to_end_is_kept_where_an_exception_is_lost(tmp_path, arguments):
    """As in a callback of the garbage collector, of which JAX has one."""
    in_a_callback = """
import gc, os, signal, threading

def end(phase, info):
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL and not ended.is_set():
        if threading.current_thread() is threading.main_thread():
            ended.set()
            os.kill(os.getpid(), signal.SIGTERM)

ended = threading.Event()
gc.callbacks.append(end)
"""
    (tmp_path / "config.py").write_text(CONFIG + in_a_callback)
    ended = subprocess.run(arguments, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 128 + signal.SIGTERM
    (sentence,) = ended.stderr.splitlines()
    assert "interrupted" in sentence


# The first 24 steps of `whole`, with crops of one size: each size is compiled in each process.
FIRST_PHASE = ("--set", "phases=[[24,16,8]]")


def assert_same_losses(run: Path, whole: Path) -> None:
    ours, theirs = losses(run), losses(whole)
    assert ours.keys() == set(range(1, 25))
    np.testing.assert_allclose([*ours.values()], [theirs[step] for step in ours], rtol=1e-5)


def test_devices_share_a_batch(tmp_path, arguments, whole):
    flags = "--xla_force_host_platform_device_count=2"  # more wait for each other, on two cores
    subprocess.run([*arguments, *FIRST_PHASE], env=environment(flags), check=True)
    assert_same_losses(tmp_path / "run", whole)


def start_two(arguments: list[str]) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = "--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process"
    together = *arguments, *FIRST_PHASE, *hosts
    return [subprocess.Popen([*together, i], env=environment()) for i in "01"]


def test_processes_share_a_batch(tmp_path, arguments, whole):
    together = start_two(arguments)
    wait_for(3, together[0], tmp_path)
    for process in together:
        process.terminate()
    assert [process.wait() for process in together] == [-signal.SIGTERM] * 2
    assert [process.wait() for process in start_two(arguments)] == [0, 0]
    assert_same_losses(tmp_path / "run", whole)


def test_a_full_disk_loses_nothing(tmp_path, arguments, whole):
    """A disk is full, too, for files that may not grow."""
    kill_after(9, arguments, tmp_path)
    stopped = subprocess.run(
        ["bash", "-c", 'ulimit -f 25; exec "$@"', "bash", *arguments],  # KiB
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert stopped.returncode == 2 and "Traceback" not in stopped.stderr, stopped.stderr
    assert re.search(
        r"checkpoints: cannot be written \(.*File too large\); free some space", stopped.stderr
    )
    subprocess.run(arguments, env=environment(), check=True)
    assert_same_parameters(tmp_path / "run", whole)


def test_a_full_disk_for_the_journal(tmp_path, photographs):
    """From the first report on; the folder can be used again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(report: dict) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))

    config = configuration(photographs)
    try:
        with pytest.raises(TrainingError, match=r"metrics\.jsonl: cannot be written \(File too la"):
            train(config, tmp_path / "run", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    train(config, tmp_path / "run")
    assert losses(tmp_path / "run").keys() == {4, 8, 12}


# What is wrong is said in one sentence.


@pytest.mark.parametrize(
    ("warmup", "sentence", "kept"),
    [(0, "after step 1, there is no checkpoint", []),
     (12, "after step 2, the last checkpoint is of 1", ["1"])],
)  # fmt: skip
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, photographs, warmup, sentence, kept):
    config = configuration(
        photographs, learning_rate=1e30, warmup=warmup, clip=None, report_every=1, save_every=1
    )
    for _ in range(2):  # from what was kept, too
        with pytest.raises(TrainingError, match=f"no numbers {sentence}"):
            train(config, tmp_path / "run")
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == kept


def test_validation_for_which_memory_does_not_suffice(tmp_path, photographs, monkeypatch):
    def restore(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")

    config = configuration(photographs, validation_target=str(photographs), save_every=100)
    with monkeypatch.context() as small:
        small.setattr("tlc_jax.training.run.restore", restore)
        for step in (6, 12):
            with pytest.raises(TrainingError, match=f"memory .* after step {step}, which is saved"):
                train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    reports = []
    made = train(config, tmp_path / "run", reports.append)
    assert [report.keys() for report in reports] == [{"step", "input", "global", "local"}]
    assert checkpoints.describe(made)["steps"] == 12


def test_damaged_folders(tmp_path, photographs, random_params, capfd):
    """What can be resumed is; no more is needed for that than is in the folder."""
    checkpoints.save(tmp_path / "begun", TINY, random_params(TINY))
    config = configuration(photographs, init_from=str(tmp_path / "begun"))
    run = tmp_path / "run"
    train(config, run)
    shutil.copytree(run, tmp_path / "whole")
    (run / "model").rename(run / ".model-old")  # as if it had been killed just then
    assert train(config, run).exists()

    shutil.rmtree(run / "model")
    shutil.rmtree(tmp_path / "begun")
    for file in (run / "checkpoints" / "12").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(TrainingError, match=r"checkpoints/12: damaged or incomplete; remove it"):
        train(config, run)
    assert "Traceback" not in capfd.readouterr().err  # of the threads that read
    shutil.rmtree(run / "checkpoints" / "12")
    train(config, run)
    assert_same_parameters(run, tmp_path / "whole")

    described = (run / "config.json").read_text()
    for damaged in (described[:100], "[]", "{}"):
        (run / "config.json").write_text(damaged)
        with pytest.raises(TrainingError, match=r"config\.json: damaged; remove it"):
            train(config, run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": ()}, r"phases: is \(\), but has to have at least 1 item"),
        ({"phases": Phase(4, 16, 8)}, r"phases\.0: is 4, but has to be .* an instance of Phase"),
        ({"phases": (Phase(4, 16, 0),)}, r"phases\.0\.batch: is 0, .* greater than or equal to 1"),
        ({"betas": [0.9, 0.9]}, r"betas: is \[0\.9, 0\.9\], but has to be a valid tuple"),
        ({"degradation": InTurn([EightBits()])}, "holds a list"),
        ({"validation_input": "somewhere"}, "validation_input: pairs with validation_target"),
        ({"validate_every": 0}, "validate_every: is 0, but has to be greater than or equal to 1"),
        ({"model": tlc.NAFSSR()}, "no network of single pictures"),
        ({"loss": "ssim"}, "is 'ssim', but has to be 'psnr', 'l1', 'mse' or 'charbonnier'"),
        ({"target": ""}, "name the pictures to train on"),
        ({"degradation": None}, "or a degradation"),
        ({"input": "somewhere"}, "not both"),
        ({"phases": (Phase(4, 32, 8),)}, r"train_size is \(16, 16\).*crops are of 32"),
        ({"model": TINY.clone(local_mode=True)}, "local_mode is for inference"),
        ({"input": "pairs", "degradation": None, "margin": 4}, "margin"),
        ({"margin": -4}, "margin: is -4, but has to be greater than or equal to 0"),
        ({"phases": 4}, "phases: is 4, but has to be a valid tuple"),
        ({"phases": (Phase(4, 16, 8.5),)}, r"phases\.0\.batch: is 8\.5, .* a valid integer"),
        ({"phases": ((4, 16),)}, r"phases\.0\.2: is missing in \(4, 16\)"),
        ({"model": "nafnet"}, "model: is 'nafnet', but has to be an instance of Network"),
        ({"model": tlc.NAFNet}, "has to be an instance of Network"),
        (
            {"model": TINY.clone(width=0)},
            "this NAFNet cannot be made .*(division by zero|0 channels)",
        ),
        ({"model": TINY.clone(dec_blk_nums=(1, 1))}, "this NAFNet cannot be made"),
        ({"learning_rate": 0}, "learning_rate: is 0, but has to be greater than 0"),
        ({"learning_rate": "fast"}, "learning_rate: is 'fast', but has to be a valid number"),
        ({"learning_rate": float("nan")}, "is nan, but has to be a finite number"),
        ({"final_learning_rate": -1e-7}, "final_learning_rate: is"),
        ({"workers": -1}, "workers: is -1, but has to be greater than or equal to 0"),
        ({"workers": True}, "workers: is True, but has to be a valid integer"),
        ({"clip": True}, "clip: is True, but has to be a valid number"),
        ({"constant": -1}, "constant: is -1"),
        ({"warmup": 6, "constant": 7}, "longer than the run of 12 steps"),
        ({"average": 1.5}, "average: is 1.5, but has to be less than 1"),
        ({"mixup": 0}, "mixup: is 0"),
        ({"clip": -1}, "clip: is -1"),
        ({"betas": (1, 1)}, r"betas\.0: is 1, but has to be less than 1"),
        (
            {"degradation": GaussianNoise(25)},
            r"fails on a crop of 16 .* GaussianNoise\(\(0, 50\)\)",
        ),
        ({"degradation": Halved()}, r"fails on a crop of 16 .*it makes \(8, 16, 3\) of \(16, 16"),
        ({"degradation": lambda key, image: image}, "a frozen dataclass of your own"),
        ({"degradation": InTurn((EightBits(), np.negative))}, "a frozen dataclass of your own"),
    ],
)
def test_configurations_that_cannot_be_trained(tmp_path, photographs, changes, message):
    with pytest.raises(TrainingError, match=message):
        train(configuration(photographs, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_smaller_than_a_crop(tmp_path, photographs):
    config = configuration(photographs, model=TINY.clone(train_size=(64, 64)),
                           phases=(Phase(4, 64, 8),))  # fmt: skip
    with pytest.raises(
        DataError, match="4 pictures are smaller than the crops of 64x64 pixels, one is 72x60"
    ):
        train(config, tmp_path / "run")
    # The folder is free for what was meant.
    train(configuration(photographs), tmp_path / "run")


def test_a_folder_is_of_one_run(tmp_path, photographs):
    config = configuration(photographs)
    train(config, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"another configuration \(learning_rate, seed\)"):
        train(dataclasses.replace(config, seed=1, learning_rate=1e-4), tmp_path / "run")
    # How often things are noted is not part of it, and a run that is done needs no pictures.
    train(dataclasses.replace(config, report_every=1), tmp_path / "run")


def test_a_run_has_its_folder_for_itself(tmp_path, photographs):
    """What lies in it is replaced and removed."""
    mine = tmp_path / "mine"
    shutil.copytree(photographs, mine / "pictures")
    config = configuration(mine / "pictures")
    with pytest.raises(TrainingError, match=f"^{mine}: holds other things than a run"):
        train(config, mine)
    (mine / "checkpoints/nafnet").mkdir(parents=True)  # nor are these a run's
    with pytest.raises(TrainingError, match=f"^{mine}: holds other things than a run"):
        train(config, mine)
    (mine / "checkpoints/nafnet").rmdir()
    with pytest.raises(TrainingError, match=f"^{mine}/pictures: lies in the run's folder"):
        train(config, mine)
    assert len(list((mine / "pictures").iterdir())) == len(list(photographs.iterdir()))


def test_fields_that_there_are_not(tmp_path, terminal, monkeypatch):
    def said(config: object, *options: object) -> str:
        result = terminal(tmp_path, "train", config, "-o", "run", *options)
        assert result.code == 2 and "Traceback" not in result.err
        return result.err

    path = tmp_path / "config.py"
    path.write_text(CONFIG.replace("save_every", "safe_every"))
    assert "no field safe_every; did you mean save_every?" in said(path)
    path.write_text(CONFIG)
    assert "did you mean learning_rate?" in said(path, "--set", "lerning_rate=1")
    for wrong in ("warmup=long", "warmup=2.5", "flips=False", "betas=[0.9]", "phases=[[1,2]]"):
        assert re.search(rf"{wrong.partition('=')[0]}\b.*: is ", said(path, "--set", wrong))
    assert "target: name the pictures" in said(path, "--set", "mixup=null", "--set", "clip=1")
    assert "give all three or none" in said(path, "--processes", "2")
    together = "--processes", "2", "--process"
    assert "write HOST:PORT" in said(path, "--coordinator", "foo", *together, "0")
    assert "count from 0" in said(path, "--coordinator", "localhost:9", *together, "5")
    monkeypatch.setattr(training, "PATIENCE", 0)
    refused = said(path, "--coordinator", "localhost:9", *together, "1")
    assert "--coordinator localhost:9: connection refused; give all processes" in refused
    with socket.create_server(("", 0)) as taken:
        coordinator = f"localhost:{taken.getsockname()[1]}"
        assert "already in use" in said(path, "--coordinator", coordinator, *together, "0")
    assert "target: name the pictures" in said(path)
    path.write_text("config = 1")
    assert "defines no 'config'" in said(path)
    path.write_text("import nothing_like_it")
    assert "nothing_like_it" in said(path)
    assert "nafnet_gopro, nafnet_sidd, restormer" in said("nafnet")


# As the papers, and the configurations published with their code, have it.
NAFNETS = {
    "phases": (Phase(200_000, 256, 32),), "loss": "psnr", "learning_rate": 1e-3, "constant": 0,
    "final_learning_rate": 1e-7, "betas": (0.9, 0.9), "mixup": None,
}  # fmt: skip
PUBLISHED = {
    "nafnet_gopro": (17_111_907, NAFNETS | {"weight_decay": 1e-3, "flips": True}),
    "nafnet_sidd": (29_159_715, NAFNETS | {"weight_decay": 0, "flips": False}),
    "restormer": (
        26_126_644,
        {
            "phases": (
                Phase(92_000, 128, 8 * 8), Phase(64_000, 160, 8 * 5), Phase(48_000, 192, 8 * 4),
                Phase(36_000, 256, 8 * 2), Phase(36_000, 320, 8 * 1), Phase(24_000, 384, 8 * 1),
            ),
            "loss": "l1", "learning_rate": 3e-4, "final_learning_rate": 1e-6, "constant": 92_000,
            "betas": (0.9, 0.999), "weight_decay": 1e-4, "flips": True, "mixup": None,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_configurations(name):
    parameters, fields = PUBLISHED[name]
    config = open_config(name)
    assert {field: getattr(config, field) for field in fields} == fields
    assert (config.clip, config.warmup, config.average) == (0.01, 0, 0)
    assert config.model.train_size == (256, 256) and config.model.inp_channels == 3
    check(dataclasses.replace(config, target="target", input="input"))
    assert checkpoints.count_params(abstract_params(config.model)) == parameters
