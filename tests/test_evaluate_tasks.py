"""Evaluation of every kind of task, on data sets in miniature, against NumPy and scikit-image.

What a network makes of a picture is taken from `tlc.restore`; everything around it, which files
belong together, how they are prepared and what is measured, is written here once more.
"""

import json
import shutil

import jax
import numpy as np
import pytest
from skimage.metrics import structural_similarity

import tlc_jax as tlc
from tlc_jax.evaluation import reports
from tlc_jax.evaluation.evaluating import EvaluationError, window_of
from tlc_jax.evaluation.sources import parse_sigmas, read_subset
from tlc_jax.files.datasets import DataError
from tlc_jax.files.views import view_dataset, view_pairs
from tlc_jax.ops.pixels import from_float, to_float

SINGLE = tlc.NAFNet(4, (), 1, (), train_size=(16, 16))
STEREO = tlc.NAFSSR(2, width=4, num_blks=1, train_size=(4, 6))
DUAL_PIXEL = tlc.Restormer(
    inp_channels=6,
    dim=4,
    num_blocks=(1, 0, 0, 0),
    num_refinement_blocks=0,
    heads=(1, 1, 1, 1),
    dual_pixel_task=True,
    train_size=(16, 16),
)
NETWORKS = {
    "single": SINGLE,
    "gray": SINGLE.clone(inp_channels=1),
    "stereo": STEREO,
    "dual-pixel": DUAL_PIXEL,
    "video": tlc.RNNMBP(4, num_cab=1, train_size=(16, 16)),
}
SIZE = (24, 32)


@pytest.fixture(scope="module")
def weights(random_params):
    """Small ones for the deep networks, so that results stay pictures."""
    scales = {"dual-pixel": 0.3, "video": 0.3}

    def smaller(name):
        return jax.tree.map(lambda x: scales.get(name, 1.0) * x, random_params(NETWORKS[name]))

    return {name: smaller(name) for name in NETWORKS}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, model in NETWORKS.items():
        tlc.save(folder / name, model, weights[name], weights_licence="MIT")
    return folder


@pytest.fixture
def world(checkpoints, tmp_path):
    for checkpoint in checkpoints.iterdir():
        (tmp_path / checkpoint.name).symlink_to(checkpoint)
    return tmp_path


@pytest.fixture
def measured(run, world):
    """Runs the command with a report, which it returns; the arguments are one line."""

    def measured(line):
        code, _, err = run("evaluate", *line.split(), "--report", "r.json")
        assert (code, err) == (0, "")
        return json.loads((world / "r.json").read_text())

    return measured


