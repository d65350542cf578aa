"""Settings under the names of earlier versions."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from sweeper.config import SweepConfig
from sweeper.reproduction.config import ReproduceConfig
from sweeper.reproduction.migrate_config import migrate
from sweeper.reproduction.received_settings import SEARCH_GROUPS, ReceivedSettings
from train.cli import local_settings
from train.cli.compose import HYDRA_VERSION, settings
from train.cli.preflight import preflight
from train.config.renamed_keys import RENAMED, migrate_flat_keys, migrate_keys, renamed
from train.config.schema import CONF
from train.config.setting_kinds import kinds
from train.errors import ConfigError

# old name -> a value that is not the default, as a run was logged with it, and what it is now
LOGGED: dict[str, tuple[Any, Any]] = {
    "scheduler.warmup": (0.25, 0.25),
    "scheduler.decay": (0.4, 0.4),
    "base.prediction": ("v_prediction", "v_prediction"),
    "data.few": (7, 7),
    "data.latents": ("fixed", False),
    "training.oom": ("adapt", "degrade"),
    "training.state_minutes": (2.0, 2.0),
    "scores.encoder": ("puppets", "puppets"),
    "scores.pose": ("layout", "layout"),
    "probes.values": ("puppets", "puppets"),
    "policy.limits": ({"copying": 0.5}, {"copying": 0.5}),
    "policy.floors": ({"prompt_fidelity": 0.5}, {"prompt_fidelity": 0.5}),
}
# what a person may type for each old name, and what to type now
TYPED = {
    "scheduler.warmup=0.1": "scheduler.warmup_ratio=0.1",
    "scheduler.decay=0.1": "scheduler.decay_ratio=0.1",
    "base.speed=compile": "base.compile=true",
    "base.prediction=epsilon": "base.prediction_type=epsilon",
    "data.few=3": "data.min_images_warning=3",
    "data.latents=fixed": "data.resample_latents=false",
    "training.keep_last=2": "training.save_last=2",
    "training.oom=adapt": "training.on_oom=degrade",
    "training.state_minutes=1": "training.resume_save_minutes=1",
    "pruner.kept=1": "pruner.slope_discount=1",
    "study.memorised_epochs=0": "early_stop.memorization_patience=0",
    "study.settled_epochs=0": "early_stop.patience=0",
    "study.learning_share=0": "early_stop.min_progress_share=0",
    "study.queue=[]": "study.enqueue=[]",
    "study.from_study=a": "study.warm_start=a",
    "study.keep=all": "study.keep_checkpoints=all",
    "scores.encoder=puppets": "scores.clip_model=puppets",
    "scores.pose=layout": "scores.pose_detector=layout",
    "probes.values=person": "probes.attributes=person",
    "probes.set=a.yaml": "probes.file=a.yaml",
    "policy.limits.copying=0.2": "selection.max.copying=0.2",
    "+policy.floors.copying=0.2": "selection.min.copying=0.2",
    "policy=pareto": "selection=pareto",
    "policy.epoch=3": "selection.epoch=3",
}
OF_REPRODUCE = {"anyway=true": "force=true", "keep=all": "keep_checkpoints=all"}


def refused(name: str, schema: type[Any], line: list[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        preflight(name, line, schema, lambda config: None)
    return str(exit_info.value.code)


@pytest.mark.parametrize("typed", TYPED)
def test_old_name_on_the_command_line(typed: str) -> None:
    message = refused("sweep", SweepConfig, [typed])
    key = typed.lstrip("+").partition("=")[0]
    assert message == (
        f"error: {key}: this setting is called {TYPED[typed].partition('=')[0]} now; "
        f"type {TYPED[typed]}"
    )


@pytest.mark.parametrize("typed", OF_REPRODUCE)
def test_old_name_of_reproduce(typed: str) -> None:
    message = refused("reproduce", ReproduceConfig, ["study=a", typed])
    assert message.endswith(f"type {OF_REPRODUCE[typed]}")


def test_every_old_name_is_tested_and_every_new_one_exists() -> None:
    tried = {key.lstrip("+").partition("=")[0] for key in [*TYPED, *OF_REPRODUCE]}
    assert all(old in tried or any(one.startswith(f"{old}.") for one in tried) for old in RENAMED)
    known = {*kinds(SweepConfig), *kinds(ReproduceConfig), "pruner.slope_discount", "selection"}
    assert {new.key for new in RENAMED.values()} <= known
    assert not known & RENAMED.keys()


@pytest.mark.parametrize("old", LOGGED)
def test_run_logged_with_an_old_name_is_migrated(old: str) -> None:
    logged, now = LOGGED[old]
    group, name = old.split(".")
    then = {group: {name: logged}, "base": {"path": "puppets"}, "data": {"path": "puppets"}}
    then[group] = then[group] | {name: logged}
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        carried = migrate(ReceivedSettings.of(then, "a run"), {})
    assert attrgetter(RENAMED[old].key)(carried.config) == now
    assert not carried.dropped


def test_old_names_that_do_not_affect_training() -> None:
    """They concern the machine, a search, or the command itself."""
    others = {old for old in RENAMED if old not in LOGGED}
    assert others == {
        "base.speed", "training.keep_last", "probes.set", "policy", "anyway", "keep",
        *(old for old in RENAMED if old.split(".")[0] in SEARCH_GROUPS),
    }  # fmt: skip


def test_policy_logged_as_one_group_is_migrated() -> None:
    then = {"policy": {"rule": "last", "limits": {"copying": 0.1}, "floors": {}, "epoch": 3}}
    assert migrate_keys(then) == {
        "selection": {"rule": "last", "max": {"copying": 0.1}, "min": {}, "epoch": 3}
    }
    assert then["policy"]["limits"] == {"copying": 0.1}  # as it was


def test_new_name_takes_precedence_over_old_name() -> None:
    both = {"scheduler": {"warmup": 0.1, "warmup_ratio": 0.2}}
    assert migrate_keys(both) == {"scheduler": {"warmup_ratio": 0.2}}


@pytest.mark.parametrize("odd", [{"policy": 3}, {"base": None}, {"scheduler": [1]}, {}])
def test_damaged_settings_are_left_to_validation(odd: dict[str, Any]) -> None:
    assert (
        set(migrate_keys(odd).values()) == set(odd.values()) if odd != {"scheduler": [1]} else True
    )
    assert migrate_keys({"scheduler": [1]}) == {"scheduler": [1]}


def test_migration_of_the_shared_settings_of_a_study() -> None:
    metadata = {"data.latents": "fixed", "training.oom": "stop", "network.rank": "8"}
    assert migrate_flat_keys(metadata) == {
        "data.resample_latents": "False", "training.on_oom": "fail", "network.rank": "8",
    }  # fmt: skip
    assert migrate_flat_keys({"search of scheduler.warmup": "0, 1"}) == {
        "search of scheduler.warmup_ratio": "0, 1"
    }


def test_old_name_in_local_yaml(tmp_path: Path) -> None:
    (tmp_path / "local.yaml").write_text("training: {oom: adapt}\n")
    with pytest.raises(ConfigError, match=r"^conf/local\.yaml: training\.oom: .*on_oom=degrade$"):
        local_settings.read_local_settings(tmp_path)


def test_names_that_have_not_changed() -> None:
    assert all(renamed(key) is None for key in kinds(SweepConfig))
    assert settings("sweep", SweepConfig, ["optimizer=lion"]).optimizer["lr"] > 0
