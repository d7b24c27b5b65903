"""`tlc-jax evaluate`: pictures and their ground truth in, PSNR and SSIM of several modes out."""

import importlib.metadata
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import typer

from tlc_jax.cli import common
from tlc_jax.cli.common import UserError, say
from tlc_jax.evaluation import evaluating as evaluation
from tlc_jax.evaluation import reports
from tlc_jax.evaluation.metrics import Protocol
from tlc_jax.evaluation.sources import Source, parse_sigmas, read_subset
from tlc_jax.files import checkpoints
from tlc_jax.files import datasets as data
from tlc_jax.files.limits import PIXELS, limit_pixels
from tlc_jax.files.paths import real_path
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.models import RNNMBP


class How(NamedTuple):
    """What all runs of one command have in common."""

    modes: list[str]
    windows: list[str]
    keep_window: bool
    protocol: Protocol
    subsets: list[Path]
    chunk: int
    overlap: int
    dtype: common.Dtype
    devices: int
    settings: list[str] | None
    limit: int | None
    overwrite: bool


def evaluate(
    inputs: Annotated[
        Path | None, typer.Option("--input", help="A folder, LMDB folder or .mat of pictures.")
    ] = None,
    targets: Annotated[
        list[Path] | None,
        typer.Option("--target", help="The ground truth by the same names, likewise."),
    ] = None,
    roots: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            help="Instead of both: GoPro, HIDE, REDS, SIDD, DPDD or stereo pairs as distributed; "
            "can be repeated.",
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            metavar="SIGMAS",
            help="Instead of --input: put Gaussian noise on the pictures of --target, which can be "
            "repeated; of 255, with commas, as 15,25,50.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the noise.")] = 0,
    task: common.ToDo = None,
    quality: common.HowWell = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of a network, or an installed one's name; can be repeated."),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="Of local, global and tiles:SIZE/OVERLAP, with commas.")
    ] = "local,global",
    window: Annotated[
        str | None,
        typer.Option(
            help="Sides of the window, input pixels, or factors of the training crops, as 256,384 "
            "or 1.5x,2x; of several each is measured [1.5x]."
        ),
    ] = None,
    keep_window: Annotated[
        bool,
        typer.Option(
            "--keep-window", help="Write the best of several windows into the checkpoint."
        ),
    ] = False,
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="What is measured: rgb, after rounding to 8 bits; y, their luma; sidd, not "
            "rounded; nafnet, nafnet-sidd, nafssr and dpdd with the SSIM of those authors."
        ),
    ] = Protocol.RGB,
    report: Annotated[
        Path | None, typer.Option(help="A .json that is continued; .md and .png come beside it.")
    ] = None,
    subset: Annotated[
        list[Path] | None,
        typer.Option(
            help="A list of pictures whose means are told, too: names or numbers, text or .npy; "
            "can be repeated."
        ),
    ] = None,
    chunk: Annotated[
        int, typer.Option(min=1, help="Frames that a network for video restores at a time.")
    ] = 10,
    overlap: Annotated[
        int, typer.Option(min=0, help="Frames beyond them that it looks at, too.")
    ] = 5,
    dtype: common.ComputeIn = "float32",
    precision: common.Products = None,
    devices: common.Devices = "1",
    max_pixels: common.MaxPixels = PIXELS,
    settings: common.Settings = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many pictures, or clips.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin the report anew.")] = False,
) -> None:
    """Measure PSNR and SSIM on pictures, stereo pairs or clips whose ground truth is known.

    With several networks or data sets there is one table of all, with a row for each network and
    mode, and a report of each in the folder beside the report.
    """
    limit_pixels(max_pixels)
    how = How(
        modes=evaluation.parse_modes(mode),
        windows=[] if window is None else [part.strip() for part in window.split(",")],
        keep_window=keep_window,
        protocol=protocol,
        subsets=subset or [],
        chunk=chunk,
        overlap=overlap,
        dtype=dtype,
        devices=common.parse_devices(devices),
        settings=settings,
        limit=limit,
        overwrite=overwrite,
    )
    folders = [common.choose_checkpoint(one, task, quality) for one in checkpoint or [None]]
    sources = _sources(inputs, targets or [], roots or [], noise, seed)
    if how.windows and "local" not in how.modes:
        raise UserError("--window: is of the mode local; add it to --mode, or leave it out.")
    if keep_window and (len(how.windows) < 2 or len(sources) > 1):
        raise UserError(
            "--keep-window: keeps the best of several windows on one data set; name them with "
            "--window, as 1.5x,2x,3x."
        )
    if report is not None:
        _check_report(report, overwrite)
    if len(folders) == len(sources) == 1:
        all_measured = _run(folders[0], sources[0], how, report)[1]
    else:
        all_measured = _run_all(folders, sources, how, report)
    if not all_measured:
        raise typer.Exit(2)


