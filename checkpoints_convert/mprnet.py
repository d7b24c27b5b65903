"""MPRNet as its authors publish it (non-commercial academic licence): under `state_dict`."""

from checkpoints_convert.engine import CONV, Config, Release, Rule, Shapes, count
from checkpoints_convert.shared import attention_rules, block_rules, orsnet_rules, unet_rules

# One PReLU slope for the whole network, at the root.
RULES = (
    *block_rules(r"(shallow_feat\d)\.1", "{}/block", slope=""),
    Rule(r"(shallow_feat\d)\.0", "{}/conv", CONV),
    *unet_rules(r"(stage\d_encoder|stage\d_decoder)", "{}", slope="", fused="csff"),
    *orsnet_rules("stage3_orsnet", "stage3_orsnet", slope=""),
    *attention_rules(r"(sam12|sam23)"),
    Rule(r"(concat12|concat23|tail)", "{}", CONV),
)


def _infer_mprnet(shapes: Shapes) -> Config:
    n_feat, inp_channels = shapes["shallow_feat1.0.weight"][:2]
    return {
        "n_feat": n_feat,
        "scale_unetfeats": shapes["stage1_encoder.down12.down.1.weight"][0] - n_feat,
        "scale_orsnetfeats": shapes["tail.weight"][1] - n_feat,
        "num_cab": count(shapes, r"stage3_orsnet\.orb1\.body\.(\d+)\.CA"),
        "reduction": _reduction(shapes),
        "inp_channels": inp_channels,
    }


def _reduction(shapes: Shapes) -> int:
    """The r for which every level has channels // r hidden channels."""
    attention = "stage1_encoder.encoder_level{}.0.CA.conv_du.0.weight"
    squeezes = [shapes[attention.format(level)][:2] for level in (1, 2, 3)]
    largest = max(channels for _, channels in squeezes)
    return next(r for r in range(1, largest + 1) if all(c // r == h for h, c in squeezes))


RELEASES = {"mprnet": Release(r"stage3_orsnet\.conv_enc1\.weight", _infer_mprnet, RULES)}
