"""RNN-MBP as its authors publish it (no licence stated): tensors under `state_dict`."""

from typing import Any

from checkpoints_convert.cab import block_rules
from checkpoints_convert.engine import CONV, Rule, Shapes, count

SHALLOW = r"shallow_cell\.shallow_feat"
UNET, HERE = r"(backward|forward)_(encoder|decoder)", "{}/propagation/{}"
RULES = (
    *block_rules(SHALLOW + r"\.1", "backward/shallow_cell/block", "backward/shallow_cell"),
    *block_rules(UNET + r"\.((?:en|de)coder_level\d\.\d|skip_attn\d)", HERE + "/{}", HERE),
    *block_rules(r"TFR\.(orb\d\.body\.\d+)", "forward/TFR/{}", "forward/TFR"),
    Rule(SHALLOW + r"\.0", "backward/shallow_cell/conv", CONV),
    Rule(UNET + r"\.(down\d\d)\.down\.1", HERE + "/{}", CONV),
    Rule(UNET + r"\.(up\d\d)\.up\.1", HERE + "/{}", CONV),
    Rule(UNET + r"\.skip_(enc\d|dec\d)", HERE + "/fuse_{}", CONV),
    Rule(r"TFR\.(orb\d\.body\.\d+|conv_enc\d|conv_dec\d)", "forward/TFR/{}", CONV),
    Rule(r"TFR\.(up_(?:enc|dec)1)\.up\.1", "forward/TFR/{}_0", CONV),
    Rule(r"TFR\.(up_(?:enc|dec)2\.\d)\.up\.1", "forward/TFR/{}", CONV),
    Rule(r"(recons)", "forward/{}", CONV),
)
UNUSED = r"fusion\.(weight|bias)"  # trained along, and never called


def infer_rnn_mbp(shapes: Shapes) -> dict[str, Any]:
    """The configuration of an RNN-MBP from its tensors' names and shapes."""
    n_features, inp_channels = shapes["shallow_cell.shallow_feat.0.weight"][:2]
    return {
        "n_features": n_features,
        "num_cab": count(shapes, r"TFR\.orb1\.body\.(\d+)\.CA"),
        "inp_channels": inp_channels,
    }
