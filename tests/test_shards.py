"""`--shard`: several machines share the work without talking, and nothing is lost or done twice."""

import errno
import itertools
import re
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import tlc_jax as tlc
from tlc_jax.files import pictures
from tlc_jax.files.pictures import read_picture
from tlc_jax.inference import memory
from tlc_jax.jobs.job import Job, JobError
from tlc_jax.jobs.shards import Shard, parse_shard, share

NET = tlc.NAFNet(width=4, enc_blk_nums=(), middle_blk_num=1, dec_blk_nums=(), train_size=(16, 16))
SIZES = [(8, 8), (40, 56), (8, 64), (24, 24), (40, 56), (16, 8), (48, 32), (8, 8)]


def job(folder: Path, name: str, *others: str, is_clip: bool = False) -> Job:
    sources = tuple(folder / one for one in (name, *others))
    return Job(sources, tuple(folder / "out" / one.name for one in sources), is_clip=is_clip)


def pixels(job: Job) -> int:
    return sum(tlc.read_image(source).size // 3 for source in job.sources)


def parts(jobs: list[Job], count: int) -> list[list[Job]]:
    return [share(jobs, Shard(index, count)) for index in range(count)]


@pytest.fixture(scope="module")
def world(tmp_path_factory, random_params):
    folder = tmp_path_factory.mktemp("world")
    tlc.save(folder / "net", NET, random_params(NET))
    for i, (height, width) in enumerate(SIZES):
        noise = np.random.default_rng(i).integers(0, 255, (height, width, 3), np.uint8)
        (folder / "photos").mkdir(exist_ok=True)
        tlc.write_image(folder / f"photos/{i}.png", noise)
    return folder


@pytest.fixture
def jobs(world) -> list[Job]:
    return [job(world / "photos", f"{i}.png") for i in range(len(SIZES))]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 11, 10**17])
def test_each_job_is_in_one_shard(jobs, count):
    shards = [share(jobs, Shard(index, count)) for index in range(min(count, 20))]
    assert sorted(itertools.chain(*shards)) == sorted(jobs)
    assert all(shard == [one for one in jobs if one in shard] for shard in shards)  # in their order


def test_shards_are_balanced_by_pixels(jobs):
    """Longest first leaves no shard above 4/3 of the best there is (Graham, 1969)."""
    loads = [sum(map(pixels, part)) for part in parts(jobs, 3)]
    assert max(loads) <= 4 / 3 * max(40 * 56, sum(map(pixels, jobs)) / 3)


def test_shards_are_those_of_every_machine(world, jobs, monkeypatch, tmp_path):
    """Wherever its disk is found, in whatever order it lists files, however much memory it has."""
    here = [[one.targets[0].name for one in part] for part in parts(jobs, 3)]
    shutil.copytree(world / "photos", tmp_path / "elsewhere")
    monkeypatch.setattr(memory, "free", lambda: 1000)
    there = [job(tmp_path / "elsewhere", one.targets[0].name) for one in reversed(jobs)]
    names = [sorted(one.targets[0].name for one in part) for part in parts(there, 3)]
    assert names == here


def test_what_belongs_together_stays_together(world):
    photos = world / "photos"
    clip = job(photos, "1.png", "4.png", is_clip=True)
    pair = Job((photos / "1.png", photos / "4.png"), (photos / "out/pair.png",))
    single = [job(photos, f"{i}.png") for i in (2, 3, 5, 6)]  # 3,  in all less than a pair
    assert parts([single[0], clip, *single[1:], pair], 3) == [[clip], [pair], single]


def test_a_video_goes_by_its_bytes(tmp_path):
    for name, size in {"a": 500, "b": 300, "c": 201}.items():
        (tmp_path / f"{name}.mp4").write_bytes(bytes(size))
    a, b, c = (job(tmp_path, f"{name}.mp4") for name in "abc")
    assert parts([a, b, c], 2) == [[a], [b, c]]


