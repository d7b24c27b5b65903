"""The checkpoints that authors publish for these networks, and where.

PSNR is in dB and as published: figures of the authors, or of TLC's authors, on the dataset's test
images and by the protocol of their papers. None of it was measured here. `None` stands where no
figure for this very file and mode was found. SIDD's test images are as small as the crops of
training: there TLC changes nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Published(NamedTuple):
    """One published file of weights."""

    file: str  # its name as the authors give it
    network: str  # a key of `tlc_jax.MODELS`
    task: str
    dataset: str  # or noise: what it was trained on, and is measured on
    parameters: int | None  # numbers in the file
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

Row = tuple[str, str, str, int | None, float | None, float | None]


def _of(network: str, source: str, rows: Sequence[Row]) -> list[Published]:
    return [Published(row[0], network, *row[1:], LICENCES[network], source) for row in rows]


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
        [
            ("NAFNet-GoPro-width32.pth", MOTION, "GoPro", 17_111_907, None, 32.8705),
            ("NAFNet-GoPro-width64.pth", MOTION, "GoPro", 67_888_835, 33.08, 33.7103),
            ("NAFNet-REDS-width64.pth", MOTION, "REDS", 67_888_835, None, 29.0903),
            ("NAFNet-SIDD-width32.pth", PHOTOGRAPHS, "SIDD", 29_159_715, 39.9672, None),
            ("NAFNet-SIDD-width64.pth", PHOTOGRAPHS, "SIDD", 115_982_915, 40.3045, None),
        ],
    ),
    *_of(
        "baseline",
        "https://github.com/megvii-research/NAFNet",
        [
            ("Baseline-GoPro-width32.pth", MOTION, "GoPro", 17_023_875, None, 32.4799),
            ("Baseline-GoPro-width64.pth", MOTION, "GoPro", 112_036_291, None, 33.3960),
            ("Baseline-SIDD-width32.pth", PHOTOGRAPHS, "SIDD", 29_056_227, 39.8857, None),
            ("Baseline-SIDD-width64.pth", PHOTOGRAPHS, "SIDD", 194_419_779, 40.2970, None),
        ],
    ),
    *_of(
        "nafssr",
        "https://github.com/megvii-research/NAFNet/blob/main/docs/StereoSR.md",
        [
            ("NAFSSR-T_2x.pth", STEREO_2X, "Flickr1024", 445_068, None, 28.94),
            ("NAFSSR-S_2x.pth", STEREO_2X, "Flickr1024", 1_538_572, None, 29.19),
            ("NAFSSR-B_2x.pth", STEREO_2X, "Flickr1024", 6_765_324, None, 29.54),
            ("NAFSSR-L_2x.pth", STEREO_2X, "Flickr1024", 23_790_604, None, 29.68),
            ("NAFSSR-T_4x.pth", STEREO_4X, "Flickr1024", 460_656, None, 23.69),
            ("NAFSSR-S_4x.pth", STEREO_4X, "Flickr1024", 1_559_344, None, 23.88),
            ("NAFSSR-B_4x.pth", STEREO_4X, "Flickr1024", 6_796_464, None, 24.07),
            ("NAFSSR-L_4x.pth", STEREO_4X, "Flickr1024", 23_832_112, None, 24.17),
        ],
    ),
    *_of(
        "restormer",
        "https://github.com/swz30/Restormer/releases/tag/v1.0",
        [
            ("motion_deblurring.pth", MOTION, "GoPro", 26_126_644, 32.92, 33.57),
            ("deraining.pth", RAIN, "Rain13k", 26_126_644, None, None),
            ("single_image_defocus_deblurring.pth", DEFOCUS, "DPDD", 26_126_644, None, None),
            ("dual_pixel_defocus_deblurring.pth", DUAL_PIXEL, "DPDD", 26_132_548, None, None),
            ("real_denoising.pth", PHOTOGRAPHS, "SIDD", 26_111_668, None, None),
            ("gaussian_color_denoising_blind.pth", COLOUR, "any sigma", 26_111_668, None, None),
            ("gaussian_color_denoising_sigma15.pth", COLOUR, "sigma 15", 26_111_668, None, None),
            ("gaussian_color_denoising_sigma25.pth", COLOUR, "sigma 25", 26_111_668, None, None),
            ("gaussian_color_denoising_sigma50.pth", COLOUR, "sigma 50", 26_111_668, None, None),
            ("gaussian_gray_denoising_blind.pth", GRAY, "any sigma", 26_109_076, None, None),
            ("gaussian_gray_denoising_sigma15.pth", GRAY, "sigma 15", 26_109_076, None, None),
            ("gaussian_gray_denoising_sigma25.pth", GRAY, "sigma 25", 26_109_076, None, None),
            ("gaussian_gray_denoising_sigma50.pth", GRAY, "sigma 50", 26_109_076, None, None),
        ],
    ),
    *_of(
        "mprnet",
        "https://github.com/swz30/MPRNet",
        [
            ("model_deblurring.pth", MOTION, "GoPro", 20_127_073, 32.66, 33.31),
            ("model_denoising.pth", PHOTOGRAPHS, "SIDD", 15_741_025, None, None),
            ("model_deraining.pth", RAIN, "Rain13k", 3_637_249, None, None),
        ],
    ),
    *_of(
        "hinet",
        "https://github.com/megvii-model/HINet",
        [
            ("HINet-GoPro.pth", MOTION, "GoPro", 88_668_806, 32.71, 33.08),
            ("HINet-REDS.pth", MOTION, "REDS", 88_668_806, 28.83, None),
            ("HINet-SIDD-1x.pth", PHOTOGRAPHS, "SIDD", 88_669_702, None, None),
            ("HINet-SIDD-0.5x.pth", PHOTOGRAPHS, "SIDD", 22_176_518, None, None),
            ("HINet-Rain13k.pth", RAIN, "Rain13k", 88_669_702, None, None),
        ],
    ),
    *_of(
        "rnn_mbp",
        "https://github.com/XJTU-CVLAB-LOWLEVEL/RNN-MBP",
        # A folder of files is published; this is our name for the one trained on GoPro.
        [("RNN-MBP-GoPro", MOTION, "GoPro", 14_379_579, None, None)],
    ),
    *_of(
        "maxim",
        "https://github.com/google-research/maxim",
        # Four tensors that only make the coarser outputs are not counted; the network has none.
        [
            ("Deblurring/GoPro/checkpoint.npz", MOTION, "GoPro", 22_207_605, 32.86, None),
            ("Deblurring/REDS/checkpoint.npz", MOTION, "REDS", 22_207_605, 28.93, None),
            ("Deblurring/RealBlur_R/checkpoint.npz", MOTION, "RealBlur-R", 22_207_605, 39.45, None),
            ("Deblurring/RealBlur_J/checkpoint.npz", MOTION, "RealBlur-J", 22_207_605, 32.84, None),
            ("Denoising/SIDD/checkpoint.npz", PHOTOGRAPHS, "SIDD", 22_207_605, 39.96, None),
            # MAXIM-2S, with two stages.
            ("Deraining/Rain13k/checkpoint.npz", RAIN, "Rain13k", None, 33.24, None),
            ("Deraining/Raindrop/checkpoint.npz", RAIN, "Raindrop", None, 31.87, None),
            ("Dehazing/SOTS-Indoor/checkpoint.npz", HAZE, "RESIDE-Indoor", None, 38.11, None),
            ("Dehazing/SOTS-Outdoor/checkpoint.npz", HAZE, "RESIDE-Outdoor", None, 34.19, None),
            ("Enhancement/LOL/checkpoint.npz", RETOUCHING, "LOL", None, 23.43, None),
            ("Enhancement/FiveK/checkpoint.npz", RETOUCHING, "FiveK", None, 26.15, None),
        ],
    ),
)
