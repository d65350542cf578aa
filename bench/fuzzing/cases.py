"""Cases: a number of a reader is always the same input."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from bench.fuzzing import binaries, folders, good, readers, trees
from bench.fuzzing.readers import Reader, Target
from bench.fuzzing.values import OUTSIDE

STUDY = f"studies/{good.NAME}"
FIRST = f"{STUDY}/trials/0000"
SETTINGS = (
    "optimizer/_target_", "optimizer/lr", "optimizer/betas", "optimizer", "scores/encoder", "scores/pose_model",
    "base/path", "base/speed", "base/device", "cache", "cache_path", "data/path", "data/validation_path",
    "data/regularization_path", "data/dataset_config", "data/caption_extension", "data/trigger",
    "data/class_words", "probes/values", "probes/set", "probes/count", "training/epochs", "training/batch_size",
    "network/rank", "data/repeats", "data/resolution", "scheduler/name", "policy/limits", "policy", "training/seed",
)  # fmt: skip
OF_A_RECORD = (
    "study", "number", "settings", "settings/study/storage", "settings/study/root", "settings/data/path",
    "settings/data/trigger", "settings/policy", "overrides", "params", "params/optimizer.lr", "tags", "tags/worker",
    "tags/epochs", "tags/pack", "state", "reason", "selected", "ended", "epochs", "epochs/*/scorecard/checkpoint",
    "epochs/*/scorecard/scores", "epochs/*/scorecard/scores/copying/value", "epochs/*/scorecard/notes",
    "epochs/*/scorecard/epoch", "epochs/*/weights", "epochs/*/lr", "epochs/*/seconds_training", "epochs/*/time",
    "settings/optimizer/_target_", "tags/data.fingerprint", "tags/git.commit", "params/network.rank",
)  # fmt: skip
OF_A_RESULT = ("trial", "trials/*/number", "missing", "missing/*", "policy_settings", "policy_settings/rule",
               "policy_settings/limits", "policy_settings/weights", "trials", "run_id")  # fmt: skip
OF_A_RUN = ("run_id", "uri", "done")
OF_KOHYA = (
    "pretrained_model_name_or_path", "train_data_dir", "reg_data_dir", "optimizer_type", "optimizer_args",
    "network_dim", "resolution", "caption_extension", "output_name", "output_dir", "network_args", "dataset_config",
    "lr_scheduler", "learning_rate", "max_train_steps", "seed", "network_weights", "save_precision", "clip_skip",
    "unet_lr", "text_encoder_lr", "lr_warmup_steps", "vae", "network_module", "train_batch_size",
)  # fmt: skip
OF_A_DATASET = ("general", "datasets", "datasets/*/subsets", "datasets/*/resolution", "datasets/*/subsets/*/image_dir",
                "datasets/*/subsets/*/caption_extension", "general/caption_extension", "datasets/*/subsets/*/num_repeats",
                "datasets/*/subsets/*/class_tokens", "datasets/*/batch_size", "datasets/*/min_bucket_reso")  # fmt: skip
OF_A_JOURNAL = ("system_attr/cma:optimizer:0", "distributions/network.rank", "params/network.rank", "state", "values",
                "op_code", "study_name", "trial_id", "user_attr/about", "value", "distribution", "datetime_start")  # fmt: skip
OF_VALUES = ("template", "class_word", "poses", "poses/arms", "phrases", "phrases/arms", "backgrounds/background",
             "outfits")  # fmt: skip
OF_PROBES = ("values/template", "values/phrases", "values/kinds", "probes", "probes/*/role", "probes/*/asked",
             "probes/*/seed", "probes/*/prompt", "class_word", "training", "training/arms")  # fmt: skip
OF_PEFT = ("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules",
           "auto_mapping", "init_lora_weights", "alpha_pattern/to_q")  # fmt: skip
OF_A_BASE = ("_class_name", "_name_or_path", "in_channels", "block_out_channels", "down_block_types",
             "cross_attention_dim", "attention_head_dim", "architectures", "auto_map", "text_encoder", "unet",
             "layers_per_block", "num_hidden_layers", "vocab_size", "tokenizer_class", "_commit_hash")  # fmt: skip
OF_AN_ENCODER = ("model_cfg", "model_cfg/text_cfg", "model_cfg/text_cfg/hf_tokenizer_name", "model_cfg/vision_cfg",
                 "model_cfg/text_cfg/tokenizer_kwargs", "model_cfg/text_cfg/hf_model_name", "preprocess_cfg",
                 "auto_map", "tokenizer_class", "model_cfg/vision_cfg/image_size", "model_cfg/vision_cfg/timm_model_name",
                 "model_cfg/text_cfg/tokenizer_kwargs/trust_remote_code", "model_cfg/vision_cfg/layers")  # fmt: skip
LOCAL = ("data", "data/trigger", "optimizer", "network/rank", "defaults", "hydra", "training/seed")
RECORDS = (
    Target(f"{FIRST}/trial.json", "json", OF_A_RECORD),
    Target(f"{FIRST}/trial.json", "json", OF_A_RECORD),
    Target(f"{STUDY}/result.json", "json", OF_A_RESULT),
)
STUDIES = (
    *RECORDS,
    Target(f"{FIRST}/sheets/000001.png", "png"),
    Target(f"{STUDY}/optuna.journal", "journal", OF_A_JOURNAL),
    Target(f"{FIRST}/mlflow.json", "json", OF_A_RUN),
    Target(f"{FIRST}/lora-000001.safetensors", "safetensors"),
    Target(f"{STUDY}/data.png", "png"),
)
PICTURES = tuple(
    Target(name, "png" if name.endswith("png") else "picture") for name in good.PICTURE_NAMES
)
NOTES = ("studies/*/*.lock", "studies/*/trials/*/holder*", "studies/*/trials/[0-9]*")
READERS = {
    "lora": Reader("lora", (Target("friend-000001.safetensors", "safetensors"),), readers.read_loras, 14),
    "peft": Reader("peft", (Target("adapter_config.json", "json", OF_PEFT),
                            Target("adapter_model.safetensors", "safetensors")), readers.read_loras, 6),
    "reproduce": Reader("reproduce", (Target("theirs.safetensors", "safetensors", SETTINGS),), readers.read_settings,
                        6, ("mlruns/reproductions/*",)),
    "reproduce study": Reader("study", (*RECORDS, Target(f"{STUDY}/probes.yaml", "yaml", OF_PROBES)),
                              readers.read_study_again, 2, ("reproductions/*",), typed=False),
    "report": Reader("study", STUDIES, readers.read_report, 3, (f"{STUDY}/report.html",), typed=False),
    "select": Reader("study", STUDIES, readers.read_selection, 7, typed=False),
    "records": Reader("study", (*STUDIES[:3], STUDIES[5]), readers.read_records, 9, typed=False),
    "journal": Reader("study", (STUDIES[4],), readers.read_journal, 6, (f"{STUDY}/optuna.journal", *NOTES),
                      typed=False),
    "state": Reader("run", (Target("lora-state.pt", "state"), Target("lora-state.pt", "state"),
                            Target("lora-000001.safetensors", "safetensors")), readers.read_run, 6),
    "probe set": Reader("probes", (Target("probes.yaml", "yaml", OF_PROBES),), readers.read_probes, 5),
    "values": Reader("values", (Target("values.yaml", "yaml", OF_VALUES),), readers.read_values, 5),
    "kohya": Reader("kohya", (Target("kohya.toml", "toml", OF_KOHYA),), readers.read_kohya, 5),
    "dataset": Reader("dataset", (Target("dataset.toml", "toml", OF_A_DATASET),), readers.read_dataset, 5),
    "captions": Reader("pictures", (Target("a.txt", "text"), Target("b.txt", "text")), readers.read_pictures, 5,
                       follows=True, typed=False),
    "pictures": Reader("pictures", PICTURES, readers.read_pictures, 8, follows=True),
    "sheet": Reader("sheet", (Target("sheets/000001.png", "png"),), readers.read_contact_sheet, 3),
    "base": Reader("base", tuple(Target(name, "json", OF_A_BASE) for name in (
        "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
        "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json")),
        readers.read_base, 3),
    "encoder": Reader("encoder", (Target("open_clip_config.json", "json", OF_AN_ENCODER),
                                  Target("open_clip_config.json", "json", OF_AN_ENCODER),
                                  Target("tokenizer_config.json", "json", OF_AN_ENCODER),
                                  Target("tokenizer.json", "json"), Target("open_clip_model.safetensors", "safetensors")),
                      readers.read_encoder, 3),
    "cache": Reader("cache", (Target(f"ab/{good.KEY}.safetensors", "safetensors"),), readers.read_caches, 3, ("*.lock", "ab/*")),
    "scorecards": Reader("ledger", (Target("scorecards.json", "json"),), readers.read_ledger, 3),
    "local.yaml": Reader("local", (Target("local.yaml", "yaml", LOCAL),), readers.read_local, 3),
}  # fmt: skip
Change = Callable[[bytes, Random, tuple[str, ...]], bytes]
CHANGES: dict[str, Change] = {
    "json": lambda data, random, aims: _text(trees.json_text, data, random, aims),
    "yaml": lambda data, random, aims: _text(trees.yaml_text, data, random, aims),
    "toml": lambda data, random, aims: _text(trees.toml_text, data, random, aims),
    "journal": lambda data, random, aims: _text(trees.journal_text, data, random, aims),
    "text": lambda data, random, aims: _caption(data, random),
    "safetensors": binaries.safetensors,
    "png": binaries.png,
    "picture": lambda data, random, aims: binaries.damaged(data, random),
    "state": lambda data, random, aims: binaries.state(data, random),
}


def write_case(
    name: str,
    number: int,
    seed: int,
    made: Path,
    folder: Path,
    outside: Path,
    seeds: Sequence[Path] = (),
) -> None:
    """Writes the input of a case: a copy of good files with something wrong.

    Args:
        made: of `good.build`.
        folder: which becomes the input.
        outside: the folder that nobody has named.
        seeds: more files to begin with, each for the readers of its ending.
    """
    reader, random = READERS[name], Random(f"{seed} {name} {number}")
    shutil.copytree(made / reader.good, folder)
    for _ in range(random.choice((1, 1, 1, 2))):
        target = random.choice(reader.targets)
        file, pick = folder / target.file, random.random()
        if not file.is_file() or file.is_symlink():
            continue
        alike = [seed for seed in seeds if seed.suffix == file.suffix]
        if alike and random.random() < 0.6:
            file.write_bytes(random.choice(alike).read_bytes())
            if random.random() < 0.3:
                continue
        if pick < 0.05:
            folders.replaced(file, outside, random)
        elif pick < 0.09:
            folders.surrounded(file, folder, outside, random)
        else:
            content = _content(target, file.read_bytes(), pick, random)
            file.write_bytes(folders.is_text_of(outside, content))


def _content(target: Target, content: bytes, pick: float, random: Random) -> bytes:
    if pick < 0.11:
        return binaries.noise(random)
    if pick < 0.13:
        return random.choice(
            (b"", b"\0" * 1000, b"\xff\xfe" + content, b"\xef\xbb\xbf" + content, content * 2)
        )
    if pick < 0.14 and target.kind in ("png", "picture"):
        return random.choice((lambda: binaries.EPS, lambda: binaries.wide_png(13_312)))()
    try:
        return CHANGES[target.kind](content, random, target.aims)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ):  # of a seed that is broken
        return binaries.damaged(content, random)


def _text(
    change: Callable[[str, Random, tuple[str, ...]], str],
    data: bytes,
    random: Random,
    aims: tuple[str, ...],
) -> bytes:
    text = change(data.decode("utf-8", "replace"), random, aims)
    encoding = random.choice(("utf-16", "latin-1", "utf-32")) if random.random() < 0.02 else "utf-8"
    return text.encode(encoding, "surrogatepass" if encoding == "utf-8" else "replace")


def _caption(data: bytes, random: Random) -> bytes:
    words = random.choice((trees.noisy(data.decode("utf-8", "replace"), random), str(trees.nasty(random))[:300_000], "a, " * 30_000,
                           OUTSIDE))  # fmt: skip
    encoding = random.choice(
        ("utf-8", "utf-8", "utf-16", "latin-1", "utf-16-le", "cp1252", "utf-32")
    )
    return words.encode(encoding, "replace")
