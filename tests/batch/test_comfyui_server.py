"""ComfyUIServer: its port, how it ends, and its packs."""

import subprocess
import sys

import pytest
from fixtures.batch_folder import ROOT, WORKFLOW, is_alive, wait_for

from batch import comfyui_server as servers
from batch.comfyui_server import ComfyUIServer, ServerLostError, build_server_command


def start_server(batch_folder, name: str) -> ComfyUIServer:
    base = batch_folder.root / name
    base.mkdir()
    return ComfyUIServer(sys.executable, batch_folder.comfyui, base, cpu=True)


def test_a_port_taken_by_another_comfyui_is_not_used(batch_folder, monkeypatch):
    """The port was free, but another ComfyUI took it first; the server must not talk to that one."""
    with start_server(batch_folder, "first") as first:
        free_port = servers.find_free_port
        ports = [first.port]
        monkeypatch.setattr(servers, "find_free_port", lambda: ports.pop() if ports else free_port())
        with start_server(batch_folder, "second") as second:
            assert not ports and second.port != first.port
            assert str(second.base) in second.request("/system_stats")["system"]["argv"]
            assert str(first.base) in first.request("/system_stats")["system"]["argv"]


def test_it_ends_with_the_process_that_started_it(batch_folder):
    starter = f"""
import os, signal, sys
from pathlib import Path
from batch.comfyui_server import ComfyUIServer

comfyui, base = Path({str(batch_folder.comfyui)!r}), Path({str(batch_folder.root)!r}, "base")
ComfyUIServer(sys.executable, comfyui, base, cpu=True).__enter__()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", starter], cwd=ROOT)
    (pid,) = batch_folder.comfyui_pids()
    wait_for(lambda: not is_alive(pid))


def test_its_children_do_not_hold_the_pipe(tmp_path):
    """A child process of ComfyUI, such as an encoder, neither reads the pipe nor keeps ComfyUI alive."""
    script = tmp_path / "comfyui.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.run([sys.executable, '-c', 'import sys; print(len(sys.stdin.read()))'])\n"
        "print('child done', flush=True)\n"
        "time.sleep(1000)\n"
    )
    command = [sys.executable, ROOT / "batch" / "exit_with_parent.py", script]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "0\n" and process.stdout.readline() == "child done\n"
    process.stdin.close()
    assert process.wait() == 1


@pytest.mark.parametrize(("fault", "message"), [("crash", "ended with status 7"), ("hang", "no result within 0.3 s")])
def test_the_error_says_how_a_server_was_lost(batch_folder, fault, message):
    with start_server(batch_folder, "base") as server:
        (server.base / "input" / "any.mp4").write_text(fault)
        with pytest.raises(ServerLostError, match=message):
            server.run(WORKFLOW, timeout=0.3 if fault == "hang" else None)


def test_a_prompt_that_leaves_the_queue_ends_the_wait(batch_folder, monkeypatch):
    """Another program has cleared the queue: there will be no further message. A prompt that runs may be silent."""
    monkeypatch.setattr(servers, "SILENT_SECONDS", 0.1)
    with start_server(batch_folder, "base") as server:
        clip = server.base / "input" / "any.mp4"
        clip.write_text("slow")
        assert not server.run(WORKFLOW).error
        clip.write_text("forget")
        with pytest.raises(ServerLostError, match="queue no longer contains the prompt"):
            server.run(WORKFLOW)


def test_a_prompt_whose_last_message_is_lost_ends(batch_folder, monkeypatch):
    """ComfyUI only logs a message that it could not send."""
    monkeypatch.setattr(servers, "SILENT_SECONDS", 0.1)
    with start_server(batch_folder, "base") as server:
        (server.base / "input" / "any.mp4").write_text("mute")
        assert server.run(WORKFLOW, timeout=60).outputs["2"] == {"score": [4]}


def test_other_packs_are_loaded_on_request(batch_folder):
    packs = batch_folder.comfyui / "custom_nodes"
    (packs / "ComfyUI-Other").mkdir(parents=True)
    command = [sys.executable, batch_folder.comfyui, batch_folder.root / "base", 8188, True]

    def loaded(**options) -> tuple[list[str], list[str]]:
        words = build_server_command(*command, **options)
        listed = (batch_folder.root / "base" / "search_paths.yaml").read_text()
        whitelist = words[words.index("--whitelist-custom-nodes") + 1 : words.index("--extra-model-paths-config")]
        return whitelist, [str(folder) for folder in (packs, ROOT.parent) if str(folder) in listed]

    assert loaded() == ([ROOT.name], [str(ROOT.parent)])
    assert loaded(extra_packs=[packs]) == ([ROOT.name, "ComfyUI-Other"], [str(packs), str(ROOT.parent)])
