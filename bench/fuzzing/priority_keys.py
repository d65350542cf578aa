"""Keys that are mutated more often than others, as paths from the root; `*` is any list item."""

from __future__ import annotations


def split_paths(text: str) -> tuple[str, ...]:
    """Splits a whitespace-separated list of paths."""
    return tuple(text.split())


SETTINGS_KEYS = split_paths(
    """
    optimizer/_target_ optimizer/lr optimizer/betas optimizer scores/encoder scores/pose_model
    base/path base/speed base/device cache cache_path data/path data/validation_path
    data/regularization_path data/dataset_config data/caption_extension data/trigger
    data/class_words probes/attributes probes/file probes/count training/epochs training/batch_size
    network/rank data/repeats data/resolution scheduler/name selection/max selection
    policy/limits training/seed
    """
)
RECORD_KEYS = split_paths(
    """
    study number settings settings/study/storage settings/study/root settings/data/path
    settings/data/trigger settings/policy overrides params params/optimizer.lr tags tags/worker
    tags/epochs tags/pack state reason selected ended epochs epochs/*/scorecard/checkpoint
    epochs/*/scorecard/scores epochs/*/scorecard/scores/copying/value epochs/*/scorecard/notes
    epochs/*/scorecard/epoch epochs/*/weights epochs/*/lr epochs/*/seconds_training
    epochs/*/time settings/optimizer/_target_ tags/data.fingerprint tags/git.commit
    params/network.rank
    """
)
RESULT_KEYS = split_paths(
    """
    trial trials/*/number missing missing/* policy_settings policy_settings/rule
    policy_settings/max policy_settings/weights trials run_id
    """
)
RUN_KEYS = split_paths(
    """
    run_id uri done
    """
)
KOHYA_KEYS = split_paths(
    """
    pretrained_model_name_or_path train_data_dir reg_data_dir optimizer_type optimizer_args
    network_dim resolution caption_extension output_name output_dir network_args dataset_config
    lr_scheduler learning_rate max_train_steps seed network_weights save_precision clip_skip
    unet_lr text_encoder_lr lr_warmup_steps vae network_module train_batch_size
    """
)
DATASET_KEYS = split_paths(
    """
    general datasets datasets/*/subsets datasets/*/resolution datasets/*/subsets/*/image_dir
    datasets/*/subsets/*/caption_extension general/caption_extension
    datasets/*/subsets/*/num_repeats datasets/*/subsets/*/class_tokens datasets/*/batch_size
    datasets/*/min_bucket_reso
    """
)
JOURNAL_KEYS = split_paths(
    """
    system_attr/cma:optimizer:0 distributions/network.rank params/network.rank state values
    op_code study_name trial_id user_attr/about value distribution datetime_start
    """
)
ATTRIBUTE_KEYS = split_paths(
    """
    template class_word poses poses/arms phrases phrases/arms backgrounds/background outfits
    """
)
PROBE_KEYS = split_paths(
    """
    values/template values/phrases values/kinds probes probes/*/role probes/*/asked
    probes/*/seed probes/*/prompt class_word training training/arms
    """
)
PEFT_KEYS = split_paths(
    """
    peft_type r lora_alpha rank_pattern alpha_pattern use_rslora use_dora target_modules
    auto_mapping init_lora_weights alpha_pattern/to_q
    """
)
BASE_KEYS = split_paths(
    """
    _class_name _name_or_path in_channels block_out_channels down_block_types
    cross_attention_dim attention_head_dim architectures auto_map text_encoder unet
    layers_per_block num_hidden_layers vocab_size tokenizer_class _commit_hash
    """
)
ENCODER_KEYS = split_paths(
    """
    model_cfg model_cfg/text_cfg model_cfg/text_cfg/hf_tokenizer_name model_cfg/vision_cfg
    model_cfg/text_cfg/tokenizer_kwargs model_cfg/text_cfg/hf_model_name preprocess_cfg auto_map
    tokenizer_class model_cfg/vision_cfg/image_size model_cfg/vision_cfg/timm_model_name
    model_cfg/text_cfg/tokenizer_kwargs/trust_remote_code model_cfg/vision_cfg/layers
    """
)
LOCAL_KEYS = split_paths(
    """
    data data/trigger optimizer network/rank defaults hydra training/seed
    """
)
