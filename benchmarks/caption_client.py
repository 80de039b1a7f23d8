"""What the captioning client adds to a server's own time: a loopback server that answers after a fixed latency.

    python benchmarks/caption_client.py --images 10000 --latency 1 --in-flight 64 [--json]

ideal = images x latency / in flight; ratio = wall / ideal, start of the process and everything written included. The
server is a process of its own on the same cores. Peak memory is the kernel's account of the captioning process, for
a fifth of the images and for all.
"""

import argparse
import asyncio
import json
import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from measured import Cost, run_data_command
from PIL import Image

from pfcvr.config import ImportConfig
from pfcvr.pipeline import import_
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

IMAGES_PER_IDENTITY = 5
DISTINCT_IMAGES = 64
SMALL_SHARE = 5
CAPTION = (
    "A white sedan with dark tinted windows and silver five spoke wheels is seen from the front left. It has a black "
    "grille with a thin chrome frame, clear headlights that reach far back, a plain roof, a small sticker on the "
    "windshield, and a bumper with two round lamps."
)
PARTS = {
    "windows": "dark tinted windows",
    "wheels": "silver wheels with five spokes",
    "doors": "white doors",
    "mirrors": "white mirrors",
    "lights": "clear headlights",
    "roof": "plain white roof",
}
ANSWER = {"color": "white", "type": "sedan", "viewpoint": "front left", "parts": PARTS, "caption": CAPTION}


class FixedLatencyServer:
    """Just enough HTTP: every chat request is answered with the same caption ``latency`` seconds after it is whole."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        choice = {"index": 0, "message": {"role": "assistant", "content": json.dumps(ANSWER)}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 700, "completion_tokens": 150}
        self._chat = _response({"model": "fixed", "choices": [choice], "usage": usage})
        self._models = _response({"object": "list", "data": [{"id": "fixed", "object": "model"}]})

    async def serve(self, port: Connection) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=1 << 20)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                if lengths:
                    await reader.readexactly(int(lengths[0].split(b":")[1]))
                    await asyncio.sleep(self._latency)
                writer.write(self._chat if lengths else self._models)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def _response(value: object) -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def run_server(latency: float, port: Connection) -> None:
    """The body of the server's process."""
    asyncio.run(FixedLatencyServer(latency).serve(port))


def make_workspace(folder: Path, images: int, size: int) -> Path:
    """An imported workspace of ``images`` JPEG files; every image id has bytes of its own."""
    source = folder / "source"
    for number in range(images):
        file = source / "images" / f"{number // IMAGES_PER_IDENTITY:05d}" / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_picture(number % DISTINCT_IMAGES, size) + number.to_bytes(4, "big"))
    workspace = Workspace(folder / "work", create=True)
    with workspace.lock():
        import_.run(workspace, ImportConfig(source=source), RunOptions(quiet=True))
    return workspace.root


_PICTURES: dict[int, bytes] = {}


def _picture(number: int, size: int) -> bytes:
    if number not in _PICTURES:
        coarse = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((size, size * 3 // 4), Image.Resampling.BICUBIC)
        path = Path(tempfile.mkstemp(suffix=".jpg")[1])
        picture.save(path, quality=90)
        _PICTURES[number] = path.read_bytes()
        path.unlink()
    return _PICTURES[number]


def caption(workspace: Path, url: str, in_flight: int) -> Cost:
    """What ``pfcvr-data caption`` costs."""
    arguments = ["caption", "-w", str(workspace), "--captioner", "openai", "--base-url", url]
    return run_data_command([*arguments, "--concurrency", str(in_flight)])


def measure(images: int, options: argparse.Namespace, url: str) -> dict[str, float]:
    """One run over ``images`` fresh images."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_workspace(Path(folder), images, options.size)
        wall, processor, peak = caption(workspace, url, options.in_flight)
    ideal = images * options.latency / options.in_flight
    return {
        "images": images,
        "wall_seconds": wall,
        "ideal_seconds": ideal,
        "ratio": wall / ideal,
        "processor_ms_per_image": 1000 * processor / images,
        "peak_mib": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="images of the large run; the small one has a fifth")
    parser.add_argument("--latency", type=float, default=1.0, help="seconds the server takes for an answer")
    parser.add_argument("--in-flight", type=int, default=64, help="requests at a time")
    parser.add_argument("--size", type=int, default=400, help="width of the images in pixels")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=run_server, args=(options.latency, theirs), daemon=True
    )
    server.start()
    try:
        url = f"http://127.0.0.1:{ours.recv()}/v1"
        runs = [measure(images, options, url) for images in (options.images // SMALL_SHARE, options.images)]
    finally:
        server.terminate()
    if options.json:
        print(json.dumps({"latency": options.latency, "in_flight": options.in_flight, "runs": runs}))
        return
    print(f"{'images':>8}{'wall s':>9}{'ideal s':>9}{'ratio':>8}{'ms cpu/image':>14}{'peak MiB':>10}")
    for run in runs:
        wall, ideal, ratio = run["wall_seconds"], run["ideal_seconds"], run["ratio"]
        cost, peak = run["processor_ms_per_image"], run["peak_mib"]
        print(f"{run['images']:>8,}{wall:>9.1f}{ideal:>9.1f}{ratio:>8.3f}{cost:>14.1f}{peak:>10,.0f}")


if __name__ == "__main__":
    main()
