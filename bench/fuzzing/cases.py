"""Cases: a number of a reader is always the same input."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from bench.fuzzing import aims, binaries, folders, good, readers, trees
from bench.fuzzing.readers import Reader, Target
from bench.fuzzing.values import OUTSIDE
from train.models.model_files import WEIGHTS

STUDY = f"studies/{good.NAME}"
FIRST = f"{STUDY}/trials/0000"
RECORDS = (
    Target(f"{FIRST}/trial.json", "json", aims.OF_A_RECORD),
    Target(f"{FIRST}/trial.json", "json", aims.OF_A_RECORD),
    Target(f"{STUDY}/result.json", "json", aims.OF_A_RESULT),
)
STUDIES = (
    *RECORDS,
    Target(f"{FIRST}/sheets/000001.png", "png"),
    Target(f"{STUDY}/optuna.journal", "journal", aims.OF_A_JOURNAL),
    Target(f"{FIRST}/mlflow.json", "json", aims.OF_A_RUN),
    Target(f"{FIRST}/lora-000001.safetensors", "safetensors"),
    Target(f"{STUDY}/data.png", "png"),
)
PICTURES = tuple(
    Target(name, "png" if name.endswith("png") else "picture") for name in good.PICTURE_NAMES
)
NOTES = ("studies/*/*.lock", "studies/*/trials/*/holder*", "studies/*/trials/[0-9]*")
LARGEST = 50_000_000  # bytes of a file that is changed
ENDINGS = tuple({Path(name).suffix for name in good.PICTURE_NAMES})
READERS = {
    "lora": Reader(
        "reproduce",
        (Target("theirs.safetensors", "safetensors"),),
        readers.read_loras,
        10,
        follows=(WEIGHTS,),
    ),
    "loras": Reader(
        "lora",
        (Target("friend-000001.safetensors", "safetensors"),),
        readers.read_loras,
        4,
        follows=(WEIGHTS,),
    ),
    "peft": Reader(
        "peft",
        (
            Target("adapter_config.json", "json", aims.OF_PEFT),
            Target("adapter_model.safetensors", "safetensors"),
        ),
        readers.read_loras,
        6,
    ),
    "reproduce": Reader(
        "reproduce",
        (Target("theirs.safetensors", "safetensors", aims.SETTINGS),),
        readers.read_settings,
        6,
        ("mlruns/reproductions/*",),
    ),
    "reproduce study": Reader(
        "study",
        (*RECORDS, Target(f"{STUDY}/probes.yaml", "yaml", aims.OF_PROBES)),
        readers.read_study_again,
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
        (f"{STUDY}/optuna.journal", *NOTES),
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
        "probes", (Target("probes.yaml", "yaml", aims.OF_PROBES),), readers.read_probes, 5
    ),
    "values": Reader(
        "values", (Target("values.yaml", "yaml", aims.OF_VALUES),), readers.read_values, 5
    ),
    "kohya": Reader("kohya", (Target("kohya.toml", "toml", aims.OF_KOHYA),), readers.read_kohya, 5),
    "dataset": Reader(
        "dataset", (Target("dataset.toml", "toml", aims.OF_A_DATASET),), readers.read_dataset, 5
    ),
    "captions": Reader(
        "pictures",
        (Target("a.txt", "text"), Target("b.txt", "text")),
        readers.read_pictures,
        5,
        follows=ENDINGS,
        typed=False,
    ),
    "pictures": Reader("pictures", PICTURES, readers.read_pictures, 8, follows=ENDINGS),
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
            Target(name, "json", aims.OF_A_BASE)
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
        follows=(WEIGHTS,),  # the hub's cache has links in the place of files
    ),
    "encoder": Reader(
        "encoder",
        (
            Target("open_clip_config.json", "json", aims.OF_AN_ENCODER),
            Target("open_clip_config.json", "json", aims.OF_AN_ENCODER),
            Target("tokenizer_config.json", "json", aims.OF_AN_ENCODER),
            Target("tokenizer.json", "json"),
            Target("open_clip_model.safetensors", "safetensors"),
        ),
        readers.read_encoder,
        3,
    ),
    "cache": Reader(
        "cache",
        (
            Target(f"ab/{good.KEY}.safetensors", "safetensors"),
            Target("readings-*.safetensors", "safetensors"),
        ),
        readers.read_caches,
        3,
        ("*.lock", "ab/*", "readings-*"),
    ),
    "scorecards": Reader("ledger", (Target("scorecards.json", "json"),), readers.read_ledger, 3),
    "local.yaml": Reader(
        "local", (Target("local.yaml", "yaml", aims.LOCAL),), readers.read_local, 3
    ),
}
Change = Callable[[bytes, Random, tuple[str, ...]], bytes]
CHANGES: dict[str, Change] = {
    "json": lambda data, random, keys: _text(trees.json_text, data, random, keys),
    "yaml": lambda data, random, keys: _text(trees.yaml_text, data, random, keys),
    "toml": lambda data, random, keys: _text(trees.toml_text, data, random, keys),
    "journal": lambda data, random, keys: _text(trees.journal_text, data, random, keys),
    "text": lambda data, random, keys: _caption(data, random),
    "safetensors": binaries.safetensors,
    "png": binaries.png,
    "picture": lambda data, random, keys: binaries.damaged(data, random),
    "state": lambda data, random, keys: binaries.state(data, random),
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
        file, pick = found_in(folder, target), random.random()
        # what was changed before may be a link or a pipe now, or larger than can be changed again
        if not file.is_file() or file.is_symlink() or file.stat().st_size > LARGEST:
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


def found_in(folder: Path, target: Target) -> Path:
    """A file of a case, whose name may be a pattern."""
    return next(folder.glob(target.file), folder / target.file)


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
    # of a seed that is broken, or of what was changed before
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile):
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
    words = random.choice(
        (
            trees.noisy(data.decode("utf-8", "replace"), random),
            str(trees.nasty(random))[:300_000],
            "a, " * 30_000,
            OUTSIDE,
        )
    )
    encoding = random.choice(
        ("utf-8", "utf-8", "utf-16", "latin-1", "utf-16-le", "cp1252", "utf-32")
    )
    return words.encode(encoding, "replace")
