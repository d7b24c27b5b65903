"""The benchmark: that what it says of its measurements is so, and that it runs."""

import json
import subprocess
import sys

import pytest

from benchmarks.__main__ import is_worse
from benchmarks.networks import ratios


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
