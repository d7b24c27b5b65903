"""HINet as its authors publish it (MIT): tensors under `params`."""

from checkpoints_convert.engine import CONV, NORM, UPCONV, Config, Release, Rule, Shapes, count
from checkpoints_convert.shared import attention_rules

BLOCK_NAME = r"(down_path_\d\.\d+|up_path_\d\.\d+\.conv_block)"
RULES = (
    Rule(r"(conv_01|conv_02|cat12|last|skip_conv_\d\.\d+)", "{}", CONV),
    *attention_rules(r"(sam12)"),
    Rule(BLOCK_NAME + r"\.(identity|conv_1|conv_2|csff_enc|csff_dec)", "{}/{}", CONV),
    Rule(BLOCK_NAME + r"\.(norm)", "{}/{}", NORM),
    Rule(r"(down_path_\d\.\d+\.downsample)", "{}", CONV),
    Rule(r"(up_path_\d\.\d+\.up)", "{}", UPCONV),
)


def _infer_hinet(shapes: Shapes) -> Config:
    wf, inp_channels = shapes["conv_01.weight"][:2]
    depth = count(shapes, r"down_path_1\.(\d+)\.")
    normed = [level for level in range(depth) if f"down_path_1.{level}.norm.weight" in shapes]
    return {
        "wf": wf,
        "depth": depth,
        "hin_position_left": min(normed, default=depth),
        "hin_position_right": max(normed, default=depth),
        "inp_channels": inp_channels,
    }


RELEASES = {"hinet": Release(r"down_path_1\.0\.identity\.weight", _infer_hinet, RULES)}
