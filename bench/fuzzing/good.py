"""Good files of every kind that is read, small ones, made from the embedded base in seconds."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import create_trial
from PIL import Image
from safetensors.torch import save_file

from bench.fuzzing.tinybase import save_tiny_base
from evaluate.config import PolicyConfig
from evaluate.features.clip import EMBEDDED_FOLDER as ENCODER
from evaluate.features.extractor import ImageFeatures
from evaluate.features.feature_cache import FeatureCache
from evaluate.images.contact_sheet import contact_sheet, data_sheet, save_sheet
from evaluate.images.probe_images import images_file, save_probe_images
from evaluate.prompts.attributes import load_attributes
from evaluate.prompts.probe_set import Probe, ProbeSet
from evaluate.prompts.roles import CAPTION, CLASS, FRESH
from evaluate.scorecard import Estimate, Scorecard
from sweeper.config import SweepConfig
from sweeper.execution.finalize import promote
from sweeper.results.ranking import rank_trials
from sweeper.search.search_space import Dimension, Space
from sweeper.study.study import Study
from sweeper.tracking.trial_record import COMPLETE, ScoredEpoch, TrialRecord
from train.cli.compose import settings
from train.config.schema import CONF, TrialConfig, trial_of
from train.data.dataset import load_dataset
from train.data.reader import EMBEDDED_FOLDER as PICTURES
from train.loop.run import AdapterRun
from train.loop.trial_spec import TrialSpec
from train.lora.checkpoint_file import weights_hash
from train.models.base_model import BaseModel

NAME = "small"  # of the study
KEY = "ab" * 32  # of what is cached
TRIALS = 2
PICTURE_NAMES = ("a.jpg", "b.png", "c.webp", "d.bmp", "e.tiff", "f.gif", "g.png", "h.png")
SPACE = Space(
    (
        Dimension("network.rank", IntDistribution(1, 8)),
        Dimension("optimizer.lr", FloatDistribution(1e-4, 1e-2)),
    )
)
CMAES = {"_target_": "optuna.samplers.CmaEsSampler", "n_startup_trials": 1}
TUNED = [
    "network.rank=1",
    "network.conv_rank=1",
    "training.epochs=2",
    "data.repeats=1",
    "base.device=cpu",
]
KOHYA = """pretrained_model_name_or_path = "puppets"
train_data_dir = "pictures"
network_module = "networks.lora"
network_dim = 4
network_alpha = 2
learning_rate = 1e-3
optimizer_type = "AdamW"
optimizer_args = ["weight_decay=0.1", "betas=(0.9, 0.99)"]
lr_scheduler = "cosine"
resolution = "32,32"
caption_extension = ".txt"
max_train_epochs = 1
mixed_precision = "no"
output_dir = "out"
output_name = "friend"
seed = 3
"""
DATASET = """[general]
caption_extension = ".txt"
shuffle_caption = false

[[datasets]]
resolution = [32, 32]
batch_size = 2

