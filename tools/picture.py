"""The README's picture: the first screen of a report, in its light and its dark colours.

    python tools/picture.py runs/demo/report.html    writes docs/report-light.png and docs/report-dark.png

It needs Chromium. `make demo` writes that report.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from helpers.chromium import chromium  # noqa: E402 — of the tests

WIDTH, HEIGHT = 1280, 800
MOST_BYTES = 300_000
"""Of a picture, so that the page that shows it loads at once."""


def main(report: Path, folder: Path = ROOT / "docs") -> list[Path]:
    """Take both pictures of a report's first screen; returns their files."""
    taken = []
    with chromium() as page:
        for name in ("light", "dark"):
            page.open(report, width=WIDTH, height=HEIGHT, dark=name == "dark")
            path = folder / f"report-{name}.png"
            page.screenshot(path, whole=False)
            taken.append(path)
    return taken


if __name__ == "__main__":
    for path in main(Path(sys.argv[1])):
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {size / 1000:.0f} kB")
        if size > MOST_BYTES:
            sys.exit(f"{path.name} is larger than {MOST_BYTES / 1000:.0f} kB; choose another report")
