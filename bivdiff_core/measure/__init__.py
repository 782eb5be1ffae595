"""Measures and plots that need no ComfyUI: video metrics, latent statistics, optical flow, video grids, audio cuts."""
