"""The study that workers share: its storage, its trials, who is at which."""
