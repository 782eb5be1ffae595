"""Tiny models that ship with the pack, and a demo clip for them."""
