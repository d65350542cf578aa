"""The poses that the training images show, found by comparison with images of the base.

CLIP classifies poses poorly, so zero-shot labels would let a probe ask for a training pose. Instead
the base generates every pose that a probe can ask for, and each training image is given the pose of
the generated image that is nearest by the pose source.
"""

from __future__ import annotations

from itertools import product
from random import Random

from torch import Tensor

from evaluate.prompts.attributes import AttributeBank
from evaluate.prompts.probe_set import Probe
from evaluate.prompts.roles import CLASS

IMAGES_PER_POSE = 3  # images of each pose
SEED = 50_000_000  # far from those of the probes


def reference_probes(values: AttributeBank, class_word: str) -> list[Probe]:
    """Prompts for the base: IMAGES_PER_POSE for every pose, all other attributes at random."""
    random = Random(0)
    rest = values.kinds["backgrounds"] | values.kinds["outfits"]
    poses = values.kinds["poses"]
    probes: list[Probe] = []
    for pose in [*product(*poses.values())] * IMAGES_PER_POSE:
        attributes = dict(zip(poses, pose, strict=True))
        attributes |= {part: random.choice(options) for part, options in rest.items()}
        prompt = values.prompt(f"a {class_word}", attributes)
        probes.append(Probe(prompt, prompt, SEED + len(probes), CLASS, attributes))
    return probes


def training_poses(
    values: AttributeBank, references: list[Probe], similarity: Tensor
) -> dict[str, list[str]]:
    """For each part of a pose, the value that each training image shows.

    Args:
        references: the probes of the generated images.
        similarity: (n, len(references)) of the training poses to the generated ones.
    """
    nearest = similarity.argmax(1).tolist()
    return {part: [references[i].asked[part] for i in nearest] for part in values.kinds["poses"]}
