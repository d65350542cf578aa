"""The CLIP encoder of the scores loads, or is rejected with one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchmetrics.multimodal import CLIPScore

from evaluate.features.clip import EMBEDDED_FOLDER, ClipEncoder
from train.errors import ConfigError

CPU = torch.device("cpu")


def test_features_are_unit_vectors_of_one_space() -> None:
    encoder = ClipEncoder("puppets", CPU)
    images = encoder.image_features(torch.rand(2, 3, 32, 32))
    texts = encoder.text_features(["a photo of a puppet"])
    assert images.shape[1] == texts.shape[1]
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(2))
    assert encoder.patch_features(torch.rand(2, 3, 32, 32)).shape[:2] == (2, 144)


@pytest.mark.parametrize(
    ("vision", "patches"),
    [
        ({"image_size": 64, "layers": 2, "width": 64, "patch_size": 8}, 8),
        ({"image_size": 224, "layers": 1, "width": 64, "patch_size": 32}, 7),
        ({"image_size": 64, "layers": 3, "width": 64, "patch_size": 16}, 4),
        ({"image_size": 96, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64}, 12),
        ({"image_size": 224, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64}, 7),
    ],
)
def test_patches_of_transformers_and_convolutional_networks(
    tmp_path: Path, vision: dict[str, Any], patches: int
) -> None:
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    name = f"patches_{vision['image_size']}_{patches}"
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(0)
    save_file(open_clip.create_model(name).state_dict(), tmp_path / "weights.safetensors")
    encoder = ClipEncoder(f"{name}@{tmp_path / 'weights.safetensors'}", CPU)
    image, side = torch.rand(1, 3, *encoder.size), encoder.size[0] // patches
    changed = image.clone()
    changed[..., :side, -side:] = 0  # the upper right corner
    before, after = (encoder.patch_features(x)[0] for x in (image, changed))
    if "patch_size" in vision:  # a transformer: the last layer, however few its patches are
        assert encoder._patch_level == vision["layers"] - 1
    assert len(before) == patches**2
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(patches**2))
    row, column = divmod(int((before - after).norm(dim=-1).argmax()), patches)
    assert row <= 1, "patches are in the order of rows"
    assert column >= patches - 2


def test_folder_without_weights_is_rejected(tmp_path: Path) -> None:
    without_lora = tmp_path / "clip"
    shutil.copytree(EMBEDDED_FOLDER, without_lora, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ConfigError, match=r"scores\.clip_model"):
        ClipEncoder(str(without_lora), CPU)


def test_architecture_with_weights_from_a_file(tmp_path: Path) -> None:
    metadata = json.loads((EMBEDDED_FOLDER / "open_clip_config.json").read_text())
    for key in [key for key in metadata["model_cfg"]["text_cfg"] if "tokenizer" in key]:
        del metadata["model_cfg"]["text_cfg"][key]  # it would be asked of the hub
    (tmp_path / "tiny.json").write_text(json.dumps(metadata["model_cfg"]))
    open_clip.add_model_config(tmp_path / "tiny.json")
    weights = next(EMBEDDED_FOLDER.glob("*.safetensors"))
    same, images = ClipEncoder(f"tiny@{weights}", CPU), torch.rand(2, 3, 32, 32)
    expected = ClipEncoder("puppets", CPU).image_features(images)
    torch.testing.assert_close(same.image_features(images), expected, atol=0.1, rtol=0)
    with pytest.raises(ConfigError, match=r"no \.safetensors file .*pickle"):
        ClipEncoder(f"tiny@{tmp_path}/weights.bin", CPU)


class AsTransformers(torch.nn.Module):
    """Our encoder with the interface that torchmetrics expects of a CLIP model."""

    def __init__(self, encoder: ClipEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        limit = SimpleNamespace(max_position_embeddings=10_000)
        self.config = SimpleNamespace(text_config=limit)
        self.device = CPU

    def get_image_features(self, images: list[Tensor]) -> Tensor:
        return self.encoder.image_features(torch.stack(images))

    def get_text_features(self, texts: list[str], mask: object) -> Tensor:
        return self.encoder.text_features(texts)


class Words(list[str]):
    """Texts that can be moved to a device and truncated."""

    def to(self, device: torch.device) -> Words:
        return self

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), 1


def test_similarities_match_torchmetrics_clip_score() -> None:
    encoder = ClipEncoder("puppets", CPU)
    images, texts = torch.rand(4, 3, 32, 32), [f"a puppet {word}" for word in "abcd"]

    def processor(**given: Any) -> dict[str, Any]:
        pixels = [image.float() for image in given.get("images") or []]
        return {"pixel_values": _Pixels(pixels), "input_ids": Words(given.get("text") or []),
                "attention_mask": Words(given.get("text") or [])}  # fmt: skip

    metric = CLIPScore(model_name_or_path=lambda: (AsTransformers(encoder), processor))
    metric.update(list(images), texts)
    ours = (encoder.image_features(images) * encoder.text_features(texts)).sum(-1).mean()
    assert metric.compute().item() == pytest.approx(100 * ours.item(), abs=1e-3)


class _Pixels(list[Tensor]):
    def to(self, device: torch.device) -> _Pixels:
        return self
