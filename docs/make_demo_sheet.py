"""Draw docs/demo.jpg: the demo's reference, its pictures, and frames of the sandbox's clips.

batchrunner run manifests/demo.yaml && python docs/make_demo_sheet.py
"""

from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parent.parent
MEDIA = ROOT / "manifests/media"
FRAMES = (3, 22, 32, 44)
SIDE_PX, GAP_PX = 240, 6
ROWS = (("astronaut.jpg", "bunny-as-astronaut.mp4"), ("hopper.jpg", "bunny-as-admiral.mp4"))


def main() -> None:
    """Write the picture."""
    step = SIDE_PX + GAP_PX
    canvas = Image.new("RGB", (5 * step - GAP_PX, 3 * step - GAP_PX), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(20)
    draw.text((SIDE_PX - 14, SIDE_PX / 2), "reference clip", "#444", font, "rm")
    draw.text((SIDE_PX / 2, SIDE_PX - 14), "picture and results", "#444", font, "ms")
    clips = [MEDIA / "bunny.mp4", *(Path("output/demo") / clip for _, clip in ROWS)]
    for row, path in enumerate(clips):
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        for column, number in enumerate(FRAMES):
            canvas.paste(ImageOps.fit(frames[number].to_image(), (SIDE_PX, SIDE_PX)), ((column + 1) * step, row * step))
    for row, (picture, _) in enumerate(ROWS):
        with Image.open(MEDIA / picture) as image:
            canvas.paste(ImageOps.fit(image.convert("RGB"), (SIDE_PX, SIDE_PX)), (0, (row + 1) * step))
    canvas.save(ROOT / "docs/demo.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
