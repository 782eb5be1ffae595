"""What is measured and shown, without ComfyUI: videos, latents, optical flow, plots, picture grids, audio cuts."""
