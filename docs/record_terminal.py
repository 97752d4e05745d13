"""Make docs/terminal.svg, a recording of a terminal: a run is killed and started again.

    python docs/record_terminal.py         # needs the extra 'dev'; takes about a minute and a half

The recording is real: a shell, the installed program, a rehearsal against the sandbox with scripted failures, and a
SIGKILL. It costs nothing and sends nothing to other machines. pyte tracks the screen. The picture is one SVG without a
script: its frames are side by side, and a stepped animation shows them one by one. It starts with the first full screen
of the run. Lines that several frames share are stored once. Without animation (in print, or if the reader prefers), the
last frame is shown.
"""

import os
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyte
import yaml

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "terminal.svg"
LARGEST_BYTES = 400_000

COLUMNS, LINES = 96, 26
CELL_PX, LINE_PX, FONT_PX = 8.4, 19, 14
BORDER_PX, BAR_PX = 18, 38
WIDE_PX, HIGH_PX = round(COLUMNS * CELL_PX) + 2 * BORDER_PX, LINES * LINE_PX + BAR_PX + BORDER_PX
FONTS = 'ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace'
SNAPSHOT_S = 0.4
KEY_S = 0.03
LAST_S = 9.0
PATIENCE_S = 120.0
COMMAND = "batchrunner run heroes.yaml --provider sandbox --fast --faults night.yaml"
LEDGER = "output/heroes-rehearsal/.batchrunner/sandbox/ledger.jsonl"

SCENES = (
    "park",
    "harbour",
    "attic",
    "street",
    "bridge",
    "market",
    "garden",
    "station",
    "cellar",
    "meadow",
    "desert",
    "beach",
)
FAULTS = {
    "service": {"duration": "5m", "spread": 0.35, "capacity": 6, "seed": 5},
    "faults": [
        {"on": "generation", "kind": "face_detection", "first": 1, "between": ["5m", "2h"]},
        {"on": "submit", "kind": "lost_reply", "first": 1},
    ],
    "outages": [{"from": "10m", "for": "3m", "shows": "unavailable"}],
}

PAPER, BAR, INK, GREY = "#12151c", "#1b2029", "#d7dce5", "#8b94a5"
COLOURS = {
    "default": INK,
    "black": GREY,
    "red": "#ff7b85",
    "green": "#7fd88f",
    "brown": "#e5c07b",
    "blue": "#7aa8ff",
    "magenta": "#c99bf0",
    "cyan": "#5ccfe0",
    "white": INK,
    "brightblack": GREY,
}
CLASSES = {colour: f"c{n}" for n, colour in enumerate(dict.fromkeys(COLOURS.values()))}
BARS = {"━": (6, ""), "╍": (6, ' stroke-dasharray="3 1.2"'), "─": (2, "")}
Run = tuple[int, str, str, bool]  # column, text, colour, bold
Row = tuple[Run, ...]
Frame = tuple[Row, ...]


class Screen(pyte.Screen):
    """A terminal that shows faint text in grey."""

    def select_graphic_rendition(self, *attributes: int, **more: Any) -> None:
        """Map attribute 2 (faint) to grey, because pyte ignores it."""
        super().select_graphic_rendition(*(90 if item == 2 else item for item in attributes), **more)


