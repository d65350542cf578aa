"""Which poses the training pictures show, told by the poses of the bare base's own pictures.

CLIP models read poses badly, so zero-shot would let a probe ask for a training pose. Instead the
bare base draws every pose that can be asked for, and each training picture shows the one whose
drawing is nearest to it by the pose source.
"""

from __future__ import annotations

from itertools import product
from random import Random

from torch import Tensor

from evaluate.prompts.attributes import AttributeBank
from evaluate.prompts.probe_set import Probe
from evaluate.prompts.roles import CLASS

TIMES = 3  # drawings of each pose
SEED = 50_000_000  # far from those of the probes


def reference_probes(values: AttributeBank, class_word: str) -> list[Probe]:
    """What the bare base is asked to draw: every pose TIMES times, all else by lot."""
    random = Random(0)
    rest = values.kinds["backgrounds"] | values.kinds["outfits"]
    poses = values.kinds["poses"]
    probes: list[Probe] = []
    for pose in [*product(*poses.values())] * TIMES:
        asked = dict(zip(poses, pose, strict=True))
        asked |= {part: random.choice(options) for part, options in rest.items()}
        prompt = values.prompt(f"a {class_word}", asked)
        probes.append(Probe(prompt, prompt, SEED + len(probes), CLASS, asked))
    return probes


def training_poses(
    values: AttributeBank, references: list[Probe], similarity: Tensor
) -> dict[str, list[str]]:
    """For each part of a pose the value that each training picture shows.

    Args:
        references: what was drawn.
        similarity: (n, len(references)) of the training poses to the drawn ones.
    """
    nearest = similarity.argmax(1).tolist()
    return {part: [references[i].asked[part] for i in nearest] for part in values.kinds["poses"]}
