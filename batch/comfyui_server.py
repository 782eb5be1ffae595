"""A ComfyUI server with this pack as its only custom node, and a client for it.

The batch, the tools and the tests use it. Starting a server needs only the standard library; running a prompt needs
websocket-client.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

ROOT = Path(__file__).resolve().parents[1]
MAX_PORT_ATTEMPTS = 5
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
    extra_packs: Path | None = None,
) -> list[str]:
    """Return the command line of a ComfyUI that reads and writes under ``base``, with this pack or a copy of it.

    The server finds the demo LoRA and the models of ``base`` and ``comfyui``.

    Args:
        pack: folder of this pack, or of a copy.
        extra_packs: folder of further custom nodes to load, like ComfyUI's custom_nodes.
    """
    for folder in ("custom_nodes", "input"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    # A search path instead of a link in custom_nodes: on Windows only administrators can create links.
    search_paths = base / "search_paths.yaml"
    packs = {pack.name: pack.parent}
    if extra_packs and extra_packs.is_dir():
        packs |= {entry.name: extra_packs for entry in extra_packs.iterdir()}
    folders = {"custom_nodes": list(dict.fromkeys(packs.values()))}
    # Like --models-directory, which older ComfyUIs do not have.
    folders |= {folder.name: [folder] for folder in sorted((comfyui / "models").glob("*")) if folder.is_dir()}
    folders.setdefault("loras", []).append(pack / "bivdiff_core" / "demo" / "weights" / "loras")
    lines = [f"  {name}: " + json.dumps("\n".join(map(str, paths))) for name, paths in folders.items()]
    search_paths.write_text("\n".join(["bivdiff:", *lines, ""]), encoding="utf-8")
    command = [str(python), str(comfyui / "main.py"), "--port", str(port), "--base-directory", str(base)]
    command += ["--extra-model-paths-config", str(search_paths), "--database-url", "sqlite:///:memory:"]
    command += ["--disable-api-nodes"]
    command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", *packs]
    return [*command, "--cpu"] if cpu else command


class ComfyUIServer:
    """A ComfyUI on a free port of 127.0.0.1, for a ``with`` block; its log is ``base / "server.log"``.

    It ends with this process, even if this process is killed. ``packs`` as in `build_server_command`.
    """

    def __init__(self, python: str | Path, comfyui: Path, base: Path, cpu: bool, **packs: Path | None) -> None:
        self.base = base
        self._process: subprocess.Popen | None = None
        self._command = partial(build_server_command, python, comfyui, base, cpu=cpu, **packs)

    def __enter__(self) -> ComfyUIServer:
        for _ in range(MAX_PORT_ATTEMPTS):
            self.port = find_free_port()
            if self._start():
                return self
            if "already in use" not in self.log:  # another process can take the port before ComfyUI does
                break
        raise ServerError(f"ComfyUI did not start: {self.last_log_line()} The whole log is {self.base / 'server.log'}.")

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
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.is_alive():
            try:
                if str(self.base) in self.request("/system_stats")["system"]["argv"]:
                    return True
            except OSError:
                pass
            time.sleep(0.2)
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

    def request(self, path: str, body: dict | None = None) -> dict:
        """Return the JSON answer to a GET of ``path``, or to a POST if ``body`` is given."""
        content = None if body is None else json.dumps(body).encode()
        request = Request(
            f"http://127.0.0.1:{self.port}{path}", data=content, headers={"Content-Type": "application/json"}
        )
        with _open_without_proxy(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def object_info(self) -> dict:
        """Return the schemas of all nodes, as the frontend receives them."""
        return self.request("/object_info")

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
            ServerLostError: the server died, or did not finish within ``timeout``.
            ServerError: the prompt failed validation.
        """
        from websocket import WebSocketException, WebSocketTimeoutException

        try:
            return self._run(prompt, on_event, timeout)
        except HTTPError as rejection:
            raise ServerError(_format_rejection(json.loads(rejection.read()))) from None
        except (OSError, WebSocketException) as error:
            timed_out = timeout is not None and isinstance(error, (WebSocketTimeoutException, TimeoutError))
            raise ServerLostError(
                f"there was no result within {timeout:g} s" if timed_out else self._describe_lost_server()
            ) from None

    def _run(self, prompt: dict, on_event: Callable[[str, dict], None], timeout: float | None) -> PromptResult:
        import websocket

        client = uuid.uuid4().hex
        url = f"ws://127.0.0.1:{self.port}/ws?clientId={client}"
        deadline = None if timeout is None else time.monotonic() + timeout
        with closing(websocket.create_connection(url, timeout=timeout, http_no_proxy=["127.0.0.1"])) as messages:
            result = PromptResult(self.request("/prompt", {"prompt": prompt, "client_id": client})["prompt_id"])
            while True:
                if deadline is not None:
                    messages.settimeout(max(deadline - time.monotonic(), 0.001))
                message = messages.recv()
                if not message:
                    raise ConnectionError("the server has closed the connection")
                if isinstance(message, bytes):
                    if int.from_bytes(message[:4], "big") == PROGRESS_TEXT_EVENT:
                        on_event("progress_text", _progress_text(message[4:]))
                    continue  # a preview image
                event, content = (parsed := json.loads(message))["type"], parsed["data"]
                if content.get("prompt_id") != result.prompt_id:
                    continue
                on_event(event, content)
                if event == "execution_error":
                    result.error = content["exception_message"].strip()
                elif event == "execution_interrupted":
                    result.interrupted = True
                elif event == "executing" and content["node"] is None:
                    break
                elif event == "executing":
                    result.executed.append(content["node"])
        result.outputs = self.request(f"/history/{result.prompt_id}")[result.prompt_id]["outputs"]
        return result

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
