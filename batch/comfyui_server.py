"""A ComfyUI server, and a client for it.

The batch, the tools and the tests use it. Starting a server needs only the standard library; running a prompt needs
aiohttp, which ComfyUI has.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

ROOT = Path(__file__).resolve().parents[1]
MAX_PORT_ATTEMPTS = 5
START_TIMEOUT = 180.0
REQUEST_TIMEOUT = 60.0
SILENT_SECONDS = 30.0
"""Without a message for this long, ask the server whether it still has the prompt."""
PROGRESS_TEXT_EVENT = 3
"""Type of ComfyUI's binary message with text that a node shows while it runs."""

# Requests to 127.0.0.1 must not go through a proxy.
_open_without_proxy = build_opener(ProxyHandler({})).open


class ServerError(RuntimeError):
    """The server did not start, rejected a prompt or failed while it ran one."""


class ServerLostError(ServerError):
    """The server died or did not answer in time while it ran a prompt."""


@dataclass
class PromptResult:
    """Result of a prompt: the nodes that ran, in order, and the outputs of the output nodes."""

    prompt_id: str
    executed: list[str] = field(default_factory=list)
    interrupted: bool = False
    error: str = ""
    outputs: dict[str, dict] = field(default_factory=dict)


def find_free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def build_server_command(
    python: str | Path,
    comfyui: Path,
    base: Path,
    port: int,
    cpu: bool,
    pack: Path = ROOT,
    extra_packs: Iterable[Path] | None = (),
    arguments: Iterable[str] | None = None,
) -> list[str]:
    """Return the command line of a ComfyUI.

    Args:
        base: folder of its input, output, temporary and user folders.
        pack: folder of this pack, or of a copy.
        extra_packs: folders of custom nodes to load besides the pack. None: all packs that ComfyUI finds itself.
        arguments: arguments of an installed ComfyUI, which runs with all its models. None: a ComfyUI for a test, whose
            models are the demo LoRA and those of ``base`` and ``comfyui``.
    """
    for folder in ("custom_nodes", "input", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    command = [str(python), str(comfyui / "main.py")]
    folders: dict[str, list[Path]] = {}
    if arguments is None:
        command += ["--disable-api-nodes", "--base-directory", str(base)]
        # Like --models-directory, which older ComfyUIs do not have.
        folders |= {folder.name: [folder] for folder in sorted((comfyui / "models").glob("*")) if folder.is_dir()}
        folders.setdefault("loras", []).append(pack / "bivdiff_core" / "demo" / "weights" / "loras")
    else:
        # Not --base-directory: a loader of another pack that does not find its models downloads them.
        command += [*arguments, "--input-directory", str(base / "input"), "--output-directory", str(base / "output")]
        command += ["--temp-directory", str(base), "--user-directory", str(base / "user")]
    if extra_packs is not None:
        # A search path instead of a link in custom_nodes: on Windows only administrators can create links.
        packs = {pack.name: pack.parent}
        packs |= {entry.name: folder for folder in extra_packs if folder.is_dir() for entry in folder.iterdir()}
        folders["custom_nodes"] = list(dict.fromkeys(packs.values()))
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", *packs]
    if folders:
        search_paths = base / "search_paths.yaml"
        lines = [f"  {name}: " + json.dumps("\n".join(map(str, paths))) for name, paths in folders.items()]
        search_paths.write_text("\n".join(["bivdiff:", *lines, ""]), encoding="utf-8")
        command += ["--extra-model-paths-config", str(search_paths)]
    command += ["--port", str(port), "--database-url", "sqlite:///:memory:"]
    return [*command, "--cpu"] if cpu else command


class ComfyUIServer:
    """A ComfyUI on a free port of 127.0.0.1, for a ``with`` block; its log is ``base / "server.log"``.

    It ends with this process, even if this process is killed. ``options`` are those of `build_server_command`.
    """

    def __init__(
        self,
        python: str | Path,
        comfyui: Path,
        base: Path,
        cpu: bool,
        start_timeout: float = START_TIMEOUT,
        **options: Any,
    ) -> None:
        self.base = base
        self.start_timeout = start_timeout
        self._is_late = False
        self._process: subprocess.Popen[bytes] | None = None
        self._command = partial(build_server_command, python, comfyui, base, cpu=cpu, **options)

    def __enter__(self) -> ComfyUIServer:
        for _ in range(MAX_PORT_ATTEMPTS):
            self.port = find_free_port()
            if self._start():
                return self
            if "already in use" not in self.log:  # another process can take the port before ComfyUI does
                break
        late = f" within {self.start_timeout:g} s" if self._is_late else ""
        raise ServerError(
            f"ComfyUI did not start{late}: {self.last_log_line()} The whole log is {self.base / 'server.log'}."
        )

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> bool:
        """Start the process and wait until it answers; return False if it does not."""
        python, *command = self._command(port=self.port)
        with open(self.base / "server.log", "wb") as log:
            self._process = subprocess.Popen(
                [python, Path(__file__).with_name("exit_with_parent.py"), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.base,
            )
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline and self.is_alive():
            try:
                if str(self.base) in self.request("/system_stats")["system"]["argv"]:
                    return True
            except OSError:
                pass
            time.sleep(0.2)
        self._is_late = self.is_alive()
        self.stop()
        return False

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout: float = 15) -> None:
        """Terminate the process; kill it after ``timeout`` seconds."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdin.close()

    @property
    def log(self) -> str:
        """The server's output so far."""
        return (self.base / "server.log").read_text(encoding="utf-8", errors="replace")

    def last_log_line(self) -> str:
        """Return the last line of the log, which names the error if the process has died."""
        return next((line for line in reversed(self.log.splitlines()) if line.strip()), "it printed nothing.")

    def request(self, path: str, body: dict | None = None, timeout: float = REQUEST_TIMEOUT) -> dict:
        """Return the JSON answer to a GET of ``path``, or to a POST if ``body`` is given."""
        content = None if body is None else json.dumps(body).encode()
        request = Request(
            f"http://127.0.0.1:{self.port}{path}", data=content, headers={"Content-Type": "application/json"}
        )
        with _open_without_proxy(request, timeout=timeout) as answer:
            return json.loads(answer.read() or b"{}")

    def object_info(self) -> dict:
        """Return the schemas of all nodes, as the frontend receives them."""
        return self.request("/object_info", timeout=self.start_timeout)  # it lists the files of all model folders

    def interrupt(self) -> None:
        """Interrupt the running prompt."""
        self.request("/interrupt", {})

    def run(
        self,
        prompt: dict,
        on_event: Callable[[str, dict], None] = lambda event, content: None,
        timeout: float | None = None,
    ) -> PromptResult:
        """Queue a prompt in API format and wait until it ends.

        Args:
            prompt: in API format.
            on_event: called with the event ("executing", "progress", ...) and content of each server message; text that
                a node shows while it runs is a "progress_text".
            timeout: seconds.

        Returns:
            The result. An error inside a node is in ``PromptResult.error``.

        Raises:
            ServerLostError: the server died, stopped answering, lost the prompt, or did not finish within ``timeout``.
            ServerError: the prompt failed validation.
        """
        import aiohttp

        async def run_in_time() -> PromptResult:
            # A task of its own, so that a TimeoutError is the time limit and not that of a request.
            task = asyncio.ensure_future(self._run(prompt, on_event))
            ended, _ = await asyncio.wait([task], timeout=timeout)
            if not ended:
                task.cancel()
                raise ServerLostError(f"there was no result within {timeout:g} s")
            return task.result()

        try:
            return asyncio.run(run_in_time())
        except HTTPError as rejection:
            raise ServerError(_format_rejection(json.loads(rejection.read()))) from None
        except (OSError, aiohttp.ClientError):
            raise ServerLostError(self._describe_lost_server()) from None

    async def _run(self, prompt: dict, on_event: Callable[[str, dict], None]) -> PromptResult:
        import aiohttp

        client = uuid.uuid4().hex
        url = f"ws://127.0.0.1:{self.port}/ws?clientId={client}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as messages:
            queued = self.request("/prompt", {"prompt": prompt, "client_id": client}, self.start_timeout)
            result = PromptResult(queued["prompt_id"])
            while True:
                try:
                    message = await messages.receive(timeout=SILENT_SECONDS)
                except asyncio.TimeoutError:
                    if self._has_ended(result.prompt_id):  # its last message was lost
                        break
                    continue
                if message.type == aiohttp.WSMsgType.BINARY:
                    if int.from_bytes(message.data[:4], "big") == PROGRESS_TEXT_EVENT:
                        on_event("progress_text", _progress_text(message.data[4:]))
                    continue  # a preview image
                if message.type != aiohttp.WSMsgType.TEXT:
                    raise ConnectionError("the server has closed the connection")
                event, content = (parsed := json.loads(message.data))["type"], parsed["data"]
                if content.get("prompt_id") != result.prompt_id:
                    continue
                on_event(event, content)
                if event == "executing" and content["node"] is None:
                    break
                if event == "executing":
                    result.executed.append(content["node"])
        entry = self.request(f"/history/{result.prompt_id}")[result.prompt_id]
        result.outputs = entry["outputs"]
        for event, content in entry["status"]["messages"]:
            if event == "execution_error":
                result.error = content["exception_message"].strip()
            elif event == "execution_interrupted":
                result.interrupted = True
        return result

    def _has_ended(self, prompt_id: str) -> bool:
        """Whether a prompt has left the queue for the history.

        Raises:
            OSError: the server does not answer.
            ServerLostError: the prompt is neither in the queue nor in the history.
        """
        queue = self.request("/queue", timeout=self.start_timeout)
        if prompt_id in [entry[1] for entries in queue.values() for entry in entries]:
            return False
        if prompt_id in self.request(f"/history/{prompt_id}"):
            return True
        raise ServerLostError("ComfyUI's queue no longer contains the prompt: another program has removed it")

    def _describe_lost_server(self) -> str:
        """Describe why the connection was lost. It closes before the process ends, so wait for the process."""
        try:
            status = f"ended with status {self._process.wait(5)}"
        except subprocess.TimeoutExpired:
            status = "closed its connection"
        return f"ComfyUI {status}; the last line of its log: {self.last_log_line()}"

    def output_files(self, output: dict) -> list[Path]:
        """Return the files in a save or preview node's entry of ``PromptResult.outputs``."""
        return [
            self.base / file["type"] / file["subfolder"] / file["filename"]
            for entries in output.values()
            for file in entries
            if isinstance(file, dict)
        ]


def _progress_text(message: bytes) -> dict:
    """Parse the server's binary message: the length of the node's id, the id, and the text."""
    length = int.from_bytes(message[:4], "big")
    return {"node": message[4 : 4 + length].decode(), "text": message[4 + length :].decode()}


def _format_rejection(answer: dict) -> str:
    """Format the server's answer to a rejected prompt as one line."""
    reasons = [f"{answer['error']['message']}: {answer['error']['details']}".rstrip(": ")]
    for node in answer["node_errors"].values():
        reasons += [f"{node['class_type']}: {error['message']}: {error['details']}" for error in node["errors"]]
    return "; ".join(reasons)