def test_what_cannot_be_read_has_its_place(world, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    odd = [job(tmp_path, name) for name in ("text.png", "link.png", "a\nb.png", "gone.mp4")]
    assert sorted(itertools.chain(*parts(odd, 3))) == sorted(odd)
    large = job(world / "photos", "1.png")
    assert parts([*odd, large], 2) == [[large], odd]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_a_fault_of_the_moment_makes_no_other_shards(jobs, monkeypatch, error):
    """This machine would see other sizes than the others, and nobody do some of the jobs."""

    def fail(*_):
        raise error

    monkeypatch.setattr(pictures, "open_file", fail)
    with pytest.raises(JobError, match=r"cannot read .*0\.png just now, .*; try again\."):
        share(jobs, Shard(0, 2))


@pytest.mark.parametrize("text", ["0/1", "2/3", "007/8", "0/999999999999"])
def test_shards_as_they_are_named(text):
    index, count = map(int, text.split("/"))
    assert parse_shard(text, {}) == (index, count)


@pytest.mark.parametrize(
    ("text", "words"),
    {
        "3/3": "shards count from 0, so the first of 3 is 0/3 and the last 2/3.",
        "9/3": "shards count from 0, so the first of 3 is 0/3 and the last 2/3.",
        **dict.fromkeys(
            [
                *("", "/", "1", "a/b", "-1/3", "1/-3", "3/0", "0/0", "1/1e9", "1/2/3", "1.0/2"),
                *("0/3\n", " 0/3", "0 /3", "+0/3", "٠/٣", "0_0/3", "Auto", "auto/", "auto/x"),
                f"0/{'9' * 5000}",
            ],
            "write I/N, as 0/4 for the first of four to 3/4 for the last, or auto.",
        ),
    }.items(),
)
def test_no_shards(text, words):
    with pytest.raises(JobError) as error:
        parse_shard(text, {})
    assert str(error.value) == f"--shard {text}: {words}"


def array(at: object, first: object, last: object, step: object, count: object) -> dict[str, str]:
    named = {"ID": at, "MIN": first, "MAX": last, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(x) for name, x in named.items()}


def step(task: object, tasks: object) -> dict[str, str]:
    return {"SLURM_PROCID": str(task), "SLURM_STEP_NUM_TASKS": str(tasks)}


# What sbatch and srun give the process itself, in a job of four tasks.
SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("auto", array(0, 0, 15, 1, 16), (0, 16)),  # --array=0-15
        ("auto", array(16, 1, 16, 1, 16), (15, 16)),  # --array=1-16
        ("auto", array(8, 0, 12, 4, 4), (2, 4)),  # --array=0-15:4
        ("auto", array(5, 5, 5, 1, 1), (0, 1)),  # one alone, submitted again
        ("auto/16", array(3, 0, 15, 1, 16), (3, 16)),
        ("auto", SCRIPT | array(2, 0, 3, 1, 4), (2, 4)),  # which runs once in each
        ("auto", SCRIPT | step(3, 4), (3, 4)),
        ("auto", array(2, 0, 3, 1, 4) | step(1, 2), (5, 8)),
        ("auto/5", {"JOB_COMPLETION_INDEX": "4"}, (4, 5)),
    ],
)
def test_what_slurm_and_kubernetes_tell(text, environment, expected):
    assert parse_shard(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("auto", {}, "neither SLURM nor Kubernetes nor JAX tells of other processes; write I/N"),
        ("auto", SCRIPT, "neither SLURM nor Kubernetes nor JAX tells of other processes; write"),
        ("auto", array(4, 1, 9, 1, 3), "the numbers of this array are not evenly spaced; write"),
        ("auto", array(3, 0, 8, 2, 5), "the numbers of this array are not evenly spaced; write"),
        ("auto", array(0, 0, 3, 0, 4) | step(0, 0), "the environment tells 0/0; write I/N"),
        ("auto", array(0, 3, 0, 1, 0), "the numbers of this array are not evenly spaced; write"),
        ("auto", array("x", 0, 3, 1, 4), "SLURM_ARRAY_TASK_ID is 'x', no number; write I/N"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "0"}, "SLURM_ARRAY_TASK_MIN is '', no number; write"),
        ("auto", array(0, 0, 3, 1, "9" * 5000), "SLURM_ARRAY_TASK_COUNT is '99"),
        ("auto", step(4, 4), "the environment tells 4/4; write I/N"),
        ("auto", array(0, 0, 3, 1, 4) | step(4, 4), "the environment tells 4/4; write I/N"),
        ("auto/8", array(0, 0, 3, 1, 4), "the environment tells of 4; write auto."),
        ("auto", {"JOB_COMPLETION_INDEX": "4"}, "how many there are; write auto/N, N as in compl"),
        ("auto/4", {"JOB_COMPLETION_INDEX": "4"}, "the environment tells 4/4; write I/N"),
        ("auto/4", {"JOB_COMPLETION_INDEX": "-1"}, "JOB_COMPLETION_INDEX is '-1', no number"),
    ],
)
def test_what_makes_no_sense(text, environment, words):
    with pytest.raises(JobError) as error:
        parse_shard(text, environment)
    assert str(error.value).startswith(f"--shard {text}: ") and words in str(error.value)


