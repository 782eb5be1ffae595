"""What a node shows while it runs."""

import comfy.utils
import latent_preview
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from .comfy_types import Model
from .latents import check_finite, frame_dim


class SamplingProgress:
    """A node's bar, in steps times windows; stops the run on the first non-finite frame.

    Every step previews the next frame, so that the run shows them all: the host's previews are single pictures.
    An inversion previews the frame as it is by now, and says that it is to be noise; other runs what it is to become.
    """

    def __init__(self, model: Model, steps: int, inverts: bool):
        self.inverts = inverts
        self.steps = steps
        self.done = 0
        self.windows = 1
        self.previewer = latent_preview.get_previewer(model.load_device, model.get_model_object("latent_format"))
        self.bar = comfy.utils.ProgressBar(steps)

    def on_window(self, done: int, windows: int) -> None:
        self.windows = windows
        if done < windows:  # the last one is the step's own report
            self.bar.update_absolute(self.done * windows + done, self.steps * windows)

    def __call__(self, step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
        check_finite(denoised, step)
        self.done = step + 1
        preview = self.previewer and self.preview(x if self.inverts else denoised, step)
        self.bar.update_absolute(self.done * self.windows, steps * self.windows, preview)

    def preview(self, latent: Tensor, step: int) -> tuple[str, Image.Image, int]:
        """A frame of a latent as the host sends it to the browser."""
        dim = frame_dim(latent)
        frame = latent.narrow(dim, step % latent.shape[dim], 1)
        if not self.inverts:
            return self.previewer.decode_latent_to_preview_image("JPEG", frame)
        form, picture, side = self.previewer.decode_latent_to_preview_image("JPEG", frame / frame.std())
        return form, add_caption_bar(ImageOps.contain(picture, (side, side)), "turning into noise"), side


def add_caption_bar(picture: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text over its lower edge."""
    width, height = picture.size
    line = width // 10
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, height - line, width, height), "black")
    draw.text((width / 2, height - line / 2), text, "white", ImageFont.load_default(line * 0.7), anchor="mm")
    return picture
