"""The probe set: prompts, seeds, and the attributes that prompts can ask for."""
