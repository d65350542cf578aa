"""The model families that LoRAs are trained for: how they are recognized, and how they differ.

The architectures are those of Rombach et al. 2022 (1.x, 2.x) and of Podell et al. 2023 (SDXL), in
the terms of diffusers and transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from train.lora.adapter import TEXT_ENCODER, TEXT_ENCODER_1, TEXT_ENCODER_2

EPSILON, VELOCITY = "epsilon", "v_prediction"
Config = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Family:
    """One family of models.

    Attributes:
        name: in messages.
        version: kohya's `ss_base_model_version`, without its suffix for v-prediction.
        architecture: of `modelspec`, without the kind of adapter.
        implementation: of `modelspec`, as kohya writes it for a LoRA.
        pipeline: diffusers' class.
        text_encoders: prefixes of the keys of their LoRAs, in order.
        width: of the text states that the UNet attends to.
        marker_key: a weight of single files that has this width.
        prediction: assumed for a single file that does not state its own.
        resolution: side of the images that it was trained on, in pixels.
        vae_overflows: whether the autoencoder's activations overflow float16.
        configs: of the components, as in a diffusers folder: what a single file lacks.
        padding: the token after the end of a prompt, for each tokenizer.
    """

    name: str
    version: str
    architecture: str
    implementation: str
    pipeline: type[DiffusionPipeline]
    text_encoders: tuple[str, ...]
    width: int
    marker_key: str
    prediction: str
    resolution: int
    vae_overflows: bool
    configs: Mapping[str, Config]
    padding: tuple[str, ...]

    @property
    def is_v2(self) -> bool:
        """kohya's `ss_v2`."""
        return self is SD2

    @property
    def is_xl(self) -> bool:
        """Whether it has two text encoders, a pooled embedding, and conditioning on the size."""
        return len(self.text_encoders) > 1

    def base_model_version(self, prediction: str) -> str:
        """kohya's `ss_base_model_version`."""
        return self.version + ("_v" if prediction == VELOCITY and not self.is_xl else "")

    def modelspec_architecture(self, prediction: str) -> str:
        """`modelspec.architecture` of a LoRA; 2.x exists as 512 and as 768-v."""
        kind = ("-768-v" if prediction == VELOCITY else "-512") if self.is_v2 else ""
        return f"{self.architecture}{kind}/lora"


def _attention(block: str) -> str:
    """The key of a text attention in the original layout, whose width identifies the family."""
    return f"model.diffusion_model.input_blocks.{block}.transformer_blocks.0.attn2.to_k.weight"


SCHEDULER_CONFIG: Config = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
VAE_CONFIG: Config = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
CLIP_L: Config = {  # OpenAI's CLIP ViT-L/14
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
END, EXCLAMATION = "<|endoftext|>", "!"  # the latter is token 0

SD1 = Family(
    name="Stable Diffusion 1.x",
    version="sd_v1",
    architecture="stable-diffusion-v1",
    implementation="diffusers",
    pipeline=StableDiffusionPipeline,
    text_encoders=(TEXT_ENCODER,),
    width=768,
    marker_key=_attention("1.1"),
    prediction=EPSILON,
    resolution=512,
    vae_overflows=False,
    configs={
        "unet": {  # all others are UNet2DConditionModel's defaults
            "_class_name": "UNet2DConditionModel",
            "sample_size": 64,
            "cross_attention_dim": 768,
            "layers_per_block": 2,  # diffusers' conversion of keys looks for it here
        },
        "vae": VAE_CONFIG,
        "text_encoder": CLIP_L,
        "scheduler": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **SCHEDULER_CONFIG},
    },
    padding=(END,),
)
SD2 = Family(
    name="Stable Diffusion 2.x",
    version="sd_v2",
    architecture="stable-diffusion-v2",
    implementation="diffusers",
    pipeline=StableDiffusionPipeline,
    text_encoders=(TEXT_ENCODER,),
    width=1024,
    marker_key=_attention("1.1"),
    prediction=VELOCITY,  # of 2.0 and 2.1; their 512-px bases predict the noise
    resolution=768,
    vae_overflows=False,
    configs={
        "unet": {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
            "upcast_attention": True,
            "layers_per_block": 2,
        },
        "vae": {**VAE_CONFIG, "sample_size": 768},
        "text_encoder": {  # OpenCLIP ViT-H/14 without its last layer
            **CLIP_L,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
            "projection_dim": 512,
        },
        "scheduler": {"_class_name": "DDIMScheduler", "clip_sample": False, **SCHEDULER_CONFIG},
    },
    padding=(EXCLAMATION,),
)
SDXL = Family(
    name="SDXL",
    version="sdxl_base_v1-0",
    architecture="stable-diffusion-xl-v1-base",
    implementation="https://github.com/Stability-AI/generative-models",
    pipeline=StableDiffusionXLPipeline,
    text_encoders=(TEXT_ENCODER_1, TEXT_ENCODER_2),
    width=2048,
    marker_key=_attention("4.1"),
    prediction=EPSILON,
    resolution=1024,
    vae_overflows=True,
    configs={
        "unet": {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
            "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**VAE_CONFIG, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "text_encoder": CLIP_L,
        "text_encoder_2": {  # OpenCLIP ViT-bigG/14
            "architectures": ["CLIPTextModelWithProjection"],
            "model_type": "clip_text_model",
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "hidden_act": "gelu",
            "projection_dim": 1280,
        },
        "scheduler": {"_class_name": "EulerDiscreteScheduler", **SCHEDULER_CONFIG},
    },
    padding=(END, EXCLAMATION),
)
FAMILIES = (SD1, SD2, SDXL)


def family_of(unet: Mapping[str, Any], text_encoders: int) -> Family:
    """The family of a model, by its UNet's config and the number of its text encoders."""
    if text_encoders > 1:
        return SDXL
    return SD2 if unet.get("use_linear_projection") else SD1
