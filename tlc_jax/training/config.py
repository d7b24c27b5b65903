"""What a network is trained with: the configuration of a run, and one step of it."""

import dataclasses
import functools
import math
from collections.abc import Callable
from numbers import Number
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tlc_jax.files import checkpoints
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params, abstract_params
from tlc_jax.models import MODELS
from tlc_jax.ops.pixels import to_float
from tlc_jax.training.degradations import Degradation

Batch = dict[str, jax.Array]


class TrainingError(ValueError):
    """A run that cannot start or go on; the message is a sentence for the user."""


class Phase(NamedTuple):
    """A stretch of a run with crops of one size; several make Restormer's progressive learning.

    Attributes:
      steps: how many.
      crop: pixels of a side.
      batch: samples of a step, of all devices and hosts together.
    """

    steps: int
    crop: int
    batch: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All that a run depends on.

    Rates are AdamW's (Loshchilov and Hutter, arXiv 1711.05101). The learning rate rises during
    `warmup` steps, stays during `constant` ones, and falls as a cosine until the end.

    Attributes:
      model: the network, global; its `dtype` is what it computes in, the parameters are float32.
      phases: crops and batches, in turn.
      target: a source of pictures as of `tlc_jax.files.datasets.pairs`.
      input: the source of what is to be restored; `None` where `degradation` makes it.
      degradation: what degrades clean photographs, one of `tlc_jax.training.degradations`, or a
        frozen dataclass of your own, called alike.
      flips: whether crops are mirrored and turned by 90 degrees, too, at random.
      margin: pixels around a crop that are degraded with it and then cut off, for what blurs.
      loss: one of `LOSSES`.
      learning_rate, final_learning_rate: at the peak, and after the last step.
      warmup, constant: steps before the peak, and at it.
      betas: decays of AdamW's averages of the gradient and of its square.
      weight_decay: of AdamW, as a multiple of the learning rate.
      clip: largest norm of a gradient, `None` for any.
      average: decay of the moving average of the parameters, which is what is kept; 0 for none.
      mixup: parameter of the beta distribution by which half of the samples are mixed with their
        neighbours, `None` not to.
      init_from: a checkpoint to begin with, as for fine-tuning.
      validation_target, validation_input: as the other two; the pictures stay whole.
      validation_pictures: the most of them that are restored, in both modes.
      skip_unreadable: pictures that may be damaged; each is reported.
      workers: processes that make the samples; 0 has threads do it.
      seed: of all that is random: the first parameters, the crops, what spoils them.
      report_every, validate_every, save_every: steps.
    """

    model: Network
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


Range = tuple[str, Callable[[Any], bool]]

NATURAL: Range = "a whole number of at least 0", lambda x: isinstance(x, int) and x >= 0
COUNT: Range = "a whole number of at least 1", lambda x: isinstance(x, int) and x >= 1
RATE: Range = "a number of at least 0", lambda x: isinstance(x, int | float) and 0 <= x < math.inf
POSITIVE: Range = "a number above 0", lambda x: isinstance(x, int | float) and 0 < x < math.inf
SHARE: Range = (
    "a number of at least 0 and below 1",
    lambda x: isinstance(x, int | float) and 0 <= x < 1,
)

RANGES = {
    "margin": NATURAL,
    "warmup": NATURAL,
    "constant": NATURAL,
    "skip_unreadable": NATURAL,
    "workers": NATURAL,
    "seed": NATURAL,
    "validation_pictures": COUNT,
    "report_every": COUNT,
    "validate_every": COUNT,
    "save_every": COUNT,
    "weight_decay": RATE,
    "final_learning_rate": RATE,
    "learning_rate": POSITIVE,
    "clip": POSITIVE,  # or None
    "mixup": POSITIVE,  # or None
    "average": SHARE,
}


def check(config: Config) -> None:
    """Refuse what could only fail later, or would train something else than was meant.

    Raises:
      TrainingError: what is wrong, and with which field.
    """
    model, phases, devices = config.model, config.phases, jax.device_count()
    _refuse(
        type(model) not in MODELS.values() or model.takes != "pictures",
        f"model: {type(model).__name__} is no network of single pictures, gray or RGB.",
    )
    _refuse(
        not (isinstance(phases, tuple) and phases)
        or not all(isinstance(phase, Phase) and all(map(COUNT[1], phase)) for phase in phases),
        "phases: a tuple of one Phase or more, each of whole numbers of at least 1.",
    )
    for name, (words, holds) in RANGES.items():
        value = getattr(config, name)
        if not (value is None and name in ("clip", "mixup")):
            _refuse(not holds(value), f"{name}: is {value!r}, but has to be {words}.")
    try:
        hash(config)
    except TypeError:
        raise TrainingError(
            "a field holds a list, or a dataclass that is not frozen; write tuples."
        ) from None
    _refuse(
        not (isinstance(config.betas, tuple) and len(config.betas) == 2)
        or not all(map(SHARE[1], config.betas)),
        f"betas: two numbers, each {SHARE[0]}.",
    )
    _refuse(
        config.warmup + config.constant > config.steps,
        f"warmup and constant: are longer than the run of {config.steps} steps.",
    )
    _refuse(config.loss not in LOSSES, f"loss {config.loss}: is one of {', '.join(LOSSES)}.")
    _refuse(not config.target, "target: name the pictures to train on.")
    _refuse(
        (config.input is None) == (config.degradation is None),
        "input: name what pairs with target, or a degradation to make it, not both.",
    )
    paired = config.validation_target is not None and config.degradation is None
    _refuse(
        (config.validation_input is not None) != paired,
        "validation_input: pairs with validation_target where input pairs with target.",
    )
    _refuse(
        config.margin > 0 and config.degradation is None,
        "margin: is for a degradation; pairs are cropped as they are.",
    )
    _refuse(
        any(phase.batch % devices for phase in phases),
        f"phases: batches must be multiples of the {devices} devices.",
    )
    _refuse(model.local_mode, "model: local_mode is for inference; train the global network.")
    crops = sorted({phase.crop for phase in phases})
    _refuse(
        not {*model.train_size} <= {*crops},
        f"model: train_size is {model.train_size}, which the windows of the local network "
        f"follow, but crops are of {', '.join(map(str, crops))} pixels; make it one of them.",
    )
    _refuse(
        config.degradation is not None and not _tells_all(config.degradation),
        "degradation: has to be one of tlc_jax.training.degradations or a frozen dataclass of your "
        "own, made of such: what a function does cannot be told from its text when a run goes on.",
    )
    _try_out(model, config.degradation, crops[0] + 2 * config.margin)


def _refuse(wrong: bool, sentence: str) -> None:
    if wrong:
        raise TrainingError(sentence)


def _tells_all(part: Any) -> bool:
    """Whether the text of a degradation, or of a part of one, says what it does."""
    if isinstance(part, tuple):
        return all(map(_tells_all, part))
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        values = (getattr(part, field.name) for field in dataclasses.fields(part))
        return all(map(_tells_all, values))
    return isinstance(part, Number | str | None)


@functools.lru_cache(maxsize=1)  # tracing takes seconds, and the command asks before `train` does
def _try_out(model: Any, degradation: Degradation | None, size: int) -> None:
    """Refuse a network that cannot be made, and what cannot spoil a crop of `size` pixels."""
    try:
        abstract_params(model.clone(local_mode=True))  # which looks at train_size, too
    except Exception as error:  # whatever a network raises for sizes that it cannot have
        raise TrainingError(
            f"model: this {type(model).__name__} cannot be made "
            f"({checkpoints.first_line(error)}); see its sizes."
        ) from None
    if degradation is None:
        return
    crop = jax.ShapeDtypeStruct((size, size, model.inp_channels), jnp.float32)
    try:
        spoilt = jax.eval_shape(degradation, jax.random.key(0), crop)
        if spoilt.shape != crop.shape:
            raise ValueError(f"it makes {spoilt.shape} of {crop.shape}")
    except Exception as error:  # of somebody's own program, maybe
        raise TrainingError(
            f"degradation: fails on a crop of {size} pixels "
            f"({checkpoints.first_line(error)}); ranges are pairs, as in GaussianNoise((0, 50))."
        ) from None


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
"""By name, of the restored pictures and the true ones, (N, H, W, C) in [0, 1], to a scalar."""


def learning_rate(config: Config) -> optax.Schedule:
    """The learning rate by the number of the step, from 0."""
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
    """AdamW after clipping, as the configuration says."""
    clip = optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip)
    b1, b2 = config.betas
    adamw = optax.adamw(learning_rate(config), b1, b2, weight_decay=config.weight_decay)
    return optax.chain(clip, adamw)


def init(config: Config) -> State:
    """The state before the first step, with new parameters or those of `init_from`.

    Raises:
      TrainingError: `init_from` holds another network.
      CheckpointError: it cannot be read.
    """
    if config.init_from is None:
        example = jnp.zeros(config.model.example_input((8, 8)).shape)
        params = jax.jit(config.model.init)(jax.random.key(config.seed), example)["params"]
    else:
        _, params = checkpoints.load(config.init_from)
        wanted = abstract_params(config.model)
        if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, wanted):
            raise TrainingError(
                f"{config.init_from}: holds another network than the configuration's "
                f"{type(config.model).__name__}; give both the same sizes."
            )
    average = jax.tree.map(jnp.copy, params)  # memory of its own, as a step takes both
    return State(jnp.zeros((), jnp.int32), params, average, optimizer(config).init(params))


def samples(config: Config, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Inputs and targets of a step, spoilt and mixed as the configuration says.

    Args:
      config: of the run.
      batch: "target", and "input" where no degradation makes it, (N, H, W, C) uint8, uint16 or
        floats, with the margin; "seed", (N,) whole numbers, of all that is random.

    Returns:
      Two arrays (N, crop, crop, C) float32, the targets in [0, 1].
    """
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
    """One step of training.

    Args:
      config: of the run.
      state: before the step; its memory is used again.
      batch: as of `samples`.

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
    report = {"loss": loss, **norms}
    return State(state.step + 1, params, average, optimizer_state), report
