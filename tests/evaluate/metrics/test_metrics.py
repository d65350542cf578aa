"""Single metrics on known numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from evaluate.intervals import wilson
from evaluate.metrics.fidelity import PromptFidelity
from evaluate.metrics.leak import AttributeLeak
from evaluate.metrics.losses import FixedLosses, GeneralizationGap
from evaluate.metrics.memorization import Copying
from train.config.schema import BaseConfig, DataConfig, NetworkConfig
from train.data.dataset import load_dataset
from train.models.base_model import BaseModel, load_base


def test_leak_is_recognized_by_the_classification_of_the_training_outfit() -> None:
    """The training outfit has no name: it is classified as value 0, 1 or 2."""
    random, count = torch.Generator().manual_seed(0), 200
    shares = torch.tensor([0.6, 0.3, 0.1, 0.0, 0.0, 0.0])
    requested = torch.randint(3, 6, (count, 2), generator=random)
    leaked = torch.rand(count, generator=random) < 0.4
    training = torch.multinomial(shares, count * 2, True, generator=random).view(count, 2)
    observed = training.where(leaked[:, None], requested)
    metric = AttributeLeak([shares, shares], [0.97, 0.97])
    metric.update(observed, requested)
    value, low, high = metric.compute().tolist()
    assert value == pytest.approx(float(leaked.float().mean()), abs=0.03)
    assert low < value < high
    assert 0.08 < high - low < 0.16  # of 200 images, not of 400 parts
    by_probe = metric.by_probe()
    assert by_probe[leaked].min() > 0.5 > by_probe[~leaked].max()
    metric.reset()
    metric.update(requested, requested)
    assert metric.compute()[:2].tolist() == [0, 0]
    metric.reset()
    metric.update(
        observed, torch.full_like(requested, -1)
    )  # nothing is asked, so nothing can be told
    assert metric.compute().isnan().all()


def test_other_values_are_not_leaks() -> None:
    shares = torch.tensor([0.9, 0.1, 0.0, 0.0, 0.0, 0.0])
    metric = AttributeLeak([shares], [0.95])
    requested = torch.tensor([[3], [4], [5], [3], [4], [5]])
    metric.update(torch.tensor([[4], [5], [2], [5], [2], [4]]), requested)
    assert metric.compute()[0].item() == 0


def test_subject_without_outfits_leaks_none() -> None:
    metric = AttributeLeak([], [])
    metric.update(torch.zeros(4, 0), torch.zeros(4, 0))
    assert metric.compute().isnan().all()
    assert len(metric.by_probe()) == 0


def test_copies_are_found_despite_duplicate_training_images() -> None:
    random = torch.Generator().manual_seed(0)

    def dataset(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, 9, 16, generator=random), dim=-1)

    training = dataset(6)
    training = torch.cat([training, training])
    metric = Copying(training, dataset(50))
    near = training[:4] + 0.05 * torch.randn(4, 9, 16, generator=random)
    metric.update(torch.cat([torch.nn.functional.normalize(near, dim=-1), dataset(4)]))
    assert metric.by_probe().tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert metric.compute()[0].item() == pytest.approx(0.5)


def test_prompt_fidelity_is_zero_if_each_image_shows_another_prompt() -> None:
    prompts = torch.eye(4)
    base = 0.8 * prompts + 0.2
    base = torch.nn.functional.normalize(base, dim=-1).unsqueeze(0)
    metric = PromptFidelity(prompts, base)
    metric.update(base[0])
    assert metric.compute()[0].item() == pytest.approx(1)
    metric.reset()
    metric.update(base[0].roll(1, 0))
    assert metric.compute()[0].item() == pytest.approx(0, abs=1e-6)


def test_fixed_losses_use_no_global_random_state() -> None:
    base, dataset = load_base(BaseConfig(device="cpu")), load_dataset(DataConfig(resolution=64))
    random = torch.Generator().manual_seed(0)
    adapters = [base.adapters.create(NetworkConfig(rank=2), random) for _ in range(2)]
    for up in adapters[1].up.values():
        torch.nn.init.normal_(up, std=0.3, generator=random)
    before = torch.get_rng_state()
    losses = FixedLosses(base, list(dataset.validation), DataConfig(resolution=64), 8)
    assert len(losses.groups[0].timesteps.unique()) == 8
    both = losses(adapters)
    assert both.shape == (2, len(dataset.validation))
    torch.testing.assert_close(losses([adapters[1]])[0], both[1])
    assert both[1].mean() > both[0].mean() + 0.002  # a LoRA by lot makes it worse
    assert torch.equal(torch.get_rng_state(), before)


def test_losses_in_buckets_equal_those_of_single_images(base: BaseModel, shapes: Path) -> None:
    data = DataConfig(path=str(shapes), resolution=64, buckets=True, validation_fraction=0)
    dataset = list(load_dataset(data).training)
    adapter = base.adapters.create(NetworkConfig(rank=2), torch.Generator().manual_seed(0))
    batched = FixedLosses(base, dataset, data, 2)([adapter])[0]
    single = [FixedLosses(base, [image], data, 2)([adapter])[0, 0] for image in dataset]
    torch.testing.assert_close(batched, torch.stack(single))
    assert len(set(batched.tolist())) == 5


def test_generalization_gap_is_between_two_samples() -> None:
    metric = GeneralizationGap(resamples=200)
    metric.update(torch.tensor([0.5, 0.6, 0.7, 0.6]), torch.tensor([0.3, 0.3, 0.3]))
    value, low, high = metric.compute().tolist()
    assert value == pytest.approx(0.3)
    assert 0.2 < low < value < high < 0.4


def test_wilson_interval_matches_scipy() -> None:
    for count in (2, 26, 1000):
        for successes in range(0, count + 1, max(1, count // 26)):
            for confidence in (0.5, 0.9, 0.99):
                truth = binomtest(successes, count).proportion_ci(confidence, "wilson")
                result = wilson(successes / count, count, confidence)
                assert result == pytest.approx((truth.low, truth.high), abs=1e-12)
