"""A headless Chromium for tests, driven over its own DevTools pipe, without a driver package."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_chromium() -> str | None:
    """Path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in one fresh profile. What it says on its console, and what it asks of the network, is kept."""

    def __init__(self, program: str, *, patience_s: float = 300.0) -> None:
        self.patience_s = patience_s
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._held = b""
        self._count = 0
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # Chromium takes commands from descriptor 3 and answers on 4; bash puts our pipes there.
        shell = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash"]
        self._process = subprocess.Popen(
            [*shell, program, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._session: str | None = None
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.command("Page.setLifecycleEventsEnabled", enabled=True)
        self.command(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)  # Chromium ends when its pipe does
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._read)
        self._profile.cleanup()

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        own = self._count
        answer = self._wait(lambda m: m.get("id") == own)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, page: Path, *, width: int, height: int, phone: bool) -> None:
        """Load a file at a width, as a phone or a desktop shows it."""
        self.complaints.clear()
        self.requests.clear()
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        # Nothing must move between measuring a place and clicking there.
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        self.command("Emulation.setEmulatedMedia", features=still)
        loader = self.command("Page.navigate", url=page.resolve().as_uri())["loaderId"]
        loaded = {"name": "load", "loaderId": loader}  # of this page: an earlier one's may come as late
        self._wait(lambda m: m.get("method") == "Page.lifecycleEvent" and loaded.items() <= m["params"].items())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + self.patience_s
        while not self.run(script):
            assert time.monotonic() < end, f"never became true: {script}"
            time.sleep(0.05)

    def point(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse to a place of the window, and click there."""
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        if click:
            for kind in ("mousePressed", "mouseReleased"):
                self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def centre(self, selector: str) -> tuple[float, float]:
        """Scroll an element into sight; its middle."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return [r.left + r.width / 2, r.top + r.height / 2]; })()"
        )
        return x, y

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _wait(self, wanted: Any) -> dict[str, Any]:
        end = time.monotonic() + self.patience_s
        while True:
            for place, message in enumerate(self._events):
                if wanted(message):
                    return self._events.pop(place)
            assert time.monotonic() < end, "Chromium does not answer"
            self._receive(end - time.monotonic())

    def _receive(self, seconds: float) -> None:
        if not select.select([self._read], [], [], max(0.0, seconds))[0]:
            return
        data = os.read(self._read, 1 << 20)
        assert data, "Chromium has ended"
        *messages, self._held = (self._held + data).split(b"\0")
        for message in map(json.loads, messages):
            self._note(message.get("method"), message.get("params", {}))
            self._events.append(message)

    def _note(self, method: str | None, held: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(held["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and held["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(held["args"]))
        elif method == "Log.entryAdded" and held["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(held["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(held["request"]["url"])
