"""Single-file models without the hub: the configs and tokenizers that diffusers needs.

A single file has only weights; diffusers would fetch configs and tokenizers from the hub. Here
they are made from the family's known settings and CLIP's vocabulary, which comes with open_clip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import CLIPTokenizer

from train.files.safetensors_header import read_header
from train.files.untrusted import UntrustedFileError
from train.models.families import EPSILON, FAMILIES, VELOCITY, Family

# its inputs are the latents' channels
FIRST_WEIGHT = "model.diffusion_model.input_blocks.0.0.weight"
LATENT_CHANNELS = 4
# empty tensors by which models that were finetuned for velocity identify themselves
VELOCITY_KEY, ZERO_SNR_KEY = "v_pred", "ztsnr"
LIBRARIES = {"unet": "diffusers", "vae": "diffusers", "scheduler": "diffusers"}


@contextmanager
def config_folder(file: Path, family: Family) -> Iterator[Path]:
    """Context manager: a temporary folder of configs and tokenizers for `from_single_file`."""
    index: dict[str, Any] = {"_class_name": family.pipeline.__name__}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for part, config in family.configs.items():
            classes = config.get("architectures") or [config["_class_name"]]
            index[part] = [LIBRARIES.get(part, "transformers"), classes[0]]
            if part == "scheduler":
                _save(
                    folder / part / "scheduler_config.json",
                    {**config, **scheduler_settings(file, family)},
                )
            else:
                _save(folder / part / "config.json", config)
        for number, padding in enumerate(family.padding, start=1):
            part = "tokenizer" if number == 1 else f"tokenizer_{number}"
            index[part] = ["transformers", "CLIPTokenizer"]
            _save_tokenizer(folder, part, padding)
        _save(folder / "model_index.json", index)
        yield folder


def family_of_file(file: Path) -> Family:
    """The family of a single file, by its keys and their shapes.

    Raises:
        ValueError: none of ours, or a model for another purpose.
    """
    try:
        tensors = read_header(file).tensors
    except (UntrustedFileError, OSError) as error:
        raise ValueError(f"not a readable safetensors file ({error})") from None
    shapes = {key: tensor.shape for key, tensor in tensors.items() if len(tensor.shape) > 1}
    if FIRST_WEIGHT in shapes and shapes[FIRST_WEIGHT][1] != LATENT_CHANNELS:
        raise ValueError("made for inpainting or the like; LoRAs are trained on the plain model")
    for family in FAMILIES:
        if shapes.get(family.marker_key, [0, 0])[1] == family.width:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ValueError(f"its weights match none of {known}")


def scheduler_settings(file: Path, family: Family) -> dict[str, Any]:
    """The prediction of a single file, as a scheduler's settings.

    By the file itself (`v_pred`, `ztsnr` among its keys, or the metadata of modelspec), else the
    family's default.
    """
    return {
        "prediction_type": prediction_of(file) or family.prediction,
        "rescale_betas_zero_snr": ZERO_SNR_KEY in read_header(file).tensors,
    }


def prediction_of(file: Path) -> str | None:
    """The prediction that a single file states; None if it states none."""
    header = read_header(file)
    if VELOCITY_KEY in header.tensors:
        return VELOCITY
    value = header.metadata.get("modelspec.prediction_type", "")
    return {"epsilon": EPSILON, "v": VELOCITY}.get(value)


def _save(file: Path, config: dict[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(config), encoding="utf-8")


def _save_tokenizer(folder: Path, name: str, padding: str) -> None:
    """CLIP's tokenizer, from the vocabulary that open_clip ships.

    If ! is the padding, it is so within a prompt too, as in the tokenizers of diffusers' folders.
    """
    # imported here as it is slow, and few starts need it
    from open_clip.tokenizer import SimpleTokenizer

    shipped = SimpleTokenizer()
    tokens = [*list(shipped.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(tokens)}
    merges = [" ".join(pair) for pair, _ in sorted(shipped.bpe_ranks.items(), key=lambda x: x[1])]
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=77,
        pad_token=padding,
    ).save_pretrained(folder / name)
