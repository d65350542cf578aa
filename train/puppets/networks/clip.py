"""Stage 4: the tiny CLIP, a real open_clip model of identity, outfit, pose and background."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from train.puppets.networks.clip_images import (
    IMAGE_SIDE,
    augmented,
    batches,
    crops_of_heads,
    prepared,
    random_crops,
)
from train.puppets.networks.clip_losses import (
    attribute_loss,
    color_loss,
    identity_loss,
    matching_loss,
)
from train.puppets.networks.targets import COLORS, colors_of, labels_tensor
from train.puppets.networks.tokenizer import build, save
from train.puppets.networks.training import (
    CLIP,
    device,
    fit,
    log,
    seeded,
    to_unit,
    training_set,
)
from train.puppets.world.attributes import VALUES, phrase
from train.puppets.world.examples import (
    Drawing,
    Puppet,
    Toy,
    describe,
    draw_many,
)

BATCH, HEADS = 112, 32  # whole images and crops of heads in a step
CONTEXT = 60  # tokens of a description
WIDTH = 128  # of the text tower and of the embedding
ATTRIBUTE_WEIGHT, COLOR_WEIGHT = 0.5, 1.5  # of the losses beside that of matching
COLORS_ON_HEADS = ("skin", "head_color")
CONFIG = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": IMAGE_SIDE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64,
        },
        "text_cfg": {
            "context_length": CONTEXT, "vocab_size": 0, "width": WIDTH, "heads": 4, "layers": 2,
            "mlp_ratio": 3.0, "hf_tokenizer_name": "puppets",
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}  # fmt: skip


class Cycle(NamedTuple):
    """A part of the training.

    Attributes:
        steps, lr: number of steps, and the peak learning rate, which decays to zero.
        heads: the attributes that are read off crops of heads.
        identity: weight of the loss that makes images of one subject alike.
    """

    steps: int
    lr: float
    heads: tuple[str, ...]
    identity: float


# faces are too small to be learned from whole images alone; then, who it is counts more
CYCLES = (
    Cycle(1500, 4e-3, ("head", "gaze", "expression"), 0.0),
    Cycle(1200, 4e-3, ("head", "gaze", "expression"), 0.0),
    Cycle(700, 3e-3, ("head",), 1.0),
)


def write_folder(folder: Path) -> None:
    """Writes the config and the tokenizer, which is the base's with a longer context."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    tokenizer = build(CONTEXT)
    config = json.loads(json.dumps(CONFIG))
    text = config["model_cfg"]["text_cfg"]
    text["vocab_size"] = len(tokenizer)
    save(tokenizer, folder)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def head_labels(drawings: list[Drawing], attributes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Labels (N, 13) and colors (N, 6, 3) of drawings of which only the head is seen."""
    labels, colors = labels_tensor(drawings), colors_of(drawings)
    labels[:, [i for i, name in enumerate(VALUES) if name not in attributes]] = -100
    colors[:, [i for i, name in enumerate(COLORS) if name not in COLORS_ON_HEADS]] = math.nan
    return labels, colors


class Training(nn.Module):
    """The tiny CLIP and what its loss needs besides.

    Args:
        load: whether to begin with the weights in clip/.
    """

    def __init__(self, load: bool) -> None:
        super().__init__()
        place = f"local-dir:{CLIP}"
        self.model = open_clip.create_model(place, load_weights=load).float()
        self.tokenizer = open_clip.get_tokenizer(place)
        self.palette = nn.Linear(WIDTH, 3 * len(COLORS))  # so that looks are in the embedding
        self.phrases = self.tokenizer([phrase(n, v) for n in VALUES for v in VALUES[n]])

    def forward(
        self, drawings: list[Drawing], images: Tensor, texts: list[str], cycle: Cycle
    ) -> Tensor:
        """The loss of a batch of drawings, their images (N, 3, H, W), and their descriptions."""
        puppets = [i for i, d in enumerate(drawings) if isinstance(d.subject, Puppet)]
        toys = [i for i, d in enumerate(drawings) if isinstance(d.subject, Toy)]
        cropped = puppets[: HEADS // 2] + puppets[-HEADS // 2 :]  # of twins and of others
        heads = [drawings[i] for i in cropped]
        centers, sides = map(
            torch.cat, zip(random_crops(len(drawings)), crops_of_heads(heads), strict=True)
        )
        seen = augmented(to_unit(torch.cat([images, images[cropped]])), centers, sides)
        features = self.model.encode_image(prepared(seen), normalize=True)
        whole, of_heads = features.split([len(drawings), len(heads)])
        scale = self.model.logit_scale.exp().clamp(max=100)
        logits = scale * whole @ self._encoded(self.tokenizer(texts)).T
        labels, colors = map(
            torch.cat,
            zip(
                (labels_tensor(drawings), colors_of(drawings)),
                head_labels(heads, cycle.heads),
                strict=True,
            ),
        )
        palette = self.palette(features * WIDTH**0.5).unflatten(1, (len(COLORS), 3))
        loss = matching_loss(logits) + COLOR_WEIGHT * color_loss(palette, colors)
        read = scale * features @ self._encoded(self.phrases).T
        loss = loss + ATTRIBUTE_WEIGHT * attribute_loss(read, labels)
        if cycle.identity:
            identity = identity_loss(of_heads, [d.subject.looks for d in heads])
            identity += identity_loss(whole[toys], [drawings[i].subject.looks for i in toys])
            loss = loss + cycle.identity * identity
        return loss

    def _encoded(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(tokens.to(device()), normalize=True)
        return features


def run(first: int = 0) -> None:
    """Trains both towers and writes clip/.

    Args:
        first: the cycle to begin with; a later one continues from the weights in clip/.
    """
    seeded(14 + first)
    data = training_set()
    if first == 0:
        write_folder(CLIP)
    training = Training(load=first > 0).to(device()).train()
    model = training.model
    log.info("clip: %.2f M parameters", sum(p.numel() for p in model.parameters()) / 1e6)
    batch_of = batches(data, Random(14 + first))
    for number, cycle in enumerate(CYCLES[first:], start=first):

        def loss_of(index: Tensor, cycle: Cycle = cycle) -> Tensor:
            loss: Tensor = training(*batch_of(index), cycle)
            return loss

        fit(f"clip cycle {number}", training, loss_of, count=len(data), batch=BATCH,
            steps=cycle.steps, lr=cycle.lr, seed=number, weight_decay=0.02)  # fmt: skip
        state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
        save_file(state, CLIP / "open_clip_model.safetensors", metadata={"format": "pt"})
        log.info("  clip: retrieval among 500 at rank 1: %.1f %%", 100 * retrieval(CLIP))


@torch.no_grad()
def retrieval(folder: Path, count: int = 500) -> float:
    """Share of full descriptions whose nearest image is the one that they describe."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model = model.eval()
    fresh, rng = draw_many(count, seed=24), Random(24)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    texts = [describe(d.subject, rng, d.medium, 1.0) for d in fresh.drawings]
    text_features = model.encode_text(tokenizer(texts), normalize=True)
    image_features = model.encode_image(prepared(fresh.images.float() / 255), normalize=True)
    nearest = (text_features @ image_features.T).argmax(1)
    return float((nearest == torch.arange(count)).float().mean())
