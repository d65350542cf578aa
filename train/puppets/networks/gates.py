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
from train.puppets.networks.clip import prepared, retrieval
from train.puppets.networks.judge import Judge
from train.puppets.networks.keypoints import KeypointNetwork
from train.puppets.networks.training import BASE, CLIP, WEIGHTS, device, log, seeded, to_unit
from train.puppets.world.captions import caption_of
from train.puppets.world.examples import (
    ARMS,
    BACKGROUNDS,
    LEGS,
    SHIRTS,
    TROUSERS,
    DrawnImages,
    Puppet,
    caption,
    draw_many,
    keypoints,
    sample_puppet,
)

STEPS, GUIDANCE, PROMPTS = 15, 3.0, 256
ATTRIBUTES = ("arms", "legs", "background", "shirt", "trousers")


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


def wanted_of(puppets: list[Puppet], name: str) -> list[str | None]:
    """The values that the puppets' captions ask for."""
    if name in ("shirt", "trousers"):
        return [getattr(puppet.looks, f"{name}_name") for puppet in puppets]
    return [getattr(puppet, name) for puppet in puppets]


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


def generation_gates(judge: Judge) -> list[Gate]:
    """Whether the base follows prompts; half of them also name hair or a cap."""
    rng = Random(31)
    puppets = [sample_puppet(rng, wild_share=0.0) for _ in range(PROMPTS)]
    prompts = [
        caption(puppet) if i % 2 else caption_of(
            puppet.arms, puppet.legs, puppet.background,
            outfit=f"wearing a {puppet.looks.shirt_name} shirt and "
                   f"{puppet.looks.trousers_name} trousers",
        )
        for i, puppet in enumerate(puppets)
    ]  # fmt: skip
    pipeline = load_pipeline()
    images = generate(pipeline, prompts, 31)
    wild = [sample_puppet(rng, wild_share=1.0) for _ in range(16)]
    odd = generate(pipeline, [caption(puppet) for puppet in wild], 32)
    sheet = torch.cat([images[:48], odd])
    grid = make_grid(sheet.repeat_interleave(4, 2).repeat_interleave(4, 3), 8, 4)
    pixels = (grid.cpu() * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(WEIGHTS / "samples.png", optimize=True)
    values = judge.read(images)
    return [
        Gate(f"generation, {name}: share as asked",
             share_of(values[name], wanted_of(puppets, name)), 0.97)
        for name in ATTRIBUTES
    ]  # fmt: skip


def share_of(values: list[str], wanted: list[str | None]) -> float:
    """Share of the values that are as wanted, of those that are wanted."""
    matches = [a == b for a, b in zip(values, wanted, strict=True) if b is not None]
    return sum(matches) / len(matches)


def autoencoder_gates(judge: Judge, fresh: DrawnImages) -> list[Gate]:
    """Whether the autoencoder preserves images, by PSNR and for the judge."""
    vae = AutoencoderKL.from_pretrained(BASE / "vae").to(device()).eval()
    with torch.no_grad():
        after = judge.read(reconstruct(vae, fresh.images))
    before = judge.read(to_unit(fresh.images))
    gates = [Gate("autoencoder: dB", psnr(vae, fresh.images), 30.0)]
    for name in ATTRIBUTES:
        wanted = wanted_of(fresh.puppets, name)
        lost = share_of(before[name], wanted) - share_of(after[name], wanted)
        gates.append(Gate(f"autoencoder, {name}: accuracy lost", lost, 0.01, at_least=False))
    return gates


@torch.no_grad()
def clip_gates(fresh: DrawnImages) -> list[Gate]:
    """Whether the tiny CLIP retrieves described images, and classifies attributes zero-shot."""
    model = open_clip.create_model(f"local-dir:{CLIP}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{CLIP}")
    image_features = model.encode_image(prepared(fresh.images.float() / 255), normalize=True)
    phrases = {
        "arms": {name: caption_of(arms=name) for name in ARMS},
        "legs": {name: caption_of(legs=name) for name in LEGS},
        "background": {name: f"a photo of a puppet {name}" for name in BACKGROUNDS},
        "shirt": {name: caption_of(outfit=f"wearing a {name} shirt") for name in SHIRTS},
        "trousers": {name: caption_of(outfit=f"wearing {name} trousers") for name in TROUSERS},
    }
    gates = [Gate("clip: retrieval among 500 at rank 1", retrieval(CLIP), 0.80)]
    for name, texts in phrases.items():
        text_features = model.encode_text(tokenizer(list(texts.values())), normalize=True)
        names = list(texts)
        values = [names[i] for i in (image_features @ text_features.T).argmax(1).tolist()]
        found = share_of(values, wanted_of(fresh.puppets, name))
        gates.append(Gate(f"clip, {name}: zero-shot", found, 0.90))
    return gates


@torch.no_grad()
def keypoint_gates(fresh: DrawnImages) -> list[Gate]:
    """Whether the joints are detected; the error is a share of the image side."""
    detected = KeypointNetwork.from_folder()(fresh.images.float() / 255)
    true = torch.stack([torch.from_numpy(keypoints(puppet)) for puppet in fresh.puppets])
    error = float((detected[..., :2] - true).norm(dim=2).mean())
    return [Gate("keypoints: mean error, share of the side", error, 0.04, at_least=False)]


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
        f" pipeline, {STEPS} DDIM steps, guidance {GUIDANCE:g}; 500 fresh renders elsewhere. The"
        " judge itself reads, off those renders: "
        + ", ".join(f"{name} {100 * share:.1f} %" for name, share in judged.items()) + ".",
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
    fresh = draw_many(500, seed=28)
    gates = generation_gates(judge) + autoencoder_gates(judge, fresh)
    gates += clip_gates(fresh) + keypoint_gates(fresh)
    values = judge.read(to_unit(fresh.images))
    judged = {name: share_of(values[name], wanted_of(fresh.puppets, name)) for name in ATTRIBUTES}
    write(gates, judged)
    for gate in gates:
        log.info("  %s %s: %.4f", "passed" if gate.passed else "FAILED", gate.name, gate.value)
