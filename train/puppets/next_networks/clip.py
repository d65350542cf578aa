"""Stage 4: the tiny CLIP, a real open_clip model of identity, outfit, pose and background."""

import json
import shutil
from itertools import product
from pathlib import Path
from random import Random

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from train.puppets.networks.clip import augmented, completeness, prepared
from train.puppets.networks.training import device, fit, log, seeded, to_unit
from train.puppets.next_networks.targets import COLORS, colors_of, labels_tensor
from train.puppets.next_networks.training import CLIP, training_set
from train.puppets.next_world.attributes import VALUES, values_of
from train.puppets.next_world.captions import vocabulary
from train.puppets.next_world.examples import (
    ARMS,
    BACKGROUNDS,
    EXPRESSIONS,
    GAZES,
    LEGS,
    SIZE,
    Drawing,
    describe,
    draw_many,
    images_of,
    sample_looks,
    sample_puppet,
)
from train.puppets.world.vocabulary import build, save

STEPS, BATCH, LR = 1100, 160, 1.5e-3
SAME_PLACE_SHARE = 0.3  # of the batches have a single background, which then tells nothing apart
# of the batches show a few puppets in all poses, which only the pose tells apart
TWINS_SHARE = 0.35
CONTEXT = 60  # tokens of a description
WIDTH = 128  # of both towers and of the embedding
READING = 0.3  # weight of the loss of classifying the attributes from both embeddings
CONFIG = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": SIZE, "patch_size": 8, "width": WIDTH, "layers": 3, "head_width": 32,
            "mlp_ratio": 2.0,
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


def write_folder(folder: Path) -> None:
    """Writes the config and the tokenizer, which is the base's with a longer context."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    words = vocabulary()
    tokenizer = build(words, CONTEXT)
    config = json.loads(json.dumps(CONFIG))
    text = config["model_cfg"]["text_cfg"]
    text["vocab_size"] = len(tokenizer)
    save(tokenizer, folder, words)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def twins(count: int, rng: Random) -> list[Drawing]:
    """A few puppets, each at one place and in every pose: only the pose and the face tell them
    apart."""
    poses = [*product(ARMS, LEGS)]
    drawings: list[Drawing] = []
    while len(drawings) < count:
        looks, place = sample_looks(rng), rng.choice(BACKGROUNDS)
        drawings += [
            Drawing(sample_puppet(rng, looks, arms, legs, place, rng.choice(GAZES),
                                  rng.choice(EXPRESSIONS)))
            for arms, legs in poses
        ]  # fmt: skip
    return drawings[:count]


class AttributeHeads(nn.Module):
    """Classifies the attributes from both embeddings with the same heads, to align the spaces."""

    def __init__(self) -> None:
        super().__init__()
        self.names = nn.ModuleDict({k: nn.Linear(WIDTH, len(v)) for k, v in VALUES.items()})
        self.palette = nn.Linear(WIDTH, 3 * len(COLORS))

    def forward(
        self, images: Tensor, texts: Tensor, drawings: list[Drawing], named: Tensor
    ) -> Tensor:
        """The loss for embeddings (N, 128) of images and texts; a text counts for what it names.

        Args:
            named: (N, 13) whether the text names the value of each attribute.
        """
        labels, colors = labels_tensor(drawings), colors_of(drawings)
        known = colors.isfinite()
        palette = self.palette(images * WIDTH**0.5).unflatten(1, (len(COLORS), 3))
        loss: Tensor = 5 * (palette - colors)[known].abs().mean()
        for column, head in enumerate(self.names.values()):
            label = labels[:, column]
            loss = loss + F.cross_entropy(head(images * WIDTH**0.5), label)
            said = label.where(named[:, column], -100)
            if (said >= 0).any():
                loss = loss + F.cross_entropy(head(texts * WIDTH**0.5), said)
        return loss


def named_in(drawing: Drawing, text: str) -> list[bool]:
    """Whether a description names the value of each attribute."""
    values = values_of(drawing)
    phrases = {
        **values,
        "color": f"{values['color']} {values['outfit'] or values['kind']}",
        "head": (values["head"] or "").removesuffix(" hair"),
    }
    return [value is not None and str(phrases[name]) in text for name, value in values.items()]


def run(steps: int = STEPS) -> None:
    """Trains both towers from scratch and writes clip/."""
    seeded(14)
    data = training_set()
    write_folder(CLIP)
    place = f"local-dir:{CLIP}"
    model = open_clip.create_model(place, load_weights=False).to(device())
    tokenizer = open_clip.get_tokenizer(place)
    heads = AttributeHeads().to(device())
    both = nn.ModuleList([model, heads])
    log.info("clip: %.2f M parameters", sum(p.numel() for p in model.parameters()) / 1e6)
    rng = Random(14)
    at_place = [
        torch.tensor([i for i, d in enumerate(data.drawings) if d.subject.background == name])
        for name in BACKGROUNDS
    ]

    def text_of(drawing: Drawing, keep: float) -> str:
        return describe(drawing.subject, rng, drawing.medium, keep)

    def batch_of(index: Tensor) -> tuple[list[Drawing], Tensor, list[str]]:
        """Drawings, their images, and their descriptions."""
        kind = rng.random()
        if kind < TWINS_SHARE:
            drawings = twins(len(index), rng)
            return drawings, images_of(drawings), [text_of(d, 1.0) for d in drawings]
        if kind < TWINS_SHARE + SAME_PLACE_SHARE:
            pool = rng.choice(at_place)
            index = pool[torch.randint(0, len(pool), (len(index),))]
        drawings = [data.drawings[i] for i in index.tolist()]
        return drawings, data.images[index], [text_of(d, completeness(rng)) for d in drawings]

    def loss_of(index: Tensor) -> Tensor:
        drawings, images, texts = batch_of(index)
        image_features = model.encode_image(prepared(augmented(to_unit(images))), normalize=True)
        text_features = model.encode_text(tokenizer(texts).to(device()), normalize=True)
        logits = model.logit_scale.exp().clamp(max=100) * image_features @ text_features.T
        matching = torch.arange(len(drawings), device=logits.device)
        match = (F.cross_entropy(logits, matching) + F.cross_entropy(logits.T, matching)) / 2
        named = [named_in(d, text) for d, text in zip(drawings, texts, strict=True)]
        named_tensor = torch.tensor(named, device=logits.device)
        return match + READING * heads(image_features, text_features, drawings, named_tensor)

    fit("clip", both, loss_of, count=len(data), batch=BATCH, steps=steps, lr=LR,
        weight_decay=0.02)  # fmt: skip
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
