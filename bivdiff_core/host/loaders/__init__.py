"""Loaders of networks that ComfyUI cannot load itself."""