def picture(seed, size=SIZE, dtype=np.uint8):
    """Dark on one side, so that windows matter, and rough, so that noise is not all there is."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    light = np.linspace(0.1, 0.8, size[1])
    waves = [np.sin(rows / 3 + seed + k) * np.cos(columns / (2 + seed) - k) for k in range(3)]
    return from_float(np.stack([light * (1 + 0.2 * wave) for wave in waves], -1), dtype)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    tlc.write_image(path, pixels)


def rounded(pixels):
    return np.rint(255 * np.clip(np.asarray(pixels, np.float64), 0, 1))


def psnr(x, y, top=255):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return 10 * np.log10(top**2 / np.mean((x - y) ** 2))


def skimage_ssim(x, y, top=255):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return structural_similarity(x, y, data_range=top, channel_axis=2)


# Pairs of views


def write_stereo(root, low, high):
    """Two scenes; low and high take a scene and a view, and give the name of a file."""
    for scene in range(2):
        for view in range(2):
            truth = picture(2 * scene + view)
            write(root / low(scene + 1, view), truth[::2, ::2])
            write(root / high(scene + 1, view), truth)


def test_stereo_pairs_of_nafssr(world, measured, weights):
    write_stereo(
        world / "Flickr1024",
        lambda scene, view: f"lr_x2/{scene:04}/lr{view}.png",
        lambda scene, view: f"hr/{scene:04}/hr{view}.png",
    )
    report = measured("--data Flickr1024 --checkpoint stereo --protocol nafssr")
    assert list(report["images"]) == ["0001", "0002"]
    found = []
    for scene, image in enumerate(report["images"].values()):
        truths = [picture(2 * scene + view) for view in range(2)]
        pair = np.concatenate([truth[::2, ::2] for truth in truths], axis=-1)
        assert set(image) == {"size", "local", "global"}  # the input has another size
        for mode in ("local", "global"):
            model = STEREO.clone(local_mode=mode == "local")
            made = rounded(tlc.restore(model, weights["stereo"], to_float(pair)))
            views = list(zip(np.split(made, 2, -1), truths, strict=True))
            expected = np.mean([psnr(*view) for view in views])
            assert image[mode]["psnr"] == pytest.approx(expected, abs=1e-4)
            similar = np.mean([skimage_ssim(*view) for view in views])
            assert image[mode]["ssim"] == pytest.approx(similar, abs=1e-5)
            found.append(expected)
    assert np.diff(sorted(found)).min() > 1e-3
    assert report["mean"]["local"]["psnr"] == pytest.approx(np.mean(found[::2]), abs=1e-4)


LOW_HIGH = {
    "NTIRE": (lambda s, v: f"LR_x2/{s:04}_{'LR'[v]}.png", lambda s, v: f"HR/{s:04}_{'LR'[v]}.png"),
    "ours": (
        lambda s, v: f"low/{('left', 'right')[v]}/{s:04}.png",
        lambda s, v: f"high/{('left', 'right')[v]}/{s:04}.png",
    ),
}


@pytest.mark.parametrize("layout", LOW_HIGH)
def test_other_names_of_views(tmp_path, layout):
    write_stereo(tmp_path, *LOW_HIGH[layout])
    if layout == "NTIRE":
        found = view_dataset(tmp_path, scale=2)
    else:
        found = view_pairs(tmp_path / "low", tmp_path / "high")
    assert [pair.name for pair in found] == ["0001", "0002"]
    image, truth = found[1].read(6, scale=2)
    assert np.array_equal(truth, np.concatenate([picture(2), picture(3)], axis=-1))
    assert np.array_equal(image, truth[::2, ::2])
    with pytest.raises(DataError, match=r"0002: is 16x12, and the network makes 64x48 of it, but"):
        found[1].read(6, scale=4)


def test_views_that_do_not_fit(tmp_path):
    write_stereo(tmp_path, *LOW_HIGH["NTIRE"])
    with pytest.raises(DataError, match=r"no data set of pairs .*\(lr_x4, hr; LR_x4, HR\)"):
        view_dataset(tmp_path, scale=4)
    (tmp_path / "LR_x2/0002_R.png").unlink()
    with pytest.raises(DataError, match="LR_x2: 0002 has one view; add the other"):
        view_dataset(tmp_path, scale=2)
    write(tmp_path / "LR_x2/photo.png", picture(0))
    with pytest.raises(DataError, match="photo is not called like a view; views are X_L and X_R"):
        view_dataset(tmp_path, scale=2)


DPDD = {
    "authors": ("test_c/source", "test_l/source", "test_r/source", "test_c/target"),
    "restormer": ("test/inputC", "test/inputL", "test/inputR", "test/target"),
}


def write_dpdd(root, layout):
    """Three scenes in 16 bits; the sharp photograph of each has a number of its own."""
    for scene in range(3):
        views = [picture(scene + shift, dtype=np.uint16) for shift in (0.0, -0.2, 0.2, 0.1)]
        for folder, view in zip(DPDD[layout], views, strict=True):
            number = 2 * scene + (folder[-6:] == "target" and layout == "authors")
            write(root / folder / f"1P0A{number:04}.png", view)


@pytest.mark.parametrize("layout", DPDD)
@pytest.mark.parametrize("name", ["dual-pixel", "single"])
def test_defocus(world, measured, weights, layout, name):
    write_dpdd(world / "DPDD", layout)
    np.save(world / "indoor_labels.npy", np.array([1.0, 3.0]))
    (world / "outdoor.txt").write_text("1P0A0002.png\n")
    options = "--mode global --protocol dpdd --subset indoor_labels.npy --subset outdoor.txt"
    report = measured(f"--data DPDD --checkpoint {name} {options}")
    scores = []
    for scene, image in enumerate(report["images"].values()):
        shifts = (-0.2, 0.2) if name == "dual-pixel" else (0.0,)
        views = [picture(scene + shift, dtype=np.uint16) / 65535 for shift in shifts]
        given = np.concatenate(views, axis=-1).astype(np.float32)
        made = np.clip(tlc.restore(NETWORKS[name], weights[name], given), 0, 1)
        truth = picture(scene + 0.1, dtype=np.uint16) / 65535
        scores.append((psnr(made, truth, 1), skimage_ssim(made, truth, 1)))
        assert image["global"]["psnr"] == pytest.approx(scores[-1][0], abs=1e-4)
        assert image["global"]["ssim"] == pytest.approx(scores[-1][1], abs=1e-5)
        assert image["global"]["mae"] == pytest.approx(np.abs(made - truth).mean(), rel=1e-5)
        assert ("input" in image) == (name == "single")
    assert len(scores) == 3
    indoors = np.mean([scores[0][0], scores[2][0]])
    means = report["means_of_subsets"]
    assert means["indoor_labels"]["global"]["psnr"] == pytest.approx(indoors, abs=1e-4)
    assert means["outdoor"]["global"]["psnr"] == pytest.approx(scores[1][0], abs=1e-4)
    written = (world / "r.md").read_text()
    assert "| indoor_labels, mean of 2 |" in written and "MAE" in written


def test_folders_in_order_hold_as_many(tmp_path):
    write_dpdd(tmp_path, "restormer")
    (tmp_path / "test/inputR/1P0A0004.png").unlink()
    with pytest.raises(DataError, match=r"in their order: 3 in .*inputL, 2 in .*inputR, 3 in"):
        view_dataset(tmp_path, one_target=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"4\n", "4 is none of the 3 pictures"),
        (b"", "it names none"),
        (b"\xff\n", "cannot be read as a list"),
        (b"a\n" * 2**20, "more than 1,048,576 bytes"),
    ],
)
def test_lists_of_nothing(tmp_path, content, words):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(EvaluationError, match=words):
        read_subset(tmp_path / "list.txt", ["deep/a", "b", "c"])
    (tmp_path / "list.txt").write_text("a.png\n3\n")
    assert read_subset(tmp_path / "list.txt", ["deep/a", "b", "c"]) == ["deep/a", "c"]
    np.save(tmp_path / "list.npy", np.array([{}], object))
    with pytest.raises(EvaluationError, match="cannot be read as a list"):
        read_subset(tmp_path / "list.npy", ["a"])


# Clips

CLIPS = "GOPR0384_11_00", "GOPR0385_11_01"
FRAMES = 6


def write_clips(root):
    for i, clip in enumerate(CLIPS):
        for frame in range(FRAMES):
            truth = picture(i + frame / 10, (16, 24))
            noise = np.random.default_rng(frame).integers(-9, 10, truth.shape)
            number = f"{frame + 96:06}"
            blurred = np.clip(truth + noise, 0, 255).astype(np.uint8)
            write(root / f"test/{clip}/blur/{number}.png", blurred)
            write(root / f"test/{clip}/sharp/{number}.png", truth)


def test_clips(world, measured, weights, monkeypatch, run):
    """Continued after an interruption, too; frames without all their neighbours do not count."""
    write_clips(world / "GoPro")
    command = "--data GoPro --checkpoint video --mode global --chunk 20"
    write_report = reports.write_report

    def killed(done, path):
        if len(done["images"]) > 2:
            raise KeyboardInterrupt
        write_report(done, path)

    with monkeypatch.context() as patch:
        patch.setattr(reports, "write_report", killed)
        assert run("evaluate", *command.split(), "--report", "r.json").code != 0
    first = json.loads((world / "r.json").read_text())["images"]
    assert len(first) == 2 and all("0384" in name for name in first)
    report = measured(command)
    expected = {}
    for clip in CLIPS:
        names = [f"test/{clip}/blur/{frame + 96:06}" for frame in range(FRAMES)]
        frames, truths = (
            [tlc.read_image(world / "GoPro" / f"{x.replace('blur', kind)}.png") for x in names]
            for kind in ("blur", "sharp")
        )
        restored = tlc.restore_clip(NETWORKS["video"], weights["video"], frames, chunk=20)
        for i, made in enumerate(restored):
            if 2 <= i < FRAMES - 2:
                expected[names[i]] = psnr(rounded(made), rounded(truths[i]))
    assert list(report["images"]) == list(expected) and len(expected) == 4
    for name, image in report["images"].items():
        assert image["global"]["psnr"] == pytest.approx(expected[name], abs=1e-4)
        assert "seconds" not in image["global"]
    assert report["mean"]["global"]["psnr"] == pytest.approx(np.mean(list(expected.values())))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--data GoPro --checkpoint video --mode tiles:16/4", "a network for video has no tiles"),
        ("--data short --checkpoint video --mode global", "clips of 5 frames or more, got 1"),
        ("--input GoPro --target GoPro/test --checkpoint video", "without one of the same name"),
        ("--target GoPro --noise 15 --checkpoint video", "noise is put on single pictures"),
        ("--target GoPro --noise 15,x --checkpoint single", "sigmas are numbers above 0"),
        ("--target GoPro --noise 15 --input GoPro --checkpoint single", "name only that"),
        ("--data GoPro --checkpoint single --window 1.5", "a side in pixels, as 384, or a factor"),
        ("--data GoPro --checkpoint single --mode global --window 9", "is of the mode local"),
        ("--data GoPro --checkpoint single --keep-window", "the best of several windows"),
        ("--data GoPro --data short/../GoPro --checkpoint single", "GoPro: two data sets are"),
        ("--data GoPro --checkpoint single --report /proc/r.json", "/proc: not a folder that can"),
    ],
)
def test_bad_input(world, run, command, words):
    write_clips(world / "GoPro")
    for kind in ("blur", "sharp"):
        write(world / f"short/test/a/{kind}/1.png", picture(0))
    code, out, err = run("evaluate", *command.split())
    assert code == 2 and words in err and len(err.splitlines()) == 1, err
    assert "| mean of" not in out and "Traceback" not in out


# Gaussian noise


@pytest.mark.parametrize("name", ["single", "gray"])
def test_gaussian_noise(world, run, weights, name):
    """As authors put it on: NumPy's generator of old, from 0 for each picture, and not clipped."""
    channels = NETWORKS[name].inp_channels
    for seed in range(2):
        write(world / f"Set/{seed}.png", picture(seed)[..., :channels])
    options = "--target Set --noise 15,50 --mode global --report noise.json"
    code, out, err = run("evaluate", "--checkpoint", name, *options.split())
    assert (code, err) == (0, "")
    for sigma in (15, 50):
        report = json.loads((world / f"noise/{name}-Set-sigma{sigma}.json").read_text())
        assert report["settings"]["noise"] == sigma and report["settings"]["seed"] == 0
        for seed in range(2):
            truth = picture(seed)[..., :channels]
            np.random.seed(0)
            noisy = truth / np.float32(255) + np.random.normal(0, sigma / 255, truth.shape)
            assert sigma == 15 or noisy.min() < 0
            made = tlc.restore(NETWORKS[name], weights[name], noisy.astype(np.float32))
            image = report["images"][str(seed)]
            assert image["global"]["psnr"] == pytest.approx(psnr(rounded(made), truth), abs=1e-4)
            assert image["input"]["psnr"] == pytest.approx(psnr(rounded(noisy), truth), abs=1e-4)
    assert "Set-sigma15" in out and "Set-sigma50" in out


