"""Stage 2: the text encoder, trained until its end-of-text state determines each attribute.

It is frozen afterwards: a UNet learns poses and places much faster from states that already
distinguish them.
"""

import re
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from train.puppets.networks.training import BASE, device, fit, log, seeded
from train.puppets.world import vocabulary
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    CAPS,
    HAIR,
    LEGS,
    SHIRTS,
    TROUSERS,
    loose_caption,
    sample_puppet,
)

STEPS, BATCH, LR = 700, 96, 2e-3
NAMES: dict[str, tuple[str, ...]] = {
    "arms": tuple(ARMS),
    "legs": tuple(LEGS),
    "background": BACKGROUNDS,
    "shirt": tuple(f"{color} shirt" for color in SHIRTS),
    "trousers": tuple(f"{color} trousers" for color in TROUSERS),
    "head": (*(f"{color} hair" for color in HAIR), *(f"{color} cap" for color in CAPS)),
}


def attribute_labels(text: str) -> list[int]:
    """The 1-based index of each attribute's value in a caption; 0 if it does not name one."""
    return [
        next((i for i, name in enumerate(names, 1) if re.search(rf"\b{name}\b", text)), 0)
        for names in NAMES.values()
    ]


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=vocabulary.LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids, padded to the full length like in the pipeline."""
    padded = tokenizer(
        texts, padding="max_length", max_length=vocabulary.LENGTH, truncation=True,
        return_tensors="pt",
    )  # fmt: skip
    ids: Tensor = padded.input_ids
    return ids.to(device())


def run(steps: int = STEPS) -> None:
    """Builds the tokenizer, trains the encoder, writes base/tokenizer and base/text_encoder."""
    seeded(12)
    tokenizer = vocabulary.build()
    vocabulary.save(tokenizer, BASE / "tokenizer")
    rng = Random(12)
    texts = [loose_caption(sample_puppet(rng), rng) for _ in range(20_000)]
    ids = tokens(tokenizer, texts)
    labels = torch.tensor([attribute_labels(text) for text in texts], device=device())
    encoder = build(tokenizer)
    sizes = [len(names) + 1 for names in NAMES.values()]
    heads = nn.Linear(128, sum(sizes))
    both = nn.ModuleList([encoder, heads]).to(device())
    log.info("text encoder: %d tokens, longest caption %d", len(tokenizer),
             max(len(tokenizer(text).input_ids) for text in texts))  # fmt: skip

    def logits(index: Tensor) -> tuple[Tensor, ...]:
        pooled = encoder(ids[index]).pooler_output
        return heads(pooled).split(sizes, dim=1)

    def loss_of(index: Tensor) -> Tensor:
        parts = zip(logits(index), labels[index].T, strict=True)
        return torch.stack([F.cross_entropy(part, label) for part, label in parts]).sum()

    fit("text encoder", both, loss_of, count=18_000, batch=BATCH, steps=steps, lr=LR)
    with torch.no_grad():
        held_out = torch.arange(18_000, 20_000)
        for name, part, label in zip(NAMES, logits(held_out), labels[held_out].T, strict=True):
            log.info("  %s read from held-out captions: %.1f %%", name,
                     100 * (part.argmax(1) == label).float().mean())  # fmt: skip
    encoder.half().save_pretrained(BASE / "text_encoder")
    # transformers would use the dtype of the file, but diffusers' other components use float32
    config = BASE / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))
