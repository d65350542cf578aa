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
    weathered,
)
from train.puppets.world.attributes import VALUES, phrase
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    EXPRESSIONS,
    GAZES,
    LEGS,
    Drawing,
    describe,
    draw_many,
    images_of,
    sample_looks,
    sample_puppet,
)

STEPS, BATCH, LR = 1500, 128, 4e-3
SAME_PLACE_SHARE = 0.3  # of a batch have one background, which then tells nothing apart
TWINS_SHARE = 0.35  # of a batch are a few puppets in all poses, which only the pose tells apart
CONTEXT = 60  # tokens of a description
WIDTH = 128  # of the text tower and of the embedding
ATTRIBUTE_WEIGHT, COLOR_WEIGHT = 0.3, 1.5  # of the losses beside that of matching
CONFIG = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": 96, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64,
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
    tokenizer = build(CONTEXT)
    config = json.loads(json.dumps(CONFIG))
    text = config["model_cfg"]["text_cfg"]
    text["vocab_size"] = len(tokenizer)
    save(tokenizer, folder)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def prepared(images: Tensor) -> Tensor:
    """open_clip's preprocessing."""
    side = CONFIG["model_cfg"]["vision_cfg"]["image_size"]
    resized = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
    return (resized.clamp(0, 1) - 0.5) / 0.25


def augmented(images: Tensor) -> Tensor:
    """Adds noise and blur, slight changes of brightness and color, and a crop by up to 8%."""
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


def attribute_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of reading each attribute, as zero-shot classification does; their sum.

    Args:
        logits: (N, phrases), of images against the phrases of all values, in the order of VALUES.
        labels: (N, 13), indices of values; -100 for none.
    """
    loss = logits.new_zeros(())
    for column, part in enumerate(logits.split([len(v) for v in VALUES.values()], dim=1)):
        if (labels[:, column] >= 0).any():  # else the mean is 0/0
            loss = loss + F.cross_entropy(part, labels[:, column])
    return loss


def run(steps: int = STEPS) -> None:
    """Trains both towers from scratch and writes clip/."""
    seeded(14)
    data = training_set()
    write_folder(CLIP)
    place = f"local-dir:{CLIP}"
    model = open_clip.create_model(place, load_weights=False).to(device())
    tokenizer = open_clip.get_tokenizer(place)
    palette = nn.Linear(WIDTH, 3 * len(COLORS)).to(device())  # so that looks are in the embedding
    both = nn.ModuleList([model, palette])
    phrases = tokenizer([phrase(n, v) for n, values in VALUES.items() for v in values]).to(device())
    log.info("clip: %.2f M parameters", sum(p.numel() for p in model.parameters()) / 1e6)
    rng = Random(14)
    at_place = [
        torch.tensor([i for i, d in enumerate(data.drawings) if d.subject.background == name])
        for name in BACKGROUNDS
    ]

    def text_of(drawing: Drawing, keep: float) -> str:
        return describe(drawing.subject, rng, drawing.medium, keep)

    def batch_of(index: Tensor) -> tuple[list[Drawing], Tensor, list[str]]:
        """Drawings, their images, and their descriptions: a part of the batch at one place, a part
        of twins, and the rest at random."""
        twin_count, place_count = int(TWINS_SHARE * len(index)), int(SAME_PLACE_SHARE * len(index))
        pool = rng.choice(at_place)
        index = index[twin_count:].clone()
        index[:place_count] = pool[torch.randint(0, len(pool), (place_count,))]
        alike = twins(twin_count, rng)
        drawings = [data.drawings[i] for i in index.tolist()]
        texts = [text_of(d, 1.0) for d in alike] + [text_of(d, completeness(rng)) for d in drawings]
        return [*alike, *drawings], torch.cat([images_of(alike), data.images[index]]), texts

    def loss_of(index: Tensor) -> Tensor:
        drawings, images, texts = batch_of(index)
        image_features = model.encode_image(prepared(augmented(to_unit(images))), normalize=True)
        text_features = model.encode_text(tokenizer(texts).to(device()), normalize=True)
        logits = model.logit_scale.exp().clamp(max=100) * image_features @ text_features.T
        matching = torch.arange(len(drawings), device=logits.device)
        match = (F.cross_entropy(logits, matching) + F.cross_entropy(logits.T, matching)) / 2
        phrase_features = model.encode_text(phrases, normalize=True)
        read = model.logit_scale.exp().clamp(max=100) * image_features @ phrase_features.T
        attributes = attribute_loss(read, labels_tensor(drawings))
        colors = colors_of(drawings)
        off = palette(image_features * WIDTH**0.5).unflatten(1, (len(COLORS), 3)) - colors
        seen = off[colors.isfinite()].abs().mean()
        return match + ATTRIBUTE_WEIGHT * attributes + COLOR_WEIGHT * seen

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
