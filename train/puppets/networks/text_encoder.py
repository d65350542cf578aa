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

from train.puppets.networks.tokenizer import build as build_tokenizer
from train.puppets.networks.tokenizer import save
from train.puppets.networks.training import BASE, device, fit, log, seeded
from train.puppets.world.attributes import VALUES
from train.puppets.world.captions import MAX_TOKENS
from train.puppets.world.colors import HAIR_COLORS, HAT_COLORS
from train.puppets.world.examples import loose_caption, sample_drawing
from train.puppets.world.puppet import ACCESSORIES, GLASSES, HAIRSTYLES, HATS

STEPS, BATCH, LR = 1200, 96, 2e-3
TEXTS, HELD_OUT = 40_000, 2_000
WIDTH = 128
HEADS = (
    *(f"{style.split()[0]} {color} hair" for style in HAIRSTYLES for color in HAIR_COLORS),
    *(f"a {color} {hat}" for hat in HATS for color in HAT_COLORS),
)
NAMES: dict[str, tuple[str, ...]] = {
    **{name: values for name, values in VALUES.items() if name != "head"},
    "head": HEADS,
    "glasses": GLASSES,
    "accessory": ACCESSORIES,
}
# what a caption says of a value, if not just the value
PATTERNS: dict[str, str] = {
    "outfit": r"wearing a (?:(?:{colors}) )?{value}(?=,|$)",
    "color": r"(?:wearing a|of a(?: [a-z]+)?) {value} ",
    "kind": r"of (?:[a-z ]+ )?{value}(?= with| wearing|,|$)",
    "medium": r"^{value} of ",
}


def pattern(name: str, value: str) -> re.Pattern[str]:
    """What a caption that asks for a value contains."""
    form = PATTERNS.get(name, r"\b{value}\b")
    colors = "|".join(map(re.escape, VALUES["color"]))
    return re.compile(form.format(value=re.escape(value), colors=colors))


FORMS = {name: [pattern(name, value) for value in values] for name, values in NAMES.items()}


def attribute_labels(text: str) -> list[int]:
    """The 1-based index of each attribute's value in a caption; 0 if it does not name one."""
    return [
        next((i for i, form in enumerate(forms, 1) if form.search(text)), 0)
        for forms in FORMS.values()
    ]


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=384,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids, padded to the full length like in the pipeline."""
    padded = tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    ids: Tensor = padded.input_ids
    return ids.to(device())


def run(steps: int = STEPS) -> None:
    """Builds the tokenizer, trains the encoder, writes base/tokenizer and base/text_encoder."""
    seeded(12)
    tokenizer = build_tokenizer(MAX_TOKENS)
    save(tokenizer, BASE / "tokenizer")
    rng = Random(12)
    drawings = [sample_drawing(rng) for _ in range(TEXTS)]
    texts = [loose_caption(drawing.subject, rng, drawing.medium) for drawing in drawings]
    ids = tokens(tokenizer, texts)
    labels = torch.tensor([attribute_labels(text) for text in texts], device=device())
    encoder = build(tokenizer)
    sizes = [len(names) + 1 for names in NAMES.values()]
    heads = nn.Linear(WIDTH, sum(sizes))
    both = nn.ModuleList([encoder, heads]).to(device())
    log.info("text encoder: %d tokens, longest caption %d", len(tokenizer),
             max(len(tokenizer(text).input_ids) for text in texts))  # fmt: skip

    def logits(index: Tensor) -> tuple[Tensor, ...]:
        return heads(encoder(ids[index]).pooler_output).split(sizes, dim=1)

    def loss_of(index: Tensor) -> Tensor:
        parts = zip(logits(index), labels[index].T, strict=True)
        return torch.stack([F.cross_entropy(part, label) for part, label in parts]).sum()

    trained = TEXTS - HELD_OUT
    fit("text encoder", both, loss_of, count=trained, batch=BATCH, steps=steps, lr=LR,
        optimizer_class=torch.optim.AdamW)  # fmt: skip
    with torch.no_grad():
        held_out = torch.arange(trained, TEXTS)
        for name, part, label in zip(NAMES, logits(held_out), labels[held_out].T, strict=True):
            log.info("  %s read from held-out captions: %.1f %%; %.1f %% name it", name,
                     100 * (part.argmax(1) == label).float().mean(),
                     100 * (label > 0).float().mean())  # fmt: skip
    encoder.half().save_pretrained(BASE / "text_encoder")
    # transformers would use the dtype of the file, but diffusers' other components use float32
    config = BASE / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))
