"""The frozen diffusion models that LoRAs are trained on."""
