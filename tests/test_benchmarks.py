"""The benchmark: that what it says of its measurements is so, and that it runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import tlc_jax as tlc
from benchmarks import guard, host_rates, operations, task_pictures
from benchmarks.__main__ import is_worse
from benchmarks.contestant import Contestant
from benchmarks.networks import race, ratios
from tlc_jax import NAFNet

ROOT = Path(__file__).parent.parent


def one(form, mode, *seconds):
    return {"form": form, "mode": mode, "seconds": list(seconds)}


def test_ratios_are_of_the_same_turn():
    """The machine was twice as slow in the second of three turns: the ratios do not show it."""
    race = [
        one("ours", "global", 1.0, 2.0, 1.0),
        one("ours", "local", 1.1, 2.2, 1.1),
        one("eager", "local", 4.4, 8.8, 4.4),
    ]
    assert ratios(race) == pytest.approx({
        "ours local / ours global": 1.1,
        "ours local / eager local": 0.25,
    })  # fmt: skip


@pytest.mark.parametrize(("now", "worse"), [(0.3, False), (0.47, False), (0.49, True)])
def test_check_shows_what_is_a_fifth_worse(capsys, now, worse):
    assert (
        is_worse("nafnet", {"ours / theirs": 0.4, "not run": 1.0}, {"ours / theirs": now}) == worse
    )
    assert ("WORSE" in capsys.readouterr().out) == worse


def test_who_cannot_start_is_left_out(capsys):
    contestants = [Contestant("nobody", (16, 16)), Contestant("nafnet", (16, 16), mode="global")]
    (result,) = race(contestants, repeats=1, patience=60)
    assert result["mode"] == "global" and len(result["seconds"]) == 1
    assert "nobody 1x16x16 float32 ours local FAILED" in capsys.readouterr().out


def test_tables_of_operations(monkeypatch):
    monkeypatch.setattr(operations, "SIZE", (48, 64))
    model = NAFNet(4, (1,), 1, (1,), train_size=(16, 16))
    monkeypatch.setattr(operations, "NETWORKS", (model,))
    rows = operations.means(repeats=1)
    assert [row["window"] for row in rows] == ["24x24", "12x12"]
    for row in rows:
        assert {"global", "auto", "blocks", "cumsum", "reduce_window"} <= row.keys()
        assert 0 < row["error of auto"] < 1e-6


@pytest.mark.parametrize(("gain", "falls_back"), [(1.0, 0), (6.0, 1), (np.nan, 0)])
def test_falling_back_is_counted_as_the_guard_does_it(
    monkeypatch, capsys, tmp_path, gain, falls_back
):
    image = np.full((320, 480, 3), 0.5, np.float32)
    tlc.write_image(tmp_path / "gray.png", image)
    case = guard.Case("one", "denoise", guard.half_a_pattern, gain)
    monkeypatch.setattr(guard, "cases", lambda: [case])
    monkeypatch.setattr("sys.argv", ["guard", str(tmp_path)])
    guard.main()
    *_, of, _, fell, _, _, _ = capsys.readouterr().out.splitlines()[-1].split("|")
    model, params = tlc.load("denoise")
    pixels = case.degrade(jax.random.key(0), tlc.read_image(tmp_path / "gray.png"))
    mode = tlc.restore_guarded(model, guard.stronger(params, gain), pixels).mode
    assert (int(of), int(fell), mode == "global") == (1, falls_back, falls_back)


def test_a_folder_without_photographs(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["guard", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        guard.main()
    assert f"{tmp_path}: no .png in this folder" in capsys.readouterr().err


def test_a_race(tmp_path):
    """Figures are written as they come, and compared with later."""
    pytest.importorskip("torch")
    small = ["--network", "nafnet", "--size", "16x400", "--form", "ours", "eager", "--repeats", "2"]

    def run(part):
        command = [sys.executable, "-m", "benchmarks", part, *small, "--output", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True)

    assert "has no nafnet 1x16x400 float32 to compare with" in run("check").stderr
    assert run("networks").returncode == 0
    (file,) = tmp_path.glob("*.json")
    results = json.loads(file.read_text())
    race = results["networks"]["nafnet 1x16x400 float32"]
    assert [(r["form"], r["mode"]) for r in race] == [
        ("ours", "global"), ("ours", "local"), ("eager", "global"), ("eager", "local"),
    ]  # fmt: skip
    for result in race:
        assert len(result["seconds"]) == 2 and min(result["seconds"]) > 0
        assert result["peak"] > 1e8  # the process with all it imports
    assert "| eager local |" in file.with_suffix(".md").read_text()
    for result in race:  # a machine that was a thousand times faster
        if result["form"] == "ours":
            result["seconds"] = [seconds / 1000 for seconds in result["seconds"]]
    file.write_text(json.dumps(results))
    check = run("check")
    assert check.returncode == 1 and "WORSE" in check.stdout


def test_host_rates(monkeypatch, capsys):
    """A row for each task and size, and cores in proportion to what they take."""
    monkeypatch.setattr(host_rates, "SIZES", {"1280x720": (36, 64), host_rates.LARGE: (30, 40)})
    monkeypatch.setattr(host_rates, "seconds", lambda do: (do(), 0.5)[1])
    measured = host_rates.host()
    assert len(measured) == 2 * 10
    host_rates.devices(measured)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    nafnet = next(row for row in rows if row[0].startswith("| nafnet on v5e"))
    seconds, cores = float(nafnet[2]), float(nafnet[4])
    assert cores == pytest.approx(2 * 0.5 / seconds, rel=0.01)


def test_pictures_of_the_tasks(tmp_path, monkeypatch, capsys, random_params):
    """Degraded, restored and written side by side; what a page shows is there."""
    photograph = tlc.read_image(ROOT / "tlc_jax/examples/kodim.png")[96:208, 48:176]
    tlc.write_image(tmp_path / "kodim23.png", photograph)
    model = NAFNet(4, (), 1, ())
    tlc.save(tmp_path / "tiny", model, random_params(model))
    tasks = task_pictures.TASKS
    monkeypatch.setitem(tasks, "denoise", tasks["denoise"]._replace(checkpoint=tmp_path / "tiny"))
    for name, small in (("DOCS", tmp_path / "pages"), ("SIZE", (40, 50))):
        monkeypatch.setattr(task_pictures, name, small)
    monkeypatch.setattr("sys.argv", ["task_pictures", str(tmp_path), "--only", "denoise"])
    task_pictures.main()
    before, *after = re.findall(r"\d+\.\d+", capsys.readouterr().out)
    assert 20 < float(before) < 21 and before not in after
    pair = tlc.read_image(tmp_path / "pages/denoise.jpg")
    assert pair.shape == (40, 104, 3)
    assert 20 < tlc.psnr(pair[:, :50], photograph[60:100, 60:110]) < 26  # JPEG takes some of it
    assert {file.stem for file in (ROOT / "docs/images/tasks").iterdir()} == {*tasks}
    for degrade in (task_pictures.rainy, task_pictures.hazy):
        assert 8 < tlc.psnr(degrade(photograph).astype(np.float32), photograph) < 28
