"""Cases: reader, number and seed determine the input."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from bench.fuzzing import binaries, corpus, folders, priority_keys, readers, trees
from bench.fuzzing.readers import Reader, Target
from bench.fuzzing.values import OUTSIDE
from train.models.model_files import WEIGHTS

STUDY = f"studies/{corpus.NAME}"
FIRST = f"{STUDY}/trials/0000"
RECORDS = (
    Target(f"{FIRST}/trial.json", "json", priority_keys.RECORD_KEYS),
    Target(f"{FIRST}/trial.json", "json", priority_keys.RECORD_KEYS),
    Target(f"{STUDY}/result.json", "json", priority_keys.RESULT_KEYS),
)
STUDIES = (
    *RECORDS,
    Target(f"{FIRST}/sheets/000001.png", "png"),
    Target(f"{STUDY}/optuna.journal", "journal", priority_keys.JOURNAL_KEYS),
    Target(f"{FIRST}/mlflow.json", "json", priority_keys.RUN_KEYS),
    Target(f"{FIRST}/lora-000001.safetensors", "safetensors"),
    Target(f"{STUDY}/data.png", "png"),
)
IMAGES = tuple(
    Target(name, "png" if name.endswith("png") else "image") for name in corpus.IMAGE_NAMES
)
LOCK_FILES = ("studies/*/*.lock", "studies/*/trials/*/holder*", "studies/*/trials/[0-9]*")
MAX_BYTES = 50_000_000  # larger files are not mutated
IMAGE_SUFFIXES = tuple({Path(name).suffix for name in corpus.IMAGE_NAMES})
READERS = {
    "lora": Reader(
        "reproduce",
        (Target("theirs.safetensors", "safetensors"),),
        readers.read_lora_files,
        10,
        follows=(WEIGHTS,),
    ),
    "loras": Reader(
        "lora",
        (Target("friend-000001.safetensors", "safetensors"),),
        readers.read_lora_files,
        4,
        follows=(WEIGHTS,),
    ),
    "peft": Reader(
        "peft",
        (
            Target("adapter_config.json", "json", priority_keys.PEFT_KEYS),
            Target("adapter_model.safetensors", "safetensors"),
        ),
        readers.read_lora_files,
        6,
    ),
    "reproduce": Reader(
        "reproduce",
        (Target("theirs.safetensors", "safetensors", priority_keys.SETTINGS_KEYS),),
        readers.read_lora_settings,
        6,
        ("mlruns/reproductions/*",),
    ),
    "reproduce study": Reader(
        "study",
        (*RECORDS, Target(f"{STUDY}/probes.yaml", "yaml", priority_keys.PROBE_KEYS)),
        readers.read_original_study,
        2,
        ("reproductions/*",),
        typed=False,
    ),
    "report": Reader(
        "study", STUDIES, readers.read_report, 3, (f"{STUDY}/report.html",), typed=False
    ),
    "select": Reader("study", STUDIES, readers.read_selection, 7, typed=False),
    "records": Reader("study", (*STUDIES[:3], STUDIES[5]), readers.read_records, 9, typed=False),
    "journal": Reader(
        "study",
        (STUDIES[4],),
        readers.read_journal,
        6,
        (f"{STUDY}/optuna.journal", *LOCK_FILES),
        typed=False,
    ),
    "state": Reader(
        "run",
        (
            Target("lora-state.pt", "state"),
            Target("lora-state.pt", "state"),
            Target("lora-000001.safetensors", "safetensors"),
        ),
        readers.read_run,
        6,
    ),
    "probe set": Reader(
        "probes", (Target("probes.yaml", "yaml", priority_keys.PROBE_KEYS),), readers.read_probes, 5
    ),
    "values": Reader(
        "values",
        (Target("values.yaml", "yaml", priority_keys.ATTRIBUTE_KEYS),),
        readers.read_attributes,
        5,
    ),
    "kohya": Reader(
        "kohya", (Target("kohya.toml", "toml", priority_keys.KOHYA_KEYS),), readers.read_kohya, 5
    ),
    "dataset": Reader(
        "dataset",
        (Target("dataset.toml", "toml", priority_keys.DATASET_KEYS),),
        readers.read_dataset,
        5,
    ),
    "captions": Reader(
        "pictures",
        (Target("a.txt", "text"), Target("b.txt", "text")),
        readers.read_images,
        5,
        follows=IMAGE_SUFFIXES,
        typed=False,
    ),
    "pictures": Reader("pictures", IMAGES, readers.read_images, 8, follows=IMAGE_SUFFIXES),
    "sheet": Reader(
        "sheet",
        (
            Target("sheets/000001.png", "png"),
            Target("sheets/000001.safetensors", "safetensors"),
        ),
        readers.read_contact_sheet,
        3,
    ),
    "base": Reader(
        "base",
        tuple(
            Target(name, "json", priority_keys.BASE_KEYS)
            for name in (
                "model_index.json",
                "unet/config.json",
                "vae/config.json",
                "text_encoder/config.json",
                "scheduler/scheduler_config.json",
                "tokenizer/tokenizer_config.json",
                "tokenizer/tokenizer.json",
            )
        ),
        readers.read_base,
        3,
        follows=(WEIGHTS,),  # the Hugging Face cache has links instead of files
    ),
    "encoder": Reader(
        "encoder",
        (
            Target("open_clip_config.json", "json", priority_keys.ENCODER_KEYS),
            Target("open_clip_config.json", "json", priority_keys.ENCODER_KEYS),
            Target("tokenizer_config.json", "json", priority_keys.ENCODER_KEYS),
            Target("tokenizer.json", "json"),
            Target("open_clip_model.safetensors", "safetensors"),
        ),
        readers.read_encoder,
        3,
    ),
    "cache": Reader(
        "cache",
        (
            Target(f"ab/{corpus.KEY}.safetensors", "safetensors"),
            Target("readings-*.safetensors", "safetensors"),
        ),
        readers.read_caches,
        3,
        ("*.lock", "ab/*", "readings-*"),
    ),
    "scorecards": Reader(
        "ledger", (Target("scorecards.json", "json"),), readers.read_score_cache, 3
    ),
    "local.yaml": Reader(
        "local",
        (Target("local.yaml", "yaml", priority_keys.LOCAL_KEYS),),
        readers.read_local_overrides,
        3,
    ),
}
Mutation = Callable[[bytes, Random, tuple[str, ...]], bytes]
MUTATIONS: dict[str, Mutation] = {
    "json": lambda data, random, keys: _mutate_text(trees.mutate_json, data, random, keys),
    "yaml": lambda data, random, keys: _mutate_text(trees.mutate_yaml, data, random, keys),
    "toml": lambda data, random, keys: _mutate_text(trees.mutate_toml, data, random, keys),
    "journal": lambda data, random, keys: _mutate_text(trees.mutate_journal, data, random, keys),
    "text": lambda data, random, keys: _mutate_caption(data, random),
    "safetensors": binaries.mutate_safetensors,
    "png": binaries.mutate_png,
    "image": lambda data, random, keys: binaries.corrupt(data, random),
    "state": lambda data, random, keys: binaries.mutate_state(data, random),
}


def write_case(
    name: str,
    number: int,
    seed: int,
    corpus_folder: Path,
    folder: Path,
    outside: Path,
    seeds: Sequence[Path] = (),
) -> None:
    """Writes the input of a case: a mutated copy of the corpus files of its reader.

    Args:
        corpus_folder: written by `corpus.build_corpus`.
        folder: the input; must not exist yet.
        outside: the folder that no case may access.
        seeds: additional files to mutate, each in place of a corpus file with its suffix.
    """
    reader, random = READERS[name], Random(f"{seed} {name} {number}")
    shutil.copytree(corpus_folder / reader.corpus, folder)
    for _ in range(random.choice((1, 1, 1, 2))):
        target = random.choice(reader.targets)
        file, pick = resolve_target(folder, target), random.random()
        # an earlier mutation may have made it a link, a pipe, or too large
        if not file.is_file() or file.is_symlink() or file.stat().st_size > MAX_BYTES:
            continue
        candidates = [seed for seed in seeds if seed.suffix == file.suffix]
        if candidates and random.random() < 0.6:
            file.write_bytes(random.choice(candidates).read_bytes())
            if random.random() < 0.3:
                continue
        if pick < 0.05:
            folders.replace_file(file, outside, random)
        elif pick < 0.09:
            folders.add_neighbor(file, folder, outside, random)
        else:
            content = _mutate(target, file.read_bytes(), pick, random)
            file.write_bytes(folders.resolve_outside(outside, content))


def resolve_target(folder: Path, target: Target) -> Path:
    """Returns the file of a target, whose name may be a pattern."""
    return next(folder.glob(target.file), folder / target.file)


def _mutate(target: Target, content: bytes, pick: float, random: Random) -> bytes:
    if pick < 0.11:
        return binaries.random_bytes(random)
    if pick < 0.13:
        return random.choice(
            (b"", b"\0" * 1000, b"\xff\xfe" + content, b"\xef\xbb\xbf" + content, content * 2)
        )
    if pick < 0.14 and target.kind in ("png", "image"):
        return random.choice((lambda: binaries.EPS, lambda: binaries.wide_png(13_312)))()
    try:
        return MUTATIONS[target.kind](content, random, target.priority_keys)
    # a seed may be invalid, and so may the result of an earlier mutation
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile):
        return binaries.corrupt(content, random)


def _mutate_text(
    mutate: Callable[[str, Random, tuple[str, ...]], str],
    data: bytes,
    random: Random,
    priority_keys: tuple[str, ...],
) -> bytes:
    text = mutate(data.decode("utf-8", "replace"), random, priority_keys)
    encoding = random.choice(("utf-16", "latin-1", "utf-32")) if random.random() < 0.02 else "utf-8"
    return text.encode(encoding, "surrogatepass" if encoding == "utf-8" else "replace")


def _mutate_caption(data: bytes, random: Random) -> bytes:
    caption = random.choice(
        (
            trees.mutate_characters(data.decode("utf-8", "replace"), random),
            str(trees.hostile_value(random))[:300_000],
            "a, " * 30_000,
            OUTSIDE,
        )
    )
    encoding = random.choice(
        ("utf-8", "utf-8", "utf-16", "latin-1", "utf-16-le", "cp1252", "utf-32")
    )
    return caption.encode(encoding, "replace")