@dataclass
class Recording:
    """A shell on a pseudo-terminal, and its screens as pairs of seconds and frames."""

    folder: Path
    frames: list[tuple[float, Frame]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.screen = Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self._began = time.monotonic()
        program = Path(sys.executable).parent
        environment = {"TERM": "xterm-256color", "PS1": "\x1b[32m$\x1b[0m ", "PATH": f"{program}:{os.environ['PATH']}"}
        size = {"COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        self._master, self._slave = os.openpty()
        self.shell = os.fork()
        if not self.shell:
            os.login_tty(self._slave)
            os.chdir(self.folder)
            home = {"HOME": str(self.folder), "LANG": "C.UTF-8", "TZ": "UTC", "BASH_SILENCE_DEPRECATION_WARNING": "1"}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting"], {**environment, **size, **home})  # noqa: S606, S607 (a shell is what is shown)

    def type(self, text: str) -> None:
        """Type a text and press Enter."""
        for key in text:
            os.write(self._master, key.encode())
            self.watch(KEY_S, snapshot_s=3 * KEY_S)
        self.watch(0.6)
        os.write(self._master, b"\r")

    def watch(
        self, most_s: float, until: Callable[[str], bool] = lambda _: False, snapshot_s: float = SNAPSHOT_S
    ) -> None:
        """Record for `most_s` seconds, or until the screen fulfils a condition."""
        ends = time.monotonic() + most_s
        while (now := time.monotonic()) < ends and not until("\n".join(self.screen.display)):
            if select.select([self._master], [], [], min(0.05, ends - now))[0]:
                self._stream.feed(os.read(self._master, 65536))
            self._snap(snapshot_s)

    def kill(self) -> None:
        """Send SIGKILL to the shell's foreground process. The shell's message starts a new line."""
        os.write(self._slave, b"\n")
        os.kill(os.tcgetpgrp(self._master), signal.SIGKILL)

    def close(self) -> None:
        """End the shell."""
        os.kill(self.shell, signal.SIGKILL)
        os.waitpid(self.shell, 0)
        os.close(self._master)
        os.close(self._slave)

    def _snap(self, least_s: float) -> None:
        now, frame = time.monotonic() - self._began, moment(self.screen)
        if not self.frames or (frame != self.frames[-1][1] and now - self.frames[-1][0] >= least_s):
            self.frames.append((now, frame))


def moment(screen: Screen) -> Frame:
    """Return the current screen."""
    return tuple(tuple(runs(screen.buffer[y])) for y in range(LINES))


def runs(line: Any) -> Iterator[Run]:
    """Yield the parts of a line that have one colour, without the blanks between them."""
    cells = [(x, line[x]) for x in range(COLUMNS)]
    for (colour, bold), group in groupby(cells, lambda cell: (cell[1].fg, cell[1].bold)):
        stretch = list(group)
        text = "".join(cell.data for _, cell in stretch)
        if text.strip():
            lead = len(text) - len(text.lstrip())
            yield stretch[0][0] + lead, text.strip(), COLOURS.get(colour, INK), bold


def at_prompt(shown: str) -> bool:
    """Return whether the shell waits for a command."""
    return shown.rstrip().endswith("\n$")


def live(folder: Path) -> list[tuple[float, Frame]]:
    """Start a run in `folder`, kill it, start it again, and return the recorded frames."""
    for name in ("bunny.mp4", "astronaut.jpg", "hopper.jpg"):
        shutil.copy(ROOT / "manifests" / "media" / name, folder / name)
    jobs = [
        {"id": f"{scene}-{face}", "video": "bunny.mp4", "image": image, "num_inference_steps": 20 + number}
        for number, scene in enumerate(SCENES)
        for face, image in (("astronaut", "astronaut.jpg"), ("admiral", "hopper.jpg"))
    ]
    heroes = {"version": 1, "concurrency": 6, "poll_interval": "5s", "jobs": jobs}
    (folder / "heroes.yaml").write_text(yaml.safe_dump(heroes, sort_keys=False), "utf-8")
    (folder / "night.yaml").write_text(yaml.safe_dump(FAULTS), "utf-8")
    proof = f"grep -c '\"accepted\"' {LEDGER}"
    recording = Recording(folder)
    try:
        recording.watch(1.0, lambda shown: shown.startswith("$"))
        recording.type(COMMAND)
        recording.watch(PATIENCE_S, lambda shown: bool(re.search(r" ([789]|1\d) of 24", shown)))
        recording.kill()
        recording.watch(PATIENCE_S, at_prompt)
        recording.watch(1.5)
        for command in (COMMAND + "  # it continues", "batchrunner verify output/heroes-rehearsal", proof):
            recording.type(command)
            recording.watch(1.0)
            recording.watch(PATIENCE_S, at_prompt)
        recording.watch(1.0)
    finally:
        recording.close()
    return recording.frames


def from_full_frame(frames: list[tuple[float, Frame]]) -> list[tuple[float, Frame]]:
    """Leave out the frames before the first one that shows finished, failed and active jobs."""
    for number, (_, frame) in enumerate(frames):
        shown = "\n".join(" ".join(text for _, text, _, _ in row) for row in frame)
        if re.search(r"\d succeeded", shown) and "generating" in shown and re.search(r"finish +about", shown):
            return frames[number:]
    raise SystemExit("no frame shows the whole screen")


def film(frames: list[tuple[float, Frame]]) -> str:
    """Return the picture."""
    known: dict[Row, str] = {}
    for _, frame in frames:
        for row in filter(None, frame):
            known.setdefault(row, f"r{len(known):x}")
    moments = "".join(
        f'<g transform="translate({n * WIDE_PX})">'
        + "".join(f'<use href="#{known[row]}" y="{y * LINE_PX}"/>' for y, row in enumerate(frame) if row)
        + "</g>"
        for n, (_, frame) in enumerate(frames)
    )
    defs = "".join(f'<g id="{name}">{drawn(row)}</g>' for row, name in known.items())
    return f"""<svg xmlns="http://www.w3.org/2000/svg" role="img"
 viewBox="0 0 {WIDE_PX} {HIGH_PX}" width="{WIDE_PX}" height="{HIGH_PX}">
<title>A batch on a terminal: killed in its middle, started again, and done; no clip is paid for twice</title>
<style>{style([at - frames[0][0] for at, _ in frames])}</style>
<defs>{defs}</defs>
{window()}
<svg x="{BORDER_PX}" y="{BAR_PX + 8}" width="{WIDE_PX - 2 * BORDER_PX}" height="{HIGH_PX - BAR_PX - 8}">
<g class="film">{moments}</g>
</svg>
</svg>
"""


def style(starts: list[float]) -> str:
    """Return fonts, colours and animation. starts: the time of each frame in seconds."""
    whole_s = starts[-1] + LAST_S
    steps = "".join(f"{at / whole_s:.3%}{{transform:translateX({-n * WIDE_PX}px)}}" for n, at in enumerate(starts))
    classes = "".join(f".{name}{{fill:{colour}}}" for colour, name in CLASSES.items())
    return f"""
text{{font:{FONT_PX}px {FONTS};white-space:pre}}
.bold{{font-weight:700}}{classes}
.film{{transform:translateX({-(len(starts) - 1) * WIDE_PX}px);animation:film {whole_s:.2f}s step-end infinite}}
@keyframes film{{{steps}}}
@media (prefers-reduced-motion:reduce),print{{.film{{animation:none}}}}
"""


def window() -> str:
    """Return the window around the terminal."""
    dots = "".join(f'<circle cx="{BORDER_PX + 5 + 18 * n}" cy="{BAR_PX / 2}" r="5"/>' for n in range(3))
    environment = "a rehearsal on this machine, time 60 times as fast"
    return f"""<rect width="{WIDE_PX}" height="{HIGH_PX}" rx="10" fill="{PAPER}"/>
<path d="M0 {BAR_PX}V10a10 10 0 0 1 10-10H{WIDE_PX - 10}a10 10 0 0 1 10 10V{BAR_PX}z" fill="{BAR}"/>
<g fill="#3a4252">{dots}</g>
<text x="{WIDE_PX / 2}" y="{BAR_PX / 2 + 5}" text-anchor="middle" fill="{GREY}">{environment}</text>"""


def drawn(row: Row) -> str:
    """Return a line. Each part keeps its columns in any font."""
    return "".join(bar(item) if item[1][0] in BARS else text_element(*item) for item in row)


def text_element(column: int, text: str, colour: str, bold: bool) -> str:
    """Return a part of a line as text."""
    return (
        f'<text x="{column * CELL_PX:.1f}" y="{FONT_PX}" class="{CLASSES[colour]}{" bold" if bold else ""}"'
        f' textLength="{len(text) * CELL_PX:.1f}">{escape(text)}</text>'
    )


def bar(run: Run) -> str:
    """Return a part of a progress bar as a drawing, because fonts draw these characters differently."""
    column, text, colour, _ = run
    strong, dashes = BARS[text[0]]
    return (
        f'<path d="M{column * CELL_PX:.1f} {FONT_PX - 4}h{len(text) * CELL_PX:.1f}" stroke="{colour}"'
        f' stroke-width="{strong}"{dashes}/>'
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        picture = film(from_full_frame(live(Path(name))))
    if len(picture.encode()) > LARGEST_BYTES:
        raise SystemExit(f"the picture has {len(picture.encode()):,} bytes, more than {LARGEST_BYTES:,}")
    TARGET.write_text(picture, "utf-8")
    print(f"{TARGET.relative_to(ROOT)}: {len(picture.encode()):,} bytes")  # noqa: T201 (a script that says what it made)
