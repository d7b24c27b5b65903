"""What a network is trained with: the configuration of a run, and one step of it."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from tlc_jax import checkpoints
from tlc_jax.degradations import Degradation
from tlc_jax.image import to_float
from tlc_jax.models import MODELS, NAFSSR, Params, example_input, takes_clips

Batch = dict[str, jax.Array]


class TrainingError(ValueError):
    """A run that cannot start or go on; the message is a sentence for the user."""


class Phase(NamedTuple):
    """A stretch of a run with crops of one size; several make Restormer's progressive learning."""

    steps: int
    crop: int  # pixels
    batch: int  # samples, of all devices and hosts together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All that a run depends on.

    Rates are AdamW's (Loshchilov and Hutter, arXiv 1711.05101). The learning rate rises during
    `warmup` steps, stays during `constant` ones, and falls as a cosine until the end.

    Attributes:
      model: the network, global; its `dtype` is what it computes in, the parameters are float32.
      phases: crops and batches.
      target: a source of pictures as of `tlc_jax.data.pairs`.
      input: the source of what is to be restored; `None` where `degradation` makes it.
      degradation: what spoils clean photographs, one of `tlc_jax.degradations`.
      margin: pixels around a crop that are degraded with it and then cut off, for what blurs.
      loss: one of `LOSSES`.
      clip: largest norm of a gradient, `None` for any.
      average: decay of the moving average of the parameters, which is what is kept; 0 for none.
      mixup: parameter of the beta distribution by which half of the samples are mixed with their
        neighbours, `None` not to.
      init_from: a checkpoint to begin with, as for fine-tuning.
      validation_target, validation_input: as the other two; the pictures stay whole.
      validation_pictures: the most of them that are restored, in both modes.
      skip_unreadable: pictures that may be damaged; each is reported.
      workers: processes that make the samples; 0 has threads do it.
      report_every, validate_every, save_every: steps.
    """

    model: nn.Module
    phases: tuple[Phase, ...]
    target: str = ""
    input: str | None = None
    degradation: Degradation | None = None
    margin: int = 0
    flips: bool = True
    mixup: float | None = None
    loss: str = "psnr"
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-7
    warmup: int = 0
    constant: int = 0
    betas: tuple[float, float] = (0.9, 0.9)
    weight_decay: float = 0.0
    clip: float | None = 0.01
    average: float = 0.999
    init_from: str | None = None
    validation_target: str | None = None
    validation_input: str | None = None
    validation_pictures: int = 10
    skip_unreadable: int = 10
    workers: int = 0
    seed: int = 0
    report_every: int = 100
    validate_every: int = 5000
    save_every: int = 1000

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)


def check(config: Config) -> None:
    """Refuse what could only fail later, or would train something else than was meant.

    Raises:
      TrainingError: what is wrong, and with which field.
    """
    phases = config.phases
    if not phases or not all(isinstance(phase, Phase) and min(phase) > 0 for phase in phases):
        raise TrainingError("phases: a tuple of one Phase or more, of at least one step each.")
    try:
        hash(config)
    except TypeError:
        raise TrainingError("a field holds a list; write tuples.") from None
    model, devices = config.model, jax.device_count()
    crops = sorted({phase.crop for phase in phases})
    validates = config.validation_target is not None
    problems = [
        (config.loss not in LOSSES, f"loss {config.loss}: is one of {', '.join(LOSSES)}."),
        (not config.target, "target: name the pictures to train on."),
        (
            (config.input is None) == (config.degradation is None),
            "input: name what pairs with target, or a degradation to make it, not both.",
        ),
        (
            (config.validation_input is not None)
            != (validates and config.degradation is None),
            "validation_input: pairs with validation_target where input pairs with target.",
        ),
        (
            config.margin and config.degradation is None,
            "margin: is for a degradation; pairs are cropped as they are.",
        ),
        (
            any(phase.batch % devices for phase in phases),
            f"phases: batches must be multiples of the {devices} devices.",
        ),
        (
            min(config.report_every, config.validate_every, config.save_every) < 1,
            "report_every, validate_every and save_every: are at least 1.",
        ),
        (config.seed < 0, "seed: is at least 0."),
        (
            type(model) not in MODELS.values()
            or isinstance(model, NAFSSR)
            or takes_clips(model)
            or model.inp_channels not in (1, 3),
            f"model: {type(model).__name__} is no network of single pictures, gray or RGB.",
        ),
        (model.local_mode, "model: local_mode is for inference; train the global network."),
        (
            not {*model.train_size} <= {*crops},
            f"model: train_size is {model.train_size}, which the windows of the local network "
            f"follow, but crops are of {', '.join(map(str, crops))} pixels; make it one of them.",
        ),
    ]  # fmt: skip
    for wrong, sentence in problems:
        if wrong:
            raise TrainingError(sentence)


class State(NamedTuple):
    """What a step changes."""

    step: jax.Array
    params: Params
    average: Params
    optimizer: Any


def _mean_error(of_pixel: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    return lambda image, target: of_pixel(image - target).mean()


def _psnr_loss(image: jax.Array, target: jax.Array) -> jax.Array:
    """-PSNR in dB, the mean over the images (NAFNet, arXiv 2204.04676)."""
    error = jnp.square(image - target).mean(axis=(1, 2, 3))
    return 10 / math.log(10) * jnp.log(error + 1e-8).mean()


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "psnr": _psnr_loss,
    "l1": _mean_error(jnp.abs),
    "mse": _mean_error(jnp.square),
    # Lai et al., arXiv 1710.01992, with the epsilon of MPRNet
    "charbonnier": _mean_error(lambda error: jnp.sqrt(jnp.square(error) + 1e-6)),
}


def learning_rate(config: Config) -> optax.Schedule:
    """The learning rate by the number of the step."""
    falling = max(config.steps - config.warmup - config.constant, 1)
    peak, final = config.learning_rate, config.final_learning_rate
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, peak, config.warmup),
            optax.constant_schedule(peak),
            optax.cosine_decay_schedule(peak, falling, final / peak),
        ],
        [config.warmup, config.warmup + config.constant],
    )


def optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW after clipping."""
    clip = optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip)
    b1, b2 = config.betas
    adamw = optax.adamw(learning_rate(config), b1, b2, weight_decay=config.weight_decay)
    return optax.chain(clip, adamw)


def init(config: Config) -> State:
    """The state before the first step."""
    if config.init_from is None:
        example = jnp.zeros(example_input(config.model, (8, 8)).shape)
        params = config.model.init(jax.random.key(config.seed), example)["params"]
    else:
        _, params = checkpoints.load(config.init_from)
        wanted = checkpoints.abstract_params(config.model)
        if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, wanted):
            raise TrainingError(
                f"{config.init_from}: holds another network than the configuration's "
                f"{type(config.model).__name__}; give both the same sizes."
            )
    average = jax.tree.map(jnp.copy, params)  # memory of its own, as a step takes both
    return State(jnp.zeros((), jnp.int32), params, average, optimizer(config).init(params))


def samples(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Inputs and targets of a step, float32 in [0, 1], from what `Crops` gives."""
    target = to_float(batch["target"])
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(batch["seed"])
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
    """One step of training; reports its loss and the norms of its gradient and its parameters."""
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
    report = {"loss": loss, **norms}
    return State(state.step + 1, params, average, optimizer_state), report
