"""Pictures -> LoRA files. Knows nothing of scores, sweeps or MLflow."""

import logging

# at its import, bitsandbytes warns that it lacks a 4-bit kernel that nothing here uses
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
