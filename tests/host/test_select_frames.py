"""Select Frames: the selected frames and their audio, as tensors and in a video saved by a real server."""

import av
import numpy as np
import pytest
import torch
from fixtures.frame_scenarios import random

from research import toy_world
from tools.video_files import write_video

FPS, FRAMES, RATE = 10, 40, 44100
TONE_STARTS = (0.6, 1.7, 2.9)
"""Start times of the tones in the clip's audio, in seconds. Each lasts one frame and has a different pitch."""
PITCHES = (1000, 2000, 4000)


def write_clip(path, seconds: float, channels: int) -> None:
    """Write a clip of ever brighter frames with tones up to a time; 0 channels give no audio."""
    time = np.arange(round(seconds * RATE)) / RATE
    tones = zip(TONE_STARTS, PITCHES, strict=True)
    wave = sum(((time >= at) & (time < at + 1 / FPS)) * np.sin(2 * np.pi * pitch * time) for at, pitch in tones)
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


def read_audio(path) -> np.ndarray:
    """First audio channel of a video, `[samples]`."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].time == 0
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def find_tones(wave: np.ndarray) -> list[tuple[float, int]]:
    """Start time in seconds and pitch of every tone, in order."""
    found = []
    time = np.arange(len(wave)) / RATE
    window = np.ones(441) / 441
    for pitch in PITCHES:
        amplitude = np.abs(np.convolve(wave * np.exp(-2j * np.pi * pitch * time), window, mode="same"))
        if (loud := amplitude > 0.2).any():  # half of the amplitude of a tone of 0.8, as at its start
            found.append((loud.argmax() / RATE, pitch))
    return sorted(found)


@pytest.fixture
def save_selection(server):
    """A function that saves the frames that Select Frames selects from a clip, and returns the video's file."""

    def run(name: str, start: int, stride: int, count: int, seconds: float = FRAMES / FPS, channels: int = 2):
        write_clip(server.base / "input" / f"{name}.mp4", seconds, channels)
        prompt = {
            "clip": ("LoadVideo", {"file": f"{name}.mp4"}),
            "parts": ("GetVideoComponents", {"video": ["clip", 0]}),
            "selected": (
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
            "video": ("CreateVideo", {"images": ["selected", 0], "fps": ["selected", 1], "audio": ["selected", 2]}),
            "file": ("SaveVideo", {"video": ["video", 0], "filename_prefix": name, "format": "mp4", "codec": "h264"}),
        }
        result = server.run({key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in prompt.items()})
        assert not result.error
        (file,) = server.output_files(result.outputs["file"])
        return file

    return run


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("start", "stride", "count"), [(0, 1, 0), (5, 2, 8), (12, 4, 5), (15, 3, 0)])
def test_a_saved_video_has_the_audio_of_its_frames(save_selection, start, stride, count, channels):
    file = save_selection(f"bursts_{channels}", start, stride, count, channels=channels)
    selected = count or len(range(start, FRAMES, stride))
    duration = selected * stride / FPS
    with av.open(str(file)) as container:
        pictures = container.streams.video[0]
        assert pictures.frames == selected and pictures.average_rate == pytest.approx(FPS / stride, rel=1e-3)
        assert container.streams.audio[0].codec_context.channels == channels
    wave = read_audio(file)
    assert len(wave) / RATE == pytest.approx(duration, abs=1024 / RATE)  # AAC has blocks of 1024 samples
    shown = [(at - start / FPS, pitch) for at, pitch in zip(TONE_STARTS, PITCHES, strict=True)]
    expected = [(at, pitch) for at, pitch in shown if 0 <= at < duration]
    assert expected and [pitch for _, pitch in find_tones(wave)] == [pitch for _, pitch in expected]
    for (at, _), (known, _) in zip(find_tones(wave), expected, strict=True):
        assert at == pytest.approx(known, abs=0.005)


def test_shorter_audio_is_extended_to_the_videos_length(save_selection):
    wave = read_audio(save_selection("short", start=10, stride=3, count=8, seconds=2))
    assert len(wave) / RATE == pytest.approx(2.4, abs=1024 / RATE)
    assert [pitch for _, pitch in find_tones(wave)] == [2000]


def test_a_clip_without_audio_has_none(save_selection):
    with av.open(str(save_selection("silent", start=4, stride=2, count=6, channels=0))) as container:
        assert not container.streams.audio and container.streams.video[0].frames == 6


