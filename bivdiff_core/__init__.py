"""BIVDiff's method (arXiv 2312.02813) in plain torch; only `host` imports ComfyUI."""
