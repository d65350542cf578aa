"""kohya's optimizers: which config of ours each is, and the defaults of its own class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from train.cli.arguments import ALLOW_CLASS
from train.config.optimizer_arguments import OPTIMIZERS
from train.config.parsing import suggestion
from train.errors import ConfigError
from train.files.permissions import is_allowed
from train.kohya_toml.parsed_config import shown
from train.text.shell import in_setting


@dataclass(frozen=True)
class Kind:
    """What an optimizer_type of kohya's comes to.

    Attributes:
        group: a file of conf/optimizer.
        target: another class than the group's.
        defaults: of the class that kohya takes, where ours are others.
        bare: none of the group's arguments means anything to it.
    """

    group: str
    target: str | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    bare: bool = False


NO_DECAY: dict[str, Any] = {"weight_decay": 0.0}
D_ADAPTATION = {**NO_DECAY, "decouple": False}
PREPRINT = "dadaptation.experimental.DAdaptAdamPreprint"
MOMENTUM = {"momentum": 0.9, "nesterov": True}
KINDS = {
    "AdamW": Kind("adamw"),
    "AdamW8bit": Kind("adamw8bit"),
    "PagedAdamW": Kind("adamw8bit", "bitsandbytes.optim.PagedAdamW"),
    "PagedAdamW8bit": Kind("adamw8bit", "bitsandbytes.optim.PagedAdamW8bit"),
    "PagedAdamW32bit": Kind("adamw8bit", "bitsandbytes.optim.PagedAdamW32bit"),
    "Lion": Kind("lion", defaults=NO_DECAY),
    "Lion8bit": Kind("lion8bit", defaults=NO_DECAY),
    "PagedLion8bit": Kind("lion8bit", "bitsandbytes.optim.PagedLion8bit", NO_DECAY),
    "Prodigy": Kind("prodigy", defaults=NO_DECAY),
    "DAdaptation": Kind("dadaptation", PREPRINT, D_ADAPTATION),
    "DAdaptAdamPreprint": Kind("dadaptation", PREPRINT, D_ADAPTATION),
    "DAdaptAdam": Kind("dadaptation", defaults=D_ADAPTATION),
    "DAdaptAdanIP": Kind("adamw", "dadaptation.experimental.DAdaptAdanIP", bare=True),
    "DAdaptLion": Kind("adamw", "dadaptation.DAdaptLion", bare=True),
    "DAdaptSGD": Kind("adamw", "dadaptation.DAdaptSGD", bare=True),
    "DAdaptAdan": Kind("adamw", "dadaptation.DAdaptAdan", bare=True),
    "DAdaptAdaGrad": Kind("adamw", "dadaptation.DAdaptAdaGrad", bare=True),
    "AdaFactor": Kind("adafactor", defaults={**NO_DECAY, "scale_parameter": True}),
    "AdamWScheduleFree": Kind("schedulefree", defaults=NO_DECAY),
    "RAdamScheduleFree": Kind("adamw", "schedulefree.RAdamScheduleFree", bare=True),
    "SGDScheduleFree": Kind("adamw", "schedulefree.SGDScheduleFree", bare=True),
    "SGDNesterov": Kind("adamw", "torch.optim.SGD", MOMENTUM, bare=True),
    "SGDNesterov8bit": Kind("adamw", "bitsandbytes.optim.SGD8bit", MOMENTUM, bare=True),
    "AdEMAMix8bit": Kind("adamw", "bitsandbytes.optim.AdEMAMix8bit", bare=True),
}
# the others of torch.optim, written exactly so, that take one step for one gradient
TORCH = {"ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "Muon", "NAdam", "RAdam",
         "RMSprop", "Rprop", "SGD"}  # fmt: skip
# the classes that a file may name; all others a person has to allow
SHIPPED = {*OPTIMIZERS, *(f"torch.optim.{name}" for name in TORCH),
           *(kind.target for kind in KINDS.values() if kind.target)}  # fmt: skip
BY_NAME = {name.lower(): kind for name, kind in KINDS.items()}


def kind_of(name: str) -> Kind:
    """The optimizer that kohya takes for this optimizer_type, in any spelling of capitals.

    A class by its path is one of those above, or one that the person has allowed by name: a file
    does not decide what is imported.

    Raises:
        ConfigError: it has none of this name, with the nearest; or a class that is not allowed.
    """
    if name.lower() in BY_NAME:
        return BY_NAME[name.lower()]
    if name in SHIPPED or is_allowed(name):
        return Kind("adamw", name, bare=True)
    if name in TORCH:
        return Kind("adamw", f"torch.optim.{name}", bare=True)
    if "." in name:
        raise ConfigError(
            f"kohya: optimizer_type: {shown(name)} is none of the optimizers that a file may name; "
            f"if you trust this class, add {in_setting(ALLOW_CLASS, name)} to the command line"
        )
    raise ConfigError(
        f"kohya: optimizer_type: there is no optimizer {shown(name)}{suggestion(name, [*KINDS])}"
    )
