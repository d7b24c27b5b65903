"""Pictures that do not fit in memory: how much there is, and tiles in place of the whole."""

import re
import resource

import jax
import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax import jobs
from tlc_jax.files.pictures import read_picture
from tlc_jax.inference import fitting, memory
from tlc_jax.inference.timed import restore_timed
from tlc_jax.layers.network import abstract_params

NET = tlc.NAFNet(4, (1,), 1, (1,), train_size=(32, 32), local_mode=True)


@pytest.fixture(scope="module")
def params(random_params):
    return jax.tree.map(lambda x: 0.5 * x, random_params(NET))


def picture(h, w):
    rows, columns = np.mgrid[:h, :w]
    waves = [np.sin(rows / 9 + k) * np.cos(columns / 7 - k) for k in range(3)]
    noise = np.random.default_rng(0).normal(0, 0.1, (h, w, 3))
    return np.float32(np.clip(0.5 + 0.4 * np.stack(waves, -1) + noise, 0, 1))


# How much there is


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """One with 8 GB left, and neither a container nor limits; folders to write other facts to."""
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    (tmp_path / "meminfo").write_text("MemTotal:  9000000 kB\nMemAvailable:    8000000 kB\n")
    (tmp_path / "status").write_text("Name:\tpython\nVmSize:\t  1000000 kB\n")
    return tmp_path


def test_memory_of_the_machine(machine):
    assert memory.available() == 8_000_000 * 1024
    (machine / "meminfo").unlink()
    assert memory.available() is None


def test_memory_of_a_container(machine):
    (machine / "memory.max").write_text("max\n")
    (machine / "memory.current").write_text("3000000000\n")
    (machine / "memory.stat").write_text("anon 5\ninactive_file 1000000000\n")
    assert memory.available() == 8_000_000 * 1024
    (machine / "memory.max").write_text("5000000000\n")
    assert memory.available() == 3_000_000_000


def test_memory_of_a_container_of_the_older_kind(machine):
    (machine / "memory").mkdir()
    (machine / "memory/memory.limit_in_bytes").write_text("4000000000\n")
    (machine / "memory/memory.usage_in_bytes").write_text("1500000000\n")
    (machine / "memory/memory.stat").write_text("total_inactive_file 500000000\n")
    assert memory.available() == 3_000_000_000


def test_memory_of_a_process(machine, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4 * 2**30, 4 * 2**30))
    assert memory.available() == 4 * 2**30 - 1_000_000 * 1024


# Tiles in place of the whole


def test_what_fits_is_restored_at_once(params):
    made = restore_timed(NET, params, picture(96, 128), fit=True)
    assert made.tile is None
    np.testing.assert_array_equal(made.pixels, tlc.restore(NET, params, picture(96, 128)))


def test_what_does_not_fit_is_restored_in_tiles(params, monkeypatch):
    """In few ones of one size, and nobody sees where they meet."""
    image = picture(300, 520)
    whole = restore_timed(NET, params, image)
    monkeypatch.setattr(fitting, "SMALLEST", 64)
    monkeypatch.setattr(fitting, "STEP", 64)
    monkeypatch.setattr(fitting, "COPIES", 0)
    monkeypatch.setattr(memory, "available", lambda: whole.memory)  # XLA takes more than it plans
    told = []
    made = restore_timed(NET, params, image, fit=True, watch=told.append)
    down, across = made.tile
    assert down * across < 0.7 * 300 * 520 and made.memory <= whole.memory * fitting.SHARE
    parts = [words for words in told if words.startswith("restoring, part")]
    assert parts[0].startswith(f"restoring, part 1 of {len(parts)}, ")
    assert len(parts) * down * across < 3 * 300 * 520  # seen more than once, but not often
    assert np.abs(made.pixels - whole.pixels).max() < 1.5 / 255
    for fit, memory_too in ((False, whole.memory), (True, made.memory)):
        assert restore_timed(NET, params, image, fit=fit).memory == memory_too


