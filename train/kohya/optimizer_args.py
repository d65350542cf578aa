"""Translates kohya's keys of the optimizer, learning rates, schedule, and length."""

from __future__ import annotations

from typing import Any

from train.config.parsing import suggestion
from train.config_checks import SCHEDULER_ALIASES, SCHEDULERS
from train.errors import ConfigError
from train.kohya.optimizer_names import kohya_optimizer
from train.kohya_toml.parsed_config import KohyaConfig, argument, format_value, whole

OLD_FLAGS = {"use_8bit_adam": "AdamW8bit", "use_lion_optimizer": "Lion"}
LR_FREE = ("prodigy", "dadapt")  # optimizers with one step size for all networks
LEARNING_RATE = 2e-6  # kohya's default, which is for fine-tuning and far too low for a LoRA
STEPS = 1600
CHECKPOINTS = 5  # the least that train.loop.schedule saves without an interval
# schedules as guides and other trainers write them
SPELLINGS = {"cosineannealinglr": "cosine", "cosine_with_hard_restarts": "cosine_with_restarts"}
# not kohya's keys, although guides print them
WARM_UPS = {
    "lr_warmup_epochs": "scheduler.warmup_epochs",
    "lr_warmup_ratio": "scheduler.warmup_ratio",
}


def optimizer_settings(config: KohyaConfig) -> dict[str, Any]:
    """The optimizer and its arguments, with the defaults of kohya's class."""
    old_flags = {key: name for key, name in OLD_FLAGS.items() if config.flag(key)}
    if len(old_flags) > 1 or (old_flags and config.text("optimizer_type")):
        flag = next(iter(old_flags))
        raise ConfigError(f"kohya: {flag}: another optimizer is given too; kohya stops here")
    name = config.text("optimizer_type", next(iter(old_flags.values()), "AdamW"))
    kind = kohya_optimizer(name)
    if name.lower() == "dadaptation":
        config.notes.append("optimizer_type: DAdaptation is DAdaptAdamPreprint, as in kohya")
    given = {key: argument(key, value) for key, value in config.arguments("optimizer_args").items()}
    if reserved := [key for key in given if key == "lr" or key.startswith("_")]:
        raise ConfigError(
            f"kohya: optimizer_args: {reserved[0]} is not an argument of an optimizer"
        )
    arguments = {**kind.defaults, **given}
    if kind.group == "adafactor" and arguments.pop("relative_step", True):
        arguments.pop("warmup_init", None)
        config.notes.append(
            "warning: kohya lets Adafactor find its step size here; we take learning_rate, as "
            "kohya does with relative_step=False"
        )
    removed = ("weight_decay", "betas") if kind.drops_arguments else ()
    return {
        "optimizer": kind.group,
        "optimizer._target_": kind.target,
        **{f"++optimizer.{key}": value for key, value in arguments.items()},
        **{f"~optimizer.{key}": True for key in removed if key not in arguments},
    }


def learning_rate_settings(config: KohyaConfig, text_encoder: bool) -> dict[str, Any]:
    """The learning rates of the UNet and, if it is trained, of the text encoder.

    Several are those of SDXL's text encoders, in order; 0 freezes one.
    """
    rate, unet = config.number("learning_rate"), config.number("unet_lr")
    given = config.numbers("text_encoder_lr")
    if len(given) > 2:
        raise ConfigError(f"kohya: text_encoder_lr: {format_value(given)} are more than two")
    if rate is None and (unet is None or (text_encoder and not given)):
        rate = config.defaults["learning_rate"] = LEARNING_RATE
    settings = {"optimizer.lr": rate if unet is None else unet}
    lr_free = (config.text("optimizer_type") or "").lower().startswith(LR_FREE)
    text: Any = given or [rate]
    text = text[0] if len({*text}) == 1 else text
    if text_encoder and not lr_free and text != settings["optimizer.lr"]:
        settings["training.text_encoder_lr"] = text
    return settings


