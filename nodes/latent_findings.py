"""The findings of Inverted Latent Report: problems of a latent, their effects on the video, and the fixes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..bivdiff_core.measure.latent_statistics import find_bad_frames, is_plausible_noise

RAISE_STEPS_ADVICE = "In DDIM Inverse raise steps, or set solver to fireflow."
"""How to bring an inversion closer to white noise.

For a mix, more weight of the whiter branch helps more. Example: a clip of the demo models, 25 steps, ddim. Relative to
white noise, the power of the coarsest band is 2.6 in the video branch, 1.1 in the image branch and 1.6 in an equal mix.
Blend mode frequency brings it to 1.04 but is no fix, because it loses shapes.
"""


@dataclass(frozen=True)
class Finding:
    """A problem of a latent, described for artists.

    Attributes:
        problem: its name.
        observation: the measured figures that show it.
        effect: its effect on the video.
        fixes: controls that fix it.
        is_alarming: whether it raises the alarm: a broken frame, or a latent that is not noise. Latents with other
            problems gave good videos.
    """

    problem: str
    observation: str
    effect: str
    fixes: tuple[str, ...]
    is_alarming: bool = False


def diagnose(measured: dict[str, Tensor], deviations: dict[str, Tensor], branch: str, strength: float) -> list[Finding]:
    """Problems of a latent, those that raise the alarm first; empty if its figures are within their bounds.

    Args:
        measured: from `measure_latent`.
        deviations: from `normalize_deviations`.
        branch: `image`, `video`, `mix`, or empty if unknown.
        strength: below 1 the frames are supposed to show in the noise, and only single bad frames are reported.
    """
    std, spatial, bands = measured["std"].item(), measured["spatial"].item(), measured["bands"].tolist()
    if not branch and strength == 1 and not is_plausible_noise(std, spatial):
        return [
            Finding(
                "not an inverted latent",
                f"its noise std is {std:.2f} and adjacent values correlate at {spatial:.2f}, expected 1 and 0",
                "The smoother must start from noise.",
                (
                    "Encoded frames and empty latents look like this: wire the output of DDIM Inverse or Mixed "
                    "Inversion Blend instead. If this is their output, raise the steps of DDIM Inverse.",
                ),
                is_alarming=True,
            )
        ]
    findings = []
    if bad := find_bad_frames(deviations):
        findings.append(
            Finding(
                "one bad frame" if len(bad) == 1 else f"{len(bad)} bad frames",
                f"unlike the other frames, counted from 0: {', '.join(map(str, bad))}",
                "The video will break there and in the adjacent frames.",
                (
                    "Check the clip before the inversion for a cut, a black frame or a broken frame. Leave that frame "
                    "out with Select Frames, or generate it again with another seed.",
                ),
                is_alarming=True,
            )
        )
    if strength < 1:
        return findings
    if deviations["std"] > 1:
        observation = f"the noise std is {std:.2f}, expected 1"
        fixes: tuple[str, ...] = (RAISE_STEPS_ADVICE,)
        if std > 1:
            effect = "The video may come out harsh, with colours that are too strong."
            findings.append(Finding("too much variance", observation, effect, fixes))
        else:
            if branch == "mix":
                fixes = ("In Mixed Inversion Blend set mode to variance_preserving.", *fixes)
            findings.append(Finding("lost variance", observation, "The video may come out blurred and dull.", fixes))
    if max(deviations["spatial"], deviations["bands"].max()) > 1:
        more_image = () if branch == "image" else ("In Mixed Inversion Blend raise mixing_ratio.",)
        findings.append(
            Finding(
                "structure left in the noise",
                f"adjacent values correlate at {spatial:.2f}, expected 0, and the power from coarse to fine is "
                f"{', '.join(f'{band:.2f}' for band in bands)}, expected 1",
                "Flat areas may smear, and shapes of the source frames show through.",
                (*more_image, RAISE_STEPS_ADVICE),
            )
        )
    return findings


def summarize_findings(findings: list[Finding], strength: float) -> str:
    """The findings in one line."""
    alarming = [finding for finding in findings if finding.is_alarming]
    if alarming:
        return f"Alarm: {', '.join(finding.problem for finding in alarming)}"
    if findings:
        return f"No alarm, but {', '.join(finding.problem for finding in findings)}"
    if strength < 1:
        return f"No bad frames; the inversion stopped at strength {strength:g}"
    return "Healthy: as good as white noise"


def format_findings(findings: list[Finding], branch: str, strength: float) -> str:
    """The findings as text: the problems and their effects, then the fixes, each once."""
    lines = [f"{summarize_findings(findings, strength)}."]
    lines += [f"{found.problem}: {found.observation}. {found.effect}" for found in findings]
    lines += dict.fromkeys(fix for found in findings for fix in found.fixes)
    if strength < 1:
        lines.append(
            "Below a strength of 1 the frames are supposed to show through: only a frame unlike the others is a fault."
        )
    if not branch:
        lines.append(
            "The latent does not say where it comes from: it may come from ComfyUI's Save Latent or be plain noise."
        )
    return "\n".join(lines)