def test_a_large_picture_leaves_memory_to_others(params, monkeypatch):
    """On a CPU; but not for global statistics, which tiles would change."""
    monkeypatch.setattr(fitting, "LARGE", 100 * 100)
    monkeypatch.setattr(fitting, "ENOUGH", 2_000_000)
    monkeypatch.setattr(fitting, "SMALLEST", 64)
    monkeypatch.setattr(fitting, "STEP", 64)
    assert restore_timed(NET, params, picture(96, 100), fit=True).tile is None
    assert restore_timed(NET, params, picture(140, 200), fit=True).tile is not None
    model = NET.clone(local_mode=False)
    assert restore_timed(model, params, picture(140, 200), fit=True).tile is None


@pytest.mark.parametrize("size", [(200, 4000), (4000, 200), (900, 900), (5000, 5000)])
@pytest.mark.parametrize("pixels", [300**2, 700**2])
def test_tiles_cover_evenly(size, pixels, monkeypatch):
    """As they fit, and of all that do they see least."""
    monkeypatch.setattr(fitting, "planned_memory", lambda model, size: 10 * np.prod(size))
    tile = fitting.tile_for(NET, size, 10 * pixels)
    assert np.prod(tile) <= pixels
    shared = 2 * 24 + 32  # half a window on both sides, and what fades

    def seen(tile):
        counts = [max(1, -(-(n - shared) // (k - shared))) for n, k in zip(size, tile, strict=True)]
        return np.prod(counts) * np.prod(tile)

    for length, side in zip(size, tile, strict=True):
        assert side % fitting.STEP == 0 or side == length < 4 * shared + 2 * fitting.STEP
    square = int(pixels**0.5) // fitting.STEP * fitting.STEP
    assert seen(tile) <= seen([min(square, length) for length in size])


def test_sizes_of_a_folder_share_a_tile(monkeypatch):
    monkeypatch.setattr(fitting, "planned_memory", lambda model, size: 10 * np.prod(size))
    sizes = [(2000 + n, 3000 - n) for n in range(50)]
    assert len({fitting.tile_for(NET, size, 10 * 1000**2) for size in sizes}) <= 3


def test_the_plan_is_that_of_the_program(params, monkeypatch):
    """Tiles are chosen by what they take; the whole of a large picture is not even compiled."""
    monkeypatch.setattr(fitting, "LARGE", 100 * 100)
    monkeypatch.setattr(fitting, "ENOUGH", 6_000_000)
    monkeypatch.setattr(fitting, "SMALLEST", 64)
    monkeypatch.setattr(fitting, "STEP", 64)
    told = []
    made = restore_timed(NET, params, picture(600, 700), fit=True, watch=told.append)
    assert made.memory == tlc.planned_memory(NET, made.tile) <= 6_000_000
    down, across = made.tile
    assert [words for words in told if "compiling" in words][-1] == f"compiling for {across}x{down}"


def test_too_little_memory_is_seen_at_once(params, monkeypatch, terminal, tmp_path):
    """And not after minutes in tiny parts."""
    tlc.save(tmp_path / "net", NET, params)
    tlc.write_image(tmp_path / "a.png", picture(400, 400))
    monkeypatch.setattr(memory, "available", lambda: 4 * 400 * 400 * 3 * fitting.COPIES)
    code, _, err = terminal(tmp_path, "restore", "a.png", "--checkpoint", "net", "-o", "out")
    assert code == 2 and err.startswith("tlc-jax: a.png: not enough memory; try ")
    assert not list((tmp_path / "out").glob("*"))


def test_long_work_is_told(params, monkeypatch, terminal, tmp_path):
    """After its first part, for those who do not see the bar."""
    monkeypatch.setattr("tlc_jax.cli.common.LONG", 0)
    tlc.save(tmp_path / "net", NET, params)
    tlc.write_image(tmp_path / "a.png", picture(140, 200))
    arguments = ("a.png", "-o", "out", "--checkpoint", "net", "--tiles", "96")
    code, out, _ = terminal(tmp_path, "restore", *arguments)
    assert code == 0
    (told,) = [line for line in out.splitlines() if "in all" in line]
    assert re.fullmatch(r"a\.png: restoring, 8 parts, in 0\.0\d GiB: about \d+ s in all", told)


def test_a_job_says_so(params, monkeypatch, tmp_path):
    monkeypatch.setattr(fitting, "LARGE", 100 * 100)
    monkeypatch.setattr(fitting, "ENOUGH", 2_000_000)
    monkeypatch.setattr(fitting, "SMALLEST", 64)
    monkeypatch.setattr(fitting, "STEP", 64)
    tlc.write_image(tmp_path / "a.png", picture(140, 200))
    job = jobs.Job((tmp_path / "a.png",), (tmp_path / "b.png",))
    outcome = jobs.run(job, [(NET, params)])
    assert any("restored in parts of" in note for note in outcome.notes)
    whole = tlc.restore(NET, params, read_picture(tmp_path / "a.png").pixels)
    written = read_picture(tmp_path / "b.png").pixels
    assert np.abs(written.astype(int) - whole).max() <= 2
    (tmp_path / "b.png").unlink()
    outcome = jobs.run(job, [(NET, params)], jobs.Options(fit=False))
    assert not outcome.notes
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").pixels, whole)


def test_tiles_of_the_command(terminal, params, tmp_path):
    """`--tiles` as it is told; 0 for never."""
    tlc.save(tmp_path / "net", NET.clone(local_mode=False), params)
    tlc.write_image(tmp_path / "a.png", picture(140, 200))
    pixels = read_picture(tmp_path / "a.png").pixels
    ways = {"96": tlc.tiled(96), "0": lambda run: run}
    for tiles, way in ways.items():
        arguments = ("a.png", "-o", "out", "--checkpoint", "net", "--tiles", tiles)
        code, _, err = terminal(tmp_path, "restore", *arguments)
        assert (code, err) == (0, "")
        written = read_picture(tmp_path / f"out/a.net-tiles{tiles}.png").pixels
        np.testing.assert_array_equal(written, tlc.restore(NET, params, pixels, way=way))


@pytest.mark.parametrize("options", ["--shifts 2", "--mode auto", "--task denoise,deblur"])
def test_tiles_go_with_other_options(options, terminal, tmp_path):
    tlc.write_image(tmp_path / "a.png", picture(70, 100))
    code, out, err = terminal(tmp_path, "restore", "a.png", "-o", "b.png", "--tiles", "64",
                              *options.split())  # fmt: skip
    assert (code, err) == (0, "") and "b.png" in out
    written = read_picture(tmp_path / "b.png").pixels
    assert written.shape == (70, 100, 3)


@pytest.mark.parametrize("tiles", ["1", "63"])
def test_tiles_that_are_too_small(tiles, terminal, tmp_path):
    tlc.write_image(tmp_path / "a.png", picture(70, 100))
    code, _, err = terminal(tmp_path, "restore", "a.png", "--tiles", tiles)
    assert code == 2 and not list(tmp_path.glob("restored/*"))
    assert err == f"tlc-jax: --tiles {tiles}: parts have 64 pixels a side or more; 0 never cuts.\n"


def test_tiles_hold_two_steps_of_the_network(terminal, tmp_path):
    """As MAXIM's of 64 pixels."""
    maxim = tlc.Maxim(features=4, num_stages=1, num_bottleneck_blocks=1)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_params(maxim))
    tlc.save(tmp_path / "net", maxim, zeros)
    tlc.write_image(tmp_path / "a.png", picture(70, 100))
    code, _, err = terminal(
        tmp_path, "restore", "a.png", "--checkpoint", "net", "--tiles", "127"
    )  # fmt: skip
    assert (code, err) == (
        2, "tlc-jax: --tiles 127: parts have 128 pixels a side or more; 0 never cuts.\n"
    )  # fmt: skip
