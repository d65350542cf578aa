"""The two fidelities of a checkpoint: to the subject and to the prompt."""

from __future__ import annotations

from math import hypot
from typing import Any

import torch
from torch import Tensor

from evaluate.metrics.base import Mean, vanishes


class PromptFidelity(Mean):
    """(s - s_0) / (s_base - s_0), with s the mean cos(image, prompt).

    The cosine is CLIPScore's (Hessel et al. 2021). 1: follows prompts as well as the base on the
    same probes; 0: scores like the base's images with the prompts of other probes, as a checkpoint
    does that ignores prompts. (The plain ratio s / s_base has no such zero: CLIP sees half of a
    prompt in any image.) If the base itself does not follow these prompts significantly, there is
    no such scale, and the score is undefined.

    Args:
        prompts: (N, d) text features of the probes' prompts, without the trigger word.
        base: (R, N, d) image features of the base on these probes, R images each.
    """

    prompts: Tensor
    base: Tensor
    other: Tensor

    def __init__(self, prompts: Tensor, base: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("prompts", prompts.cpu())
        similarity = base.cpu() @ prompts.cpu().T  # (R, N images, N prompts)
        matching = similarity.diagonal(dim1=1, dim2=2)
        self.register_buffer("base", matching.mean())
        different = ~(prompts.cpu() @ prompts.cpu().T > 1 - 1e-6)
        others = similarity[:, different].mean() if different.any() else torch.zeros(())
        self.register_buffer("other", others)
        if not different.any():
            self.undefined_reason = "all probes ask for the same"
            return
        mismatched = similarity * different
        # each probe's gap, without the mean of its images and of its prompt over the other probes
        by_image, by_prompt = different.sum(1), different.sum(0)
        gaps = matching - mismatched.sum(2) / by_image - mismatched.sum(1) / by_prompt + others
        scale = float(matching.mean() - others)
        error = float(gaps.mean(0).std() / gaps.shape[1] ** 0.5)
        if vanishes(scale, error):
            self.undefined_reason = (
                "the base itself does not follow these prompts: its images are nearer to their "
                f"own prompts than to others by {scale:.4f} with a standard error of {error:.4f}"
            )

    def update(self, *features: Tensor) -> None:
        """Image features (M, d) of the first M probes, in their order."""
        similarity = (features[0].cpu() * self.prompts[: len(features[0])]).sum(-1)
        super().update((similarity - self.other) / (self.base - self.other))


class SubjectFidelity(Mean):
    """(d_base - d) / (d_base - d_training), with d the mean distance to the training images.

    0: no more like the subject than the base; 1: as alike as the training images are among
    themselves (leave-one-out). Distances are between unit image features,
    |a - b| = sqrt(2 - 2 cos), from which nuisance directions are removed, so that for example a
    training background adds no likeness. (Plain cosines, CLIP-I of Ruiz et al. 2023, saturate
    early: half a likeness would score three quarters.) If the training images are not
    significantly nearer to each other than the base's images are to them, there is no such scale,
    and the score is undefined.

    Args:
        training: (n, d) features of the training images.
        base: (m, d) features of the base's images.
        nuisance: (k, d) orthonormal directions to remove; k may be 0.
    """

    bank: Tensor
    nuisance: Tensor
    base_distance: Tensor
    training_distance: Tensor

    def __init__(self, training: Tensor, base: Tensor, nuisance: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("nuisance", nuisance.cpu())
        bank = self._clean(training)
        self.register_buffer("bank", bank)
        from_base, between = self._distance(self._clean(base)), self._distance(bank)
        self.register_buffer("base_distance", from_base.mean())
        count = len(bank)
        among = between.sum() / max(1, count * (count - 1))  # the diagonal is 0
        self.register_buffer("training_distance", among)
        self.undefined_reason = _why_undefined(from_base, between)

    def _distance(self, clean: Tensor) -> Tensor:
        """(N, n) distances to each training image."""
        return torch.cdist(clean, self.bank, compute_mode="donot_use_mm_for_euclid_dist")

    def _clean(self, features: Tensor) -> Tensor:
        features = features.cpu()
        rest = features - features @ self.nuisance.T @ self.nuisance
        return torch.nn.functional.normalize(rest, dim=-1)

    def update(self, *features: Tensor) -> None:
        """Image features (N, d), and (N,) whether a subject is detected; without one, score 0."""
        images, detected = features
        distance = self._distance(self._clean(images)).mean(1)
        distance = distance.where(detected.cpu(), self.base_distance)
        scale = self.base_distance - self.training_distance
        super().update((self.base_distance - distance) / scale)


def _why_undefined(from_base: Tensor, between: Tensor) -> str:
    """Why the scale of the likeness is undefined; empty if it is defined.

    Its error combines that of the base's images and the jackknife's over the training images
    (Tukey 1958). If there are too few for these (two training images, which have one distance, or
    one image of the base), the spread of single distances is used.

    Args:
        from_base: (m, n) distances of the base's images to the training images.
        between: (n, n) distances of the training images to each other.
    """
    base_count, count = from_base.shape
    if count < 2:
        return "one training image does not show how alike images of the subject are"
    if not base_count:
        return "no subject is found in the base's images"
    scale = float(from_base.mean() - between.sum() / (count * (count - 1)))
    base_error = training_error = float(from_base.std())
    if base_count > 1:
        base_error = float(from_base.mean(1).std() / base_count**0.5)
    if count > 2:
        rows, columns = between.sum(1), from_base.mean(0)
        without = (columns.sum() - columns) / (count - 1)
        without = without - (rows.sum() - 2 * rows) / ((count - 1) * (count - 2))
        training_error = float(
            ((count - 1) / count * (without - without.mean()).square().sum()).sqrt()
        )
    error = hypot(base_error, training_error)
    if not vanishes(scale, error):
        return ""
    return (
        "the training images resemble each other hardly more than the base's images resemble "
        f"them: by {scale:.3f} with a standard error of {error:.3f}"
    )


class ClassBleed(SubjectFidelity):
    """subject_fidelity of images of the class alone, without the trigger word.

    0: the class is unchanged; 1: every member of the class has become the subject.
    """

    higher_is_better = False


class ColorShift(Mean):
    """Mean difference of the images' mean color from the base's, over the probes, as Delta E.

    |mean_i (Lab_i - Lab_base,i)| with the CIE 1976 distance: differences that vary with the probe
    cancel, a cast or a change of contrast does not. 2 is just noticeable.

    Args:
        base: (N, 3) mean CIELAB colors of the base's images of the same probes.
    """

    higher_is_better = False
    base: Tensor

    def __init__(self, base: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("base", base.cpu())

    def update(self, *features: Tensor) -> None:
        """Mean colors (M, 3) of the first M probes, in their order."""
        super().update(features[0].cpu() - self.base[: len(features[0])])

    def statistic(self, values: Tensor, index: Tensor) -> Tensor:
        return values[index].mean(1).norm(dim=-1)

    def by_probe(self) -> Tensor:
        return torch.zeros(0)
