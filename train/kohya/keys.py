"""Keys of kohya's training scripts that we do nothing with, by what that means."""

from __future__ import annotations

# without effect on the LoRA here: logs, samples, loading, memory, an interface, or done in any case
IGNORED = {
    "async_upload", "cache_info", "cache_text_encoder_outputs",
    "cache_text_encoder_outputs_to_disk", "config_file", "console_log_file",
    "console_log_level", "console_log_simple", "ddp_gradient_as_bucket_view",
    "ddp_static_graph", "ddp_timeout", "debug_dataset", "deepspeed",
    "disable_mmap_load_safetensors", "dynamo_backend", "fp16_master_weights_and_gradients",
    "full_bf16", "full_fp16", "highvram", "huggingface_path_in_repo", "huggingface_repo_id",
    "huggingface_repo_type", "huggingface_repo_visibility", "huggingface_token", "log_config",
    "log_prefix", "log_tracker_config", "log_tracker_name", "log_with", "logging_dir", "lowram",
    "max_data_loader_n_workers", "metadata_author", "metadata_description", "metadata_license",
    "metadata_tags", "metadata_title", "no_half_vae", "no_metadata", "noise_offset_type",
    "offload_optimizer_device", "offload_optimizer_nvme_path", "offload_param_device",
    "offload_param_nvme_path",
    "output_config", "persistent_data_loader_workers", "resume_from_huggingface",
    "sample_at_first", "sample_every_n_epochs", "sample_every_n_steps", "sample_prompts",
    "sample_sampler", "save_every_n_steps", "save_last_n_epochs_state", "save_last_n_steps",
    "save_last_n_steps_state", "save_model_as", "save_state", "save_state_on_train_end",
    "save_state_to_huggingface", "skip_cache_check", "tokenizer_cache_dir", "training_comment",
    "use_safetensors", "v2", "vae_batch_size", "validate_every_n_epochs",
    "validate_every_n_steps", "wandb_api_key", "wandb_run_name", "zero3_init_flag",
    "zero3_save_16bit_model", "zero_stage",
}  # fmt: skip

# they change what kohya trains, and we have no such thing
UNSUPPORTED = {
    "adaptive_noise_scale", "alpha_mask", "base_weights", "base_weights_multiplier",
    "caption_dropout_every_n_epochs", "caption_prefix", "caption_separator", "caption_suffix",
    "caption_tag_dropout_rate", "conditioning_data_dir", "dataset_class", "dataset_repeats",
    "debiased_estimation_loss", "enable_wildcard", "face_crop_aug_range", "fp8_base",
    "fp8_base_unet", "fused_backward_pass", "huber_c", "huber_scale", "huber_schedule",
    "in_json", "initial_epoch", "initial_step", "ip_noise_gamma",
    "ip_noise_gamma_random_strength", "keep_tokens_separator", "loss_type", "lr_scheduler_args",
    "lr_scheduler_timescale", "masked_loss", "max_timestep", "max_token_length",
    "max_validation_steps", "min_timestep", "multires_noise_discount",
    "multires_noise_iterations", "noise_offset_random_strength", "random_crop",
    "resize_interpolation", "resume", "scale_v_pred_loss_like_noise_pred", "scale_weight_norms",
    "secondary_separator", "skip_grad_norm", "skip_grad_norm_max", "skip_image_resolution",
    "skip_until_initial_step", "stop_text_encoder_training", "token_warmup_min",
    "token_warmup_step", "v_pred_like_loss", "vae", "weighted_captions", "zero_terminal_snr",
}  # fmt: skip

# of these, the values that are kohya's own defaults: said or not, they change nothing
HARMLESS = {
    "caption_separator": ",",
    "dataset_repeats": 1,
    "huber_c": 0.1,
    "huber_scale": 1.0,
    "huber_schedule": "snr",
    "loss_type": "l2",
    "max_timestep": 1000,
    "max_token_length": 75,
    "multires_noise_discount": 0.3,
    "token_warmup_min": 1,
}

# names that guides and interfaces print and kohya does not know
MEANT = {
    "num_epochs": "max_train_epochs",
    "num_train_epochs": "max_train_epochs",
    "epoch": "max_train_epochs",
    "caption_extention": "caption_extension",  # this one it does know
}

# what says the same as one of those that are meant, so that kohya goes by it
RIVALS = {"max_train_epochs": ("max_train_steps",)}
