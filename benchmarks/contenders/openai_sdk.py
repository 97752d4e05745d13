"""One job through the unchanged OpenAI SDK: `post`, `get`, its own retries.

openai_sdk.py BODY.json CLIP.mp4
"""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from openai import OpenAI

PATH = "/v2/video/generations"
POLL_S = 0.5


def main() -> None:
    body, clip = (Path(argument) for argument in sys.argv[1:])
    client = OpenAI(api_key=os.environ["AIMLAPI_KEY"], base_url=os.environ["AIMLAPI_BASE_URL"])
    generation: Any = client.post(PATH, body=json.loads(body.read_text()), cast_to=object)
    while generation["status"] in {"queued", "generating"}:
        time.sleep(POLL_S)
        generation = client.get(PATH, cast_to=object, options={"params": {"generation_id": generation["id"]}})
    with urllib.request.urlopen(generation["video"]["url"], timeout=30) as reply:
        clip.write_bytes(reply.read())


if __name__ == "__main__":
    main()
