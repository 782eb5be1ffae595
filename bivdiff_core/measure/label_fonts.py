"""A font for labels, which may be in any script."""

from pathlib import Path


def default_font() -> Path:
    """The file of DejaVu Sans, which comes with matplotlib."""
    from matplotlib import font_manager

    return Path(font_manager.findfont("DejaVu Sans"))


def find_font(text: str) -> Path | None:
    """The file of the first font with all characters of a text: `default_font`, else an installed one.

    None if no font has them.
    """
    from matplotlib import font_manager

    needed = {ord(character) for character in text if not character.isspace()}
    # matplotlib's Last Resort has a box for every character.
    installed = [font for font in font_manager.fontManager.ttflist if not font.name.startswith("Last Resort")]
    regular_first = sorted(installed, key=lambda font: (font.style, font.weight) != ("normal", 400))
    for path in dict.fromkeys([default_font(), *(Path(font.fname) for font in regular_first)]):
        try:
            font = font_manager.get_font(path)
        except (OSError, RuntimeError):  # removed since matplotlib made its list, or damaged
            continue
        if font.scalable and needed <= set(font.get_charmap()):
            return path
    return None
