"""kohya's optimizers: our config for each, and the defaults of kohya's class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from train.cli.arguments import ALLOW_CLASS
from train.config.optimizer_arguments import OPTIMIZERS
from train.config.parsing import suggestion
from train.errors import ConfigError
from train.files.permissions import is_allowed_class
from train.kohya_toml.parsed_config import format_value
from train.text.shell import in_setting


@dataclass(frozen=True)
class KohyaOptimizer:
    """Our settings for an optimizer_type of kohya's.

    Attributes:
        group: a file of conf/optimizer.
        target: the class, if it is not the group's.
        defaults: of kohya's class, if they differ from ours.
        drops_arguments: the group's arguments do not apply to it.
    """

    group: str
    target: str | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    drops_arguments: bool = False


NO_DECAY: dict[str, Any] = {"weight_decay": 0.0}
D_ADAPTATION = {**NO_DECAY, "decouple": False}
PREPRINT = "dadaptation.experimental.DAdaptAdamPreprint"
MOMENTUM = {"momentum": 0.9, "nesterov": True}
KOHYA_OPTIMIZERS = {
    "AdamW": KohyaOptimizer("adamw"),
    "AdamW8bit": KohyaOptimizer("adamw8bit"),
    "PagedAdamW": KohyaOptimizer("adamw8bit", "bitsandbytes.optim.PagedAdamW"),
    "PagedAdamW8bit": KohyaOptimizer("adamw8bit", "bitsandbytes.optim.PagedAdamW8bit"),
    "PagedAdamW32bit": KohyaOptimizer("adamw8bit", "bitsandbytes.optim.PagedAdamW32bit"),
    "Lion": KohyaOptimizer("lion", defaults=NO_DECAY),
    "Lion8bit": KohyaOptimizer("lion8bit", defaults=NO_DECAY),
    "PagedLion8bit": KohyaOptimizer("lion8bit", "bitsandbytes.optim.PagedLion8bit", NO_DECAY),
    "Prodigy": KohyaOptimizer("prodigy", defaults=NO_DECAY),
    "DAdaptation": KohyaOptimizer("dadaptation", PREPRINT, D_ADAPTATION),
    "DAdaptAdamPreprint": KohyaOptimizer("dadaptation", PREPRINT, D_ADAPTATION),
    "DAdaptAdam": KohyaOptimizer("dadaptation", defaults=D_ADAPTATION),
    "DAdaptAdanIP": KohyaOptimizer(
        "adamw", "dadaptation.experimental.DAdaptAdanIP", drops_arguments=True
    ),
    "DAdaptLion": KohyaOptimizer("adamw", "dadaptation.DAdaptLion", drops_arguments=True),
    "DAdaptSGD": KohyaOptimizer("adamw", "dadaptation.DAdaptSGD", drops_arguments=True),
    "DAdaptAdan": KohyaOptimizer("adamw", "dadaptation.DAdaptAdan", drops_arguments=True),
    "DAdaptAdaGrad": KohyaOptimizer("adamw", "dadaptation.DAdaptAdaGrad", drops_arguments=True),
    "AdaFactor": KohyaOptimizer("adafactor", defaults={**NO_DECAY, "scale_parameter": True}),
    "AdamWScheduleFree": KohyaOptimizer("schedulefree", defaults=NO_DECAY),
    "RAdamScheduleFree": KohyaOptimizer(
        "adamw", "schedulefree.RAdamScheduleFree", drops_arguments=True
    ),
    "SGDScheduleFree": KohyaOptimizer(
        "adamw", "schedulefree.SGDScheduleFree", drops_arguments=True
    ),
    "SGDNesterov": KohyaOptimizer("adamw", "torch.optim.SGD", MOMENTUM, drops_arguments=True),
    "SGDNesterov8bit": KohyaOptimizer(
        "adamw", "bitsandbytes.optim.SGD8bit", MOMENTUM, drops_arguments=True
    ),
    "AdEMAMix8bit": KohyaOptimizer(
        "adamw", "bitsandbytes.optim.AdEMAMix8bit", drops_arguments=True
    ),
}
# further classes of torch.optim, in exact spelling, that take one step for each gradient
TORCH_OPTIMIZERS = {"ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "Muon", "NAdam",
                    "RAdam", "RMSprop", "Rprop", "SGD"}  # fmt: skip
# the classes that a file may name; the user must allow all others
ALLOWED_CLASSES = {*OPTIMIZERS, *(f"torch.optim.{name}" for name in TORCH_OPTIMIZERS),
                   *(kind.target for kind in KOHYA_OPTIMIZERS.values() if kind.target)}  # fmt: skip
BY_NAME = {name.lower(): kind for name, kind in KOHYA_OPTIMIZERS.items()}


def kohya_optimizer(name: str) -> KohyaOptimizer:
    """The optimizer that kohya uses for this optimizer_type, ignoring case.

    A class given by its path must be one of those above, or one that the user has allowed by name:
    a file does not decide what is imported.

    Raises:
        ConfigError: there is no optimizer of this name; or the class is not allowed.
    """
    if name.lower() in BY_NAME:
        return BY_NAME[name.lower()]
    if name in ALLOWED_CLASSES or is_allowed_class(name):
        return KohyaOptimizer("adamw", name, drops_arguments=True)
    if name in TORCH_OPTIMIZERS:
        return KohyaOptimizer("adamw", f"torch.optim.{name}", drops_arguments=True)
    if "." in name:
        raise ConfigError(
            f"kohya: optimizer_type: {format_value(name)} is not one of the optimizers that a file "
            f"may name; if you trust this class, add {in_setting(ALLOW_CLASS, name)} to the "
            "command line"
        )
    raise ConfigError(
        "kohya: optimizer_type: there is no optimizer "
        f"{format_value(name)}{suggestion(name, [*KOHYA_OPTIMIZERS])}"
    )