def scheduler_settings(config: KohyaConfig) -> dict[str, Any]:
    """The schedule with its warm-up and parameters."""
    if custom := config.text("lr_scheduler_type"):
        raise ConfigError(f"kohya: lr_scheduler_type: {custom} is not supported, lr_scheduler is")
    name, warmup = _schedule(config), _warmup(config)
    if warmup and name == "constant":
        name = "constant_with_warmup"
        config.notes.append("lr_scheduler: with a warm-up, constant is called constant_with_warmup")
    cycles, power = config.whole("lr_scheduler_num_cycles"), config.number("lr_scheduler_power")
    min_ratio, decay = config.number("lr_scheduler_min_lr_ratio"), _amount(config, "lr_decay_steps")
    if name == "warmup_stable_decay" and decay >= 1:
        raise ConfigError("kohya: lr_decay_steps: only as a share of the steps, below 1")
    has_min_lr = name in ("cosine_with_min_lr", "warmup_stable_decay")
    return {
        "scheduler": name,
        "scheduler.warmup_ratio": 0.0,
        **warmup,
        "scheduler.num_cycles": 1 if cycles is None else cycles,
        "scheduler.power": 1.0 if power is None else float(power),
        "scheduler.min_lr_ratio": (min_ratio or 0.0) if has_min_lr else None,
        "scheduler.decay_ratio": float(decay) if name == "warmup_stable_decay" else None,
    }


def _schedule(config: KohyaConfig) -> str:
    """Our name of the schedule."""
    given = config.text("lr_scheduler", "constant").strip().lower()
    if given.partition(":")[0] == "adafactor":  # its own schedule, for relative_step
        config.notes.append("lr_scheduler: adafactor is read as constant")
        return "constant"
    normalized = "_".join(given.replace("-", " ").split())
    name = {**SCHEDULER_ALIASES, **SPELLINGS}.get(normalized, normalized)
    if name not in SCHEDULERS:
        hint = suggestion(name, [*SCHEDULERS])
        raise ConfigError(
            f"kohya: lr_scheduler: {format_value(given)[1:-1]} is not one of "
            f"{', '.join(SCHEDULERS)}{hint}"
        )
    if name != given:
        config.notes.append(f"lr_scheduler: {given} is called {name}")
    return name


def _warmup(config: KohyaConfig) -> dict[str, Any]:
    """The warm-up, as a share of the steps, in steps, or in epochs; may be empty."""
    used_key, settings = "lr_warmup_steps", {}
    steps = _amount(config, used_key)
    if isinstance(steps, float) and steps <= 1:  # an integer is steps
        settings["scheduler.warmup_ratio"] = steps
    else:
        settings["scheduler.warmup_steps"] = whole("lr_warmup_steps", steps)
    for key, setting in WARM_UPS.items():
        amount = _amount(config, key)
        if steps and amount:
            config.notes.append(f"{key} is ignored in favor of {used_key}")
        elif amount:
            settings = {setting: amount}
            used_key, steps = key, amount
            config.notes.append(
                f"{key}: kohya has no such key and silently ignores it, so it would not warm "
                f"up; read as {setting}={amount:g}"
            )
    return {setting: value for setting, value in settings.items() if value}


def _amount(config: KohyaConfig, key: str) -> int | float:
    """A length of the schedule; 0 if there is none.

    Raises:
        ConfigError: it is below 0, or a share of more than 1.
    """
    amount: int | float = config.number(key) or 0
    if not amount >= 0 or (key == "lr_warmup_ratio" and amount > 1):
        allowed = "between 0 and 1" if key == "lr_warmup_ratio" else "at least 0"
        raise ConfigError(f"kohya: {key} must be {allowed}, not {amount:g}")
    return amount


def length_settings(config: KohyaConfig) -> dict[str, Any]:
    """Epochs or steps; and the interval of checkpoints."""
    epochs, steps = config.whole("max_train_epochs"), config.whole("max_train_steps")
    if epochs is None and steps is None:
        steps = config.defaults["max_train_steps"] = STEPS
    elif epochs is not None and steps is not None:
        config.notes.append("max_train_steps is ignored in favor of max_train_epochs, as in kohya")
        steps = None
    return {
        "training.epochs": epochs,
        "training.max_steps": steps,
        "training.save_every": _save_every(config, epochs),
        "training.save_last": config.whole("save_last_n_epochs") or None,
    }


def _save_every(config: KohyaConfig, epochs: int | None) -> int | None:
    """Epochs between checkpoints; None: at least CHECKPOINTS in total."""
    every, ratio = config.whole("save_every_n_epochs"), config.whole("save_n_epoch_ratio")
    in_steps = config.whole("save_every_n_steps")
    if ratio and ratio > 0:
        if epochs:
            return max(1, epochs // ratio)
        if ratio == CHECKPOINTS:
            return None
        config.notes.append(
            "save_n_epoch_ratio: beside max_train_steps it shows only later how many epochs there "
            "are, so all are saved"
        )
        return 1
    if every:
        return every
    config.notes.append(
        f"save_every_n_steps: checkpoints are those of whole epochs here, {CHECKPOINTS} or more"
        if in_steps
        else "save_every_n_epochs: kohya saves only the last epoch; here some before it are saved "
        "too, to choose from"
    )
    return None
