"""kohya's keys of the optimizer, the learning rates, their schedule, and the length."""

from __future__ import annotations

from typing import Any

from train.config.parsing import suggestion
from train.errors import ConfigError
from train.kohya.optimizer_names import kind_of
from train.kohya_toml.parsed_config import KohyaConfig, argument, shown, whole
from train.validation import SCHEDULER_ALIASES, SCHEDULERS

OLD_FLAGS = {"use_8bit_adam": "AdamW8bit", "use_lion_optimizer": "Lion"}
FIND_THEIR_OWN = ("prodigy", "dadapt")  # one step size for all networks
LEARNING_RATE = 2e-6  # kohya's own default, which is for fine-tuning and far too low for a LoRA
STEPS = 1600
CHECKPOINTS = 5  # train.loop.schedule saves at least as many, where no interval is given
# schedules as guides and other trainers write them
SPELLINGS = {"cosineannealinglr": "cosine", "cosine_with_hard_restarts": "cosine_with_restarts"}
# not kohya's, though guides print them
WARM_UPS = {
    "lr_warmup_epochs": "scheduler.warmup_epochs",
    "lr_warmup_ratio": "scheduler.warmup_ratio",
}


def optimizer(said: KohyaConfig) -> dict[str, Any]:
    """The optimizer and its arguments, those of kohya's class where the config is silent."""
    old = {key: name for key, name in OLD_FLAGS.items() if said.flag(key)}
    if len(old) > 1 or (old and said.text("optimizer_type")):
        flag = next(iter(old))
        raise ConfigError(f"kohya: {flag}: another optimizer is given too; kohya stops here")
    name = said.text("optimizer_type", next(iter(old.values()), "AdamW"))
    kind = kind_of(name)
    if name.lower() == "dadaptation":
        said.notes.append("optimizer_type: DAdaptation is DAdaptAdamPreprint, as kohya reads it")
    given = {key: argument(key, value) for key, value in said.arguments("optimizer_args").items()}
    if taken := [key for key in given if key == "lr" or key.startswith("_")]:
        raise ConfigError(f"kohya: optimizer_args: {taken[0]} is no argument of an optimizer there")
    arguments = {**kind.defaults, **given}
    if kind.group == "adafactor" and arguments.pop("relative_step", True):
        arguments.pop("warmup_init", None)
        said.notes.append(
            "warning: kohya lets Adafactor find its step size here; we take learning_rate, as "
            "kohya does with relative_step=False"
        )
    taken = [key for key in ("weight_decay", "betas") if kind.bare and key not in arguments]
    return {
        "optimizer": kind.group,
        "optimizer._target_": kind.target,
        **{f"++optimizer.{key}": value for key, value in arguments.items()},
        **{f"~optimizer.{key}": True for key in taken},
    }


def rates(said: KohyaConfig, text_encoder: bool) -> dict[str, Any]:
    """The learning rates of the UNet and, where it learns, of the text encoder.

    Several are those of SDXL's text encoders, in their order; 0 leaves one as it is.
    """
    rate, unet = said.number("learning_rate"), said.number("unet_lr")
    given = said.numbers("text_encoder_lr")
    if len(given) > 2:
        raise ConfigError(f"kohya: text_encoder_lr: {shown(given)} are more than two")
    if rate is None and (unet is None or (text_encoder and not given)):
        rate = said.silent["learning_rate"] = LEARNING_RATE
    found = {"optimizer.lr": rate if unet is None else unet}
    own = (said.text("optimizer_type") or "").lower().startswith(FIND_THEIR_OWN)
    text: Any = given or [rate]
    text = text[0] if len({*text}) == 1 else text
    if text_encoder and not own and text != found["optimizer.lr"]:
        found["training.text_encoder_lr"] = text
    return found


def scheduler(said: KohyaConfig) -> dict[str, Any]:
    """The schedule, its warm-up and its numbers."""
    if custom := said.text("lr_scheduler_type"):
        raise ConfigError(f"kohya: lr_scheduler_type: {custom} is not supported, lr_scheduler is")
    name, warmup = _schedule(said), _warmup(said)
    if warmup and name == "constant":
        name = "constant_with_warmup"
        said.notes.append("lr_scheduler: with a warm-up, constant is called constant_with_warmup")
    cycles, power = said.whole("lr_scheduler_num_cycles"), said.number("lr_scheduler_power")
    least, decay = said.number("lr_scheduler_min_lr_ratio"), _amount(said, "lr_decay_steps")
    if name == "warmup_stable_decay" and decay >= 1:
        raise ConfigError("kohya: lr_decay_steps: only as a share of the steps, below 1")
    low = name in ("cosine_with_min_lr", "warmup_stable_decay")
    return {
        "scheduler": name,
        "scheduler.warmup_ratio": 0.0,
        **warmup,
        "scheduler.num_cycles": 1 if cycles is None else cycles,
        "scheduler.power": 1.0 if power is None else float(power),
        "scheduler.min_lr_ratio": (least or 0.0) if low else None,
        "scheduler.decay_ratio": float(decay) if name == "warmup_stable_decay" else None,
    }


