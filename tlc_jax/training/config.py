"""The configuration of a run, checked as it is made."""

import dataclasses
import difflib
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
from pydantic import Field, InstanceOf, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from tlc_jax.files.atomic import first_line
from tlc_jax.layers.network import Network, abstract_params
from tlc_jax.models import MODELS
from tlc_jax.training.degradations import Degradation

Natural = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Rate = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Loss = Literal["psnr", "l1", "mse", "charbonnier"]


class TrainingError(Exception):  # pydantic would wrap a ValueError
    """A run that cannot start or resume; the message is a sentence for the user."""


class Phase(NamedTuple):
    """A stretch of a run with crops of one size; several make Restormer's progressive learning.

    Attributes:
      steps: how many.
      crop: pixels of a side.
      batch: samples of a step, of all devices and hosts together.
    """

    steps: Count
    crop: Count
    batch: Count


@dataclass(
    frozen=True, kw_only=True, config={"strict": True, "extra": "forbid", "allow_inf_nan": False}
)
class Config:
    """All that a run depends on; `dataclasses.replace` changes fields, and checks them again.

    Rates are AdamW's (Loshchilov and Hutter, arXiv 1711.05101). The learning rate rises during
    `warmup` steps, stays during `constant` ones, and falls as a cosine until the end.

    Attributes:
      model: the network, global; its `dtype` is what it computes in, the parameters are float32.
      phases: crops and batches, in turn.
      target: a source of pictures as of `tlc_jax.files.datasets.pairs`.
      input: the source of what is to be restored; `None` where `degradation` makes it.
      degradation: what degrades clean photographs, one of `tlc_jax.training.degradations`, or a
        frozen dataclass of your own, called alike.
      scene: what changes the clean photographs before that, the ground truth with them, as less
        light does; called as a degradation is.
      flips: whether crops are mirrored and turned by 90 degrees, too, at random.
      margin: pixels around a crop that are degraded with it and then cut off, for what blurs.
      loss: "psnr", "l1", "mse" or "charbonnier".
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
      seed: of all that is random: the first parameters, the crops, their degradation.
      report_every, validate_every, save_every: steps.

    Raises:
      TrainingError: the field that is wrong, its value, and what it has to be.
    """

    model: InstanceOf[Network]
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]
    target: str = ""
    input: str | None = None
    degradation: Degradation | None = None
    scene: Degradation | None = None
    margin: Natural = 0
    flips: bool = True
    mixup: Positive | None = None
    loss: Loss = "psnr"
    learning_rate: Positive = 1e-3
    final_learning_rate: Rate = 1e-7
    warmup: Natural = 0
    constant: Natural = 0
    betas: tuple[Share, Share] = (0.9, 0.9)
    weight_decay: Rate = 0.0
    clip: Positive | None = 0.01
    average: Share = 0.999
    init_from: str | None = None
    validation_target: str | None = None
    validation_input: str | None = None
    validation_pictures: Count = 10
    skip_unreadable: Natural = 10
    workers: Natural = 0
    seed: Natural = 0
    report_every: Count = 100
    validate_every: Count = 5000
    save_every: Count = 1000

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_sentence(cls, fields: Any, check: Callable[[Any], Self]) -> Self:
        try:
            return check(fields)
        except ValidationError as error:
            raise TrainingError(_sentence(error)) from None

    def __post_init__(self) -> None:
        """Refuse fields that do not fit together."""
        model, crops = self.model, sorted({phase.crop for phase in self.phases})
        if type(model) not in MODELS.values() or model.takes != "pictures":
            raise TrainingError(
                f"model: {type(model).__name__} is no network of single pictures, gray or RGB."
            )
        if model.local_mode:
            raise TrainingError("model: local_mode is for inference; train the global network.")
        if not {*model.train_size} <= {*crops}:
            raise TrainingError(
                f"model: train_size is {model.train_size}, which windows follow, but crops are of "
                f"{', '.join(map(str, crops))} pixels; make it one of them."
            )
        if self.warmup + self.constant > self.steps:
            raise TrainingError(
                f"warmup and constant: are {self.warmup} and {self.constant}, longer than the run "
                f"of {self.steps} steps."
            )
        if self.margin > 0 and self.degradation is None:
            raise TrainingError(
                f"margin: is {self.margin}, but pairs are cropped as they are; write 0."
            )
        if self.scene is not None and self.degradation is None:
            raise TrainingError("scene: changes clean photographs, but pairs stay as they are.")
        for name in ("degradation", "scene"):
            value = getattr(self, name)
            # By convention, what Python cannot spell, as a function, has a text in such brackets.
            if "<" in repr(value):
                raise TrainingError(
                    f"{name}: is {value}, but has to be one of tlc_jax.training.degradations or a "
                    "frozen dataclass of your own, made of such: a resumed run could not tell "
                    "whether a function still does the same."
                )
        try:
            hash(self)
        except TypeError as error:
            raise TrainingError(
                f"degradation or model: holds a list, or a dataclass that is not frozen ({error}); "
                "write tuples."
            ) from None


def _sentence(error: ValidationError) -> str:
    """The first of pydantic's findings, as one sentence."""
    found = error.errors(include_url=False)[0]
    *around, name = map(str, found["loc"])
    if found["type"] == "unexpected_keyword_argument":
        fields = [field.name for field in dataclasses.fields(Config)]
        close = difflib.get_close_matches(name, fields, 1)
        hint = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(fields)}."
        return f"there is no field {name}; {hint}"
    field = ".".join([*around, name])
    if found["type"] == "missing":
        return f"{field}: is missing" + (f" in {found['input']!r}." if around else ".")
    has_to = re.sub(r"^\w+ should", "has to", found["msg"])
    return f"{field}: is {found['input']!r}, but {has_to}."


def check(config: Config) -> None:
    """Refuse before a run what could only fail later.

    Raises:
      TrainingError: what is wrong, and with which field.
    """
    if not config.target:
        raise TrainingError("target: name the pictures to train on.")
    if (config.input is None) == (config.degradation is None):
        raise TrainingError(
            "input: name what pairs with target, or a degradation to make it, not both."
        )
    paired = config.validation_target is not None and config.degradation is None
    if (config.validation_input is not None) != paired:
        raise TrainingError(
            "validation_input: pairs with validation_target where input pairs with target."
        )
    devices = jax.device_count()
    if any(phase.batch % devices for phase in config.phases):
        raise TrainingError(f"phases: batches must be multiples of the {devices} devices.")
    try:
        abstract_params(config.model.clone(local_mode=True))  # which looks at train_size, too
    except Exception as error:  # whatever a network raises for sizes that it cannot have
        raise TrainingError(
            f"model: this {type(config.model).__name__} cannot be made "
            f"({first_line(error)}); see its sizes."
        ) from None
    size = min(phase.crop for phase in config.phases) + 2 * config.margin
    for name in ("degradation", "scene"):
        if part := getattr(config, name):
            _try_out(name, part, (size, size, config.model.inp_channels))


def _try_out(name: str, degradation: Degradation, shape: tuple[int, int, int]) -> None:
    """Refuse a degradation that fails on a crop, or changes its shape."""
    try:
        crop = jax.ShapeDtypeStruct(shape, jnp.float32)
        degraded = jax.eval_shape(degradation, jax.random.key(0), crop)
        if degraded.shape != shape:
            raise ValueError(f"it makes {degraded.shape} of {shape}")
    except Exception as error:  # of somebody's own program, maybe
        raise TrainingError(
            f"{name}: fails on a crop of {shape[0]} pixels ({first_line(error)}); ranges are "
            "pairs, as in GaussianNoise((0, 50))."
        ) from None
