"""Optimizer steps: loss weights, gradients, skipped steps, their number, and saved checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from tests.train.conftest import read_final_state, relative_distance, train
from train.config.schema import BaseConfig, NetworkConfig, TrainingConfig, TrialConfig
from train.data.dataset import Dataset
from train.loop.adapter_run import AdapterRun
from train.loop.loss import diffusion_loss, row_weights
from train.loop.schedule import schedule_of
from train.loop.trainer import Trainer, TrialSpec
from train.models.base_model import BaseModel, load_base
from train.models.gradient_checkpointing import use_gradient_checkpointing

Make = Callable[..., TrialConfig]


def test_min_snr_weights_the_image_loss(base: BaseModel) -> None:
    """For every prediction type, the same error of the image has the weight min(SNR, gamma)."""
    training, times = TrainingConfig(min_snr_gamma=5.0), torch.tensor([1, 50, 300, 600, 998])
    image = torch.randn(5, 4, 8, 8)
    noise, wrong = torch.randn_like(image), image + 0.1 * torch.randn_like(image)
    signal = base.noise_scheduler.alphas_cumprod[times]
    snr = signal / (1 - signal)
    expected = snr.clamp(max=5) * (wrong - image).square().mean(dim=(1, 2, 3))
    assert snr.max() > 5 > snr.min()
    rows = signal.view(-1, 1, 1, 1)
    noisy = rows.sqrt() * image + (1 - rows).sqrt() * noise
    for kind in ("epsilon", "v_prediction", "sample"):
        noises = DDPMScheduler.from_config(base.noise_scheduler.config, prediction_type=kind)
        fake = Fake(noises, (noisy - rows.sqrt() * wrong) / (1 - rows).sqrt(), wrong, rows)
        loss = diffusion_loss(fake, image, noise, times, {})  # type: ignore[arg-type]
        weighted = loss * row_weights(fake, training, times)  # type: ignore[arg-type]
        torch.testing.assert_close(weighted, expected, rtol=1e-3, atol=1e-5)


class Fake:
    """A base whose UNet always predicts the same image."""

    dtype = torch.float32

    def __init__(self, noise: Any, epsilon: Tensor, picture: Tensor, signal: Tensor) -> None:
        self.noise_scheduler, self.prediction_type = noise, noise.config.prediction_type
        velocity = signal.sqrt() * epsilon - (1 - signal).sqrt() * picture
        kinds = {"epsilon": epsilon, "v_prediction": velocity, "sample": picture}
        self.answer = kinds[noise.config.prediction_type]

    def unet(self, *inputs: Any, **conditioning: Any) -> Any:
        return type("Output", (), {"sample": self.answer})

    def predict(self, *inputs: Any) -> Tensor:
        return self.answer


def test_min_snr_holds_where_the_last_timestep_has_no_signal(base: BaseModel) -> None:
    times, training = torch.tensor([999, 500]), TrainingConfig(min_snr_gamma=5.0)
    for kind, last in (("epsilon", 1.0), ("v_prediction", 0.0)):
        noise = DDPMScheduler.from_config(
            base.noise_scheduler.config, prediction_type=kind, rescale_betas_zero_snr=True
        )
        noise.alphas_cumprod[-1] = 0  # diffusers leaves a trace
        fake = type("Base", (), {"noise_scheduler": noise})
        weights = row_weights(fake, training, times)  # type: ignore[arg-type]
        assert weights[0] == last
        assert weights.isfinite().all()


def test_prior_loss_weight_of_regularization_images(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    losses = []
    for weight in (0.0, 1.0, 0.25):
        config = trial(prior_loss_weight=weight, batch_size=6)
        trainer = Trainer(base, dataset, [TrialSpec(config, tmp_path)])
        trainer.data.prior = torch.tensor([True, False, True] * 2)
        run = trainer.pending[0]
        run.start_epoch()
        trainer.step([run], 0)
        losses.append(float(run.losses[0]))
    none, full, quarter = losses
    assert 0 < none < full
    assert quarter == pytest.approx(none + 0.25 * (full - none))


def test_noise_offset_shifts_whole_channels(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    sampled = []
    for offset in (0.0, 0.5):
        trainer = Trainer(base, dataset, [TrialSpec(trial(noise_offset=offset), tmp_path)])
        run = trainer.pending[0]
        run.start_epoch()
        sampled.append(run.sample(0, trainer.data).noise)
    shift = sampled[1] - sampled[0]
    assert torch.allclose(shift, shift[:, :, :1, :1].expand_as(shift), atol=1e-6)
    assert shift.std() > 0.1


@pytest.mark.parametrize("text_encoder", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(
    base: BaseModel,
    dataset: Dataset,
    trial: Make,
    tmp_path: Path,
    text_encoder: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = NetworkConfig(rank=4, conv_rank=2, dropout=0.3, text_encoder=text_encoder)
    result, remaining = [], []
    for expected in (False, True):
        config = trial(network=network, gradient_checkpointing=expected)
        trainer = Trainer(base, dataset, [TrialSpec(config, tmp_path / str(expected))])
        run = trainer.pending[0]
        run.start_epoch()
        with torch.no_grad():  # up is zero at first, and the gradient of down with it
            random = torch.Generator().manual_seed(1)
            for flat in run.adapter.parameters():
                flat.add_(torch.randn(flat.shape, generator=random) * 0.05)
        monkeypatch.setattr(run, "_step", lambda: None)
        use_gradient_checkpointing(base, expected)
        numbers: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(saving(numbers), lambda tensor: tensor):
            trainer.step([run], 0)
        result.append(torch.cat([f.grad for f in run.adapter.parameters() if f.grad is not None]))
        remaining.append(sum(numbers))
    use_gradient_checkpointing(base, False)
    assert result[0].norm() > 0
    assert torch.equal(result[1], result[0])
    assert remaining[1] < 0.7 * remaining[0]


def test_gradient_checkpointing_of_a_trained_text_encoder(
    base: BaseModel,
) -> None:
    """Fewer activations are stored, for the same states and gradients."""
    network = NetworkConfig(rank=4, text_encoder=True)
    adapter = base.adapters.create(network, torch.Generator().manual_seed(0))
    for up in adapter.up.values():
        up.fill_(0.1)
    result, remaining = [], []
    for expected in (False, True):
        use_gradient_checkpointing(base, expected)
        numbers: list[int] = []
        adapter.zero_grad()
        with base.adapters.activated([adapter]):
            with torch.autograd.graph.saved_tensors_hooks(saving(numbers), lambda tensor: tensor):
                (states,) = base.encode_text(["a photo of sks puppet"]).values()
            states.square().sum().backward()
            with torch.inference_mode():
                (without_lora,) = base.encode_text(["a photo of sks puppet"]).values()
        assert torch.equal(without_lora, states.detach())
        result.append((states, adapter.flat["lora_te"].grad.clone()))
        remaining.append(sum(numbers))
    use_gradient_checkpointing(base, False)
    for one, other in zip(*result, strict=True):
        assert torch.equal(one, other)
    assert remaining[1] < 0.5 * remaining[0]


def saving(numbers: list[int]) -> Callable[[Tensor], Tensor]:
    """Records the size of each tensor that is saved for the backward pass."""

    def keep(tensor: Tensor) -> Tensor:
        numbers.append(tensor.numel())
        return tensor

    return keep


def test_gradient_checkpointing_ends_in_the_same_bytes(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    for expected in (False, True):
        config = trial(gradient_checkpointing=expected, epochs=1)
        train(base, dataset, TrialSpec(config, tmp_path / str(expected)))
        assert base.unet.is_gradient_checkpointing == expected
    assert relative_distance(tmp_path / "True", tmp_path / "False") == 0


def test_gradient_accumulation_equals_one_large_batch(
    exact_base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    """Batches of 4 and 2 accumulate to the gradient of all 6 images: all rows have equal weight."""
    grads = []
    for size in (4, 6):
        config = trial(batch_size=size, gradient_accumulation=2 if size == 4 else 1)
        run = AdapterRun(0, TrialSpec(config, tmp_path), exact_base, dataset)
        rows = [
            [run.schedule.rows_of(b) for b in range(run.batches)],
            run.schedule.rows_of_step(0, 2),
        ]
        assert rows == ([[4, 2], 6] if size == 4 else [[6], 6])
        weighted = torch.arange(6.0)
        parts = [part.sum() for part in weighted.split(size)]
        grads.append(sum(float(run.scaled_loss(part, b)) for b, part in enumerate(parts)))
    assert grads[0] == pytest.approx(grads[1]) == pytest.approx(2.5)


@pytest.mark.parametrize(("steps", "epochs"), [(7, 3), (3, 1), (2, 1)])
def test_max_steps_ends_exactly(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path, steps: int, epochs: int
) -> None:
    config = trial(max_steps=steps, epochs=1)
    result = train(base, dataset, TrialSpec(config, tmp_path))
    assert [epoch.checkpoints[0].epoch for epoch in result] == [*range(1, epochs + 1)]
    assert read_final_state(tmp_path)["scheduler"]["last_epoch"] == steps
    assert result[-1].checkpoints[0].path.name == "lora.safetensors"


def test_at_least_five_checkpoints_and_save_last(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    for epochs in (5, 7, 12, 20, 30):
        schedule = schedule_of(trial(epochs=epochs, save_every=None), dataset)
        assert 5 <= schedule.checkpoints <= 9
    config = trial(epochs=4, save_last=2)
    (tmp_path / "lora-000009.safetensors").write_bytes(b"of another run")
    train(base, dataset, TrialSpec(config, tmp_path))
    remaining = {file.name for file in tmp_path.glob("*.safetensors")}
    assert remaining == {"lora-000002.safetensors", "lora-000003.safetensors", "lora.safetensors",
                    "lora-000009.safetensors"}  # fmt: skip


def test_effective_batch_is_reported(dataset: Dataset, trial: Make) -> None:
    config = trial(batch_size=1, gradient_accumulation=2, epochs=5)
    message = schedule_of(config, dataset, 2).describe(config.training, 2)
    assert "effective batch 4 (batch_size 1 x 2 accumulated x 2 processes)" in message
    assert "2 steps per epoch, 5 epochs, 10 steps" in message


def test_fp16_overflow_is_skipped_only_by_its_own_run(
    base_folder: Path, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    half = load_base(BaseConfig(path=str(base_folder), device="cpu", precision="fp16"))
    config = trial(epochs=1)
    trainer = Trainer(
        half, dataset, [TrialSpec(config, tmp_path / "a"), TrialSpec(config, tmp_path / "b")]
    )
    small, large = trainer.pending
    assert small.scaler is not None and large.scaler is not None  # noqa: PT018
    large.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = large.adapter.flat["lora_unet"].clone()
    rates = [small.scheduler.last_epoch, large.scheduler.last_epoch]
    small.start_epoch()
    large.start_epoch()
    trainer.step([small, large], 0)
    assert (small.skipped, large.skipped) == (0, 1)
    assert torch.equal(large.adapter.flat["lora_unet"], before)
    assert not torch.equal(small.adapter.flat["lora_unet"], before)
    assert [small.scheduler.last_epoch, large.scheduler.last_epoch] == [rates[0] + 1, rates[1]]
    assert large.scaler.get_scale() == 2.0**39
    assert not large.failure


def test_max_grad_norm_0_disables_clipping(
    base: BaseModel, dataset: Dataset, trial: Make, tmp_path: Path
) -> None:
    sgd = {"_target_": "torch.optim.SGD", "lr": 1.0}
    moved = {}
    for norm in (0.0, 1e-3):
        config = trial(optimizer=sgd, max_grad_norm=norm)
        trainer = Trainer(base, dataset, [TrialSpec(config, tmp_path / str(norm))])
        run = trainer.pending[0]
        before = run.adapter.flat["lora_unet"].detach().clone()
        run.start_epoch()
        trainer.step([run], 0)
        moved[norm] = float((run.adapter.flat["lora_unet"] - before).norm())
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-2)
    assert moved[0.0] > 2e-3
