"""The documentation's sample in a pool of threads: pool.py BODIES CLIPS AT_ONCE"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from documented import generate

if __name__ == "__main__":
    bodies, clips, at_once = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(generate, body, clips / f"{body.stem}.mp4") for body in sorted(bodies.glob("*.json"))]:
            done.result()
