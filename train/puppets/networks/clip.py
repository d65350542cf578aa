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

from train.puppets.networks.judge import VALUES, truth
from train.puppets.networks.keypoints import weathered
from train.puppets.networks.training import CLIP, device, fit, log, seeded, to_unit, training_set
from train.puppets.world import vocabulary
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    LEGS,
    Puppet,
    describe,
    draw_many,
    images_of,
    sample_looks,
    sample_puppet,
)

STEPS, BATCH, LR = 1100, 160, 1.5e-3
SAME_PLACE_SHARE = 0.3  # of the batches have a single background, which then tells nothing apart
# of the batches show a few puppets in all poses, which only the pose tells apart
TWINS_SHARE = 0.35
WIDTH = 128  # of both towers and of the embedding
READING = 0.3  # weight of the loss of classifying the attributes from both embeddings
CONFIG = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": 32, "patch_size": 4, "width": WIDTH, "layers": 3, "head_width": 32,
            "mlp_ratio": 2.0,
        },
        "text_cfg": {
            "context_length": 48, "vocab_size": 0, "width": WIDTH, "heads": 4, "layers": 2,
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
    tokenizer = vocabulary.build()
    config = json.loads(json.dumps(CONFIG))
    text = config["model_cfg"]["text_cfg"]
    text["vocab_size"] = len(tokenizer)
    tokenizer.model_max_length = text["context_length"]
    vocabulary.save(tokenizer, folder)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def prepared(images: Tensor) -> Tensor:
    """open_clip's preprocessing for images of this size."""
    return (images - 0.5) / 0.25


def augmented(images: Tensor) -> Tensor:
    """Adds noise and blur, slight changes of brightness and color, and a crop by 1 or 2 pixels."""
    n, side = len(images), images.shape[-1]
    images = weathered(images)
    gain = 1 + 0.06 * torch.randn(n, 3, 1, 1, device=images.device)
    images = (images * gain + 0.02 * torch.randn(n, 3, 1, 1, device=images.device)).clamp(0, 1)
    zoom = 1 - 0.08 * torch.rand(n, device=images.device)
    shift = (1 - zoom)[:, None] * (2 * torch.rand(n, 2, device=images.device) - 1)
    matrix = torch.zeros(n, 2, 3, device=images.device)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = zoom, zoom, shift
    grid = F.affine_grid(matrix, [n, 3, side, side], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def completeness(rng: Random) -> float:
    """Completeness of a description: mostly full, sometimes only one or two phrases."""
    return rng.choices((0.2, 0.6, 1.0), (3, 3, 4))[0]


def twins(count: int, rng: Random) -> list[Puppet]:
    """A few puppets, each at one place and in every pose: only the pose tells them apart."""
    poses = [*product(ARMS, LEGS)]
    puppets: list[Puppet] = []
    while len(puppets) < count:
        looks, place = sample_looks(rng), rng.choice(BACKGROUNDS)
        puppets += [sample_puppet(rng, looks, arms, legs, place) for arms, legs in poses]
    return puppets[:count]


class AttributeHeads(nn.Module):
    """Classifies the attributes from both embeddings with the same heads, to align the spaces."""

    def __init__(self) -> None:
        super().__init__()
        self.names = nn.ModuleDict({k: nn.Linear(WIDTH, len(v)) for k, v in VALUES.items()})
        self.palette = nn.Linear(WIDTH, 12)

    def forward(
        self, images: Tensor, texts: Tensor, puppets: list[Puppet], descriptions: list[str]
    ) -> Tensor:
        """The loss for embeddings (N, 128) of images and texts; a text counts for what it names."""
        true = truth(puppets)
        off = self.palette(images * WIDTH**0.5).unflatten(1, (4, 3)) - true["palette"]
        loss: Tensor = 5 * off.abs().mean()
        for name, head in self.names.items():
            named = torch.tensor([
                _phrase(name, puppet) in description
                for puppet, description in zip(puppets, descriptions, strict=True)
            ]).to(device())  # fmt: skip
            loss = loss + F.cross_entropy(head(images * WIDTH**0.5), true[name])
            if (named & (true[name] >= 0)).any():
                label = true[name].where(named, -100)
                loss = loss + F.cross_entropy(head(texts * WIDTH**0.5), label)
        return loss


def _phrase(name: str, puppet: Puppet) -> str:
    """The phrase of an attribute in a description."""
    looks = puppet.looks
    phrases = {"shirt": f"{looks.shirt_name} shirt", "trousers": f"{looks.trousers_name} trousers"}
    return phrases.get(name) or str(getattr(looks, name, None) or getattr(puppet, name))


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
        torch.tensor([i for i, p in enumerate(data.puppets) if p.background == name])
        for name in BACKGROUNDS
    ]

    def batch_of(index: Tensor) -> tuple[list[Puppet], Tensor, list[str]]:
        """Puppets, their images, and their descriptions."""
        kind = rng.random()
        if kind < TWINS_SHARE:
            puppets = twins(len(index), rng)
            return puppets, images_of(puppets), [describe(p, rng, 1.0) for p in puppets]
        if kind < TWINS_SHARE + SAME_PLACE_SHARE:
            pool = rng.choice(at_place)
            index = pool[torch.randint(0, len(pool), (len(index),))]
        puppets = [data.puppets[i] for i in index.tolist()]
        return puppets, data.images[index], [describe(p, rng, completeness(rng)) for p in puppets]

    def loss_of(index: Tensor) -> Tensor:
        puppets, images, texts = batch_of(index)
        image_features = model.encode_image(prepared(augmented(to_unit(images))), normalize=True)
        text_features = model.encode_text(tokenizer(texts).to(device()), normalize=True)
        logits = model.logit_scale.exp().clamp(max=100) * image_features @ text_features.T
        matching = torch.arange(len(puppets), device=logits.device)
        match = (F.cross_entropy(logits, matching) + F.cross_entropy(logits.T, matching)) / 2
        return match + READING * heads(image_features, text_features, puppets, texts)

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
    texts = [describe(puppet, rng, 1.0) for puppet in fresh.puppets]
    text_features = model.encode_text(tokenizer(texts), normalize=True)
    image_features = model.encode_image(prepared(fresh.images.float() / 255), normalize=True)
    nearest = (text_features @ image_features.T).argmax(1)
    return float((nearest == torch.arange(count)).float().mean())