def _sources(
    inputs: Path | None, targets: list[Path], roots: list[Path], noise: str | None, seed: int
) -> list[Source]:
    """What is measured on."""
    if noise is not None:
        if inputs or roots or not targets:
            raise UserError("--noise: is put on the pictures of --target; name only that.")
        sigmas = parse_sigmas(noise)
        return [Source(target=x, noise=sigma, seed=seed) for x in targets for sigma in sigmas]
    match inputs, targets, roots:
        case Path(), [target], []:
            if real_path(inputs) == real_path(target):
                raise UserError(f"{inputs}: the input is the target; name two folders.")
            return [Source(input=inputs, target=target)]
        case None, [], [_, *_]:
            return [Source(data=root) for root in roots]
    raise UserError(
        "name the pictures with --input and --target, or a data set with --data, or clean pictures "
        "with --noise and --target."
    )


def _run_all(
    folders: Sequence[Path], sources: Sequence[Source], how: How, report: Path | None
) -> bool:
    """Measure each network on each source, and tell of all in one table; whether all could be."""
    networks = [checkpoints.network_name(folder) for folder in folders]
    names = [source.name for source in sources]
    for what, found in (("checkpoints", networks), ("data sets", names)):
        if twice := [name for name, count in Counter(found).items() if count > 1]:
            raise UserError(f"{twice[0]}: two {what} are called so; rename a folder.")
    if how.subsets and len(sources) > 1:
        raise UserError("--subset: is of one data set; measure the others by themselves.")
    beside = None if report is None else report.with_suffix("")
    if beside is not None:
        common.check_writable(beside)
    done: dict[tuple[str, str], dict[str, Any]] = {}
    all_measured = True
    for (network, folder), (name, source) in itertools.product(
        zip(networks, folders, strict=True), zip(names, sources, strict=True)
    ):
        say(f"{network} on {name}")
        try:
            file = None if beside is None else beside / f"{network}-{name}.json"
            if file is not None:
                _check_report(file, how.overwrite)
            one, whole = _run(folder, source, how, file)
        except common.ERRORS as error:
            common.complain(error)
            all_measured = False
            continue
        all_measured &= whole
        if one["images"]:
            done[network, name] = one
    if done:
        text = f"{reports.joined(done)}\n\n{reports.notes(next(iter(done.values())))}\n"
        for line in text.splitlines():
            say(line)
        if report is not None and beside is not None:
            runs = [
                {
                    "checkpoint": network,
                    "data": name,
                    "report": f"{beside.name}/{network}-{name}.json",
                    "pictures": len(one["images"]),
                    "mean": reports.means(one),
                }
                for (network, name), one in done.items()
            ]
            reports.write_json({"runs": runs}, report)
            _write_markdown(text, report)
    return all_measured


def _run(
    checkpoint: Path, source: Source, how: How, report: Path | None
) -> tuple[dict[str, Any], bool]:
    """Measure one network on one source; its report, and whether all could be measured."""
    description = checkpoints.describe(checkpoint)
    model, shapes = common.open_network(checkpoint, "global", None, how.dtype, how.settings)
    modes, window = [*how.modes], model.window
    if len(how.windows) == 1:
        model = model.clone(window=evaluation.window_of(how.windows[0], model.train_size))
        window = int(how.windows[0]) if how.windows[0].isdecimal() else how.windows[0]
    elif how.windows:
        at = modes.index("local")
        modes[at : at + 1] = (f"local:{one}" for one in how.windows)
        modes = evaluation.parse_modes(",".join(modes))
    _check_takes(checkpoint, model, modes, how)
    found = source.pairs(model)
    clips = _clips(model, found, how.limit) if isinstance(model, RNNMBP) else None
    if clips is None:
        measured = [pair.name for pair in found[: how.limit]]
    else:
        measured = [name for names in clips.names.values() for name in names]
    subsets = {file.stem: read_subset(file, [pair.name for pair in found]) for file in how.subsets}
    done = reports.open_report(
        {
            "checkpoint": real_path(checkpoint).name,
            **{key: description.get(key) for key in ("params_sha256", "network", "config")},
            "modes": modes,
            "protocol": how.protocol,
            "window": window,
            "dtype": how.dtype,
            "set": common.parse_settings(how.settings),
            **({} if clips is None else {"chunk": how.chunk, "overlap": how.overlap}),
            **source.settings(),
            "tlc_jax": importlib.metadata.version("tlc-jax"),
            "jax": jax.__version__,
            "device": f"{jax.default_backend()} ({jax.devices()[0].device_kind})",
            "matmul_precision": jax.config.values["jax_default_matmul_precision"],
        },
        None if how.overwrite else report,
    )
    reports.check_same(done, measured, report)
    done["pictures"] = len(measured)
    if subsets:
        done["subsets"] = subsets
    left = {*measured} - done["images"].keys()
    if len(left) < len(measured):
        say(f"{report}: {len(measured) - len(left)} of {len(measured)} pictures are done")
    mode = "local" if any(map(evaluation.is_local, modes)) else "global"
    params = common.load_params(checkpoint, model, shapes, mode, how.dtype) if left else None

    def work(_: common.Watch) -> Iterator[tuple[str, Future]]:
        if isinstance(model, RNNMBP) and clips is not None:
            todo = {clip: clips.frames[clip] for clip in clips.names if clips.is_left(clip, left)}
            return evaluation.evaluate_clips(
                model, params, todo, modes, how.protocol, chunk=how.chunk, overlap=how.overlap
            )
        todo = [pair for pair in found if pair.name in left]
        return _by_name(model, params, todo, modes, how)

    def tell(name: str, came: Future) -> None:
        with common.enough_memory(Path(name)):
            result = came.result()
        done["images"] |= {name: result} if clips is None else result
        if report is not None:
            reports.write_report(done, report)

    count = len(left) if clips is None else sum(clips.is_left(clip, left) for clip in clips.names)
    all_measured = common.each(count, work, tell)
    if done["images"]:
        for line in f"{reports.table(done)}\n{reports.notes(done)}".splitlines():
            say(line)
        if report is not None:
            reports.write_report(done, report)  # with subsets that are new
            _illustrate(done, report)
        if (best := reports.best_window(done)) is not None:
            _tell_best(checkpoint, model, best, how.keep_window and all_measured)
        elif len(how.windows) > 1:
            say("no window is better than the others; none is kept")
    return done, all_measured


