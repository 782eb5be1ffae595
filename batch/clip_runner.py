"""Process the clips of a batch, one at a time, with one ComfyUI. Finished clips are not processed again."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from comfy_cli.workflow_to_api import convert_ui_to_api

from batch.clip_reports import DONE, FAILED, AttemptLog, find_valid_report, write_report
from batch.comfyui_server import ComfyUIServer, ServerError, ServerLostError
from batch.file_hashes import copy_atomically, hash_file, hash_record
from batch.records import Batch, BatchClip
from batch.saved_workflow import apply_seeds, apply_settings, check_one_clip, node_title

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

    def process_clip(self, clip: BatchClip) -> dict:
        """Return the report of a clip: an earlier one if it is up to date, else that of a new run."""
        if report := find_valid_report(self.batch, clip):
            return report
        attempts = AttemptLog(self.batch, clip)
        try:
            clip_hash = hash_file(clip.path)
        except OSError as error:
            clip_hash, result = "", {"status": FAILED, "error": f"{clip.path} cannot be read: {error.strerror}"}
        else:
            result = self._run_attempts(clip, clip_hash, attempts)
        report = {
            "clip": clip.name,
            "status": result["status"],
            "error": result.get("error", ""),
            "video": result.get("video", ""),
            "seeds": result.get("seeds", {}),
            "figures": result.get("figures", {}),
            "seconds": result.get("seconds", 0.0),
            "attempts": attempts.count(),
            "where": f"{socket.gethostname()}, process {os.getpid()}",
            "run": self.batch.run,
            "hashes": {"clip": clip_hash, "video": result.get("video_hash", ""), **self.batch.hashes},
        }
        write_report(self.batch, clip, report)
        attempts.remove()
        return report

    def _run_attempts(self, clip: BatchClip, clip_hash: str, attempts: AttemptLog) -> dict:
        """Run a clip until it is done, fails because of its content, or has used up its attempts."""
        cause = "the worker died"
        while attempts.count() < self.batch.attempts:
            self._start()
            attempts.record()
            started = time.monotonic()
            try:
                done = self._run_clip(clip, clip_hash)
                return {"status": DONE, "seconds": round(time.monotonic() - started, 2), **done}
            except ClipError as error:
                return {"status": FAILED, "error": str(error)}
            except ServerLostError as error:
                if self._closed:
                    raise
                cause = str(error)
                self._server.stop(timeout=0)
            except ServerError:
                attempts.remove()  # not the clip's fault: ComfyUI rejects the workflow
                raise
        return {"status": FAILED, "error": f"given up after {attempts.count()} attempts: {cause}"}

    def close(self) -> None:
        """Stop ComfyUI, even during a clip of another thread, and remove its folder."""
        self._closed = True
        if self._server:
            self._server.stop(timeout=5)
        shutil.rmtree(self.base, ignore_errors=True)

    def _start(self) -> None:
        if self._server and self._server.is_alive():
            return
        self.on_stage("starting ComfyUI")
        comfyui = Path(self.batch.comfyui)
        self._server = ComfyUIServer(
            self.batch.python, comfyui, self.base, self.batch.cpu, extra_packs=comfyui / "custom_nodes"
        )
        if self._prompt:  # it has started before, so a failure to restart may be temporary
            with suppress(ServerError):
                self._server.__enter__()
                return
        self._server.__enter__()
        prompt = convert_ui_to_api(self.batch.workflow, self._server.object_info())
        check_one_clip([node["class_type"] for node in prompt.values()])
        apply_settings(prompt, self.batch.settings)  # raises on settings that do not match the workflow
        for name, path in self.batch.inputs.items():
            input_path = self.base / "input" / name
            input_path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, input_path)
        self._prompt = prompt

    def _run_clip(self, clip: BatchClip, clip_hash: str) -> dict:
        """Queue the prompt of a clip, copy its video to the results, and return the report's entries about it."""
        # Named by content: clips of the same name do not collide, and another attempt is the same prompt.
        input_path = self.base / "input" / f"{clip_hash[:16]}{Path(clip.path).suffix}"
        shutil.copyfile(clip.path, input_path)
        os.utime(input_path, FIXED_FILE_TIMES)
        prompt, seeds = apply_seeds(self._prompt, clip_hash) if self.batch.seed == "per-clip" else (self._prompt, {})
        prompt = apply_settings(prompt, self.batch.settings)
        by_type = {node["class_type"]: key for key, node in prompt.items()}
        prompt[by_type["LoadVideo"]]["inputs"]["file"] = input_path.name
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
                raise ClipError(result.error.replace(str(input_path), clip.path) or "ComfyUI was interrupted")
            saved = self._server.output_files(result.outputs.get(by_type["SaveVideo"], {}))
            if len(saved) != 1:
                raise ClipError(f"Save Video wrote {len(saved)} files, expected one")
            name = clip.name if Path(clip.name).suffix == saved[0].suffix else clip.name + saved[0].suffix
            video = Path(self.batch.out, name)
            copy_atomically(saved[0], video)
        finally:
            input_path.unlink()
            for folder in ("output", "temp"):
                shutil.rmtree(self.base / folder, ignore_errors=True)
        figures = {titles[key]: read_figures(output) for key, output in result.outputs.items() if read_figures(output)}
        return {"video": name, "video_hash": hash_file(video), "seeds": seeds, "figures": figures}


def read_figures(output: dict) -> dict:
    """Return the texts and numbers in a node's entry of ``PromptResult.outputs``."""
    return {
        name: values
        for name, values in output.items()
        if name != "animated" and not any(isinstance(value, dict) for value in values)
    }
