"""Folders: files are read and written beside the computing, on one device and on several."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

import tlc_jax as tlc
from tests.test_buckets import NETWORKS
from tlc_jax.files import atomic, writing
from tlc_jax.files.pictures import ImageError, read_picture
from tlc_jax.files.video import read_video
from tlc_jax.inference import memory
from tlc_jax.inference.batches import Batches
from tlc_jax.inference.pipeline import ahead, behind, pipeline
from tlc_jax.jobs import pictures

WAIT = 0.1  # seconds
NET = tlc.NAFNet(width=4, enc_blk_nums=(), middle_blk_num=1, dec_blk_nums=(), train_size=(16, 16))
U1 = np.dtype(np.uint8)
# Those of pictures, pairs and arrays; windows are 24 pixels.
OTHERS = {
    "mprnet": tlc.MPRNet(8, 4, 4, num_cab=1, reduction=2, train_size=(16, 16)),
    "nafssr": tlc.NAFSSR(2, 4, 1, train_size=(16, 16)),
    "maxim": tlc.Maxim(
        features=4, depth=2, num_stages=1, num_groups=1, num_bottleneck_blocks=1,
        block_size_hr=(2, 2), block_size_lr=(2, 2), train_size=(16, 16),
    ),
}  # fmt: skip


class Waiting(tlc.Network):
    """Gives back what it takes, after a while."""

    buckets: ClassVar[bool] = True

    @nn.compact
    def forward(self, image):
        def wait(first):
            time.sleep(WAIT)
            return first

        first = image[:, 0, 0, 0]
        waited = jax.pure_callback(wait, jax.ShapeDtypeStruct(first.shape, first.dtype), first)
        return image + 0 * waited[:, None, None, None]


def noise(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def world(tmp_path, random_params):
    """Pictures of several sizes, depths and formats, damaged ones among them, and a checkpoint."""
    tlc.save(tmp_path / "net", NET, random_params(NET))
    folder = tmp_path / "in"
    folder.mkdir()
    sizes = [(40, 56), (38, 56), (40, 56), (56, 40), (40, 56), (39, 56), (40, 56)]
    for i, size in enumerate(sizes):
        tlc.write_image(folder / f"{i}.png", noise(*size, 3, seed=i))
    (folder / "2b.png").write_bytes((folder / "2.png").read_bytes()[:2000])
    (folder / "3b.jpg").write_text("no picture")
    tlc.write_image(folder / "5b.png", noise(40, 56, 3, seed=9, dtype=np.uint16))
    tlc.write_image(folder / "7.png", noise(40, 56, 1, seed=8))
    tlc.write_image(folder / "8.jpg", noise(40, 56, 3, seed=8))
    return tmp_path


# One stage beside the other


def test_reading_and_writing_take_no_time_of_their_own(tmp_path, monkeypatch):
    """Where each takes as long as the computing, all three take as long as one."""

    def slow(function):
        def run(*arguments, **options):
            time.sleep(WAIT)
            return function(*arguments, **options)

        return run

    monkeypatch.setattr(pictures, "read_picture", slow(pictures.read_picture))
    monkeypatch.setattr(pictures, "write_restored", slow(pictures.write_restored))
    (tmp_path / "in").mkdir()
    for i in range(12):
        tlc.write_image(tmp_path / f"in/{i}.png", noise(16, 24, 3, seed=i))
    summary = tlc.restore_files(Waiting(), {}, tmp_path / "in", tmp_path / "out")
    assert len(summary.outcomes) == 12 and summary.bottleneck in ("computing", "reading", "writing")
    assert summary.steps["computing"] > 12 * WAIT
    assert summary.seconds - summary.steps["compiling"] < 0.6 * 3 * 12 * WAIT
    for i in range(12):
        written = read_picture(tmp_path / f"out/{i}.png").pixels
        assert np.array_equal(written, noise(16, 24, 3, seed=i))


def test_few_are_on_their_way_at_a_time(monkeypatch):
    """So many as fit in a part of the memory, a heavy one by itself; in their order."""
    monkeypatch.setattr(memory, "free", lambda: 400)  # of which 100 are for them
    here, most, lock = set(), [], threading.Lock()
    weights = [30, 30, 30, 30, 500, 30, 30, 200, 90, 90, *[1] * 100]

    def read(item):
        with lock:
            here.add(item)
            most.append((sum(weights[i] for i in here), len(here)))
        if item == 3:
            raise ImageError("3")
        return item

    def begin(group):
        return lambda: [item**2 for item in group]

    def write(item, made):
        if item == 6:
            raise ImageError("6")
        return made

    came = {}
    for item, future in pipeline(
        range(len(weights)), read, begin, write, weigh=weights.__getitem__
    ):
        came[item] = future.exception() or future.result()
        here.remove(item)
    assert list(came) == list(range(len(weights)))
    assert {str(x) for i, x in came.items() if x != i**2} == {"3", "6"}
    assert all(weight <= 100 or count == 1 for weight, count in most)
    assert max(count for _, count in most) < 50


def test_those_of_one_key_go_together():
    groups = []

    def begin(group):
        groups.append(group)
        return lambda: group

    done = pipeline(
        "abacabadaba", str.upper, begin, lambda read, made: made,
        key=lambda read: None if read == "D" else read, at_once=lambda read: 3,
    )  # fmt: skip
    assert "".join(future.result() for _, future in done) == "ABACABADABA"
    assert groups == [["A"] * 3, ["B"] * 3, ["C"], ["A"] * 3, ["D"]]


def test_what_fails_in_a_batch_fails_for_each():
    def begin(group):
        def wait():
            raise ImageError("all")

        return wait

    done = list(pipeline("ab", str, begin, str, key=lambda read: 0, at_once=lambda read: 2))
    assert [str(future.exception()) for _, future in done] == ["all", "all"]


def test_ahead():
    made = []

    def source():
        for i in range(6):
            made.append(i)
            yield i
        raise ImageError("end")

    coming = ahead(source(), 2)
    assert next(coming) == 0
    time.sleep(0.1)
    assert made == [0, 1, 2]
    with pytest.raises(ImageError, match="end"):
        list(coming)


def test_behind():
    done = behind(lambda i: 1 // i, [1, 2, 0, 4], 1)
    assert [next(done), next(done)] == [1, 0]
    with pytest.raises(ZeroDivisionError):
        next(done)


@pytest.mark.parametrize("devices", [1, 8])
def test_frames_of_a_video_on_devices(tmp_path, random_params, devices):
    """Each frame is there, in its order, as it is by itself."""
    from tests.test_video import clip, moving  # which skips where PyAV is missing

    params = jax.tree.map(lambda x: 0.3 * x, random_params(NET))
    clip(tmp_path / "clip.mp4", moving(11))
    tlc.restore_files(NET, params, tmp_path / "clip.mp4", tmp_path / "out.mkv", devices=devices)
    frames = zip(read_video(tmp_path / "clip.mp4"), read_video(tmp_path / "out.mkv"), strict=True)
    count = 0
    for (at, blurred), (other, written) in frames:
        count += 1
        exact = tlc.restore(NET, params, blurred)
        assert at == other and np.abs(written.astype(float) - exact).mean() < 6
    assert count == 11


# Files


def test_a_folder_by_one_call(world, random_params):
    """Others go on where a file fails; what is there is kept, and what was cut is not."""
    told = []
    model, params = NET.clone(local_mode=True), random_params(NET)
    arguments = model, params, world / "in", world / "out"
    summary = tlc.restore_files(*arguments, tell=lambda *came: told.append(came))
    assert [Path(name).name for name in summary.failures] == ["2b.png", "3b.jpg"]
    assert all(isinstance(error, ImageError) for error in summary.failures.values())
    order = ["0", "1", "2", "2b", "3", "3b", "4", "5", "5b", "6", "7", "8"]
    assert [Path(name).stem for name, _ in told] == order
    assert str(summary).startswith("10 of 12 restored in ")
    assert str(summary).endswith(f"; failed: {world / 'in/2b.png'}, {world / 'in/3b.jpg'}")
    for name in ("0.png", "3.png", "5b.png", "7.png"):
        picture = read_picture(world / "in" / name, channels=3)
        exact = tlc.restore(model, params, picture.pixels)
        written = read_picture(world / "out" / name, channels=3).pixels
        assert written.dtype == exact.dtype
        if name != "7.png":  # whose colours become gray
            assert np.abs(written.astype(int) - exact).max() <= 1
    (world / "out/4.png").unlink()
    again = tlc.restore_files(*arguments)
    assert [Path(name).name for name in again.outcomes] == ["4.png"] and len(again.failures) == 2


def test_the_mean_of_what_has_ground_truth(world, random_params):
    (world / "truth").mkdir()
    for name in ("0.png", "1.png"):
        shutil.copy(world / "in" / name, world / "truth" / name)
    sources = [world / "in/0.png", world / "in/1.png"]
    summary = tlc.restore_files(
        NET, random_params(NET), sources, world / "out", reference=world / "truth"
    )
    scores = [
        float(tlc.psnr(tlc.restore(NET, random_params(NET), image), image))
        for image in map(tlc.read_image, sources)
    ]
    assert summary.psnr[1] == pytest.approx(np.mean(scores), abs=1e-3) and not summary.failures
    assert f"mean PSNR inf -> {np.mean(scores):.3f} dB" in str(summary)


def test_a_disk_that_fills_midway(world, monkeypatch, terminal):
    def full(path, data):
        if path.name == "5b.net.png":
            raise OSError(28, "No space left on device")
        atomic.write_atomically(path, data)

    monkeypatch.setattr(writing, "write_atomically", full)
    code, out, err = terminal(world, "restore", "in", "-o", "out", "--checkpoint", "net")
    assert code == 2 and "cannot write out/5b.net.png: no space left on device" in err
    assert out.splitlines()[-1].endswith("failed: in/2b.png, in/3b.jpg, in/5b.png")
    assert len(names(world / "out")) == 9


@pytest.mark.parametrize("name", ["8.jpg", "0.png"])
def test_png_level(world, terminal, name):
    sizes = []
    for level in (0, 9):
        options = "--checkpoint", "net", "--png-level", level, "--overwrite"
        assert terminal(world, "restore", f"in/{name}", "-o", "out.png", *options).code == 0
        sizes.append((world / "out.png").stat().st_size)
    assert sizes[0] > sizes[1]


def test_a_signal_amid_a_folder(world):
    """What is told of is whole, nothing else is there, and the same command does the rest."""
    command = Path(sys.executable).with_name("tlc-jax")
    for i in range(40):
        tlc.write_image(world / f"in/more{i}.png", noise(160, 240, 3, seed=i))
    (world / "in/2b.png").unlink()
    (world / "in/3b.jpg").unlink()
    run = [command, "restore", "in", "-o", "out", "--checkpoint", "net"]
    process = subprocess.Popen(run, cwd=world, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if b"more0.png -> " in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.count(b"\n") == 1 and b"interrupted" in err
    assert not list(world.glob("out/.*")) and len(names(world / "out")) < 50
    for path in (world / "out").iterdir():
        read_picture(path)
    again = subprocess.run(run, cwd=world, capture_output=True, text=True)
    assert again.returncode == 0 and "are there already" in again.stdout
    assert len(names(world / "out")) == len(names(world / "in")) == 50


# Several devices


@pytest.mark.parametrize("options", [(), ("--waste", "0.5"), ("--waste", "0", "--mode", "global")])
def test_devices_change_no_picture(world, terminal, options):
    """But for one level in a thousand samples, and nothing of what is said but times."""
    said = []
    for devices in (1, "all"):
        arguments = "restore", "in", "-o", f"out{devices}", "--checkpoint", "net", *options
        code, out, err = terminal(world, *arguments, "--devices", devices)
        assert code == 2 and len(err.splitlines()) == 2
        lines = [line for line in out.splitlines() if " -> " in line]
        said.append(([re.sub(r" -> .+|, compiled.*", "", line) for line in lines], err))
    assert said[0] == said[1] and len(said[0][0]) == 10
    assert names(world / "out1") == names(world / "outall")
    differ = total = 0
    for name in names(world / "out1"):
        one, all_ = (read_picture(world / f"out{devices}" / name).pixels for devices in (1, "all"))
        most = 4 if name.endswith("jpg") else 1  # to which a JPEG may turn one level before it
        assert one.dtype == all_.dtype and np.abs(one.astype(int) - all_).max() <= most, name
        if one.dtype == U1 and name.endswith("png"):  # the levels of 16 bits are 257 times finer
            differ, total = differ + (one != all_).sum(), total + one.size
    assert differ <= total / 1000


@pytest.mark.parametrize("option", ["--compare", "--strength=0.5", "--mode=auto", "--shifts=2"])
def test_what_no_batch_does(world, terminal, option):
    """Is done one by one, with the same result."""
    for devices in (1, 8):
        arguments = "restore", "in/0.png", "in/2.png", "-o", f"out{devices}", "--checkpoint", "net"
        assert terminal(world, *arguments, option, "--devices", devices).code == 0
    assert names(world / "out1") == names(world / "out8")
    for name in names(world / "out1"):
        assert (world / "out1" / name).read_bytes() == (world / "out8" / name).read_bytes()


@pytest.mark.parametrize("devices", [0, 9, "some"])
def test_devices_that_there_are_not(world, terminal, devices, random_params):
    code, _, err = terminal(world, "restore", "in", "--checkpoint", "net", "--devices", devices)
    assert code == 2 and len(err.splitlines()) == 1
    assert f"--devices {devices}: this machine has 8; say 1 to 8, or all." in err
    with pytest.raises(ValueError, match=f"devices {devices}: this machine has 8"):
        tlc.restore_files(NET, {}, world / "in", world / "out", devices=devices)


def test_one_program_for_a_size(random_params):
    """However many pictures there are, and devices."""
    jax.clear_caches()
    params = random_params(NET)

    class Counted(tlc.NAFNet):
        @chex.assert_max_traces(n=2)  # of the whole, for its windows, and of the program
        @nn.nowrap
        def pad(self, image):
            return super().pad(image)

    model = Counted(*(getattr(NET, name) for name in ("width", "enc_blk_nums")), 1, ())
    batches = Batches(model, params, 8)
    images = [noise(40, 56, 3, seed=i) for i in range(19)]
    made = list(batches.each(images))
    assert len(made) == 19 and all(x.dtype == np.uint8 for x in made)
    for image, restored in zip(images, made, strict=True):
        exact = tlc.restore(NET, params, image)
        assert np.abs(restored.astype(int) - exact).max() <= 1


@pytest.mark.parametrize(("count", "at_once"), [(1, 1), (2, 2), (3, 4), (9, 6), (100, 8)])
def test_as_many_on_a_device_as_pay(random_params, monkeypatch, count, at_once):
    """On two that are no CPUs, where four pictures are enough for each; the last are not few."""
    monkeypatch.setattr("tlc_jax.inference.batches.ENOUGH", 4 * 16 * 24)
    batches = Batches(NET, random_params(NET), 2)
    batches.on_cpu = False
    assert batches.program((16, 24), U1, U1, count).count == at_once


def test_as_many_as_fit(random_params, monkeypatch):
    """In the memory of a device; where none does, tiles are for those that come alone."""
    batches = Batches(NET, random_params(NET), 1)
    batches.on_cpu = False
    needed = batches.program((16, 24), U1, U1, 4).memory
    for share, count in ((1.0, 4), (0.99, 2), (0.01, None)):
        batches = Batches(NET, random_params(NET), 1)
        batches.on_cpu = False
        monkeypatch.setattr("tlc_jax.inference.batches.room_for", lambda *_, s=share: s * needed)
        program = batches.program((16, 24), U1, U1, 4)
        assert (program and program.count) == count


@pytest.mark.parametrize("mode", ["global", "local"])
@pytest.mark.parametrize("name", [*NETWORKS, *OTHERS])
def test_devices_exchange_nothing(name, mode, random_params):
    """No network's program waits for another device; and the last ones have nothing to do."""
    network = (NETWORKS | OTHERS)[name]
    model, params = network.clone(local_mode=mode == "local"), random_params(network)
    batches = Batches(model, params, 3)
    program = batches.program((32, 40), U1, U1, 6)
    assert program.count == 3 and program.mesh.size == 3
    collective = r"all-\w+|collective-\w+|reduce-scatter|ragged-\w+"
    assert not re.findall(collective, program.run.as_text())
    images = [noise(32, 40, model.inp_channels, seed=i) for i in range(2)]
    for image, made in zip(images, batches.begin(program, images)(), strict=True):
        exact = tlc.restore(model, params, image)
        assert made.pixels.shape == exact.shape and made.pixels.dtype == exact.dtype
        differ = np.abs(made.pixels.astype(int) - exact)
        assert differ.max() <= 1 and (differ > 0).mean() <= 0.001


@pytest.mark.parametrize("name", ["nafnet", "restormer"])
def test_buckets_shared_out(name, random_params):
    """Pictures of several sizes at once are those by themselves."""
    model, params = NETWORKS[name].clone(local_mode=True), random_params(NETWORKS[name])
    batches, bucket = Batches(model, params, 2), (40, 56)
    program = batches.program(bucket, U1, U1, 2, within=True)
    images = [noise(37, 56, 3, seed=1), noise(40, 49, 3, seed=2)]
    for image, made in zip(images, batches.begin(program, images, bucket)(), strict=True):
        exact = tlc.restore(model, params, image)
        differ = np.abs(made.pixels.astype(int) - exact)
        assert made.pixels.shape == image.shape and differ.max() <= 1
        assert (differ > 0).mean() <= 0.001


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_numbers_on_the_device_are_those_in_files(dtype):
    """Each comes back as it went."""

    class Same(tlc.Network):
        @nn.compact
        def forward(self, image):
            return image

    every = np.arange(2**16, dtype=dtype).reshape(256, 256, 1).repeat(3, -1)
    (made,) = Batches(Same(), {}, 1).each([every])
    assert np.array_equal(made, every)
