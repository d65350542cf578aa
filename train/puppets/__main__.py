"""`python -m train.puppets [stage ...]`: draws the world and pretrains all networks, in stages."""

import argparse
import importlib

from train.puppets.networks.training import logged

STAGES = {
    "autoencoder": "networks.autoencoder",
    "text_encoder": "networks.text_encoder",
    "unet": "networks.unet",
    "clip": "networks.clip",
    "keypoints": "networks.keypoints",
    "judge": "networks.judge",
    "demo": "demo",
    "gates": "networks.gates",
}


def main() -> None:
    """Runs the given stages, or all, in order."""
    parser = argparse.ArgumentParser(prog="python -m train.puppets", description=__doc__)
    parser.add_argument(
        "stage", nargs="*", default=list(STAGES), metavar="stage", help=", ".join(STAGES)
    )
    selected = parser.parse_args().stage
    if unknown := set(selected) - STAGES.keys():
        parser.error(f"no stage called {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    for stage in (stage for stage in STAGES if stage in selected):
        with logged(stage):
            importlib.import_module(f"train.puppets.{STAGES[stage]}").run()


if __name__ == "__main__":
    main()
