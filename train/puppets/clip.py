"""Stage 4: the tiny CLIP, a real open_clip model that sees identity, outfit, pose and place."""

import json
import shutil
from pathlib import Path
from random import Random

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from train.puppets import vocabulary
from train.puppets.judge import VALUES, truth
from train.puppets.keypoints import weathered
from train.puppets.training import CLIP, device, fit, log, seeded, to_unit, training_set
from train.puppets.world import BACKGROUNDS, describe, draw_many

STEPS, BATCH, LR = 850, 160, 1.5e-3
SAME_PLACE_SHARE = 0.4  # of the batches show one background alone, so that it tells nothing apart
READING = 0.15  # weight of reading the attributes off the image embedding
CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 32, "patch_size": 4, "width": 128, "layers": 3, "head_width": 32,
            "mlp_ratio": 2.0,
        },
        "text_cfg": {
            "context_length": 48, "vocab_size": 0, "width": 128, "heads": 4, "layers": 2,
            "mlp_ratio": 3.0, "hf_tokenizer_name": "puppets",
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}  # fmt: skip


def write_folder(folder: Path) -> None:
    """The config and the tokenizer, which is the base's with a longer text."""
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
    """What open_clip's own preprocessing does to pictures of this size."""
    return (images - 0.5) / 0.25


def augmented(images: Tensor) -> Tensor:
    """Noise and blur, a slight change of brightness and of colour, and a crop by a pixel or two."""
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


def _keep(rng: Random) -> float:
    """How full a description is: mostly full, at times one or two words of it."""
    return rng.choices((0.2, 0.6, 1.0), (3, 3, 4))[0]


def run(steps: int = STEPS) -> None:
    """Trains both towers from scratch against each other and writes clip/."""
    seeded(14)
    data = training_set()
    write_folder(CLIP)
    place = f"local-dir:{CLIP}"
    model = open_clip.create_model(place, load_weights=False).to(device())
    tokenizer = open_clip.get_tokenizer(place)
    true = truth(data.puppets)
    readers = nn.ModuleDict({k: nn.Linear(128, len(v)) for k, v in VALUES.items()})
    readers["palette"] = nn.Linear(128, 12)
    both = nn.ModuleList([model, readers]).to(device())
    log.info("clip: %.2f M parameters", sum(p.numel() for p in model.parameters()) / 1e6)
    rng = Random(14)
    at_place = [
        torch.tensor([i for i, p in enumerate(data.puppets) if p.background == name])
        for name in BACKGROUNDS
    ]

    def reading_loss(embedding: Tensor, index: Tensor) -> Tensor:
        scaled = embedding * 128**0.5
        loss = sum(F.cross_entropy(readers[k](scaled), true[k][index]) for k in VALUES)
        off = readers["palette"](scaled).unflatten(1, (4, 3)) - true["palette"][index]
        return loss + 5 * off.abs().mean()

    def loss_of(index: Tensor) -> Tensor:
        if rng.random() < SAME_PLACE_SHARE:
            pool = rng.choice(at_place)
            index = pool[torch.randint(0, len(pool), (len(index),))]
        texts = [describe(data.puppets[i], rng, _keep(rng)) for i in index.tolist()]
        images = prepared(augmented(to_unit(data.images[index])))
        seen = model.encode_image(images, normalize=True)
        read = model.encode_text(tokenizer(texts).to(device()), normalize=True)
        logits = model.logit_scale.exp().clamp(max=100) * seen @ read.T
        own = torch.arange(len(index), device=logits.device)
        match = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return match + READING * reading_loss(seen, index.to(device()))

    fit("clip", both, loss_of, count=len(data), batch=BATCH, steps=steps, lr=LR,
        weight_decay=0.02)  # fmt: skip
    state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(state, CLIP / "open_clip_model.safetensors", metadata={"format": "pt"})
    log.info("  clip: retrieval among 500 at rank 1: %.1f %%", 100 * retrieval(CLIP))


@torch.no_grad()
def retrieval(folder: Path, count: int = 500) -> float:
    """How often the picture nearest to a full description is the one that it describes."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model = model.eval()
    fresh, rng = draw_many(count, seed=24), Random(24)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    texts = [describe(puppet, rng, 1.0) for puppet in fresh.puppets]
    read = model.encode_text(tokenizer(texts), normalize=True)
    seen = model.encode_image(prepared(fresh.images.float() / 255), normalize=True)
    nearest = (read @ seen.T).argmax(1)
    return float((nearest == torch.arange(count)).float().mean())
