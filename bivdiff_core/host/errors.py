"""The error that this pack raises inside nodes of ComfyUI or of other packs."""


class BIVDiffError(ValueError):
    """Inputs do not fit each other. js/errors.js recognises this class by its name and shows the message."""
