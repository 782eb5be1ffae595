"""Process the clips of a batch, one at a time, with one ComfyUI. Finished clips are not processed again."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

from .clip_reports import DONE, FAILED, AttemptLog, find_valid_report, write_report
from .comfyui_server import ComfyUIServer, ServerError, ServerLostError
from .file_hashes import copy_atomically, hash_file, hash_record, writing_results
from .records import Batch, BatchClip, BatchError
from .saved_workflow import (
    apply_seeds,
    apply_settings,
    check_one_clip,
    convert_workflow,
    find_text_inputs,
    node_title,
    texts_by_title,
)

FIXED_FILE_TIMES = (0, 0)  # SaveVideo writes the input's time into the file; equal clips must give equal bytes


class ClipError(RuntimeError):
    """A clip cannot be processed because of its content."""


class ClipRunner:
    """Processes clips with one ComfyUI, which is started for the first clip and restarted if it is lost."""

    def __init__(self, batch: Batch, base: Path, on_stage: Callable[[str], None]) -> None:
        self.batch = batch
        self.base = base
        self.on_stage = on_stage
        self._server: ComfyUIServer | None = None
        self._closed = False
        self._prompt: dict = {}
        self._text_inputs: set[tuple[str, str]] = set()

    def process_clip(self, clip: BatchClip) -> dict:
        """Return the report of a clip: an earlier one if it is up to date, else that of a new run."""
        if report := find_valid_report(self.batch, clip):
            return report
        attempts = AttemptLog(self.batch, clip)
        result: dict = {"status": FAILED}
        try:
            copy, result["hash"] = self._copy_clip(clip)
            result |= self._run_attempts(clip, copy, result["hash"], attempts)
        except OSError as error:  # the clip cannot be read, or the disk with this worker's folder is full
            result["error"] = f"{error.strerror}; the clip is {clip.path}, the worker's folder {self.base}"
        except ClipError as error:
            result["error"] = str(error)
        except (BatchError, ServerError):
            attempts.remove()  # not the clip's fault: ComfyUI rejects the workflow, or OUT is full
            raise
        if self._closed and result["status"] == FAILED:  # `close` has removed ComfyUI and the folder under it
            raise BatchError("The worker was stopped.")
        report = {
            "clip": clip.name,
            "status": result["status"],
            "error": result.get("error", ""),
            "warning": result.get("warning", ""),
            "video": result.get("video", ""),
            "seeds": result.get("seeds", {}),
            "prompts": result.get("prompts", {}),
            "figures": result.get("figures", {}),
            "seconds": result.get("seconds", 0.0),
            "attempts": attempts.count,
            "where": f"{socket.gethostname()}, process {os.getpid()}",
            "run": self.batch.run,
            "hashes": {"clip": result.get("hash", ""), "video": result.get("video_hash", ""), **self.batch.hashes},
        }
        write_report(self.batch, clip, report)
        attempts.remove()
        return report

    def _copy_clip(self, clip: BatchClip) -> tuple[Path, str]:
        """Copy a clip to ComfyUI's input folder and hash the copy, since the clip may change while it is processed."""
        folder = self.base / "input"
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"clip{Path(clip.path).suffix}"
        shutil.copyfile(clip.path, copy)
        os.utime(copy, FIXED_FILE_TIMES)
        clip_hash = hash_file(copy)
        # Named by content: clips of the same name do not collide, and another attempt is the same prompt.
        return copy.replace(folder / f"{clip_hash[:16]}{copy.suffix}"), clip_hash

    def _run_attempts(self, clip: BatchClip, copy: Path, clip_hash: str, attempts: AttemptLog) -> dict:
        """Run a clip until it is done; raise `ClipError` if its content is at fault or its attempts are used up."""
        cause = "the worker died"
        try:
            while attempts.count < self.batch.attempts:
                self._start()
                attempts.record()
                started = time.monotonic()
                try:
                    done = self._run_clip(clip, copy, clip_hash)
                    return {"status": DONE, "seconds": round(time.monotonic() - started, 2), **done}
                except ServerLostError as error:
                    if self._closed:
                        break
                    cause = str(error)
                    self._server.stop(timeout=0)
        finally:
            copy.unlink(missing_ok=True)
        raise ClipError(f"given up after {attempts.count} attempts: {cause}")

    def close(self) -> None:
        """Stop ComfyUI, even during a clip of another thread, and remove its folder."""
        self._closed = True
        if self._server:
            self._server.stop(timeout=5)
        shutil.rmtree(self.base, ignore_errors=True)

    def _start(self) -> None:
        """Start ComfyUI unless it runs, and prepare it for the workflow unless that was done."""
        if not (self._server and self._server.is_alive()):
            self._start_comfyui()
        if not self._prompt:
            self._prepare()

    def _start_comfyui(self) -> None:
        self.on_stage("starting ComfyUI")
        extra_packs = self.batch.extra_packs
        self._server = ComfyUIServer(
            self.batch.python,
            Path(self.batch.comfyui),
            self.base,
            self.batch.cpu,
            self.batch.start_timeout,
            extra_packs=None if extra_packs is None else list(map(Path, extra_packs)),
            arguments=self.batch.arguments,
        )
        try:
            self._server.__enter__()
        except ServerError:
            if not self._prompt:
                raise
            # It has started before, so this may be temporary: it counts as an attempt.

    def _prepare(self) -> None:
        """Convert the workflow with the schemas of ComfyUI's nodes, and copy the input files that it names."""
        info = self._server.object_info()
        prompt = convert_workflow(self.batch.workflow, info, seed=self.batch.hashes["workflow"])
        check_one_clip([node["class_type"] for node in prompt.values()])
        apply_settings(prompt, self.batch.settings)  # raises on settings that do not match the workflow
        for name, path in self.batch.inputs.items():
            input_path = self.base / "input" / name
            input_path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, input_path)
        self._prompt, self._text_inputs = prompt, find_text_inputs(info)

    def _run_clip(self, clip: BatchClip, copy: Path, clip_hash: str) -> dict:
        """Queue the prompt of a clip, copy its video to the results, and return the report's entries about it."""
        prompt, seeds = apply_seeds(self._prompt, clip_hash) if self.batch.seed == "per-clip" else (self._prompt, {})
        prompt = apply_settings(prompt, self.batch.settings)
        by_type = {node["class_type"]: key for key, node in prompt.items()}
        prompt[by_type["LoadVideo"]]["inputs"]["file"] = copy.name
        # Depends on the name too: otherwise ComfyUI would not save again for another clip of the same content.
        prompt[by_type["SaveVideo"]]["inputs"]["filename_prefix"] = hash_record([clip.name, clip_hash])[:16]
        titles = {key: node_title(node) for key, node in prompt.items()}

        def on_event(event: str, content: dict) -> None:
            if event == "executing" and content["node"]:
                self.on_stage(titles[content["node"]])
            elif event == "progress":
                self.on_stage(f"{titles[content['node']]} {content['value']}/{content['max']}")

        try:
            result = self._server.run(prompt, on_event, self.batch.timeout)
            if result.error or result.interrupted:
                raise ClipError(result.error.replace(str(copy), clip.path) or "ComfyUI was interrupted")
            saved = self._server.output_files(result.outputs.get(by_type["SaveVideo"], {}))
            if len(saved) != 1 or not saved[0].is_file():
                raise ClipError(f"Save Video wrote {len(saved)} files, expected one")
            name = clip.name if Path(clip.name).suffix == saved[0].suffix else clip.name + saved[0].suffix
            with writing_results(self.batch.out):
                copy_atomically(saved[0], Path(self.batch.out, name))
            video_hash = hash_file(saved[0])
        finally:
            for folder in ("output", "temp"):
                shutil.rmtree(self.base / folder, ignore_errors=True)
        return {
            "video": name,
            "video_hash": video_hash,
            "warning": find_warning(copy),
            "seeds": seeds,
            "prompts": texts_by_title(prompt, self._text_inputs),
            "figures": {
                titles[key]: read_figures(output) for key, output in result.outputs.items() if read_figures(output)
            },
        }


def find_warning(clip: Path) -> str:
    """Return a warning about a clip that Load Video misreads without an error, or ""."""
    import av

    try:
        with av.open(str(clip)) as container:
            ratio = container.streams.video[0].sample_aspect_ratio
    except (av.FFmpegError, IndexError):  # Load Video decides whether this is a video
        return ""
    if not ratio or ratio == 1:
        return ""
    return (
        f"its pixels are not square ({ratio.numerator}:{ratio.denominator}), which Load Video ignores, so the picture "
        "is distorted: convert it first, for example with ffmpeg -vf scale=iw*sar:ih,setsar=1"
    )


def read_figures(output: dict) -> dict:
    """Return the texts and numbers in a node's entry of ``PromptResult.outputs``."""
    return {
        name: values
        for name, values in output.items()
        if name != "animated" and not any(isinstance(value, dict) for value in values)
    }
