"""The probe set: prompts, seeds, and the attributes that can be asked for."""
