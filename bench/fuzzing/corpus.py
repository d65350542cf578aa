"""Builds the corpus: small valid files of every kind, made from the embedded base in seconds."""

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

from bench.fuzzing.tiny_base import save_tiny_base
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
from train.loop.adapter_run import AdapterRun
from train.loop.trial_spec import TrialSpec
from train.lora.checkpoint_file import weights_hash
from train.models.base_model import BaseModel

NAME = "small"  # of the study
KEY = "ab" * 32  # of the entry in the tensor cache
TRIALS = 2
IMAGE_NAMES = ("a.jpg", "b.png", "c.webp", "d.bmp", "e.tiff", "f.gif", "g.png", "h.png")
SPACE = Space(
    (
        Dimension("network.rank", IntDistribution(1, 8)),
        Dimension("optimizer.lr", FloatDistribution(1e-4, 1e-2)),
    )
)
CMAES = {"_target_": "optuna.samplers.CmaEsSampler", "n_startup_trials": 1}
OVERRIDES = [
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
# times and worker ids, which differ between runs; a case must always be the same bytes
VARYING_TEXT = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-\d+"
)


class NoMirror:
    """Stands in for the MLflow mirror, because the study of the corpus is not logged."""

    def finalize(self, *arguments: object) -> None:
        """Does nothing."""


def build_corpus(folder: Path, base: BaseModel) -> None:
    """Writes a folder for each kind of file, always with the same bytes.

    Args:
        base: the embedded base model.
    """
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = settings("sweep", SweepConfig, OVERRIDES)
    write_images(folder / "pictures")
    _write_run(folder / "run", trial_of(config), base)
    _write_loras(folder, base)
    _write_study(folder, config)
    _write_texts(folder, base)
    shutil.copytree(ENCODER, folder / "encoder")
    save_tiny_base(folder / "base")
    tensors = {name: torch.rand(2, 4) for name in ("mean", "std")}
    (folder / "cache" / KEY[:2]).mkdir(parents=True)
    save_file(tensors, folder / "cache" / KEY[:2] / f"{KEY}.safetensors")
    cached_features(folder / "cache")


def cached_features(folder: Path) -> ImageFeatures:
    """Returns features of two black images from the cache in a folder, or from a mock."""
    features = ImageFeatures(*(torch.zeros(2, 3) for _ in fields(ImageFeatures)))
    extractor: Any = Mock(fingerprint="none")
    extractor.extract.return_value = features
    return FeatureCache(extractor, folder).extract(torch.zeros(2, 3, 8, 8), Mock())