def test_sigmas():
    assert parse_sigmas("15, 2.5") == [15, 2.5]
    for text in ("", "0", "-5", "101", "1e3", "nan", "15,15"):
        with pytest.raises(EvaluationError, match="noise"):
            parse_sigmas(text)


# Windows


def write_folders(world, name="set", count=2):
    for i in range(count):
        noise = np.random.default_rng(i).integers(-9, 10, (*SIZE, 3))
        write(world / f"{name}/target/{i}.png", picture(i))
        write(world / f"{name}/input/{i}.png", np.uint8(np.clip(picture(i) + noise, 0, 255)))


def test_windows(world, measured, weights, run):
    """Each is measured, the best is told, and kept where that is asked for."""
    write_folders(world)
    (world / "single").unlink()
    tlc.save(world / "single", SINGLE, weights["single"], weights_licence="MIT")
    kept = json.loads((world / "single/model.json").read_text())
    command = "--data set --checkpoint single"
    report = measured(f"{command} --window 8,1x,1.5x --keep-window --mode local,global")
    assert report["settings"]["modes"] == ["local:8", "local:1x", "local:1.5x", "global"]
    windows = {"local:8": 8, "local:1x": 16, "local:1.5x": 24}
    means = {}
    for mode, side in windows.items():
        model = SINGLE.clone(local_mode=True, window=(side, side))
        scores = []
        for i in range(2):
            image = tlc.read_image(world / f"set/input/{i}.png")
            scores.append(psnr(rounded(tlc.restore(model, weights["single"], image)), picture(i)))
            found = report["images"][str(i)][mode]["psnr"]
            assert found == pytest.approx(scores[-1], abs=1e-4)
        means[mode] = np.mean(scores)
    assert np.diff(sorted(means.values())).min() > 1e-3
    best = windows[max(means, key=lambda mode: means[mode])]
    assert tlc.load(world / "single")[0].window == (best, best)
    now = json.loads((world / "single/model.json").read_text())
    assert now.pop("window") == [best, best] and now == kept
    # Without another one asked for it is the window, and the report says so.
    assert run("evaluate", *f"{command} --mode local --report kept.json".split()).code == 0
    kept = json.loads((world / "kept.json").read_text())
    assert kept["settings"]["window"] == [best, best]
    assert kept["mean"]["local"]["psnr"] == pytest.approx(max(means.values()), abs=1e-4)


