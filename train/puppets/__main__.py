"""`python -m train.puppets [stage ...]`: draws the world and pretrains everything, in stages."""

import argparse
import importlib
import time

from train.puppets.training import begin_log, log

STAGES = ("autoencoder", "text_encoder", "unet", "clip", "keypoints", "judge", "demo", "gates")


def main() -> None:
    """Runs the stages that are named, or all, in their order."""
    parser = argparse.ArgumentParser(prog="python -m train.puppets", description=__doc__)
    parser.add_argument("stage", nargs="*", default=STAGES, metavar="stage", help=", ".join(STAGES))
    asked = parser.parse_args().stage
    if unknown := set(asked) - set(STAGES):
        parser.error(f"no stage called {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    begin_log()
    for stage in (stage for stage in STAGES if stage in asked):
        log.info("== %s", stage)
        began = time.monotonic()
        importlib.import_module(f"train.puppets.{stage}").run()
        log.info("== %s took %.0f s", stage, time.monotonic() - began)


if __name__ == "__main__":
    main()