def write_images(folder: Path, names: Sequence[str] = IMAGE_NAMES) -> None:
    """Writes an image and a caption for each name, in the format of its suffix."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for name in names:
        pixels = random.integers(0, 255, (40, 36, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        if name == "g.png":
            image = Image.fromarray(random.integers(0, 65535, (40, 36), dtype=np.uint16))
        elif name == "h.png":
            image = image.convert("P")
            image.info["transparency"] = 3
        options: dict[str, Any] = (
            {"exif": _make_exif()} if name in ("a.jpg", "c.webp", "b.png") else {}
        )
        image.save(folder / name, **options)
        (folder / name).with_suffix(".txt").write_text(f"a photo of sks puppet, part {name[0]}\n")


def _make_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a puppet"  # orientation, description
    return exif.tobytes()


def _write_run(folder: Path, config: TrialConfig, base: BaseModel) -> None:
    """Writes a LoRA file with its metadata, and the resume state of its run."""
    config = replace(config, data=replace(config.data, path=str(PICTURES)))
    run = AdapterRun(0, TrialSpec(config, folder), base, load_dataset(config.data))
    run.config = replace(config, data=replace(config.data, path="puppets"))
    run.epoch = 1
    run.losses = [torch.tensor(0.25)]
    run.save()


def _write_loras(folder: Path, base: BaseModel) -> None:
    """Writes the LoRA file under other names, and a LoRA in the format of peft."""
    lora = folder / "run" / "lora-000001.safetensors"
    (folder / "lora").mkdir()
    shutil.copy(lora, folder / "lora" / "friend-000001.safetensors")
    shutil.copy(lora, folder / "lora" / "friend-000002.safetensors")
    (folder / "reproduce").mkdir()
    shutil.copy(lora, folder / "reproduce" / "theirs.safetensors")
    peft = folder / "peft"
    peft.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    for path, module in base.unet.named_modules():
        if path.endswith("to_q") and isinstance(module, torch.nn.Linear):
            outputs, inputs = module.weight.shape
            tensors[f"base_model.model.{path}.lora_A.weight"] = torch.rand(2, inputs)
            tensors[f"base_model.model.{path}.lora_B.weight"] = torch.zeros(outputs, 2)
    save_file(tensors, peft / "adapter_model.safetensors", {"format": "pt"})
    config = {
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
    (peft / "adapter_config.json").write_text(json.dumps(config))


def _make_probe_set() -> ProbeSet:
    values = load_attributes("puppets")
    first = {part: options[0] for parts in values.kinds.values() for part, options in parts.items()}
    last = {part: options[-1] for parts in values.kinds.values() for part, options in parts.items()}
    probes = [
        Probe(values.prompt("sks puppet", asked), values.prompt("a puppet", asked), i, role, asked)
        for i, (asked, role) in enumerate([(first, FRESH), (last, FRESH), (first, CLASS)])
    ]
    probes.append(Probe("a photo of sks puppet", "a photo of puppet", 3, CAPTION, {}))
    return ProbeSet(probes, values, "puppet", {part: [value] for part, value in first.items()})


def _make_card(file: Path, epoch: int, number: int) -> Scorecard:
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


def _write_study(folder: Path, config: SweepConfig) -> None:
    """Writes a finished study of two trials with two epochs, and the journal of a CMA-ES search."""
    study, probe_set = folder / "study" / "studies" / NAME, _make_probe_set()
    training = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fingerprint, records = load_dataset(config.data).fingerprint, []
    for number in range(TRIALS):
        trial = study / "trials" / f"{number:04d}"
        trial.mkdir(parents=True)
        file = trial / "lora-000001.safetensors"
        shutil.copy(folder / "run" / "lora-000001.safetensors", file)
        params = {"network.rank": number + 1, "optimizer.lr": 0.001 * (number + 1)}
        record = TrialRecord(
            folder=trial,
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
            card = _make_card(file, epoch, number)
            card.images = np.full((4, 32, 32, 3), 40 * epoch, dtype=np.uint8)
            save_sheet(contact_sheet(card, probe_set, training), record.sheet(epoch))
            save_probe_images(card.images, record.sheet(epoch))
            card.images = None
            scored = ScoredEpoch(card, 0.1, 1e-3, 2.0, 1.0, 1_700_000_000_000, weights_hash(file))
            record.epochs.append(scored)
        record.selected = 1
        record.save()
        (trial / "mlflow.json").write_text(
            json.dumps({"uri": "mlflow.db", "run_id": "0" * 32, "done": ["params"]})
        )
        records.append(record)
    (study / "probes.yaml").write_text(probe_set.to_yaml(), encoding="utf-8")
    save_sheet(
        data_sheet([(training[0], "sks puppet"), (training[1], "two")], []), study / "data.png"
    )
    policy = PolicyConfig()
    mirror: Any = NoMirror()
    promote(study, rank_trials(records, policy, lambda record: "0" * 32), policy, mirror, {})
    _write_journal(folder, study)
    (folder / "sheet" / "sheets").mkdir(parents=True)
    shutil.copy(records[0].sheet(1), folder / "sheet" / "sheets")
    shutil.copy(images_file(records[0].sheet(1)), folder / "sheet" / "sheets")
    cards = {
        weights_hash(records[0].epochs[0].scorecard.checkpoint): _make_card(
            Path("a"), 1, 0
        ).to_dict()
    }
    (folder / "ledger").mkdir()
    shutil.copy(folder / "run" / "lora-000001.safetensors", folder / "ledger" / "a.safetensors")
    about = {"data": "0", "base": "1"}
    (folder / "ledger" / "scorecards.json").write_text(json.dumps({"about": about, "cards": cards}))


def resume_study(folder: Path, sampler: dict[str, Any] = CMAES) -> Study:
    """Opens the study in a folder as a sweep that continues it does."""
    return Study(
        folder=folder,
        shared_settings={"data.trigger": "sks puppet"},
        space=SPACE,
        sampler=sampler,
        pruner={"_target_": "optuna.pruners.NopPruner"},
        seed=0,
    )


def _write_journal(folder: Path, study: Path) -> None:
    resumed = folder / "resumed" / NAME
    optuna_study = resume_study(resumed).optuna
    for number in range(TRIALS):
        params = {"network.rank": number + 1, "optimizer.lr": 0.001 * (number + 1)}
        trial = create_trial(params=params, distributions=SPACE.distributions, value=0.1 * number)
        optuna_study.add_trial(trial)
    text = (resumed / "optuna.journal").read_text()
    text = VARYING_TEXT.sub(
        lambda match: "2026-01-01T00:00:00.000000" if "T" in match[0] else "worker", text
    )
    (study / "optuna.journal").write_text(text)
    shutil.rmtree(folder / "resumed")


def _write_texts(folder: Path, base: BaseModel) -> None:
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
