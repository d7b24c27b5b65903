"""NAFNet and Baseline as their authors publish them (MIT): tensors under `params`."""

import re

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

    def blocks(part: str, between: str) -> tuple[int, ...]:
        # A level may have no blocks, but never lacks what leads to it.
        levels = count(shapes, rf"{between}\.(\d+)\.")
        return tuple(count(shapes, rf"{part}\.{level}\.(\d+)\.") for level in range(levels))

    return {
        "width": width,
        "enc_blk_nums": blocks("encoders", "downs"),
        "middle_blk_num": count(shapes, r"middle_blks\.(\d+)\."),
        "dec_blk_nums": blocks("decoders", "ups"),
        "inp_channels": inp_channels,
    }


def _infer_baseline(shapes: Shapes) -> Config:
    def expansion(layer: str) -> int:
        name = BLOCK_NAME + rf"\.{layer}\.weight"
        wide, narrow = next(shapes[one][:2] for one in shapes if re.fullmatch(name, one))
        return wide // narrow

    more = {"dw_expand": expansion("conv1"), "ffn_expand": expansion("conv4")}
    return _infer_nafnet(shapes) | more


ANY = r"(?:encoders|decoders|middle_blks)\..+"
RELEASES = {
    "nafnet": Release(ANY + r"\.sca\.1\.weight", _infer_nafnet, RULES),
    "baseline": Release(ANY + r"\.se\.1\.weight", _infer_baseline, RULES),
}
