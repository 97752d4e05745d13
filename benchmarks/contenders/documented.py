"""One job like the sample in the service's documentation: requests, no retry, poll until the end; and a download.

documented.py BODY.json CLIP.mp4
"""

import json
import os
import sys
import time
from pathlib import Path

import requests

URL = os.environ["AIMLAPI_BASE_URL"] + "/v2/video/generations"
HEADERS = {"Authorization": f"Bearer {os.environ['AIMLAPI_KEY']}"}
POLL_S = float(os.environ.get("POLL_S", "0.5"))


def generate(body: Path, clip: Path) -> None:
    reply = requests.post(URL, json=json.loads(body.read_text()), headers=HEADERS)
    generation = reply.json()
    while generation["status"] in {"queued", "generating"}:
        time.sleep(POLL_S)
        asked = {"generation_id": generation["id"]}
        generation = requests.get(URL, params=asked, headers=HEADERS).json()
    clip.write_bytes(requests.get(generation["video"]["url"]).content)


if __name__ == "__main__":
    generate(*(Path(argument) for argument in sys.argv[1:]))
