"""Settings from a LoRA file or store cannot choose classes, paths or models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import initialize_config_dir
from safetensors.torch import save_file

from evaluate.config import EvaluateConfig
from sweeper.config import ReportConfig, SearchConfig, SelectConfig, SweepConfig
from sweeper.reproduction import reproduce
from sweeper.reproduction.config import ReproduceConfig, check_reproduce
from sweeper.reproduction.received_settings import RULES, ReceivedSettings
from train.cli.compose import HYDRA_VERSION, settings
from train.cli.preflight import preflight
from train.config.parsing import parse_config
from train.config.schema import CONF, TrainConfig, settings_of, trial_of
from train.config.setting_kinds import Kind, kinds, text_field
from train.errors import UserError
from train.files import permissions
from train.kohya.optimizer_names import ALLOWED_CLASSES
from train.models.model_files import fingerprint, weight_files

ROOT = Path(__file__).resolve().parents[3]
EVIL = 'open("PWNED", "w").write("ran")\nfrom torch.optim import AdamW as Adam\n'
Edits = dict[str, Any]
DEEP: Any = 1
for _ in range(500):
    DEEP = [DEEP]
# dotted keys of logged settings with hostile values; a text of the error line
HOSTILE: list[tuple[Edits, str]] = [
    ({"optimizer._target_": target}, "--allow-class=")
    for target in (
        "mlruns.studies.friend.evil.Adam", "os.system", "subprocess.Popen", "builtins.eval",
        "antigravity.X", "idlelib.__main__.X", "venv.__main__.X", "trio.__main__.X", "math.pi",
        "torch.optim.LBFGS", "torch.optim.lr_scheduler.LambdaLR", "torch.hub.load",
    )
] + [
    ({"optimizer._target_": ".foo.Bar"}, "must name a class"),
    ({"optimizer._target_": "eval"}, "must name a class"),
    ({"optimizer._target_": ["os.system"]}, "must name a class"),
    ({"optimizer.betas": {"_target_": "os.system"}}, "cannot be a class"),
    ({"optimizer.betas": [{"x": {"_target_": "os.system"}}]}, "cannot be a class"),
    ({"optimizer": [1, 2]}, "optimizer: [1, 2]"),
    ({"optimizer.betas": [0.9]}, "must be 2 numbers"),
    ({"optimizer.lr": float("nan")}, "not a number"),
    ({"optimizer.lr": True}, "must be a number"),
    (
        {"optimizer.x0": "x", "optimizer.x1": "${optimizer.x0}${optimizer.x0}"},
        "has no such argument",
    ),
    ({"scores": {"clip_model": "hf-hub:evil/model/x"}}, "scores.clip_model=hf-hub:evil/model/x"),
    ({"scores": {"clip_model": "/somewhere/evil_encoder"}}, "scores.clip_model: the run used"),
    ({"scores": {"clip_model": "train/puppets"}}, "scores.clip_model: the run used"),
    (
        {"scores": {"pose_detector": "mediapipe", "pose_model": "/x/y.task"}},
        "scores.pose_model: the run",
    ),
    ({"base.path": "evil/model"}, "type base.path=evil/model"),
    ({"base.path": "https://evil.example/model"}, "base.path: the run used"),
    ({"probes": {"file": "http://127.0.0.1:1"}}, "probes.file: the run used"),
    ({"base.path": "/somewhere/evil.ckpt"}, "base.path: the run used"),
    ({"base.path": "/"}, "base.path: the run used"),
    ({"base.path": "/dev/zero"}, "base.path: the run used"),
    ({"base.path": 3}, "base.path: 3 must be a text"),
    ({"data.path": "/dev"}, "data.path=/dev"),
    ({"data.path": "/"}, "data.path=/"),
    ({"data.path": "../../../../../../../../etc"}, "data.path: the run used"),
    ({"data.path": "~root"}, "data.path: the run used"),
    ({"data.path": "/no/\x1b]0;owned\x07red"}, "type data.path=, or"),
    ({"data.path": "/a\0b"}, "data.path: the run used"),
    ({"data.path": "/" + "a" * 100_000}, "data.path: the run used"),
    ({"data.path": "/x; touch y"}, "type data.path='/x; touch y'"),
    ({"data.path": ["/etc"]}, "must be a text"),
    ({"data.dataset_config": "/dev/zero"}, "data.dataset_config=/dev/zero"),
    ({"data.validation_path": "/etc"}, "data.validation_path=/etc"),
    ({"data.regularization_path": "/etc"}, "data.regularization_path=/etc"),
    ({"probes": {"file": "/etc/passwd"}}, "probes.file=/etc/passwd"),
    ({"probes": {"attributes": "/x/values_width.yaml"}}, "probes.attributes=/x/values_width.yaml"),
    ({"data.trigger": {"a": 1}}, "data.trigger"),
    ({"data.trigger": "???"}, "data.trigger"),
    ({"network.alpha": "${times:aaaaaaaa,99999999999}"}, "must be a number"),
    ({"scheduler.name": "os.system"}, "is not one of"),
    ({"scheduler._target_": "os.system"}, "scheduler._target_"),
    ({"hydra": {"run": {"dir": "/outside"}}}, "hydra="),
    ({"evil": {"a": "\x1b[31mred"}}, "evil="),
    ({f"data.{number}": "x" * 10_000 for number in range(1000)}, "and 992 more"),
    ({"base": "x"}, "base: 'x'"),
    ({"data": None}, "data: null"),
    ({"probes": [1]}, "probes: [1]"),
    ({"data": DEEP}, "lorasweep_config"),
    ({"selection": {"max": {"copying": "x"}}}, "selection.max"),
    ({"selection": {"max": 3}}, "selection.max"),
    ({"training.text_encoder_lr": {"_target_": "os.system"}}, "training.text_encoder_lr"),
    *(
        ({f"{key.partition('.')[0]}": {key.partition(".")[2]: value}}, key)
        for key, value in {
            "probes.count": 10**9, "probes.steps": 10**9, "scores.baseline": 10**9,
            "scores.validation_timesteps": 10**9, "scores.resamples": 10**9,
        }.items()
    ),
    *(
        ({key: value}, key)
        for key, value in {
            "data.keep_tokens": 10**12, "data.repeats": 10**9, "data.validation_seed": 10**30,
            "data.resolution": 10**9, "training.batch_size": 10**12, "training.epochs": 10**12,
            "training.gradient_accumulation": 10**12, "training.seed": -1, "network.rank": 10**9,
            "training.max_steps": 10**300, "scheduler.num_cycles": 10**9, "data.buckets": "maybe",
        }.items()
    ),
]  # fmt: skip
# interpolations stay text, and settings that a file may not decide are ignored
HARMLESS: list[Edits] = [
    {},
    {"data.trigger": "${oc.env:SECRET}"},
    {"data.trigger": "${data.class_words}", "data.class_words": "${data.trigger}"},
    {"data.trigger": "${oc.decode:'[1,2,{a:b}]'}"},
    {"data.trigger": "${os.system:id}"},
    {"cache": "disk", "cache_path": "/outside/cache"},
    {"base.compile": True},
    {"study": {"root": "/outside", "name": "../../x", "storage": "sqlite:////outside/x.db"}},
    {"search": {"data.path": "choice(/etc,/dev)"}, "pruner": {"_target_": "os.system"}},
    {"pack": {"_target_": "os.system"}},
    {"optimizer": {"_target_": "torch.optim.SGD", "lr": 1e-3}},
]


class LoadingReached(Exception):
    """Raised where the base model would be loaded."""


@dataclass
class Reproducer:
    """Reproduces LoRA files up to the loading of the base model."""

    folder: Path
    config: SweepConfig | None = None

    def lora(self, edits: Edits, **metadata: str) -> Path:
        """Writes a LoRA file whose logged settings were edited."""
        config: Any = settings_of(trial_of(settings("train", TrainConfig)))
        for key, value in edits.items():
            group, _, name = key.partition(".")
            if name:
                config[group][name] = value
            else:
                config[group] = value
        file = self.folder / "theirs.safetensors"
        about = {"lorasweep_config": json.dumps(config), "ss_epoch": "1", **metadata}
        save_file({"lora_unet_x.lora_down.weight": torch.zeros(1, 1)}, file, about)
        return file

    def __call__(self, *overrides: str) -> None:
        with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
            line = [*overrides, f"root={self.folder}/mlruns"]
            config = parse_config(ReproduceConfig, hydra.compose("reproduce", line))
            check_reproduce(config)
            reproduce.main(config)


@pytest.fixture
def reproduce_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reproducer:
    reproducer = Reproducer(tmp_path)

    def stop(config: SweepConfig) -> None:
        reproducer.config = config
        raise LoadingReached

    monkeypatch.setattr(reproduce, "load_context", stop)
    return reproducer


@pytest.mark.parametrize(("edits", "words"), HOSTILE, ids=lambda value: str(value)[:50])
def test_hostile_setting_is_refused_in_one_line(
    reproduce_lora: Reproducer, edits: Edits, words: str
) -> None:
    with pytest.raises(UserError) as refusal:
        reproduce_lora(f"lora={reproduce_lora.lora(edits)}")
    line = str(refusal.value)
    assert words in line
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 1500


@pytest.mark.parametrize("edits", HARMLESS, ids=lambda value: str(value)[:50])
def test_harmless_setting_is_accepted(
    reproduce_lora: Reproducer, edits: Edits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    with pytest.raises(LoadingReached):
        reproduce_lora(f"lora={reproduce_lora.lora(edits)}")
    config = reproduce_lora.config
    assert config
    assert config.data.trigger == edits.get("data.trigger", "sks puppet")
    assert (config.cache, config.cache_path) == ("memory", "mlruns/cache/latents")
    assert config.base.compile is False
    assert config.study.root == f"{reproduce_lora.folder}/mlruns"
    assert (config.study.storage, config.study.name) == (None, "reproductions")
    assert (config.search, config.pack) == ({}, 1)
    assert "os.system" not in str([config.optimizer, config.pruner, config.pack])


@pytest.mark.parametrize("content", ["[1, 2]", '"abc"', "{", "\x00", "1e999", ""])
def test_invalid_config_in_metadata_is_refused(reproduce_lora: Reproducer, content: str) -> None:
    with pytest.raises(UserError, match="lorasweep_config"):
        reproduce_lora(f"lora={reproduce_lora.lora({}, lorasweep_config=content)}")


@pytest.mark.parametrize("epoch", ["0", "11", "99999999999999999999", "²", "-1", "x"])
def test_invalid_epoch_is_refused(reproduce_lora: Reproducer, epoch: str) -> None:
    with pytest.raises(UserError, match="epoch"):
        reproduce_lora(f"lora={reproduce_lora.lora({}, ss_epoch=epoch)}")


def test_path_that_the_user_names_is_allowed(
    reproduce_lora: Reproducer, image_folder: Path, base_folder: Path
) -> None:
    elsewhere = {"data.path": str(image_folder)}
    with pytest.raises(UserError, match=f"--allow-path={image_folder}"):
        reproduce_lora(f"lora={reproduce_lora.lora(elsewhere)}")
    with pytest.raises(LoadingReached):
        reproduce_lora(f"lora={reproduce_lora.lora(elsewhere)}", f"data.path={image_folder}")
    permissions.allow([image_folder])
    with pytest.raises(LoadingReached):
        reproduce_lora(f"lora={reproduce_lora.lora(elsewhere)}")
    assert reproduce_lora.config
    assert reproduce_lora.config.data.path == str(image_folder)

    model = {"base.path": str(base_folder)}
    with pytest.raises(UserError, match=r"base\.path: the run used"):
        reproduce_lora(f"lora={reproduce_lora.lora(model)}")
    with pytest.raises(UserError, match=r"base\.path: the run used"):
        reproduce_lora(f"lora={reproduce_lora.lora(model, lorasweep_base='0' * 64)}")
    base_fingerprint = fingerprint(weight_files(base_folder), base_folder)
    with pytest.raises(LoadingReached):
        reproduce_lora(f"lora={reproduce_lora.lora(model, lorasweep_base=base_fingerprint)}")
    assert reproduce_lora.config.base.path == str(base_folder)
    with pytest.raises(LoadingReached):
        reproduce_lora(
            f"lora={reproduce_lora.lora({'base.path': 'evil/model'})}", f"base.path={base_folder}"
        )


def test_link_out_of_an_allowed_folder_is_refused(
    reproduce_lora: Reproducer, image_folder: Path
) -> None:
    inside = reproduce_lora.folder / "named"
    inside.mkdir()
    (inside / "pictures").symlink_to(image_folder)
    permissions.allow([inside])
    with pytest.raises(UserError, match=r"data\.path: the run used"):
        reproduce_lora(f"lora={reproduce_lora.lora({'data.path': str(inside / 'pictures')})}")


def test_no_code_in_the_working_folder_runs(reproduce_lora: Reproducer, tmp_path: Path) -> None:
    """A received study has a module, which runs only after the user allows its class."""
    module = tmp_path / "mlruns" / "studies" / "friend" / "evil.py"
    module.parent.mkdir(parents=True)
    module.write_text(EVIL)
    target = "mlruns.studies.friend.evil.Adam"
    lora = reproduce_lora.lora({"optimizer._target_": target}, lorasweep_data="0" * 64)
    command = [sys.executable, "-m", "sweeper.reproduce", f"lora={lora}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "500"}

    def run(*flags: str) -> str:
        process = subprocess.run(
            [*command, *flags], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert process.returncode == 1, process.stderr
        assert "Traceback" not in process.stderr
        return process.stderr

    assert f"--allow-class={target}" in run()
    assert "needs the dotted path" in run("--allow-class")
    assert not (tmp_path / "PWNED").exists()
    assert "other images" in run("--allow-class", target)
    assert (tmp_path / "PWNED").exists(), "the allowed class is imported"


def test_every_setting_declares_a_kind_with_a_rule() -> None:
    for schema in (TrainConfig, EvaluateConfig, SweepConfig, SearchConfig, SelectConfig,
                   ReportConfig, ReproduceConfig):  # fmt: skip
        assert kinds(schema)
    assert RULES.keys() == set(Kind)

    for hint in (str, str | None, Any, dict[str, Any], dict[str, str], list[int]):
        incomplete = make_dataclass("Schema", [("place", hint), ("fine", str, text_field(""))])
        with pytest.raises(TypeError, match="place: a field of type"):
            kinds(incomplete)


def test_shipped_optimizers_are_allowed() -> None:
    for file in (CONF / "optimizer").glob("*.yaml"):
        optimizer = settings("train", TrainConfig, [f"optimizer={file.stem}"]).optimizer
        assert optimizer["_target_"] in ALLOWED_CLASSES


def test_received_settings_must_be_plain_values() -> None:
    with pytest.raises(UserError, match="there: expected `object`"):
        ReceivedSettings.of([1], "there")
    with pytest.raises(UserError, match="there"):
        ReceivedSettings.of({"a": object()}, "there")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--allow-path"], "--allow-path: needs a folder"),
        (["--allow-path="], "--allow-path: needs a folder"),
        (["--allow-path", "--allow-class=a.b"], "--allow-path: needs a folder"),
        (["--allow-path=/no/such/folder"], "--allow-path: there is no folder /no/such/folder"),
        (["--allow-path=/a\0b"], "--allow-path: there is no folder"),
        (["--allow-class"], "--allow-class: needs the dotted path of a class"),
        (["--allow-class=Adam"], "--allow-class: 'Adam' is no dotted path of a class"),
        (["--allow-class=os.system()"], "--allow-class: 'os.system()' is no"),
        (["--allow-paths=/"], "there are --allow-path and --allow-class"),
        (["-allow-path=/"], "did you mean --allow-path?"),
    ],
)
def test_invalid_flag_is_refused_in_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as end:
        preflight("evaluate", flags, EvaluateConfig, accept)
    assert message in str(end.value.code)
    assert "\n" not in str(end.value.code)


def accept(config: object) -> None:
    """Accepts any settings."""


def test_typed_paths_are_allowed_and_paths_from_files_are_not(tmp_path: Path) -> None:
    for name in ("flag", "typed", "kohya", "swept", "translated", "root1"):
        (tmp_path / name).mkdir()
    (tmp_path / "kohya" / "config.toml").touch()
    typed_arguments = [
        "--allow-path", f"{tmp_path}/flag", "--allow-class=a.B", "--allow-class", "c.d.E",
        f"data.path='{tmp_path}/typed'", f"kohya={tmp_path}/kohya/config.toml",
    ]  # fmt: skip
    from_file = f"data.validation_path='{tmp_path}/translated'"
    line = preflight(
        "train",
        typed_arguments,
        TrainConfig,
        accept,
        translate=lambda arguments: [*arguments[:-1], from_file],
    )
    assert line == ["data=default", f"data.path='{tmp_path}/typed'", from_file]
    swept = [
        f"data.path=choice({tmp_path}/swept,b)", f"study.root={tmp_path}/root${{network.rank}}",
        "-m", "network.rank=1,2",
    ]  # fmt: skip
    preflight("sweep", swept, SweepConfig, accept)
    allowed = [path.name for path in sorted(tmp_path.iterdir()) if permissions.may_read(path)]
    assert allowed == ["flag", "kohya", "root1", "swept", "typed"]
    assert permissions.is_allowed_class("a.B")
    assert permissions.is_allowed_class("c.d.E")
    assert not permissions.is_allowed_class("os.system")
