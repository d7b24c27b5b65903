"""MPRNet as its authors publish it (non-commercial academic licence): under `state_dict`."""

from typing import Any

from checkpoints_convert.cab import block_rules
from checkpoints_convert.engine import CONV, Rule, Shapes, count

STAGE = r"(stage\d_\w+)"
RULES = (
    *block_rules(r"(shallow_feat\d)\.1", "{}/block", ""),
    *block_rules(STAGE + r"\.((?:en|de)coder_level\d\.\d|skip_attn\d)", "{}/{}", ""),
    *block_rules(STAGE + r"\.(orb\d\.body\.\d+)", "{}/{}", ""),
    Rule(r"(shallow_feat\d)\.0", "{}/conv", CONV),
    Rule(STAGE + r"\.(down\d\d)\.down\.1", "{}/{}", CONV),
    Rule(STAGE + r"\.(up\d\d)\.up\.1", "{}/{}", CONV),
    Rule(STAGE + r"\.csff_(enc\d|dec\d)", "{}/fuse_{}", CONV),
    Rule(STAGE + r"\.(orb\d\.body\.\d+|conv_enc\d|conv_dec\d)", "{}/{}", CONV),
    Rule(STAGE + r"\.(up_(?:enc|dec)1)\.up\.1", "{}/{}_0", CONV),
    Rule(STAGE + r"\.(up_(?:enc|dec)2\.\d)\.up\.1", "{}/{}", CONV),
    Rule(r"(sam\d\d)\.conv1", "{}/Conv_0", CONV),
    Rule(r"(sam\d\d)\.conv2", "{}/Conv_1", CONV),
    Rule(r"(sam\d\d)\.conv3", "{}/Conv_2", CONV),
    Rule(r"(concat12|concat23|tail)", "{}", CONV),
)


def infer_mprnet(shapes: Shapes) -> dict[str, Any]:
    """The configuration of an MPRNet from its tensors' names and shapes."""
    n_feat, inp_channels = shapes["shallow_feat1.0.weight"][:2]
    return {
        "n_feat": n_feat,
        "scale_unetfeats": shapes["stage1_encoder.down12.down.1.weight"][0] - n_feat,
        "scale_orsnetfeats": shapes["tail.weight"][1] - n_feat,
        "num_cab": count(shapes, r"stage3_orsnet\.orb1\.body\.(\d+)\.CA"),
        "reduction": n_feat // shapes["shallow_feat1.1.CA.conv_du.0.weight"][0],
        "inp_channels": inp_channels,
    }
