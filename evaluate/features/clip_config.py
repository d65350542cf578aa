"""The accepted content of open_clip_config.json: numbers and a few words.

Keys that could name code, a model on a hub or a file elsewhere are not among the fields, and
unknown keys are rejected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from train.files.untrusted import read_json

CONFIG = "open_clip_config.json"
Count = Annotated[int, Meta(ge=1, le=200)]
Side = Annotated[int, Meta(ge=1, le=4096)]
Width = Annotated[int, Meta(ge=1, le=65_536)]
Number = Annotated[float, Meta(ge=-1e6, le=1e6)]
Token = Annotated[int, Meta(ge=-1, le=2_000_000)]
Ratio = Annotated[float, Meta(gt=0, le=64)]
Share = Annotated[float, Meta(ge=0, lt=1)]
TIMM = r"^[a-z0-9_]{1,100}(\.[a-z0-9_]{1,60})?\Z"  # a name on timm's own list, not an address
Three = Annotated[list[Number], Meta(min_length=3, max_length=3)]


class Tower(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields that both of open_clip's configs share."""

    width: Width | UnsetType = UNSET
    mlp_ratio: Ratio | UnsetType = UNSET
    ls_init_value: Number | UnsetType | None = UNSET
    final_ln_after_pool: bool | UnsetType = UNSET
    block_type: Literal["default", "custom"] | UnsetType | None = UNSET
    qk_norm: bool | UnsetType = UNSET
    scaled_cosine_attn: bool | UnsetType = UNSET
    scale_heads: bool | UnsetType = UNSET
    scale_attn_inner: bool | UnsetType = UNSET
    scale_attn: bool | UnsetType = UNSET
    scale_fc: bool | UnsetType = UNSET
    norm_kwargs: dict[Literal["eps"], Number] | UnsetType | None = UNSET
    act_kwargs: dict[Literal["approximate"], Literal["tanh", "none"]] | UnsetType | None = UNSET


class Vision(Tower, kw_only=True):
    """`CLIPVisionCfg`; of timm only its own models, without pretrained weights."""

    timm_model_name: Annotated[str, Meta(pattern=TIMM)] | UnsetType | None = UNSET
    timm_model_pretrained: bool | UnsetType = UNSET
    timm_pool: Literal["avg", "avgmax", "max", "map", "token", "tok", "abs_attn", "rot_attn",
                       ""] | UnsetType = UNSET  # fmt: skip
    timm_proj: Literal["linear", "mlp", "none", ""] | UnsetType | None = UNSET
    timm_proj_bias: bool | UnsetType = UNSET
    timm_drop: Share | UnsetType = UNSET
    timm_drop_path: Share | UnsetType | None = UNSET

    layers: Count | Annotated[list[Count], Meta(min_length=4, max_length=4)] | UnsetType = UNSET
    head_width: Width | UnsetType = UNSET
    patch_size: Side | UnsetType = UNSET
    image_size: Side | Annotated[list[Side], Meta(min_length=2, max_length=2)] | UnsetType = UNSET
    patch_dropout: Share | UnsetType = UNSET
    attentional_pool: bool | UnsetType = UNSET
    attn_pooler_queries: Side | UnsetType = UNSET
    attn_pooler_heads: Count | UnsetType = UNSET
    no_ln_pre: bool | UnsetType = UNSET
    pos_embed_type: Literal["learnable", "sin_cos_2d"] | UnsetType = UNSET
    pool_type: Literal["tok", "avg", "avg_all", "none", ""] | UnsetType = UNSET


class TokenizerOptions(msgspec.Struct, forbid_unknown_fields=True):
    """The options of a tokenizer."""

    clean: Literal["lower", "whitespace", "canonicalize"] | UnsetType = UNSET
    strip_sep_token: bool | UnsetType = UNSET


class Text(Tower, kw_only=True):
    """`CLIPTextCfg` without models of transformers, which come from a hub.

    Attributes:
        hf_tokenizer_name: any name selects the folder's own tokenizer.
    """

    context_length: Side | UnsetType = UNSET
    vocab_size: Annotated[int, Meta(ge=1, le=2_000_000)] | UnsetType = UNSET
    hf_tokenizer_name: Annotated[str, Meta(max_length=200)] | UnsetType | None = UNSET
    tokenizer_kwargs: TokenizerOptions | UnsetType | None = UNSET
    heads: Count | UnsetType = UNSET
    layers: Count | UnsetType = UNSET
    embed_cls: bool | UnsetType = UNSET
    pad_id: Token | UnsetType = UNSET
    eos_id: Token | UnsetType = UNSET
    no_causal_mask: bool | UnsetType = UNSET
    pool_type: Literal["argmax", "first", "last", "eos", "none", ""] | UnsetType = UNSET
    proj_bias: bool | UnsetType = UNSET
    proj_type: Literal["linear", "none"] | UnsetType = UNSET


class Model(msgspec.Struct, forbid_unknown_fields=True):
    """A model of open_clip: `CLIP`, or `CustomTextCLIP`, whose modules have other names."""

    embed_dim: Width
    vision_cfg: Vision
    text_cfg: Text
    quick_gelu: bool | UnsetType = UNSET
    init_logit_scale: Number | UnsetType = UNSET
    init_logit_bias: Number | UnsetType | None = UNSET
    nonscalar_logit_scale: bool | UnsetType = UNSET
    custom_text: bool = False


class Preprocessing(msgspec.Struct):
    """The normalization of the pixels; other keys (size, mode) are not needed."""

    mean: Three | None = None
    std: Annotated[list[Annotated[float, Meta(gt=0, le=1e6)]],
                   Meta(min_length=3, max_length=3)] | None = None  # fmt: skip


class Settings(msgspec.Struct):
    """The content of open_clip_config.json."""

    model_cfg: Model
    preprocess_cfg: Preprocessing = msgspec.field(default_factory=Preprocessing)


def read_settings(folder: Path) -> Settings:
    """The settings in an encoder's folder.

    Raises:
        UntrustedFileError: an unknown key, or a value out of range.
        OSError: the file is missing or cannot be read.
    """
    return read_json(folder / CONFIG, Settings)
