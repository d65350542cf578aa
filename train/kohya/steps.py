"""kohya's keys of the optimizer, the learning rates, their schedule, and the length."""

from __future__ import annotations

from typing import Any

from train.checks import SCHEDULER_ALIASES, SCHEDULERS
from train.config import ConfigError, suggestion
from train.kohya.optimizers import kind_of
from train.kohya.said import Said, argument, whole

FIND_THEIR_OWN = ("prodigy", "dadapt")  # one step size for all networks
LEARNING_RATE = 2e-6  # kohya's own default, which is for fine-tuning and far too low for a LoRA
STEPS = 1600


def optimizer(said: Said) -> dict[str, Any]:
    """The optimizer and its arguments, those of kohya's class where the config is silent."""
    eight, lion = said.flag("use_8bit_adam"), said.flag("use_lion_optimizer")
    kind = kind_of(
        said.text("optimizer_type", "AdamW8bit" if eight else "Lion" if lion else "AdamW")
    )
    given = {key: argument(value) for key, value in said.arguments("optimizer_args").items()}
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


def rates(said: Said, text_encoder: bool) -> dict[str, Any]:
    """The learning rates of the UNet and, where it learns, of the text encoder."""
    rate, unet = said.number("learning_rate"), said.number("unet_lr")
    text = next(iter(said.numbers("text_encoder_lr")), None)
    if rate is None and (unet is None or (text_encoder and text is None)):
        rate = said.silent["learning_rate"] = LEARNING_RATE
    found = {"optimizer.lr": rate if unet is None else unet}
    own = (said.text("optimizer_type") or "").lower().startswith(FIND_THEIR_OWN)
    text = rate if text is None else text
    if text_encoder and not own and text != found["optimizer.lr"]:
        found["training.text_encoder_lr"] = text
    return found


def scheduler(said: Said) -> dict[str, Any]:
    """The schedule, its warm-up and its numbers."""
    if custom := said.text("lr_scheduler_type"):
        raise ConfigError(f"kohya: lr_scheduler_type: {custom} is not supported, lr_scheduler is")
    written = said.text("lr_scheduler", "constant").lower()
    name = SCHEDULER_ALIASES.get(written, written)
    if name not in SCHEDULERS:
        near = suggestion(name, [*SCHEDULERS])
        raise ConfigError(
            f"kohya: lr_scheduler: {written} is none of {', '.join(SCHEDULERS)}{near}"
        )
    if name != written:
        said.notes.append(f"lr_scheduler: {written} is called {name}")
    warmup = said.number("lr_warmup_steps") or 0
    if warmup and name == "constant":
        name = "constant_with_warmup"
        said.notes.append("lr_scheduler: with a warm-up, constant is called constant_with_warmup")
    share = isinstance(warmup, float) and warmup < 1  # of the steps; a whole number is steps
    cycles, power = said.whole("lr_scheduler_num_cycles"), said.number("lr_scheduler_power")
    least, decay = said.number("lr_scheduler_min_lr_ratio"), said.number("lr_decay_steps") or 0
    if decay >= 1:
        raise ConfigError("kohya: lr_decay_steps: only as a share of the steps, below 1")
    low = name in ("cosine_with_min_lr", "warmup_stable_decay")
    return {
        "scheduler": name,
        "scheduler.warmup": float(warmup) if share else 0.0,
        "scheduler.warmup_steps": None if share else whole("lr_warmup_steps", warmup) or None,
        "scheduler.num_cycles": 1 if cycles is None else cycles,
        "scheduler.power": 1.0 if power is None else float(power),
        "scheduler.min_lr_ratio": (least or 0.0) if low else None,
        "scheduler.decay": float(decay) if name == "warmup_stable_decay" else None,
    }


def length(said: Said) -> dict[str, Any]:
    """Epochs or steps; and how often a file is saved on the way."""
    epochs, steps = said.whole("max_train_epochs"), said.whole("max_train_steps")
    every, ratio = said.whole("save_every_n_epochs"), said.whole("save_n_epoch_ratio")
    if epochs is None and steps is None:
        steps = said.silent["max_train_steps"] = STEPS
    elif epochs is not None and steps is not None:
        said.notes.append("max_train_steps is left out beside max_train_epochs, as kohya does")
        steps = None
    if ratio and epochs:
        every = max(1, epochs // ratio)
    if every is None:
        said.notes.append(
            "save_every_n_epochs: kohya saves the last epoch alone; here some before it are saved "
            "too, to choose from"
        )
    return {
        "training.epochs": epochs,
        "training.max_steps": steps,
        "training.save_every": every,
        "training.keep_last": said.whole("save_last_n_epochs"),
    }
