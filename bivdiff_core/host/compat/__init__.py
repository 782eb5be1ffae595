"""Code that uses private names of ComfyUI and other packs, which may change without notice. Nothing else is here."""
