"""Contact sheets: videos as rows of frames, with their names on the left and a title above."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

GAP = 4


def make_contact_sheet(videos: Mapping[str, Tensor], tile: int, label: int = 0, title: str = "") -> Image.Image:
    """Make a contact sheet with a row of frames for each video.

    Args:
        videos: frames `[F, H, W, 3]` in 0..1, by name.
        tile: width and height of a frame including the gap around it, in pixels.
        label: width of the names in pixels; 0 shows no names.
    """
    top = tile // 4 if title else 0
    size = label + max(map(len, videos.values())) * tile, top + len(videos) * tile
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(max(tile // 8, 11))
    draw.text((label, top / 2), title, "black", font, anchor="lm")
    for row, (name, frames) in enumerate(videos.items()):
        y = top + row * tile
        if label:
            draw.text((GAP, y + tile / 2), name, "black", font, anchor="lm")
        for column, frame in enumerate(frames):
            sheet.paste(resize_to_square(frame, tile - GAP), (label + column * tile + GAP // 2, y + GAP // 2))
    return sheet


def resize_to_square(frame: Tensor, size: int) -> Image.Image:
    """A frame `[H, W, 3]` as a square picture."""
    return to_pil_image(frame.clamp(0, 1).movedim(-1, 0)).resize((size, size), Image.Resampling.BICUBIC)