class _Clips(NamedTuple):
    """The frames of each clip, and the names of those that are measured."""

    frames: dict[str, list[data.Pair]]
    names: dict[str, list[str]]

    def is_left(self, clip: str, left: set[str]) -> bool:
        """Whether one of its frames is not measured yet; a clip too short to have any always is."""
        return not self.names[clip] or not left.isdisjoint(self.names[clip])


def _clips(model: RNNMBP, found: list[data.Pair], limit: int | None) -> _Clips:
    frames = dict(itertools.islice(data.clips(found).items(), limit))
    names = {
        clip: [pair.name for pair in evaluation.measured_frames(model, of_clip)]
        for clip, of_clip in frames.items()
    }
    return _Clips(frames, names)


def _by_name(
    model: Network, params: Params, todo: list[data.Pair], modes: list[str], how: How
) -> Iterator[tuple[str, Future]]:
    measuring = evaluation.evaluate_all(
        model, params, todo, modes, how.protocol, devices=how.devices
    )
    return ((pair.name, came) for pair, came in measuring)


def _check_takes(checkpoint: Path, model: Network, modes: list[str], how: How) -> None:
    """Refuse networks, modes and protocols that do not go together."""
    if model.takes == "arrays":
        raise UserError(
            f"{checkpoint}: the network takes {model.inp_channels} channels, which no file holds; "
            "choose another."
        )
    if model.takes == "clips":
        if tiles := next((mode for mode in modes if mode.startswith("tiles")), None):
            raise UserError(f"mode {tiles}: is for pictures; a network for video has no tiles.")
        if how.devices > 1:
            raise UserError("--devices: shares pictures out; leave it out for video.")
    if model.inp_channels == 1 and how.protocol is Protocol.Y:
        raise UserError(f"{checkpoint}: a gray network has no luma to take; use --protocol rgb.")


def _tell_best(checkpoint: Path, model: Network, best: str, keep: bool) -> None:
    """Tell of the best window, and write it into the checkpoint if that is wanted."""
    side = best.removeprefix("local:")
    window = evaluation.window_of(side, model.train_size)
    say(f"best window: {side}, {window[1]}x{window[0]} pixels")
    if keep:
        checkpoints.keep_window(checkpoint, window)
        say(f"{checkpoint}: has this window from now on, where no --window is asked for")


def _check_report(report: Path, overwrite: bool) -> None:
    """Refuse before the work what could not be written after it, or would replace other files."""
    if report.suffix.lower() != ".json":
        raise UserError(f"{report}: a report is a .json file; name one.")
    common.check_writable(report.parent)
    beside = [report.with_suffix(suffix) for suffix in (".md", ".png")]
    if not overwrite and not report.exists() and (other := [x for x in beside if x.exists()]):
        raise UserError(f"{other[0]}: would be replaced; name another --report, or --overwrite.")


def _illustrate(done: dict[str, Any], report: Path) -> None:
    """The report for people, beside the one for programs."""
    _write_markdown(reports.markdown(done), report)
    try:
        reports.plot(done, report.with_suffix(".png"))
    except ImportError:
        say("no plot is made: matplotlib is missing, install the extra [plot]")
    except OSError as error:
        raise _not_beside(report, error) from None


def _write_markdown(text: str, report: Path) -> None:
    try:
        report.with_suffix(".md").write_text(text)
    except OSError as error:
        raise _not_beside(report, error) from None


def _not_beside(report: Path, error: OSError) -> UserError:
    return UserError(
        f"{report}: the .md and .png beside it cannot be written ({error.strerror}); mend that "
        "and run it again."
    )
