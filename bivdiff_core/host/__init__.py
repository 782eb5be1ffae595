"""What the method needs from ComfyUI: guiders run over a grid, frames cut into windows, video models wrapped."""
