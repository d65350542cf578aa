"""Keys of kohya's training scripts without a setting here, by the consequence of ignoring them."""

from __future__ import annotations

from typing import Any

# no effect on the LoRA: logging, samples, loading, memory, user interface, or always on here
IGNORED = {
    "async_upload", "base_weights_multiplier", "blocks_to_swap", "cache_info", "config_file",
    "console_log_file", "console_log_level", "console_log_simple", "cpu_offload_checkpointing",
    "custom_attributes", "ddp_gradient_as_bucket_view", "ddp_static_graph", "ddp_timeout",
    "deepspeed", "disable_mmap_load_safetensors", "dynamo_backend",
    "fp16_master_weights_and_gradients", "full_bf16", "full_fp16", "fused_backward_pass",
    "highvram", "huggingface_path_in_repo", "huggingface_repo_id", "huggingface_repo_type",
    "huggingface_repo_visibility", "huggingface_token", "log_config", "log_prefix",
    "log_tracker_config", "log_tracker_name", "log_with", "logging_dir", "lowram",
    "max_data_loader_n_workers", "max_validation_steps", "metadata_author",
    "metadata_description", "metadata_is_negative_embedding", "metadata_license",
    "metadata_merged_from", "metadata_preprocessor", "metadata_tags", "metadata_thumbnail",
    "metadata_title", "metadata_trigger_phrase", "metadata_usage_hint", "no_half_vae",
    "noise_offset_type", "offload_optimizer_device", "offload_optimizer_nvme_path",
    "offload_param_device", "offload_param_nvme_path", "output_config",
    "persistent_data_loader_workers", "resume_from_huggingface", "sample_at_first",
    "sample_every_n_epochs", "sample_every_n_steps", "sample_prompts", "sample_sampler",
    "save_last_n_epochs_state", "save_last_n_steps", "save_last_n_steps_state", "save_model_as",
    "save_state", "save_state_on_train_end", "save_state_to_huggingface", "skip_cache_check",
    "skip_until_initial_step", "stop_text_encoder_training", "text_encoder_batch_size",
    "tokenizer_cache_dir", "training_comment", "unsloth_offload_checkpointing",
    "use_safetensors", "vae_batch_size", "validate_every_n_epochs", "validate_every_n_steps",
    "wandb_api_key", "wandb_run_name", "zero3_init_flag", "zero3_save_16bit_model", "zero_stage",
}  # fmt: skip

# the same training with other details: noise, weighting of the loss, rounding
UNSUPPORTED = {
    "adaptive_noise_scale", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate",
    "debiased_estimation_loss", "fp8_base", "fp8_base_unet", "huber_c", "huber_scale",
    "huber_schedule", "ip_noise_gamma", "ip_noise_gamma_random_strength", "loss_type",
    "multires_noise_discount", "multires_noise_iterations",
    "noise_offset_random_strength", "resize_interpolation", "scale_v_pred_loss_like_noise_pred",
    "scale_weight_norms", "skip_grad_norm", "skip_grad_norm_max", "token_warmup_min",
    "token_warmup_step", "v_pred_like_loss", "vae",
}  # fmt: skip

# another dataset, starting point or purpose: rejected, with the consequence of ignoring them
REFUSED = {
    "alpha_mask": "transparent areas would be learned too",
    "base_weights": "the base would lack these LoRAs",
    "caption_prefix": "captions would lack these words; write them into the caption files",
    "caption_separator": "captions would be split at commas",
    "caption_suffix": "captions would lack these words; write them into the caption files",
    "conditioning_data_dir": "what the masks cover would be learned too",
    "dataset_class": "the dataset would be different",
    "debug_dataset": "it would train, and kohya only shows the images",
    "enable_wildcard": "all of a caption's alternatives would be learned, braces included",
    "face_crop_aug_range": "images would not be cropped",
    "in_json": "captions would be missing; they are read from text files",
    "initial_epoch": "training would start from the beginning",
    "initial_step": "training would start from the beginning",
    "keep_tokens_separator": "the separator would be learned as a part of the caption",
    "lr_scheduler_args": "the schedule would be different",
    "lr_scheduler_timescale": "the schedule would be different",
    "masked_loss": "what the masks cover would be learned too",
    "max_timestep": "all timesteps would be trained",
    "max_token_length": "captions would be truncated at 75 tokens",
    "metadata_file": "captions would be missing; they are read from text files",
    "min_timestep": "all timesteps would be trained",
    "network_multiplier": "the LoRA would be trained at its full strength",
    "no_metadata": "the LoRA file would say how it was trained",
    "random_crop": "images would be cropped around the center",
    "resume": "training would start from the beginning",
    "secondary_separator": "the separator would be learned as a part of the caption",
    "skip_image_resolution": "small images would be trained on too",
    "train_inpainting": "a plain model would be trained",
    "weighted_captions": "the weights would be learned as a part of the caption",
    "zero_terminal_snr": "the noise schedule of the base would be used",
}