def _schedule(said: KohyaConfig) -> str:
    """Our name of the schedule."""
    written = said.text("lr_scheduler", "constant").strip().lower()
    if written.partition(":")[0] == "adafactor":  # its own, which comes with relative_step
        said.notes.append("lr_scheduler: adafactor is read as constant")
        return "constant"
    words = "_".join(written.replace("-", " ").split())
    name = {**SCHEDULER_ALIASES, **SPELLINGS}.get(words, words)
    if name not in SCHEDULERS:
        near = suggestion(name, [*SCHEDULERS])
        raise ConfigError(
            f"kohya: lr_scheduler: {shown(written)[1:-1]} is none of {', '.join(SCHEDULERS)}{near}"
        )
    if name != written:
        said.notes.append(f"lr_scheduler: {written} is called {name}")
    return name


def _warmup(said: KohyaConfig) -> dict[str, Any]:
    """The warm-up, as a share of the steps, in steps, or in epochs; empty where there is none."""
    given, found = "lr_warmup_steps", {}
    steps = _amount(said, given)
    if isinstance(steps, float) and steps <= 1:  # a whole number is steps
        found["scheduler.warmup_ratio"] = steps
    else:
        found["scheduler.warmup_steps"] = whole("lr_warmup_steps", steps)
    for key, setting in WARM_UPS.items():
        amount = _amount(said, key)
        if steps and amount:
            said.notes.append(f"{key} is left out beside {given}")
        elif amount:
            found = {setting: amount}
            given, steps = key, amount
            said.notes.append(
                f"{key}: kohya has no such key and takes it silently, so that it would not warm "
                f"up; read as {setting}={amount:g}"
            )
    return {setting: value for setting, value in found.items() if value}


def _amount(said: KohyaConfig, key: str) -> int | float:
    """A length of the schedule; 0 where there is none.

    Raises:
        ConfigError: it is below 0, or a share that is more than the whole run.
    """
    amount: int | float = said.number(key) or 0
    if not amount >= 0 or (key == "lr_warmup_ratio" and amount > 1):
        least = "between 0 and 1" if key == "lr_warmup_ratio" else "at least 0"
        raise ConfigError(f"kohya: {key} is {least}, not {amount:g}")
    return amount


def length(said: KohyaConfig) -> dict[str, Any]:
    """Epochs or steps; and how often a file is saved on the way."""
    epochs, steps = said.whole("max_train_epochs"), said.whole("max_train_steps")
    if epochs is None and steps is None:
        steps = said.silent["max_train_steps"] = STEPS
    elif epochs is not None and steps is not None:
        said.notes.append("max_train_steps is left out beside max_train_epochs, as kohya does")
        steps = None
    return {
        "training.epochs": epochs,
        "training.max_steps": steps,
        "training.save_every": _save_every(said, epochs),
        "training.save_last": said.whole("save_last_n_epochs") or None,
    }


def _save_every(said: KohyaConfig, epochs: int | None) -> int | None:
    """Epochs from one checkpoint to the next; None: at least CHECKPOINTS in all."""
    every, ratio = said.whole("save_every_n_epochs"), said.whole("save_n_epoch_ratio")
    in_steps = said.whole("save_every_n_steps")
    if ratio and ratio > 0:
        if epochs:
            return max(1, epochs // ratio)
        if ratio == CHECKPOINTS:
            return None
        said.notes.append(
            "save_n_epoch_ratio: beside max_train_steps it shows only later how many epochs there "
            "are, so all are saved"
        )
        return 1
    if every:
        return every
    said.notes.append(
        f"save_every_n_steps: checkpoints are those of whole epochs here, {CHECKPOINTS} or more"
        if in_steps
        else "save_every_n_epochs: kohya saves the last epoch alone; here some before it are saved "
        "too, to choose from"
    )
    return None
