"""Progress bar and previews of a sampling node."""

import comfy.utils
import latent_preview
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from .comfy_types import Model
from .latents import check_finite, frame_dim


class SamplingProgress:
    """A node's progress bar over one or more runs, in steps times windows. Stops at the first non-finite frame.

    Each step previews the next frame, because ComfyUI's previews are single images. An inversion previews the current
    noisy frame with a caption; other runs preview the denoised prediction.
    """

    def __init__(self, steps: int, is_inversion: bool):
        self.is_inversion = is_inversion
        self.steps = steps
        self.completed_steps = 0
        self.bar = comfy.utils.ProgressBar(steps)

    def start_run(self, model: Model) -> None:
        """Count the following steps after those of the runs before, with previews by this MODEL's latent format."""
        self.first_step = self.completed_steps
        self.window_count = 1
        self.previewer = latent_preview.get_previewer(model.load_device, model.get_model_object("latent_format"))

    def on_window(self, done: int, window_count: int) -> None:
        self.window_count = window_count
        if done < window_count:  # the end of the step reports the last window
            self.bar.update_absolute(self.completed_steps * window_count + done, self.steps * window_count)

    def __call__(self, step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
        check_finite(denoised, self.first_step + step)
        self.completed_steps = self.first_step + step + 1
        preview = self.previewer and self.preview(x if self.is_inversion else denoised, step)
        self.bar.update_absolute(self.completed_steps * self.window_count, self.steps * self.window_count, preview)

    def preview(self, latent: Tensor, step: int) -> tuple[str, Image.Image, int] | None:
        """One frame of a latent, as ComfyUI sends it to the browser: format, image, maximum size in pixels.

        None if the previewer returns none, because it shows its previews itself (VideoHelperSuite).
        """
        dim = frame_dim(latent)
        frame = latent.narrow(dim, step % latent.shape[dim], 1)
        if not self.is_inversion:
            return self.previewer.decode_latent_to_preview_image("JPEG", frame)
        preview = self.previewer.decode_latent_to_preview_image("JPEG", frame / frame.std())
        if preview is None:
            return None
        image_format, image, max_size = preview
        return (
            image_format,
            add_caption_bar(ImageOps.contain(image, (max_size, max_size)), "turning into noise"),
            max_size,
        )


def add_caption_bar(image: Image.Image, text: str) -> Image.Image:
    """Write a line of text over the lower edge of an image, in place, and return the image."""
    width, height = image.size
    bar_height = width // 10
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, height - bar_height, width, height), "black")
    draw.text(
        (width / 2, height - bar_height / 2), text, "white", ImageFont.load_default(bar_height * 0.7), anchor="mm"
    )
    return image
