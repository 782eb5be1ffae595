"""A stand-in for ComfyUI whose faults come when a test wants them: what a clip's text says happens.

It answers what a batch asks ComfyUI and nothing else. A clip is a text file: "broken" raises in a node, "crash" ends
the process, "hang" never ends, "crash once" and "hang once" do so for the first process that meets them, "slow" takes
half a second, "wait" lasts until there is a file "go" beside the journal. The video is the clip's text, the seed, the
steps and, as ComfyUI has it, the clip's time. The file named by STANDIN_JOURNAL gets a line for each process and each
clip.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from aiohttp import WSMsgType, web

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--base-directory", type=Path)
options, _ = parser.parse_known_args()
journal = Path(os.environ["STANDIN_JOURNAL"])
sockets: dict[str, web.WebSocketResponse] = {}
history: dict[str, dict] = {}
background = set()


def note(*words: object) -> None:
    with open(journal, "a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def first_time(text: str) -> bool:
    try:
        journal.with_name(f"{text.replace(' ', '-')}.met").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


async def run(key: str, prompt: dict, client: str) -> None:
    async def send(event: str, **content) -> None:
        await sockets[client].send_json({"type": event, "data": {"prompt_id": key, **content}})

    inputs = {node["class_type"]: node["inputs"] for node in prompt.values()}
    clip = options.base_directory / "input" / inputs["LoadVideo"]["file"]
    text = clip.read_text()
    note("clip", os.getpid(), text)
    await send("executing", node="2")
    await send("progress", node="2", value=1, max=2)
    met = text.endswith("once") and not first_time(text)
    if text.startswith("crash") and not met:
        sys.stdout.write("Fatal: out of memory\n")
        sys.stdout.flush()
        os._exit(7)
    while text.startswith("hang") and not met:
        await asyncio.sleep(1)
    while text == "wait" and not journal.with_name("go").exists():
        await asyncio.sleep(0.02)
    if text.startswith("slow"):
        await asyncio.sleep(0.5)
    if text == "broken":
        await send("execution_error", exception_message="Invalid data found when processing input\n")
        await send("executing", node=None)
        history[key] = {"outputs": {}}
        return
    name = inputs["SaveVideo"]["filename_prefix"] + "_00001_.mp4"
    (options.base_directory / "output").mkdir(exist_ok=True)
    work = inputs["Work"]
    (options.base_directory / "output" / name).write_text(
        f"{text} {work['seed']} {work['steps']} {clip.stat().st_mtime_ns}"
    )
    saved = {"filename": name, "subfolder": "", "type": "output"}
    history[key] = {"outputs": {"3": {"images": [saved], "animated": [True]}, "2": {"score": [len(text)]}}}
    await send("executing", node=None)


routes = web.RouteTableDef()


@routes.get("/system_stats")
async def system_stats(request):
    return web.json_response({"system": {"argv": sys.argv}})


@routes.get("/object_info")
async def object_info(request):
    return web.json_response({})


@routes.get("/ws")
async def socket(request):
    sockets[request.query["clientId"]] = messages = web.WebSocketResponse()
    await messages.prepare(request)
    async for message in messages:
        assert message.type == WSMsgType.TEXT
    return messages


@routes.post("/prompt")
async def queue(request):
    body = await request.json()
    (work,) = (node["inputs"] for node in body["prompt"].values() if node["class_type"] == "Work")
    if work["steps"] < 1:
        error = {"message": "Value smaller than min", "details": "steps"}
        node_errors = {"2": {"class_type": "Work", "errors": [error]}}
        refusal = {"message": "Prompt outputs failed validation", "details": ""}
        return web.json_response({"error": refusal, "node_errors": node_errors}, status=400)
    key = body["client_id"]
    background.add(asyncio.create_task(run(key, body["prompt"], key)))
    return web.json_response({"prompt_id": key})


@routes.get("/history/{key}")
async def past(request):
    return web.json_response({request.match_info["key"]: history[request.match_info["key"]]})


if os.environ.get("STANDIN_REFUSES_TO_START"):
    sys.exit("ImportError: no driver")
app = web.Application()
app.add_routes(routes)
note("start", os.getpid(), options.port, options.base_directory, os.environ.get("CUDA_VISIBLE_DEVICES", "-"))
try:
    web.run_app(app, host="127.0.0.1", port=options.port, print=None, handle_signals=False)
except OSError as error:
    sys.exit(str(error))