def test_processes_of_jax(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    assert parse_shard("auto", {}) == (2, 4)


def test_shards_of_a_folder_are_the_folder(run, world, tmp_path):
    """One after the other, of which the first is run again: what is done does not move others."""
    command = ["restore", "photos", "--checkpoint", "net", "--waste", "0", "-o"]
    assert run(*command, tmp_path / "whole").code == 0
    said = [run(*command, tmp_path / "parts", "--shard", f"{i}/3") for i in (0, 1, 0, 2)]
    assert all((code, err) == (0, "") for code, _, err in said)
    assert "shard 1/3: 3 of the 8 to restore" in said[1].out
    assert "are there already" in said[2].out and "are there already" not in said[3].out
    whole, made = (sorted((tmp_path / name).iterdir()) for name in ("whole", "parts"))
    assert [x.name for x in whole] == [x.name for x in made] and len(whole) == len(SIZES)
    for a, b in zip(whole, made, strict=True):
        assert np.array_equal(read_picture(a).pixels, read_picture(b).pixels)


def test_more_machines_than_pictures(run, tmp_path):
    code, out, err = run(
        "restore", "photos", "--checkpoint", "net", "--shard", "8/9", "-o", tmp_path / "out"
    )
    assert (code, err) == (0, "") and "shard 8/9: 0 of the 8 to restore" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1/1e9", "auto"])
def test_a_bad_shard_is_refused_before_the_work(run, tmp_path, monkeypatch, text):
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_STEP_NUM_TASKS", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    code, out, err = run("restore", "photos", "--shard", text, "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith(f"tlc-jax: --shard {text}: ") and err.count("\n") == 1


def test_an_array_of_slurm(run, tmp_path, monkeypatch):
    for name, value in array(1, 1, 8, 1, 8).items():
        monkeypatch.setenv(name, value)
    out = run(
        "restore", "photos", "--checkpoint", "net", "--shard", "auto", "-o", tmp_path / "out"
    ).out
    assert "shard 0/8: 1 of the 8 to restore" in out


@pytest.mark.parametrize("kind", ["bash", "yaml"])
def test_the_commands_of_the_page(run, world, tmp_path, monkeypatch, kind):
    """What a script of SLURM and a job of Kubernetes start is a shard of 16."""
    page = (Path(__file__).parent.parent / "docs/machines.md").read_text()
    block = re.search(rf"```{kind}\n(.*?)```", page, re.S)[1]
    if kind == "bash":
        first, last = map(int, re.search(r"--array=(\d+)-(\d+)\n", block).groups())
        environment = array(5, first, last, 1, last - first + 1)
        program, *command = shlex.split(re.search(r"exec (.*)", block)[1])
    else:
        spec = pytest.importorskip("yaml").safe_load(block)["spec"]
        assert (spec["completionMode"], spec["completions"]) == ("Indexed", 16)
        environment = {"JOB_COMPLETION_INDEX": "5"}
        program, *command = spec["template"]["spec"]["containers"][0]["command"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    moved = {"/data/photos": "photos", "/data/restored": tmp_path, "restored/": tmp_path}
    code, out, err = run(*(moved.get(word, word) for word in command), "--checkpoint", "net")
    assert (program, code, err) == ("tlc-jax", 0, "") and "shard 5/16: 1 of the 8 to restore" in out
    assert len(list(tmp_path.iterdir())) == 1
