"""Select Frames: the sound that goes with the frames, as tensors and in a video saved by a real server."""

import av
import numpy as np
import pytest
import torch
from fixtures.frame_scenarios import random

FPS, FRAMES, RATE = 10, 40, 44100
BURSTS = (0.6, 1.7, 2.9)
"""When the clip's sound has a tone, in seconds; each is as long as a frame and at a pitch of its own."""
PITCHES = (1000, 2000, 4000)


def write_clip(path, seconds: float, channels: int) -> None:
    """Frames that grow brighter, and the bursts up to a time; no channels for no sound."""
    time = np.arange(round(seconds * RATE)) / RATE
    bursts = zip(BURSTS, PITCHES, strict=True)
    wave = sum(((time >= at) & (time < at + 1 / FPS)) * np.sin(2 * np.pi * pitch * time) for at, pitch in bursts)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=FPS)
        pictures.height = pictures.width = 64
        layout = ("", "mono", "stereo")[channels]
        track = container.add_stream("aac", rate=RATE, layout=layout) if channels else None
        for i in range(FRAMES):
            frame = np.full((64, 64, 3), 40 + 4 * i, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(pictures.encode())
        if track:
            wave = np.tile(0.8 * wave.astype(np.float32), (channels, 1))
            samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
            samples.sample_rate, samples.pts = RATE, 0
            container.mux(track.encode(samples))
            container.mux(track.encode())


def heard(path) -> np.ndarray:
    """A video's sound `[samples]`, its first channel."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].time == 0
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def bursts_in(wave: np.ndarray) -> list[tuple[float, int]]:
    """When each pitch begins, in seconds."""
    found = []
    time = np.arange(len(wave)) / RATE
    window = np.ones(441) / 441
    for pitch in PITCHES:
        carried = np.abs(np.convolve(wave * np.exp(-2j * np.pi * pitch * time), window, mode="same"))
        if (loud := carried > 0.2).any():  # half of a tone of 0.8: half of the window lies in it
            found.append((loud.argmax() / RATE, pitch))
    return sorted(found)


@pytest.fixture
def saved(server):
    """Saves what Select Frames takes of a clip; the video's file."""

    def run(name: str, start: int, stride: int, count: int, seconds: float = FRAMES / FPS, channels: int = 2):
        write_clip(server.base / "input" / f"{name}.mp4", seconds, channels)
        prompt = {
            "clip": ("LoadVideo", {"file": f"{name}.mp4"}),
            "parts": ("GetVideoComponents", {"video": ["clip", 0]}),
            "taken": (
                "BIVDiffSelectFrames",
                {
                    "images": ["parts", 0],
                    "fps": ["parts", 2],
                    "audio": ["parts", 1],
                    "start": start,
                    "stride": stride,
                    "count": count,
                },
            ),
            "video": ("CreateVideo", {"images": ["taken", 0], "fps": ["taken", 1], "audio": ["taken", 2]}),
            "file": ("SaveVideo", {"video": ["video", 0], "filename_prefix": name, "format": "mp4", "codec": "h264"}),
        }
        ran = server.run({key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in prompt.items()})
        assert not ran.error
        (file,) = server.files(ran.outputs["file"])
        return file

    return run


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("start", "stride", "count"), [(0, 1, 0), (5, 2, 8), (12, 4, 5), (15, 3, 0)])
def test_a_saved_video_has_the_sound_of_its_frames(saved, start, stride, count, channels):
    file = saved(f"bursts_{channels}", start, stride, count, channels=channels)
    taken = count or len(range(start, FRAMES, stride))
    lasts = taken * stride / FPS
    with av.open(str(file)) as container:
        pictures = container.streams.video[0]
        assert pictures.frames == taken and pictures.average_rate == pytest.approx(FPS / stride, rel=1e-3)
        assert container.streams.audio[0].codec_context.channels == channels
    wave = heard(file)
    assert len(wave) / RATE == pytest.approx(lasts, abs=1024 / RATE)  # AAC comes in blocks of 1024
    shown = [(at - start / FPS, pitch) for at, pitch in zip(BURSTS, PITCHES, strict=True)]
    expected = [(at, pitch) for at, pitch in shown if 0 <= at < lasts]
    assert expected and [pitch for _, pitch in bursts_in(wave)] == [pitch for _, pitch in expected]
    for (at, _), (known, _) in zip(bursts_in(wave), expected, strict=True):
        assert at == pytest.approx(known, abs=0.005)


def test_sound_that_ends_sooner_lasts_as_long_as_the_pictures(saved):
    wave = heard(saved("short", start=10, stride=3, count=8, seconds=2))
    assert len(wave) / RATE == pytest.approx(2.4, abs=1024 / RATE)
    assert [pitch for _, pitch in bursts_in(wave)] == [2000]


def test_a_clip_without_sound_stays_silent(saved):
    with av.open(str(saved("silent", start=4, stride=2, count=6, channels=0))) as container:
        assert not container.streams.audio and container.streams.video[0].frames == 6


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 2)])
def test_the_sound_of_the_frames_taken(pack, shape):
    """1000 samples a second, 10 frames a second: frames 2, 5 and 8 stand for 0.2 to 1.1 seconds."""
    waveform = random(*shape, 1000, seed=1)
    audio = {"waveform": waveform, "sample_rate": 1000}
    *_, cut = pack.run(
        "BIVDiffSelectFrames", images=torch.zeros(9, 8, 8, 3), start=2, stride=3, count=0, fps=10.0, audio=audio
    )
    assert cut["sample_rate"] == 1000 and cut["waveform"].shape == (*shape, 900)
    assert torch.equal(cut["waveform"][..., :800], waveform[..., 200:])
    assert not cut["waveform"][..., 800:].any()
    assert audio["waveform"] is waveform and waveform.shape[-1] == 1000


def test_no_sound_gives_none(pack):
    *_, cut = pack.run("BIVDiffSelectFrames", images=torch.zeros(9, 8, 8, 3), start=2, stride=3, fps=10.0)
    assert cut is None


@pytest.mark.parametrize(
    ("frames", "settings", "message"),
    [
        (8, {"stride": 2, "count": 5}, "8 frames, which gives 4 from frame 0 on at a stride of 2, expected 5"),
        (8, {"start": 8}, "gives 0 from frame 8 on"),
        (1, {"count": 8}, "got one picture, expected the frames of a clip"),
    ],
)
def test_frames_that_are_not_there(pack, frames, settings, message):
    with pytest.raises(ValueError, match=message):
        pack.run("BIVDiffSelectFrames", images=torch.zeros(frames, 8, 8, 3), **settings)