def test_frames_of_the_clip_are_selected(pack):
    images = random(9, 8, 8, 3, seed=1)
    selected, fps, _ = pack.run("BIVDiffSelectFrames", images=images, start=1, stride=3, count=2, fps=24.0)
    assert torch.equal(selected, images[[1, 4]]) and fps == 8.0


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 2)])
def test_the_audio_of_the_selected_frames(pack, shape):
    """1000 samples a second, 10 frames a second: frames 2, 5 and 8 span 0.2 to 1.1 seconds."""
    waveform = random(*shape, 1000, seed=1)
    audio = {"waveform": waveform, "sample_rate": 1000}
    *_, cut = pack.run(
        "BIVDiffSelectFrames", images=torch.zeros(9, 8, 8, 3), start=2, stride=3, count=0, fps=10.0, audio=audio
    )
    assert cut["sample_rate"] == 1000 and cut["waveform"].shape == (*shape, 900)
    assert torch.equal(cut["waveform"][..., :800], waveform[..., 200:])
    assert not cut["waveform"][..., 800:].any()
    assert audio["waveform"] is waveform and waveform.shape[-1] == 1000


def test_no_audio_gives_none(pack):
    *_, cut = pack.run("BIVDiffSelectFrames", images=torch.zeros(9, 8, 8, 3), start=2, stride=3, fps=10.0)
    assert cut is None


@pytest.mark.parametrize(
    ("frames", "settings", "message"),
    [
        (8, {"stride": 2, "count": 5}, "8 frames, which gives 4 from frame 0 on at a stride of 2, expected 5"),
        (8, {"start": 8}, "8 frames, which gives 0 from frame 8 on"),
        (8, {"stride": 4, "count": 3}, "8 frames, which gives 2 from frame 0 on"),
        (8, {"start": 6, "stride": 2, "count": 2}, "8 frames, which gives 1 from frame 6 on"),
        (1, {"count": 8}, "got one picture, expected the frames of a clip"),
    ],
)
def test_frames_beyond_the_clip_are_rejected(pack, frames, settings, message):
    with pytest.raises(ValueError, match=f"^Select Frames: .*{message}"):
        pack.run("BIVDiffSelectFrames", images=torch.zeros(frames, 8, 8, 3), **settings)


@pytest.fixture(scope="module")
def two_shots() -> torch.Tensor:
    """Five frames of one clip and four of another."""
    first, second = (toy_world.generate_clip(seed).frames for seed in toy_world.HELD_OUT_SEEDS[:2])
    return torch.cat([first[:5], second[:4]])


def test_a_cut_in_the_selection_is_named_by_its_frame_in_the_clip(pack, two_shots):
    warned = pack.classes["BIVDiffSelectFrames"].execute(images=two_shots, start=1, stride=2, count=4, fps=8.0).ui
    (text,) = warned["text"]
    assert text.startswith("The whole picture changes at frame 5 of the clip.")
    assert not pack.classes["BIVDiffSelectFrames"].execute(images=two_shots, start=0, stride=1, count=5, fps=8.0).ui


def test_a_clip_is_split_at_its_cut_with_its_sound(pack, two_shots):
    waveform = random(1, 2, 1000, seed=1)
    audio = {"waveform": waveform, "sample_rate": 800}
    shots, rates, sounds = pack.run("BIVDiffSplitAtCuts", images=two_shots, fps=8.0, audio=audio)
    assert [len(shot) for shot in shots] == [5, 4] and torch.equal(torch.cat(shots), two_shots)
    assert rates == [8.0, 8.0]
    assert [sound["waveform"].shape[-1] for sound in sounds] == [500, 400]
    assert torch.equal(torch.cat([sound["waveform"] for sound in sounds], dim=-1), waveform[..., :900])


def test_a_clip_without_cuts_and_sound_stays_whole(pack, two_shots):
    (shot,), rates, sounds = pack.run("BIVDiffSplitAtCuts", images=two_shots[:5], fps=8.0)
    assert torch.equal(shot, two_shots[:5]) and rates == [8.0] and sounds == [None]


def test_the_rest_of_the_graph_runs_once_for_each_shot(server, two_shots):
    write_video(server.base / "input" / "two_shots.mp4", two_shots, sound=True)
    prompt = {
        "clip": ("LoadVideo", {"file": "two_shots.mp4"}),
        "parts": ("GetVideoComponents", {"video": ["clip", 0]}),
        "shots": ("BIVDiffSplitAtCuts", {"images": ["parts", 0], "fps": ["parts", 2], "audio": ["parts", 1]}),
        "compared": (
            "BIVDiffCompareVideos",
            {"before": ["shots", 0], "after": ["shots", 0], "fps": ["shots", 1], "audio": ["shots", 2]},
        ),
    }
    result = server.run({key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in prompt.items()})
    assert not result.error
    shown = result.outputs["compared"]
    assert [len(after) + 1 for _, after in shown["changes"]] == [5, 4] and shown["sound"] == [True, True]