[[datasets.subsets]]
image_dir = "pictures"
num_repeats = 2
class_tokens = "sks puppet"
"""
LOCAL = """data: {trigger: sks person, repeats: 2}
network: {rank: 4}
optimizer: adamw
training: {seed: 7}
"""
# what differs from run to run; a case is to be the same bytes every time
CLOCK = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-\d+"
)


class Silent:
    """Stands for MLflow, which the good study is not logged to."""

    def conclude(self, *given: object) -> None:
        """Nothing."""


def build(folder: Path, base: BaseModel) -> None:
    """Writes a folder for each kind of file; the same bytes every time.

    Args:
        base: the embedded one.
    """
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = settings("sweep", SweepConfig, TUNED)
    pictures(folder / "pictures")
    _runs(folder / "run", trial_of(config), base)
    _lora(folder, base)
    _study(folder, config)
    _texts(folder, base)
    shutil.copytree(ENCODER, folder / "encoder")
    save_tiny_base(folder / "base")
    tensors = {name: torch.rand(2, 4) for name in ("mean", "std")}
    (folder / "cache" / KEY[:2]).mkdir(parents=True)
    save_file(tensors, folder / "cache" / KEY[:2] / f"{KEY}.safetensors")
    readings(folder / "cache")


def readings(folder: Path) -> ImageFeatures:
    """What was read off two black pictures, from the cache in a folder or by no network at all."""
    features = ImageFeatures(*(torch.zeros(2, 3) for _ in fields(ImageFeatures)))
    extractor: Any = Mock(fingerprint="none")
    extractor.extract.return_value = features
    return FeatureCache(extractor, folder).extract(torch.zeros(2, 3, 8, 8), Mock())


def pictures(folder: Path, names: Sequence[str] = PICTURE_NAMES) -> None:
    """A picture of each name's format, with its caption."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for name in names:
        pixels = random.integers(0, 255, (40, 36, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
        if name == "g.png":
            picture = Image.fromarray(random.integers(0, 65535, (40, 36), dtype=np.uint16))
        elif name == "h.png":
            picture = picture.convert("P")
            picture.info["transparency"] = 3
        options: dict[str, Any] = {"exif": _exif()} if name in ("a.jpg", "c.webp", "b.png") else {}
        picture.save(folder / name, **options)
        (folder / name).with_suffix(".txt").write_text(f"a photo of sks puppet, part {name[0]}\n")


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a puppet"  # orientation, description
    return exif.tobytes()


def _runs(folder: Path, config: TrialConfig, base: BaseModel) -> None:
    """A LoRA file of ours, with its metadata, and the state of its run."""
    config = replace(config, data=replace(config.data, path=str(PICTURES)))
    run = AdapterRun(0, TrialSpec(config, folder), base, load_dataset(config.data))
    run.config = replace(config, data=replace(config.data, path="puppets"))
    run.epoch = 1
    run.losses = [torch.tensor(0.25)]
    run.save()


def _lora(folder: Path, base: BaseModel) -> None:
    """The same weights as other programs name them."""
    ours = folder / "run" / "lora-000001.safetensors"
    (folder / "lora").mkdir()
    shutil.copy(ours, folder / "lora" / "friend-000001.safetensors")
    shutil.copy(ours, folder / "lora" / "friend-000002.safetensors")
    (folder / "reproduce").mkdir()
    shutil.copy(ours, folder / "reproduce" / "theirs.safetensors")
    peft = folder / "peft"
    peft.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    for path, module in base.unet.named_modules():
        if path.endswith("to_q") and isinstance(module, torch.nn.Linear):
            outputs, inputs = module.weight.shape
            tensors[f"base_model.model.{path}.lora_A.weight"] = torch.rand(2, inputs)
            tensors[f"base_model.model.{path}.lora_B.weight"] = torch.zeros(outputs, 2)
    save_file(tensors, peft / "adapter_model.safetensors", {"format": "pt"})
    about = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 2,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {"to_q": 2},
        "init_lora_weights": True,
        "target_modules": ["to_q"],
        "auto_mapping": None,
    }
    (peft / "adapter_config.json").write_text(json.dumps(about))


def _probe_set() -> ProbeSet:
    values = load_attributes("puppets")
    first = {part: options[0] for parts in values.kinds.values() for part, options in parts.items()}
    last = {part: options[-1] for parts in values.kinds.values() for part, options in parts.items()}
    probes = [
        Probe(
            values.prompt("a sks puppet", asked), values.prompt("a puppet", asked), i, role, asked
        )
        for i, (asked, role) in enumerate([(first, FRESH), (last, FRESH), (first, CLASS)])
    ]
    probes.append(Probe("a photo of sks puppet", "a photo of puppet", 3, CAPTION, {}))
    return ProbeSet(probes, values, "puppet", {part: [value] for part, value in first.items()})


def _card(file: Path, epoch: int, number: int) -> Scorecard:
    names = (
        "prompt_fidelity",
        "subject_fidelity",
        "pose_memorization",
        "background_leak",
        "outfit_leak",
        "copying",
        "validation_loss",
    )
    value = 0.2 + 0.1 * number + 0.05 * epoch
    scores = {name: Estimate(value, value - 0.1, value + 0.1) for name in names}
    card = Scorecard(file, epoch, scores, notes=["poses were compared by layout"], copies={0: 0})
    card.by_probe = {name: [value] * 4 for name in names[:2]}
    return card


def _study(folder: Path, config: SweepConfig) -> None:
    """A finished study of two trials of two epochs, with the journal of a search by CMA-ES."""
    study, probe_set = folder / "study" / "studies" / NAME, _probe_set()
    training = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fingerprint, records = load_dataset(config.data).fingerprint, []
    for number in range(TRIALS):
        place = study / "trials" / f"{number:04d}"
        place.mkdir(parents=True)
        file = place / "lora-000001.safetensors"
        shutil.copy(folder / "run" / "lora-000001.safetensors", file)
        params = {"network.rank": number + 1, "optimizer.lr": 0.001 * (number + 1)}
        record = TrialRecord(
            folder=place,
            study=NAME,
            number=number,
            settings=json.loads(json.dumps(asdict(config))),
            overrides=[f"{key}={value}" for key, value in params.items()],
            params=params,
            tags={"data.fingerprint": fingerprint, "pack": "1", "worker": "host 1", "epochs": "2"},
            state=COMPLETE,
            ended=1_700_000_000_000,
        )
        for epoch in (1, 2):
            card = _card(file, epoch, number)
            card.images = np.full((4, 32, 32, 3), 40 * epoch, dtype=np.uint8)
            save_sheet(contact_sheet(card, probe_set, training), record.sheet(epoch))
            save_probe_images(card.images, record.sheet(epoch))
            card.images = None
            scored = ScoredEpoch(card, 0.1, 1e-3, 2.0, 1.0, 1_700_000_000_000, weights_hash(file))
            record.epochs.append(scored)
        record.selected = 1
        record.save()
        (place / "mlflow.json").write_text(
            json.dumps({"uri": "mlflow.db", "run_id": "0" * 32, "done": ["params"]})
        )
        records.append(record)
    (study / "probes.yaml").write_text(probe_set.to_yaml(), encoding="utf-8")
    save_sheet(
        data_sheet([(training[0], "sks puppet"), (training[1], "two")], []), study / "data.png"
    )
    policy = PolicyConfig()
    silent: Any = Silent()
    promote(study, rank_trials(records, policy, lambda record: "0" * 32), policy, silent, {})
    _journal(folder, study)
    (folder / "sheet" / "sheets").mkdir(parents=True)
    shutil.copy(records[0].sheet(1), folder / "sheet" / "sheets")
    shutil.copy(images_file(records[0].sheet(1)), folder / "sheet" / "sheets")
    cards = {
        weights_hash(records[0].epochs[0].scorecard.checkpoint): _card(Path("a"), 1, 0).to_dict()
    }
    (folder / "ledger").mkdir()
    shutil.copy(folder / "run" / "lora-000001.safetensors", folder / "ledger" / "a.safetensors")
    about = {"data": "0", "base": "1"}
    (folder / "ledger" / "scorecards.json").write_text(json.dumps({"about": about, "cards": cards}))


def asked_again(folder: Path, sampler: dict[str, Any] = CMAES) -> Study:
    """The study in a folder as a sweep goes on with it."""
    return Study(
        folder=folder,
        shared_settings={"data.trigger": "sks puppet"},
        space=SPACE,
        sampler=sampler,
        pruner={"_target_": "optuna.pruners.NopPruner"},
        seed=0,
    )


def _journal(folder: Path, study: Path) -> None:
    made = folder / "made" / NAME
    again = asked_again(made)
    for number in range(TRIALS):
        params = {"network.rank": number + 1, "optimizer.lr": 0.001 * (number + 1)}
        done = create_trial(params=params, distributions=SPACE.distributions, value=0.1 * number)
        again.optuna.add_trial(done)
    text = (made / "optuna.journal").read_text()
    text = CLOCK.sub(
        lambda found: "2026-01-01T00:00:00.000000" if "T" in found[0] else "worker", text
    )
    (study / "optuna.journal").write_text(text)
    shutil.rmtree(folder / "made")


def _texts(folder: Path, base: BaseModel) -> None:
    for name, text in {
        "kohya/kohya.toml": KOHYA,
        "dataset/dataset.toml": DATASET,
        "local/local.yaml": LOCAL,
        "values/values.yaml": (CONF / "probes" / "attributes" / "puppets.yaml").read_text(),
        "probes/probes.yaml": (folder / "study" / "studies" / NAME / "probes.yaml").read_text(),
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("train", "sweep", "evaluate"):
        shutil.copy(CONF / f"{name}.yaml", folder / "local")
