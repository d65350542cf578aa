"""SDXL and Stable Diffusion 2.x: diffusers makes of the files what was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluate.generation.generate import generate
from evaluate.metrics.losses import FixedLosses
from train.config.schema import BaseConfig, DataConfig, NetworkConfig, TrainingConfig, TrialConfig
from train.config_checks import check_base
from train.data.dataset import Dataset, load_dataset
from train.errors import ConfigError
from train.loop.trainer import Trainer, TrialSpec
from train.lora.adapter import Adapter
from train.lora.checkpoint import load_checkpoint
from train.lora.checkpoint_file import read_metadata
from train.models import model_files
from train.models.base_model import BaseError, BaseModel, load_base
from train.models.latents import encode_latents
from train.models.model_files import locate

PROMPT = "sks puppet"  # short enough to be padded
LATENTS, TIME = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), 500
SIZES = torch.tensor([[60, 90, 0, 8, 32, 32]])


@pytest.fixture(scope="module", params=["v2_folder", "xl_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    result: Path = request.getfixturevalue(request.param)
    return result


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseModel:
    return load_base(BaseConfig(path=str(folder), device="cpu"))


@pytest.fixture(scope="module")
def lora(base: BaseModel, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, on everything that can have a LoRA."""
    config = TrialConfig(
        data=DataConfig(path=str(image_folder), resolution=32),
        base=BaseConfig(path=base.path, device="cpu"),
        network=NetworkConfig(rank=4, alpha=2.0, conv_rank=2, text_encoder=True),
        optimizer={"_target_": "torch.optim.AdamW", "lr": 1e-2},
        training=TrainingConfig(epochs=2, batch_size=2, save_precision="fp32"),
    )
    output = tmp_path_factory.mktemp("lora")
    epochs = list(Trainer(base, load_dataset(config.data), [TrialSpec(config, output)]))
    assert all(epoch.checkpoints[0].train_loss > 0 for epoch in epochs)
    return output / "lora.safetensors"


@pytest.fixture(scope="module")
def theirs(folder: Path, lora: Path) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(lora)
    return pipeline


def conditioning(pipeline: Any) -> dict[str, Tensor]:
    """The prompt as encoded by diffusers' own pipeline."""
    if not hasattr(pipeline, "text_encoder_2"):
        return {"encoder_hidden_states": pipeline.encode_prompt(PROMPT, "cpu", 1, False)[0]}
    hidden, _, pooled, _ = pipeline.encode_prompt(PROMPT, device="cpu")
    return {"encoder_hidden_states": hidden, "text_embeds": pooled}