def test_windows_that_are_none(tmp_path, weights):
    assert window_of("1.15x", (100, 30)) == (115, 34)
    for text in ("0", "0x", "-1", "1.5", "x", "1e9", ""):
        with pytest.raises(EvaluationError, match="window"):
            window_of(text, (16, 16))
    tlc.save(tmp_path / "net", SINGLE, weights["single"])
    file = tmp_path / "net/model.json"
    for window in ([16], "16", [16, -1], [16.5, 16]):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"window": window}))
        with pytest.raises(tlc.CheckpointError, match="window is a tuple"):
            tlc.load(tmp_path / "net")


def test_ours_stay_as_they_are(tmp_path):
    with pytest.raises(tlc.CheckpointError, match="comes with the package"):
        tlc.files.checkpoints.keep_window("denoise", (16, 16))


# Tables


def cells(text, head):
    """The rows of the table whose head begins so, by their first cells."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    at = next(i for i, row in enumerate(rows) if row[0].strip() == head)
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[at:]}


def test_one_table_of_several_networks_and_data_sets(world, run, monkeypatch):
    write_folders(world, "GoPro")
    write_folders(world, "HIDE", 1)
    shutil.copytree(world / "single", world / "other")
    command = "--checkpoint single --checkpoint other --data GoPro --data HIDE --report all.json"
    write_report = reports.write_report
    written = []

    def killed(done, path):
        written.append(path.name)
        if len(written) > 4:
            raise KeyboardInterrupt
        write_report(done, path)

    with monkeypatch.context() as patch:
        patch.setattr(reports, "write_report", killed)
        assert run("evaluate", *command.split()).code != 0
    code, out, err = run("evaluate", *command.split())
    assert (code, err) == (0, "")
    assert "single-GoPro.json: 2 of 2 pictures are done" in out
    table = cells(out, "PSNR dB, SSIM")
    assert table == cells((world / "all.md").read_text(), "PSNR dB, SSIM")
    assert list(table) == [
        "PSNR dB, SSIM",
        table and next(row for row in table if set(row) == {"-"}),
        *(f"{name}, {mode}" for name in ("single", "other") for mode in ("local", "global")),
    ]
    assert table["PSNR dB, SSIM"] == ["GoPro", "HIDE"]
    for column, name in enumerate(("GoPro", "HIDE")):
        report = json.loads((world / f"all/single-{name}.json").read_text())
        for mode in ("local", "global"):
            mean = report["mean"][mode]
            expected = f"{mean['psnr']:.3f}, {mean['ssim']:.4f}"
            assert table[f"single, {mode}"][column] == expected
    runs = json.loads((world / "all.json").read_text())["runs"]
    assert [(one["checkpoint"], one["data"], one["pictures"]) for one in runs] == [
        ("single", "GoPro", 2),
        ("single", "HIDE", 1),
        ("other", "GoPro", 2),
        ("other", "HIDE", 1),
    ]


def test_what_does_not_go_together_leaves_a_gap(world, run):
    write_folders(world, "GoPro", 1)
    command = "--checkpoint single --checkpoint stereo --data GoPro --mode global"
    code, out, err = run("evaluate", *command.split())
    assert code == 2 and "no data set of pairs of a known layout" in err
    assert list(cells(out, "PSNR dB, SSIM"))[2:] == ["single, global"]


def test_means_are_over_the_same_pictures(world, measured, run):
    """One is equal to its truth before it is restored, and one is too small for SSIM."""
    write_folders(world, count=3)
    shutil.copy(world / "set/target/0.png", world / "set/input/0.png")
    for kind in ("input", "target"):
        write(world / f"set/{kind}/1.png", picture(len(kind), (8, 32)))
    report = measured("--data set --checkpoint single --mode global")
    images, means = report["images"], report["mean"]
    assert images["0"]["input"]["psnr"] is None and images["1"]["global"]["ssim"] is None
    for row in ("input", "global"):
        assert {key: means[row][key] for key in ("psnr", "ssim")} == {
            key: images["2"][row][key] for key in ("psnr", "ssim")
        }
    written = (world / "r.md").read_text()
    assert "| mean of 1 " in written and "Left out of all means: 2 of 3" in written
