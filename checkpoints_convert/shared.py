"""Rules for blocks that several networks share, by the releases' names."""

from checkpoints_convert.engine import CONV, NORM, SLOPE, Rule, vectors


def naf_rules(source: str, path: str) -> tuple[Rule, ...]:
    """Rules for NAFNet's blocks that match `source`; `path` as for `block_rules`."""
    return (
        Rule(source, path, vectors("beta", "gamma")),
        Rule(source + r"\.(norm[12])", path + "/{}", NORM),
        Rule(source + r"\.(conv[1-5])", path + "/{}", CONV),
        Rule(source + r"\.(sca)\.1", path + "/{}", CONV),
    )


def attention_rules(source: str) -> tuple[Rule, ...]:
    """Rules for a supervised attention module; `source`, of one group, matches its name."""
    names = {"conv1": "Conv_0", "conv2": "Conv_1", "conv3": "Conv_2"}
    return tuple(Rule(f"{source}.{theirs}", f"{{}}/{ours}", CONV) for theirs, ours in names.items())


def block_rules(source: str, path: str, slope: str) -> tuple[Rule, ...]:
    """Rules for MPRNet's channel attention blocks that match `source`.

    Args:
      source: a regular expression for their names.
      path: their names here, with {} for the groups of `source`.
      slope: the path of the PReLU slope that all of them share, with the same groups.
    """
    return (
        Rule(source + r"\.body\.([02])", path + "/body_{}", CONV),
        Rule(source + r"\.body\.1", slope, SLOPE, shared=True),
        Rule(source + r"\.CA\.conv_du\.0", path + "/CA/Conv_0", CONV),
        Rule(source + r"\.CA\.conv_du\.2", path + "/CA/Conv_1", CONV),
    )


def unet_rules(source: str, path: str, slope: str, fused: str) -> tuple[Rule, ...]:
    """Rules for MPRNet's encoders and decoders; `fused` begins the names of fusion layers."""
    return (
        *block_rules(source + r"\.((?:en|de)coder_level\d\.\d|skip_attn\d)", path + "/{}", slope),
        Rule(source + r"\.(down\d\d)\.down\.1", path + "/{}", CONV),
        Rule(source + r"\.(up\d\d)\.up\.1", path + "/{}", CONV),
        Rule(source + rf"\.{fused}_(enc\d|dec\d)", path + "/fuse_{}", CONV),
    )


def orsnet_rules(source: str, path: str, slope: str) -> tuple[Rule, ...]:
    """Rules for MPRNet's original resolution subnetwork, a module without groups in its name."""
    return (
        *block_rules(source + r"\.(orb\d\.body\.\d+)", path + "/{}", slope),
        Rule(source + r"\.(orb\d\.body\.\d+|conv_enc\d|conv_dec\d)", path + "/{}", CONV),
        Rule(source + r"\.(up_(?:enc|dec)1)\.up\.1", path + "/{}_0", CONV),
        Rule(source + r"\.(up_(?:enc|dec)2\.\d)\.up\.1", path + "/{}", CONV),
    )
