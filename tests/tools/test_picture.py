"""The README's picture: a screen of a report in both of its colours."""

import struct

from tools.picture import HEIGHT, WIDTH, main

PAGE = """<!doctype html><title>A report</title>
<style>body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }</style>
<p style="height: 5000px">Longer than a screen</p>"""


def test_it_takes_the_first_screen_in_light_and_in_dark(tmp_path):
    report = tmp_path / "report.html"
    report.write_text(PAGE, "utf-8")
    light, dark = main(report, tmp_path)
    assert (light.name, dark.name) == ("report-light.png", "report-dark.png")
    for path in (light, dark):
        assert struct.unpack(">II", path.read_bytes()[16:24]) == (WIDTH, HEIGHT)
    assert light.read_bytes() != dark.read_bytes()
