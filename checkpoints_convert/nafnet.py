"""NAFNet and Baseline as their authors publish them (MIT): tensors under `params`."""

from checkpoints_convert.engine import CONV, Config, Release, Rule, Shapes, count
from checkpoints_convert.shared import naf_rules

BLOCK_NAME = r"((?:encoders|decoders)\.\d+\.\d+|middle_blks\.\d+)"
RULES = (
    Rule(r"(intro|ending|downs\.\d+)", "{}", CONV),
    Rule(r"(ups\.\d+)\.0", "{}", CONV),
    *naf_rules(BLOCK_NAME, "{}"),  # Baseline's blocks, too, but for their attention
    Rule(BLOCK_NAME + r"\.(se)\.1", "{}/{}/Conv_0", CONV),
    Rule(BLOCK_NAME + r"\.(se)\.3", "{}/{}/Conv_1", CONV),
)


def _infer_nafnet(shapes: Shapes) -> Config:
    width, inp_channels = shapes["intro.weight"][:2]

    def blocks(part: str) -> tuple[int, ...]:
        levels = count(shapes, rf"{part}\.(\d+)\.")
        return tuple(count(shapes, rf"{part}\.{level}\.(\d+)\.") for level in range(levels))

    return {
        "width": width,
        "enc_blk_nums": blocks("encoders"),
        "middle_blk_num": count(shapes, r"middle_blks\.(\d+)\."),
        "dec_blk_nums": blocks("decoders"),
        "inp_channels": inp_channels,
    }


def _infer_baseline(shapes: Shapes) -> Config:
    config = _infer_nafnet(shapes)
    return config | {
        "dw_expand": shapes["encoders.0.0.conv1.weight"][0] // config["width"],
        "ffn_expand": shapes["encoders.0.0.conv4.weight"][0] // config["width"],
    }


RELEASES = {
    "nafnet": Release(r"(encoders|middle_blks)\..+\.sca\.1\.weight", _infer_nafnet, RULES),
    "baseline": Release(r"(encoders|middle_blks)\..+\.se\.1\.weight", _infer_baseline, RULES),
}
