"""Trials at work: in packs, under rules, within a budget and a disk."""
