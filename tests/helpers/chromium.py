"""A headless Chromium for tests of pages, driven through its debugging pipe with the standard library alone."""

import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from pathlib import Path

import pytest

_NO_PROFILE = 21
"""Its exit code where its profile cannot be made or is in use."""
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def chromium_path() -> str:
    """The browser, or a skip that says how to get it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on PATH: install one (Debian: apt-get install chromium) to run the tests of pages")


class Page:
    """One tab. Collects what went to the console and what was requested."""

    def __init__(self, process: subprocess.Popen, to_browser: int, from_browser: int):
        self.console: list[str] = []
        self.requests: list[str] = []
        self._process, self._to, self._from = process, to_browser, from_browser
        self._ids, self._buffer, self._loaded, self._session = itertools.count(1), b"", False, None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False):
        self.visit(path.resolve().as_uri(), width=width, height=height, dark=dark)

    def visit(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[theme])
        self._loaded = False
        self.send("Page.navigate", url=address)
        while not self._loaded:
            self._receive()

    def run(self, script: str):
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, *, text: str = ""):
        """One key, as a keyboard sends it."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str):
        self.send("Input.insertText", text=text)

    def screenshot(self, path: Path, *, whole: bool = True):
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(b64decode(shot["data"]))

    def pdf(self) -> bytes:
        return b64decode(self.send("Page.printToPDF")["data"])

    def send(self, method: str, **params):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _clip(self, whole: bool) -> dict:
        if not whole:
            return {}
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _receive(self) -> dict:
        deadline = time.monotonic() + 60
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium has not answered for a minute"
            piece = os.read(self._from, 1 << 20)
            if not piece and self._process.wait(timeout=20) == _NO_PROFILE:
                pytest.skip("Chromium could not make its profile in this process")
            assert piece, f"Chromium went away (exit code {self._process.poll()})"
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        params = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.consoleAPICalled":
                self.console.append(f"{params['type']}: {[arg.get('value') for arg in params['args']]}")
            case "Runtime.exceptionThrown":
                self.console.append(str(params["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(f"{params['entry']['level']}: {params['entry']['text']}")
        return message


@contextlib.contextmanager
def chromium():
    """A `Page` in a browser of its own, gone afterwards."""
    path = chromium_path()
    browser_reads, we_write = os.pipe()
    we_read, browser_writes = os.pipe()
    # The browser's end of the pipes is file descriptors 3 and 4; a shell renumbers them.
    renumber = f'exec "$0" "$@" 3<&{browser_reads} 4>&{browser_writes}'
    with tempfile.TemporaryDirectory(prefix="dposcope-chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["bash", "-c", renumber, path, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(browser_reads, browser_writes),
            # Its own: a long TMPDIR, for example, is too long for the name of its socket, and it ends with code 21.
            env={"PATH": os.environ["PATH"], "HOME": profile, "TMPDIR": "/tmp", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_reads)
        os.close(browser_writes)
        try:
            yield Page(process, we_write, we_read)
        finally:
            os.close(we_write)
            os.close(we_read)
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
