"""Do frames drawn one by one disagree in the toy world as they do on real footage?

    python benchmarks/disagreement.py [--clips 8]

On held-out clips, easy and hard, drawn frame by frame under the ControlNet by the demo's image model: how much of their
sharpness is left when neighbours are averaged, three at their place or all within reach 3 along the motion, beside what
is left of the clip itself under the same averages. A clip that loses little while its frames lose much shows that it is
disagreement and not noise. Prints a table and writes a contact sheet, output/disagreement.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from bivdiff_core.demo import world  # noqa: E402
from bivdiff_core.flow import average_along  # noqa: E402
from tools import measure  # noqa: E402
from tools.chain import Chain, average_of_three, start  # noqa: E402

OUTPUT = ROOT / "output"
REACH = 3
STRENGTH = 0.5
SEED = 0
AIMS = {
    "source, three": "at least .9",
    "source, along": "at least .9",
    "frames, three": "at most .7",
    "frames, along": "at most .6",
    "frames' overlap": "at least .90",
    "frames' caption": "at least .93",
    "video model": "at least .9",
}
"""For hard clips; sharpness kept, but for overlap and caption."""


def measured(chain: Chain, clip: world.Clip) -> tuple[dict[str, float | None], list[Tensor]]:
    """The figures of a clip, and its rows of the contact sheet."""
    sharpness, source, positive = measure.sharpness, clip.frames, chain.encode_text(clip.caption)
    drawn = chain.draw(*chain.outlined(source, positive), chain.nothing(len(source)), SEED)
    frames = chain.decode(drawn)
    latent = chain.encode(source)
    again = chain.decode(chain.smooth(chain.invert_video(latent, positive, STRENGTH), positive))
    averages = {}
    for name, video in (("source", source), ("frames", frames)):
        averages[f"{name}, three"] = average_of_three(video)
        averages[f"{name}, along"] = average_along(video, source, REACH)[0]
    of = {"source": sharpness(source), "frames": sharpness(frames)}
    kept = {name: sharpness(video) / of[name.partition(",")[0]] for name, video in averages.items()}
    figures = kept | {
        "frames' overlap": measure.structure_iou(frames, clip),
        "frames' caption": measure.caption_accuracy(frames, clip),
        "video model": sharpness(again) / sharpness(chain.decode(latent)),
    }
    return figures, [source, frames, averages["frames, three"], averages["frames, along"], again]


def main() -> None:
    """Measure easy and hard clips, print the table and write the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=8, help="how many held-out clips of each kind")
    count = parser.parse_args().clips
    chain = Chain(start())
    kinds = {"easy": lambda clip: clip, "hard": world.harder}
    table, sheet = {}, []
    for kind, make in kinds.items():
        results = []
        for seed in tqdm(world.HELD_OUT_SEEDS[:count], desc=f"{kind} clips"):
            figures, rows = measured(chain, make(world.make_clip(seed)))
            results.append(figures)
            if kind == "hard":
                sheet.append(torch.cat([torch.cat(list(row[[0, 3, 4]]), dim=1) for row in rows], dim=1))
        table[kind] = {name: mean(row[name] for row in results if row[name] is not None) for name in AIMS}
    lines = ["| | easy | hard | aim |", "| --- | ---: | ---: | --- |"]
    lines += [f"| {name} | {table['easy'][name]:.2f} | {table['hard'][name]:.2f} | {AIMS[name]} |" for name in AIMS]
    print("\n".join(lines))
    pixels = (torch.cat(sheet).clamp(0, 1) * 255).round().byte().numpy()
    OUTPUT.mkdir(exist_ok=True)
    picture = Image.fromarray(pixels)
    twice = (2 * picture.width, 2 * picture.height)
    picture.resize(twice, Image.Resampling.NEAREST).save(OUTPUT / "disagreement.png")


if __name__ == "__main__":
    main()
