"""Stage 8: acceptance tests of the weights, and samples to look at."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import open_clip
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from train.models.base_model import fingerprint
from train.puppets.networks.autoencoder import psnr, reconstruct
from train.puppets.networks.clip import retrieval
from train.puppets.networks.clip_images import prepared
from train.puppets.networks.judge import Judge
from train.puppets.networks.keypoints import KeypointNetwork, puppets_and_others
from train.puppets.networks.training import BASE, CLIP, WEIGHTS, device, log, seeded, to_unit
from train.puppets.world.attributes import VALUES, phrase, values_of
from train.puppets.world.examples import (
    Drawing,
    DrawnImages,
    caption,
    draw_many,
    sample_drawing,
)

STEPS, GUIDANCE, PROMPTS = 15, 3.0, 256
FRESH = 1000  # renders
COARSE = ("arms", "legs", "background", "color", "kind")
LIMITS = {name: 0.97 if name in COARSE else 0.95 for name in VALUES}  # shares as asked
SHEET = 64  # samples to look at


@dataclass(frozen=True)
class Gate:
    """A measurement and its limit."""

    name: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def load_pipeline(base: Path = BASE) -> StableDiffusionPipeline:
    """A base, the committed one by default, loaded by diffusers, without a progress bar."""
    pipeline = StableDiffusionPipeline.from_pretrained(base).to(device())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: StableDiffusionPipeline, prompts: list[str], seed: int) -> Tensor:
    """Images (N, 3, H, W), 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        pipeline(prompts[i : i + 32], num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                 generator=generator, output_type="pt").images
        for i in range(0, len(prompts), 32)
    ]  # fmt: skip
    return torch.cat(parts)


def share_of(values: list[str], wanted: list[str | None]) -> float:
    """Share of the values that are as wanted, of those that are wanted."""
    matches = [a == b for a, b in zip(values, wanted, strict=True) if b is not None]
    return sum(matches) / len(matches)


def wanted_of(drawings: list[Drawing], name: str) -> list[str | None]:
    """The values that the drawings' captions ask for."""
    return [values_of(drawing)[name] for drawing in drawings]


def generation_gates(judge: Judge) -> list[Gate]:
    """Whether the base follows prompts."""
    rng = Random(31)
    drawings: list[Drawing] = []
    while len(drawings) < PROMPTS:
        drawing = sample_drawing(rng, wild_share=0.0)
        drawings += [drawing] if drawing.medium in VALUES["medium"] else []
    images = generate(load_pipeline(), [caption(d.subject, None, d.medium) for d in drawings], 31)
    grid = make_grid(images[:SHEET].repeat_interleave(2, 2).repeat_interleave(2, 3), 8, 4)
    pixels = (grid.cpu() * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(WEIGHTS / "samples.png", optimize=True)
    values = judge.read(images)
    return [
        Gate(f"generation, {name}: share as asked",
             share_of(values[name], wanted_of(drawings, name)), limit)
        for name, limit in LIMITS.items()
    ]  # fmt: skip


def autoencoder_gates(judge: Judge, fresh: DrawnImages) -> list[Gate]:
    """Whether the autoencoder preserves images, by PSNR and for the judge."""
    vae = AutoencoderKL.from_pretrained(BASE / "vae").to(device()).eval()
    with torch.no_grad():
        after = judge.read(reconstruct(vae, fresh.images))
    before = judge.read(to_unit(fresh.images))
    gates = [Gate("autoencoder: dB", psnr(vae, fresh.images), 30.0)]
    for name in VALUES:
        wanted = wanted_of(fresh.drawings, name)
        lost = share_of(before[name], wanted) - share_of(after[name], wanted)
        gates.append(Gate(f"autoencoder, {name}: accuracy lost", lost, 0.01, at_least=False))
    return gates


@torch.no_grad()
def clip_gates(fresh: DrawnImages) -> list[Gate]:
    """Whether the tiny CLIP retrieves described images, and classifies attributes zero-shot."""
    model = open_clip.create_model(f"local-dir:{CLIP}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{CLIP}")
    parts = (fresh.images.float() / 255).split(250)
    image_features = torch.cat([model.encode_image(prepared(p), normalize=True) for p in parts])
    gates = [Gate("clip: retrieval among 500 at rank 1", retrieval(CLIP), 0.80)]
    for name, names in VALUES.items():
        texts = [phrase(name, value) for value in names]
        text_features = model.encode_text(tokenizer(texts), normalize=True)
        values = [names[i] for i in (image_features @ text_features.T).argmax(1).tolist()]
        found = share_of(values, wanted_of(fresh.drawings, name))
        gates.append(Gate(f"clip, {name}: zero-shot", found, 0.90))
    return gates


@torch.no_grad()
def keypoint_gates(fresh: DrawnImages) -> list[Gate]:
    """Whether the joints are detected; the error is a share of the image side."""
    images, true, _ = puppets_and_others(fresh)
    detected = KeypointNetwork.from_folder().to(device())(images)
    error = float((detected[..., :2] - true).norm(dim=2).mean())
    return [Gate("keypoints: mean error, share of the side", error, 0.03, at_least=False)]


def weights_fingerprint() -> str:
    """sha256 over all weights that the gates measure."""
    return fingerprint(sorted(WEIGHTS.rglob("*.safetensors")), WEIGHTS)


def write(gates: list[Gate], judged: dict[str, float]) -> None:
    """Writes the table for people and the numbers for the tests."""
    rows = [{**asdict(gate), "passed": gate.passed} for gate in gates]
    measured = {"weights": weights_fingerprint(), "gates": rows}
    (WEIGHTS / "gates.json").write_text(json.dumps(measured, indent=2) + "\n")
    lines = [
        "# Gates", "",
        f"Written by `python -m train.puppets gates`: {PROMPTS} fresh prompts in the stock"
        f" pipeline, {STEPS} DDIM steps, guidance {GUIDANCE:g}; {FRESH} fresh renders elsewhere."
        " The judge itself reads, off those renders: "
        + ", ".join(f"{name} {100 * share:.1f}%" for name, share in judged.items()) + ".",
        "", "| gate | value | limit | |", "|---|---|---|---|",
    ]  # fmt: skip
    for gate in gates:
        sense, verdict = "≥" if gate.at_least else "≤", "passed" if gate.passed else "**failed**"
        lines.append(f"| {gate.name} | {gate.value:.4g} | {sense} {gate.limit:g} | {verdict} |")
    (WEIGHTS / "GATES.md").write_text("\n".join(lines) + "\n")


def run() -> None:
    """Measures all gates and writes GATES.md, gates.json and samples.png."""
    seeded(18)
    judge = Judge.from_folder().to(device())
    fresh = draw_many(FRESH, seed=28)
    gates = generation_gates(judge) + autoencoder_gates(judge, fresh)
    gates += clip_gates(fresh) + keypoint_gates(fresh)
    values = judge.read(to_unit(fresh.images))
    judged = {name: share_of(values[name], wanted_of(fresh.drawings, name)) for name in VALUES}
    write(gates, judged)
    for gate in gates:
        log.info("  %s %s: %.4f", "passed" if gate.passed else "FAILED", gate.name, gate.value)