# keys of kohya's scripts other than train_network.py and sdxl_train_network.py
OTHER_SCRIPTS = {
    "ae", "apply_lg_attn_mask", "apply_t5_attn_mask", "attn_mode", "block_lr", "byt5", "clip_g",
    "clip_g_dropout_rate", "clip_l", "clip_l_dropout_rate", "diffusers_xformers",
    "discrete_flow_shift", "double_blocks_to_swap", "enable_scaled_pos_embed", "fp8_scaled",
    "fp8_vl", "gemma2", "guidance_scale", "learning_rate_te", "learning_rate_te1",
    "learning_rate_te2", "logit_mean", "logit_std", "mem_eff_save", "mode_scale",
    "model_prediction_type", "no_token_padding", "pos_emb_random_crop_rate", "save_clip",
    "save_t5xxl", "sigmoid_scale", "single_blocks_to_swap", "split_attn", "split_mode",
    "system_prompt", "t5_dropout_rate", "t5xxl", "t5xxl_max_token_length", "text_encoder",
    "timestep_sampling", "train_t5xxl", "train_text_encoder", "training_shift",
    "use_flash_attn", "use_sage_attn", "weighting_scheme",
}  # fmt: skip

EMPTY_VALUES: tuple[Any, ...] = (None, "", [], {})
# kohya's defaults: stating them changes nothing
KOHYA_DEFAULTS: dict[str, Any] = {
    "caption_separator": ",",
    "huber_c": 0.1,
    "huber_scale": 1.0,
    "huber_schedule": "snr",
    "initial_epoch": 1,
    "loss_type": "l2",
    "max_timestep": 1000,
    "max_token_length": 75,
    "multires_noise_discount": 0.3,
    "network_multiplier": 1.0,
    "token_warmup_min": 1,
}

# names that guides and user interfaces print, but kohya does not know
ALIASES = {
    "num_epochs": "max_train_epochs",
    "num_train_epochs": "max_train_epochs",
    "train_epochs": "max_train_epochs",
    "max_epochs": "max_train_epochs",
    "epochs": "max_train_epochs",
    "epoch": "max_train_epochs",
    "max_steps": "max_train_steps",
    "batch_size": "train_batch_size",
    "gradient_accumulation": "gradient_accumulation_steps",
    "network_rank": "network_dim",
    "lr": "learning_rate",
    "unet_learning_rate": "unet_lr",
    "text_encoder_learning_rate": "text_encoder_lr",
    "warmup_steps": "lr_warmup_steps",
    "warmup_epochs": "lr_warmup_epochs",
    "warmup_ratio": "lr_warmup_ratio",
    "num_repeats": "dataset_repeats",
    "caption_extention": "caption_extension",  # kohya does know this one
}

# keys with the same meaning as an aliased one, which kohya would use
EXCLUSIVE_KEYS = {"max_train_epochs": ("max_train_steps",)}
MIN_BUCKET_SIDE, MAX_BUCKET_SIDE = (
    256,
    1024,
)  # kohya's defaults of min_bucket_reso and max_bucket_reso


def changes_nothing(key: str, value: Any) -> bool:
    """Whether a value equals what kohya does anyway: off, empty, or its default."""
    return value in (*EMPTY_VALUES, False, 0, "None") or value == KOHYA_DEFAULTS.get(key)


def refuse(key: str) -> str:
    """The message for a rejected key: the consequence of ignoring it, and what to do."""
    return f"{key} is not supported, and without it {REFUSED[key]} (remove the line to do so)"