def test_text_encoding_and_prediction_match_diffusers(base: BaseModel, folder: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    expected = conditioning(pipeline)
    result = base.encode_text([PROMPT])
    assert set(result) == set(expected)
    for name, rows in expected.items():
        torch.testing.assert_close(result[name], rows)
    with torch.no_grad():
        ours = base.predict(LATENTS, torch.tensor(TIME), result | base.size_conditioning(SIZES))
        hidden = expected.pop("encoder_hidden_states")
        added = {**expected, "time_ids": SIZES.float()} if expected else None
        reference = pipeline.unet(LATENTS, TIME, hidden, added_cond_kwargs=added).sample
    torch.testing.assert_close(ours, reference)


def test_diffusers_loads_every_module_with_the_same_delta(
    base: BaseModel, lora: Path, theirs: Any
) -> None:
    adapter = load_checkpoint(lora, base.adapters)
    assert set(adapter.matrices) == set(base.adapters.targets)
    parts = {"lora_unet": "unet", "lora_te": "text_encoder", "lora_te1": "text_encoder",
             "lora_te2": "text_encoder_2"}  # fmt: skip
    networks = {"lora_unet": base.unet}
    networks |= dict(zip(base.family.text_encoders, base.text_encoders, strict=True))
    compared = 0
    for prefix, network in networks.items():
        paths = {id(module): path for path, module in network.named_modules()}
        for key in (key for key in adapter.matrices if key.startswith(f"{prefix}_")):
            layer = getattr(theirs, parts[prefix]).get_submodule(
                paths[id(base.adapters.targets[key])]
            )
            torch.testing.assert_close(
                delta(adapter, key), layer.get_delta_weight("default_0").flatten(1)
            )
            compared += 1
    loaded = [
        module
        for name in {parts[prefix] for prefix in networks}
        for module in getattr(theirs, name).modules()
        if hasattr(module, "get_delta_weight")
    ]
    assert len(loaded) == compared == len(adapter.matrices), "nothing missing, nothing left over"
    moved = [delta(adapter, key).abs().max() > 1e-4 for key in adapter.matrices]
    # no gradient reaches what comes after the states that SDXL takes from its first text encoder
    assert sum(moved) == len(moved) - (6 if base.family.is_xl else 0)


def delta(adapter: Adapter, key: str) -> Tensor:
    down, up = (matrix.flatten(1) for matrix in adapter.matrices[key])
    return up @ down * (adapter.alpha[key] / len(down))


def test_probe_images_and_losses_depend_on_the_lora(
    base: BaseModel, lora: Path, dataset: Dataset
) -> None:
    adapter = load_checkpoint(lora, base.adapters)
    options = {"resolution": 32, "steps": 3, "guidance": 4.0}
    created = generate(base, [adapter], [PROMPT], [1], **options)  # type: ignore[arg-type]
    without_lora = generate(base, [], [PROMPT], [1], **options)  # type: ignore[arg-type]
    assert created.shape == (1, 1, 3, 32, 32)
    assert created.isfinite().all()
    assert (created - without_lora).abs().max() > 1e-3
    nothing = base.adapters.create(NetworkConfig(rank=1), torch.Generator())
    losses = FixedLosses(base, list(dataset.training), DataConfig(resolution=32), 2)(
        [adapter, nothing]
    )
    assert losses.shape == (2, len(dataset.training))
    assert (losses[0] != losses[1]).all()


def test_only_sdxl_is_conditioned_on_sizes(base: BaseModel) -> None:
    text = base.encode_text([PROMPT])
    with torch.no_grad():
        observed = [
            base.predict(LATENTS, torch.tensor(TIME), text | base.size_conditioning(sizes))
            for sizes in (SIZES, torch.tensor([[32, 32, 0, 0, 32, 32]]))
        ]
        full = base.predict(LATENTS, torch.tensor(TIME), text)
    assert torch.equal(observed[1], full), "without sizes: a whole image of the latents' size"
    assert torch.equal(observed[0], observed[1]) == (not base.family.is_xl)


def test_training_conditions_on_each_images_own_size(
    base: BaseModel, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrialConfig(
        data=DataConfig(path=str(image_folder), resolution=32, validation_fraction=0.0),
        network=NetworkConfig(rank=2, text_encoder=True),
        optimizer={"_target_": "torch.optim.AdamW", "lr": 1e-3},
        training=TrainingConfig(epochs=1, batch_size=4, caption_dropout=0.5),
    )
    observed: list[list[float]] = []
    predict = base.predict

    def watched(noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        observed.extend(conditioning.get("time_ids", torch.empty(0, 6)).tolist())
        return predict(noisy, timesteps, conditioning)

    monkeypatch.setattr(base, "predict", watched)
    list(Trainer(base, load_dataset(config.data), [TrialSpec(config, tmp_path)]))
    heights = range(60, 67) if base.family.is_xl else range(0)
    remaining = {h: round((90 * 32 / h - 32) / 2) for h in heights}
    assert sorted(observed) == [[h, 90, 0, remaining[h], 32, 32] for h in heights]


def test_metadata_states_the_family(base: BaseModel, lora: Path) -> None:
    metadata = read_metadata(lora)
    xl = base.family.is_xl
    assert metadata["ss_base_model_version"] == ("sdxl_base_v1-0" if xl else "sd_v2_v")
    assert metadata["ss_v2"] == str(not xl)
    assert metadata["modelspec.architecture"] == (
        "stable-diffusion-xl-v1-base/lora" if xl else "stable-diffusion-v2-768-v/lora"
    )
    assert metadata["modelspec.prediction_type"] == ("epsilon" if xl else "v")
    keys = {key.split(".")[0] for key in load_file(lora)}
    if xl:
        assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k" in keys
        assert "lora_unet_output_blocks_2_2_conv" in keys
        assert "lora_te2_text_model_encoder_layers_0_mlp_fc1" in keys
    else:
        assert "lora_unet_down_blocks_0_attentions_0_proj_in" in keys
        assert "lora_te_text_model_encoder_layers_0_mlp_fc1" in keys


def test_files_with_diffusers_names_load_to_the_same_delta(
    base: BaseModel, lora: Path, theirs: Any, tmp_path: Path
) -> None:
    """As the diffusers scripts save them, and as OneTrainer does (kohya's layout, their names)."""
    expected = load_checkpoint(lora, base.adapters)
    tensors: dict[str, Tensor] = {}
    alphas: dict[str, dict[str, float]] = {}
    for part in ("unet", "text_encoder", "text_encoder_2"):
        for path, module in getattr(theirs, part, torch.nn.Module()).named_modules():
            if hasattr(module, "get_delta_weight"):
                place = (
                    path
                    if part == "unet" or path.startswith("text_model")
                    else f"text_model.{path}"
                )
                tensors[f"{part}.{place}.lora_A.weight"] = module.lora_A["default_0"].weight
                tensors[f"{part}.{place}.lora_B.weight"] = module.lora_B["default_0"].weight
                rank = module.r["default_0"]
                alphas.setdefault(part, {})[place] = module.scaling["default_0"] * rank
    tensors = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    reported = {f"{part}.alpha_pattern": pattern for part, pattern in alphas.items()}
    peft, other = tmp_path / "peft-1.safetensors", tmp_path / "other-1.safetensors"
    save_file(tensors, peft, {"lora_adapter_metadata": json.dumps(reported)})
    plain = {key: name for name, key in base.adapters.aliases.items()}
    renamed = {}
    for key, tensor in load_file(lora).items():
        module, _, rest = key.partition(".")
        name = plain.get(module, module) if module.startswith("lora_unet") else module
        renamed[f"{name}.{rest}"] = tensor
    save_file(renamed, other)
    assert (set(renamed) == set(load_file(lora))) == (not base.family.is_xl)
    for file in (peft, other):
        result = load_checkpoint(file, base.adapters)
        assert set(result.matrices) == set(expected.matrices)
        for key in expected.matrices:
            torch.testing.assert_close(delta(result, key), delta(expected, key))


def test_settings_of_the_base(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """clip_skip and prediction type; SDXL's autoencoder in fp32 if everything else is fp16."""
    path = str(folder)
    skipped = load_base(BaseConfig(path=path, device="cpu", clip_skip=2, prediction_type="epsilon"))
    assert skipped.prediction_type == "epsilon"
    tokens = skipped.tokenizer([PROMPT], padding="max_length", return_tensors="pt").input_ids
    assert tokens.shape == (1, 16)
    with torch.no_grad():
        states = skipped.text_encoder(tokens, output_hidden_states=True).hidden_states
    result = skipped.encode_text([PROMPT])["encoder_hidden_states"]
    if skipped.family.is_xl:
        assert "SDXL always uses the layer before the last" in caplog.text
        torch.testing.assert_close(result[..., :32], states[-2])
    else:
        # transformers 5.0 has the layer one level below
        encoder = getattr(skipped.text_encoder, "text_model", skipped.text_encoder)
        torch.testing.assert_close(result, encoder.final_layer_norm(states[-2]))
        with pytest.raises(BaseError, match=r"base.clip_skip: 3, but the text encoder has 2"):
            load_base(BaseConfig(path=path, device="cpu", clip_skip=3))
    half = load_base(BaseConfig(path=path, device="cpu", precision="fp16"))
    assert half.unet.dtype == half.text_encoders[-1].dtype == torch.float16
    assert half.vae.dtype == (torch.float32 if half.family.is_xl else torch.float16)
    if half.family.is_xl:
        mean, std = encode_latents(half, torch.rand(1, 3, 32, 32))
        assert half.decode(mean + std).isfinite().all()


def test_hub_name_may_have_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[str] = []

    def download(name: str, **options: Any) -> str:
        requested.append(name)
        return str(tmp_path)

    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    index = str(tmp_path / "model_index.json")
    monkeypatch.setattr(model_files, "hf_hub_download", lambda *_: index)
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    name = "stabilityai/stable-diffusion-xl-base-1.0"
    assert locate(name) == tmp_path
    with pytest.raises(BaseError, match=r"there is no file or folder models/absent\.safetensors"):
        locate("models/absent.safetensors")
    assert requested == [name]


def test_pickle_is_rejected_under_any_name(tmp_path: Path) -> None:
    named = ["model.ckpt", "MODEL.CKPT", "model.pkl"]
    weights = {"x": torch.zeros(2)}
    for zipped in (True, False):
        file = tmp_path / f"{zipped}.safetensors"
        torch.save(weights, file, _use_new_zipfile_serialization=zipped)
        named.append(str(file))
    for path in named:
        with pytest.raises(ConfigError, match=r"base.path: .* is a pickle, .* convert it"):
            check_base(BaseConfig(path=path))
    # what has a header of 128 bytes begins as a pickle does
    save_file(weights, tmp_path / "fine.safetensors", {"about": "x" * 45})
    assert (tmp_path / "fine.safetensors").read_bytes()[0] == 0x80
    check_base(BaseConfig(path=str(tmp_path / "fine.safetensors")))


def test_invalid_base_is_rejected(folder: Path, tmp_path: Path) -> None:
    def edited(file: str, **news: Any) -> str:
        other = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, other)
        metadata = json.loads((other / file).read_text())
        (other / file).write_text(json.dumps({**metadata, **news}))
        return str(other)

    for path, message in (
        (edited("model_index.json", text_encoder=[None, None]), "its text encoders are"),
        (edited("unet/config.json", in_channels=9), "inpainting"),
        (edited("vae/config.json", latent_channels=8), "inpainting"),
        (str(tmp_path / "absent"), "there is no file or folder"),
    ):
        with pytest.raises(BaseError, match=message):
            load_base(BaseConfig(path=path, device="cpu"))
    with pytest.raises(ConfigError, match=r"base.attention: xformers is not installed"):
        check_base(BaseConfig(path=str(folder), attention="xformers"))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BaseError, match=r"are pickles, .* convert them"):
        load_base(BaseConfig(path=str(pickled), device="cpu"))
