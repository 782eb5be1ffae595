"""The error by which the page knows this pack inside a node that is not of this pack."""


class BIVDiffError(ValueError):
    """Something does not fit. js/errors.js shows it on the page, by the name of this class."""
