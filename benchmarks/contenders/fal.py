"""One job through fal-client's `submit`, with its own retries.

Three things are adapted: the address is the sandbox's, the key is sent in the sandbox's form, and the id is read from
the raw reply, because the sandbox implements another API.

fal.py BODY.json CLIP.mp4
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import httpx
from fal_client import SyncClient
from fal_client import client as fal

BASE_URL = os.environ["AIMLAPI_BASE_URL"]
KEY = os.environ["AIMLAPI_KEY"]
PATH = "v2/video/generations"
POLL_S = 0.5


def submit(body: object) -> str:
    """Return the id of the generation that fal-client submitted."""
    fal.QUEUE_URL_FORMAT = f"{BASE_URL}/"
    client = SyncClient(key=KEY)
    replies: list[httpx.Response] = []
    client._client.event_hooks["response"].append(replies.append)  # noqa: SLF001 (there is no public hook)
    with contextlib.suppress(KeyError):  # the reply has no request_id, unlike fal's
        client.submit(PATH, body, headers={"Authorization": f"Bearer {KEY}"})
    return str(replies[-1].json()["id"])


def main() -> None:
    body, clip = (Path(argument) for argument in sys.argv[1:])
    generation_id = submit(json.loads(body.read_text()))
    with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}) as client:
        while True:
            asked = {"generation_id": generation_id}
            generation = client.get(f"{BASE_URL}/{PATH}", params=asked).json()
            if generation["status"] not in {"queued", "generating"}:
                break
            time.sleep(POLL_S)
    clip.write_bytes(httpx.get(generation["video"]["url"]).content)


if __name__ == "__main__":
    main()
