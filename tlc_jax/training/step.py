"""One step of training: samples, losses, the optimizer and what it changes."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from tlc_jax import published
from tlc_jax.layers.network import Params, abstract_params
from tlc_jax.ops.pixels import to_float
from tlc_jax.training.config import Config, Loss, TrainingError

Batch = dict[str, jax.Array]


class State(NamedTuple):
    """What a step changes.

    Attributes:
      step: how many were made, int32.
      params: the parameters, float32.
      average: of them over the steps, which is what is kept.
      optimizer: what AdamW remembers.
    """

    step: jax.Array
    params: Params
    average: Params
    optimizer: Any


def _psnr_loss(image: jax.Array, target: jax.Array) -> jax.Array:
    """-PSNR in dB, the mean over the images (NAFNet, arXiv 2204.04676)."""
    error = jnp.square(image - target).mean(axis=(1, 2, 3))
    return 10 / math.log(10) * jnp.log(error + 1e-8).mean()


LOSSES: dict[Loss, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "psnr": _psnr_loss,
    "l1": lambda image, target: jnp.abs(image - target).mean(),
    "mse": lambda image, target: jnp.square(image - target).mean(),
    # Lai et al., arXiv 1710.01992, with the epsilon of MPRNet
    "charbonnier": lambda image, target: jnp.sqrt(jnp.square(image - target) + 1e-6).mean(),
}
"""Losses by name: of restored pictures and their ground truth, (N, H, W, C) in [0, 1]."""


def learning_rate(config: Config) -> optax.Schedule:
    """The learning rate by the number of the step, from 0."""
    falling = max(config.steps - config.warmup - config.constant, 1)
    peak, final = config.learning_rate, config.final_learning_rate
    rising = optax.linear_schedule(0.0, peak, config.warmup)
    cosine = optax.cosine_decay_schedule(peak, falling, final / peak)
    stretches = [rising, optax.constant_schedule(peak), cosine]
    return optax.join_schedules(stretches, [config.warmup, config.warmup + config.constant])


def optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW after clipping, as the configuration says."""
    clip = optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip)
    b1, b2 = config.betas
    adamw = optax.adamw(learning_rate(config), b1, b2, weight_decay=config.weight_decay)
    return optax.chain(clip, adamw)


def init(config: Config) -> State:
    """The state before the first step, with new parameters, or with those of `init_from`.

    A network that has more parameters than that, as further blocks, begins with new ones there;
    NAFNet's new blocks change nothing at first.

    Raises:
      TrainingError: `init_from` holds another network.
      CheckpointError: it cannot be read.
    """
    found = {} if config.init_from is None else published.load(config.init_from)[1]
    wanted = abstract_params(config.model)
    here, there = (flatten_dict(jax.tree.map(jnp.shape, tree)) for tree in (wanted, found))
    if not there.items() <= here.items():
        raise TrainingError(
            f"{config.init_from}: holds another network than the configuration's "
            f"{type(config.model).__name__}; give both the same sizes, or this one more blocks."
        )
    params = found
    if there != here:  # for what is there already, this would be compiled in vain
        example = jnp.zeros(config.model.example_input((8, 8)).shape)
        new = jax.jit(config.model.init)(jax.random.key(config.seed), example)["params"]
        params = unflatten_dict(flatten_dict(new) | flatten_dict(found))
    average = jax.tree.map(jnp.copy, params)  # memory of its own, as a step takes both
    return State(jnp.zeros((), jnp.int32), params, average, optimizer(config).init(params))


def samples(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Inputs and targets of a step, degraded and mixed as the configuration says.

    Args:
      config: of the run.
      batch: "target", and "input" where no degradation makes it, (N, H, W, C) uint8, uint16 or
        floats, with the margin; "seed", (N,) whole numbers, of all that is random.

    Returns:
      Two arrays (N, crop, crop, C) float32, the targets in [0, 1].
    """
    target = to_float(batch["target"])
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 3))(batch["seed"])
    if config.scene is not None:
        target = jax.vmap(config.scene)(keys[:, 2], target)
    if config.degradation is None:
        image = to_float(batch["input"])
    else:
        image = jax.vmap(config.degradation)(keys[:, 0], target)
        inside = slice(config.margin, target.shape[1] - config.margin)
        image, target = image[:, inside, inside], target[:, inside, inside]
    if config.mixup is not None:
        share = jax.vmap(functools.partial(_share, config.mixup))(keys[:, 1]).reshape(-1, 1, 1, 1)
        image, target = (share * x + (1 - share) * jnp.roll(x, 1, axis=0) for x in (image, target))
    return image, target


def _share(parameter: float, key: jax.Array) -> jax.Array:
    draw, mix = jax.random.split(key)
    return jnp.where(jax.random.bernoulli(mix), jax.random.beta(draw, parameter, parameter), 1.0)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def step(config: Config, state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
    """One step of training.

    Args:
      config: of the run.
      state: before the step; its memory is reused.
      batch: as for `samples`.

    Returns:
      The state after it, and its "loss" and the norms of its "gradient" and "parameters".
    """
    image, target = samples(config, batch)

    def loss_of(params: Params) -> jax.Array:
        restored = jnp.asarray(config.model.apply({"params": params}, image))
        return LOSSES[config.loss](restored.astype(jnp.float32), target)

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    updates, optimizer_state = optimizer(config).update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    # The first steps count for more, or the average would remember the start for long.
    decay = jnp.minimum(config.average, (1 + state.step) / (10 + state.step))
    average = optax.incremental_update(params, state.average, 1 - decay)
    norms = {"gradient": optax.tree.norm(gradients), "parameters": optax.tree.norm(params)}
    return State(state.step + 1, params, average, optimizer_state), {"loss": loss, **norms}
