"""What the tiny CLIP is trained for: texts, attributes, colors, and subjects."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from train.puppets.world.attributes import VALUES
from train.puppets.world.examples import Looks, ToyLooks

TEMPERATURE = 0.1  # of the loss of the identity


def matching_loss(logits: Tensor) -> Tensor:
    """CLIP's loss of images (rows) and their texts (columns)."""
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def color_loss(found: Tensor, colors: Tensor) -> Tensor:
    """Mean absolute error of the colors that are seen; the others are NaN."""
    seen = colors.isfinite()
    return (found[seen] - colors[seen]).abs().mean()


def identity_loss(features: Tensor, subjects: Sequence[Looks | ToyLooks]) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020) of images of subjects.

    An image resembles the other images of its subject more than those of others.

    Args:
        features: (N, d) unit vectors.
        subjects: of the images; those with one image are negatives only.
    """
    same = torch.tensor([[a == b for b in subjects] for a in subjects], device=features.device)
    itself = torch.eye(len(subjects), dtype=torch.bool, device=features.device)
    positive = same & ~itself
    logits = (features @ features.T / TEMPERATURE).masked_fill(itself, -math.inf)
    log_shares = logits.log_softmax(1).masked_fill(~positive, 0)
    count = positive.sum(1)
    return -(log_shares.sum(1) / count.clamp(min=1))[count > 0].mean()


def attribute_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of reading each attribute, as zero-shot classification does; their sum.

    Args:
        logits: (N, phrases), of images against the phrases of all values, in the order of VALUES.
        labels: (N, 13), indices of values; -100 for none.
    """
    loss = logits.new_zeros(())
    for column, part in enumerate(logits.split([len(v) for v in VALUES.values()], dim=1)):
        if (labels[:, column] >= 0).any():  # else the mean is 0/0
            loss = loss + F.cross_entropy(part, labels[:, column])
    return loss
