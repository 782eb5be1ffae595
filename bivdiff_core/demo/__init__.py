"""Tiny models that ship with the pack, and a clip that they know."""
