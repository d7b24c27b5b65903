"""The forms that other platforms compile, and what the benchmark reads of their plans."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from benchmarks.plan import arrays, traffic
from tlc_jax.layers.network import abstract_params
from tlc_jax.models import NAFNet, Restormer
from tlc_jax.ops.backends import forms_of

NETWORKS = {
    "nafnet": NAFNet(4, (1,), 1, (1,), train_size=(64, 64), local_mode=True),
    "restormer": Restormer(
        dim=8, num_blocks=(1, 0, 0, 0), num_refinement_blocks=0, heads=(1, 1, 1, 1),
        train_size=(64, 64), local_mode=True,
    ),
}  # fmt: skip


def lowered(model, *platforms):
    image = jax.ShapeDtypeStruct((1, 256, 384, 3), jnp.float32)
    params = {"params": abstract_params(model)}
    return jax.jit(model.apply).trace(params, image).lower(lowering_platforms=platforms).as_text()


def arithmetic(program):
    """How often each occurs; JAX puts the form that it has chosen into a case with no other."""
    names = re.findall(r"stablehlo\.(\w+)", program)
    return Counter(name for name in names if name in ("add", "multiply", "dot_general", "slice"))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_a_program_for_one_platform_holds_one_form(name, platform):
    """As it would if there were no other."""
    chosen = lowered(NETWORKS[name], platform)
    with forms_of(platform):
        alone = lowered(NETWORKS[name], platform)
    assert "stablehlo.case" not in alone
    assert arithmetic(chosen) == arithmetic(alone)
    assert arithmetic(lowered(NETWORKS[name], "cpu", "tpu", "cuda")) > arithmetic(alone)


def test_a_tpu_gets_no_gathers_and_no_strides():
    """Each is a copy of a map there, in another layout."""
    strided = r"stablehlo\.slice %\w+ \[[^]]*:\d+:[2-9]"
    assert re.search(strided, lowered(NETWORKS["nafnet"], "cpu"))
    for_tpu = lowered(NETWORKS["nafnet"], "tpu")
    assert not re.search(strided, for_tpu) and "stablehlo.gather" not in for_tpu


PROGRAM = """
HloModule jit_apply

ENTRY %main (x: bf16[1,90,100,3]) -> f32[8] {
  %x = bf16[1,90,100,3]{2,3,1,0:T(8,128)(2,1)} parameter(0)
  %small = f32[]{:T(128)} constant(0)
  %made = bf16[1,90,100,3]{2,3,1,0:T(8,128)(2,1)S(1)} fusion(%x), kind=kLoop, metadata={op_name="a"}
  ROOT %end = f32[8]{0:T(128)} fusion(%made, %small), kind=kLoop, metadata={op_name="b"}
}
"""


def test_bytes_are_padded_as_laid_out():
    """A hundred columns fill 128 lanes, three channels 8 of them, which lie beneath."""
    padded = 90 * 8 * 128 * 2
    assert list(arrays("bf16[1,90,100,3]{2,3,1,0:T(8,128)(2,1)S(1)}")) == [(padded, True)]
    places, on_chip = traffic(PROGRAM)
    assert places == {"a": padded, "b": 8 * 4 + 4} and on_chip == 2 * padded
