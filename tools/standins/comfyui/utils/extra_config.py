"""The stand-in for ComfyUI searches no further folders."""


def load_extra_path_config(path: str) -> None:
    raise NotImplementedError
