"""The checkpoints that authors publish for these networks, and where.

PSNR is in dB and as published: figures of the authors, or of TLC's authors, on the dataset's test
images and by the protocol of their papers. None of it was measured here. `None` stands where no
figure for this very file and mode was found. SIDD's test images are as small as the crops of
training: there TLC changes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Published(NamedTuple):
    """One published file of weights."""

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


LICENCES = {  # under which the authors publish weights of these networks
    "nafnet": "MIT",
    "baseline": "MIT",
    "nafssr": "MIT",
    "restormer": "non-commercial academic use (the authors' licence)",
    "mprnet": "non-commercial academic use (the authors' licence)",
    "hinet": "MIT",
    "rnn_mbp": "none stated by the authors",
    "maxim": "Apache-2.0",
}

Row = tuple[str, str, str, str, float | None, float | None]


def _of(
    network: str, source: str, parameters: Mapping[str, int], rows: Sequence[Row]
) -> list[Published]:
    """The files of one network, its parameters by the names of its variants."""
    return [
        Published(row[0], network, row[1], parameters[row[1]], *row[2:], LICENCES[network], source)
        for row in rows
    ]


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
        {
            "gopro-width32": 17_111_907,
            "gopro-width64": 67_888_835,
            "reds-width64": 67_888_835,
            "sidd-width32": 29_159_715,
            "sidd-width64": 115_982_915,
        },
        [
            ("NAFNet-GoPro-width32.pth", "gopro-width32", MOTION, "GoPro", None, 32.8705),
            ("NAFNet-GoPro-width64.pth", "gopro-width64", MOTION, "GoPro", 33.08, 33.7103),
            ("NAFNet-REDS-width64.pth", "reds-width64", MOTION, "REDS", None, 29.0903),
            ("NAFNet-SIDD-width32.pth", "sidd-width32", PHOTOGRAPHS, "SIDD", 39.9672, None),
            ("NAFNet-SIDD-width64.pth", "sidd-width64", PHOTOGRAPHS, "SIDD", 40.3045, None),
        ],
    ),
    *_of(
        "baseline",
        "https://github.com/megvii-research/NAFNet",
        {
            "gopro-width32": 17_023_875,
            "gopro-width64": 112_036_291,
            "sidd-width32": 29_056_227,
            "sidd-width64": 194_419_779,
        },
        [
            ("Baseline-GoPro-width32.pth", "gopro-width32", MOTION, "GoPro", None, 32.4799),
            ("Baseline-GoPro-width64.pth", "gopro-width64", MOTION, "GoPro", None, 33.3960),
            ("Baseline-SIDD-width32.pth", "sidd-width32", PHOTOGRAPHS, "SIDD", 39.8857, None),
            ("Baseline-SIDD-width64.pth", "sidd-width64", PHOTOGRAPHS, "SIDD", 40.2970, None),
        ],
    ),
    *_of(
        "nafssr",
        "https://github.com/megvii-research/NAFNet/blob/main/docs/StereoSR.md",
        {
            "T-2x": 445_068,
            "S-2x": 1_538_572,
            "B-2x": 6_765_324,
            "L-2x": 23_790_604,
            "T-4x": 460_656,
            "S-4x": 1_559_344,
            "B-4x": 6_796_464,
            "L-4x": 23_832_112,
        },
        [
            ("NAFSSR-T_2x.pth", "T-2x", STEREO_2X, "Flickr1024", None, 28.94),
            ("NAFSSR-S_2x.pth", "S-2x", STEREO_2X, "Flickr1024", None, 29.19),
            ("NAFSSR-B_2x.pth", "B-2x", STEREO_2X, "Flickr1024", None, 29.54),
            ("NAFSSR-L_2x.pth", "L-2x", STEREO_2X, "Flickr1024", None, 29.68),
            ("NAFSSR-T_4x.pth", "T-4x", STEREO_4X, "Flickr1024", None, 23.69),
            ("NAFSSR-S_4x.pth", "S-4x", STEREO_4X, "Flickr1024", None, 23.88),
            ("NAFSSR-B_4x.pth", "B-4x", STEREO_4X, "Flickr1024", None, 24.07),
            ("NAFSSR-L_4x.pth", "L-4x", STEREO_4X, "Flickr1024", None, 24.17),
        ],
    ),
    *_of(
        "restormer",
        "https://github.com/swz30/Restormer/releases/tag/v1.0",
        {
            "deblurring": 26_126_644,
            "deraining": 26_126_644,
            "defocus": 26_126_644,
            "dual-pixel": 26_132_548,
            "denoising": 26_111_668,
            "gray-denoising": 26_109_076,
        },
        [
            ("motion_deblurring.pth", "deblurring", MOTION, "GoPro", 32.92, 33.57),
            ("deraining.pth", "deraining", RAIN, "Rain13k", None, None),
            ("single_image_defocus_deblurring.pth", "defocus", DEFOCUS, "DPDD", None, None),
            ("dual_pixel_defocus_deblurring.pth", "dual-pixel", DUAL_PIXEL, "DPDD", None, None),
            ("real_denoising.pth", "denoising", PHOTOGRAPHS, "SIDD", None, None),
            ("gaussian_color_denoising_blind.pth", "denoising", COLOUR, "any sigma", None, None),
            ("gaussian_color_denoising_sigma15.pth", "denoising", COLOUR, "sigma 15", None, None),
            ("gaussian_color_denoising_sigma25.pth", "denoising", COLOUR, "sigma 25", None, None),
            ("gaussian_color_denoising_sigma50.pth", "denoising", COLOUR, "sigma 50", None, None),
            ("gaussian_gray_denoising_blind.pth", "gray-denoising", GRAY, "any sigma", None, None),
            ("gaussian_gray_denoising_sigma15.pth", "gray-denoising", GRAY, "sigma 15", None, None),
            ("gaussian_gray_denoising_sigma25.pth", "gray-denoising", GRAY, "sigma 25", None, None),
            ("gaussian_gray_denoising_sigma50.pth", "gray-denoising", GRAY, "sigma 50", None, None),
        ],
    ),
    *_of(
        "mprnet",
        "https://github.com/swz30/MPRNet",
        {
            "deblurring": 20_127_073,
            "denoising": 15_741_025,
            "deraining": 3_637_249,
        },
        [
            ("model_deblurring.pth", "deblurring", MOTION, "GoPro", 32.66, 33.31),
            ("model_denoising.pth", "denoising", PHOTOGRAPHS, "SIDD", None, None),
            ("model_deraining.pth", "deraining", RAIN, "Rain13k", None, None),
        ],
    ),
    *_of(
        "hinet",
        "https://github.com/megvii-model/HINet",
        {
            "gopro": 88_668_806,
            "reds": 88_668_806,
            "sidd": 88_669_702,
            "sidd-half": 22_176_518,
            "rain13k": 88_669_702,
        },
        [
            ("HINet-GoPro.pth", "gopro", MOTION, "GoPro", 32.71, 33.08),
            ("HINet-REDS.pth", "reds", MOTION, "REDS", 28.83, None),
            ("HINet-SIDD-1x.pth", "sidd", PHOTOGRAPHS, "SIDD", None, None),
            ("HINet-SIDD-0.5x.pth", "sidd-half", PHOTOGRAPHS, "SIDD", None, None),
            ("HINet-Rain13k.pth", "rain13k", RAIN, "Rain13k", None, None),
        ],
    ),
    *_of(
        "rnn_mbp",
        "https://github.com/XJTU-CVLAB-LOWLEVEL/RNN-MBP",
        {"gopro": 14_160_789},
        # A folder of files is published; this is our name for the one trained on GoPro.
        [("RNN-MBP-GoPro", "gopro", MOTION, "GoPro", None, None)],
    ),
    *_of(
        "maxim",
        "https://github.com/google-research/maxim",
        {"3S": 22_207_605, "2S": 14_170_988},
        [
            ("Deblurring/GoPro/checkpoint.npz", "3S", MOTION, "GoPro", 32.86, None),
            ("Deblurring/REDS/checkpoint.npz", "3S", MOTION, "REDS", 28.93, None),
            ("Deblurring/RealBlur_R/checkpoint.npz", "3S", MOTION, "RealBlur-R", 39.45, None),
            ("Deblurring/RealBlur_J/checkpoint.npz", "3S", MOTION, "RealBlur-J", 32.84, None),
            ("Denoising/SIDD/checkpoint.npz", "3S", PHOTOGRAPHS, "SIDD", 39.96, None),
            ("Deraining/Rain13k/checkpoint.npz", "2S", RAIN, "Rain13k", 33.24, None),
            ("Deraining/Raindrop/checkpoint.npz", "2S", RAIN, "Raindrop", 31.87, None),
            ("Dehazing/SOTS-Indoor/checkpoint.npz", "2S", HAZE, "RESIDE-Indoor", 38.11, None),
            ("Dehazing/SOTS-Outdoor/checkpoint.npz", "2S", HAZE, "RESIDE-Outdoor", 34.19, None),
            ("Enhancement/LOL/checkpoint.npz", "2S", RETOUCHING, "LOL", 23.43, None),
            ("Enhancement/FiveK/checkpoint.npz", "2S", RETOUCHING, "FiveK", 26.15, None),
        ],
    ),
)
