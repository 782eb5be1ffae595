"""The server that a batch runs ComfyUI in: its port, its end, its packs."""

import subprocess
import sys

import pytest
from fixtures.batch_folder import ROOT, WORKFLOW, is_alive, wait_for

from batch import comfyui_server as servers
from batch.comfyui_server import ComfyUIServer, ServerLostError, build_server_command


def start(studio, name: str) -> ComfyUIServer:
    base = studio.root / name
    base.mkdir()
    return ComfyUIServer(sys.executable, studio.comfyui, base, cpu=True)


def test_a_port_that_went_to_another_comfyui_is_given_up(studio, monkeypatch):
    """Found free, and taken before ours could: what answers there is not ours."""
    with start(studio, "first") as first:
        free_port = servers.find_free_port
        ports = [first.port]
        monkeypatch.setattr(servers, "find_free_port", lambda: ports.pop() if ports else free_port())
        with start(studio, "second") as second:
            assert not ports and second.port != first.port
            assert str(second.base) in second.request("/system_stats")["system"]["argv"]
            assert str(first.base) in first.request("/system_stats")["system"]["argv"]


def test_it_ends_with_the_process_that_started_it(studio):
    starter = f"""
import os, signal, sys
from pathlib import Path
from batch.comfyui_server import Server

Server(sys.executable, Path({str(studio.comfyui)!r}), Path({str(studio.root)!r}, "base"), cpu=True).__enter__()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", starter], cwd=ROOT)
    (pid,) = studio.pids()
    wait_for(lambda: not is_alive(pid))


def test_its_children_do_not_hold_the_pipe(tmp_path):
    """A host's own child that outlives it, an encoder say, neither reads the pipe nor keeps the host alive."""
    script = tmp_path / "host.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.run([sys.executable, '-c', 'import sys; print(len(sys.stdin.read()))'])\n"
        "print('child done', flush=True)\n"
        "time.sleep(1000)\n"
    )
    command = [sys.executable, ROOT / "batch" / "exit_with_parent.py", script]
    host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert host.stdout.readline() == "0\n" and host.stdout.readline() == "child done\n"
    host.stdin.close()
    assert host.wait() == 1


@pytest.mark.parametrize(("fault", "said"), [("crash", "ended with status 7"), ("hang", "no result within 0.3 s")])
def test_a_server_that_is_lost_says_how(studio, fault, said):
    with start(studio, "base") as server:
        (server.base / "input" / "any.mp4").write_text(fault)
        with pytest.raises(ServerLostError, match=said):
            server.run(WORKFLOW, timeout=0.3 if fault == "hang" else None)


def test_an_artists_own_packs_are_loaded_on_request(studio):
    packs = studio.comfyui / "custom_nodes"
    (packs / "ComfyUI-Other").mkdir(parents=True)
    command = [sys.executable, studio.comfyui, studio.root / "base", 8188, True]

    def loaded(**options) -> tuple[list[str], list[str]]:
        words = build_server_command(*command, **options)
        listed = (studio.root / "base" / "search_paths.yaml").read_text()
        whitelist = words[words.index("--whitelist-custom-nodes") + 1 : words.index("--cpu")]
        return whitelist, [str(folder) for folder in (packs, ROOT.parent) if str(folder) in listed]

    assert loaded() == ([ROOT.name], [str(ROOT.parent)])
    assert loaded(beside=packs) == ([ROOT.name, "ComfyUI-Other"], [str(packs), str(ROOT.parent)])
