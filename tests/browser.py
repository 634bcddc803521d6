"""Chromium without a window, driven by its DevTools protocol over a pipe: real keys and history, no dependency."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any


class Browser:
    """A tab of Chromium, by its own words: `send("Page.navigate", url=...)` returns the result of the command.

    Raises AssertionError where Chromium is not installed, and RuntimeError for a refused command and an exception of a
    script. `requests` has the addresses that pages asked for.
    """

    def __init__(self, profile: Path, *, width: int = 1200, height: int = 900) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert program, "this test needs Chromium; install Debian's package chromium, or leave the marker out"
        commands_read, self._commands = os.pipe()
        self._answers, answers_write = os.pipe()
        arguments = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
            "--hide-scrollbars", f"--user-data-dir={profile}", f"--window-size={width},{height}",
            "--remote-debugging-pipe",
        ]  # fmt: skip
        # Chromium reads commands from descriptor 3 and writes answers to 4
        redirect = f'exec "$@" 3<&{commands_read} 4>&{answers_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "chromium", *arguments], pass_fds=(commands_read, answers_write),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands_read)
        os.close(answers_write)
        self._received, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._commands)
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._answers)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            chunk = os.read(self._answers, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium ended")
            self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        """Opens a page in this tab, and waits until it is loaded."""
        for address in ("about:blank", url):  # another fragment alone would not load the page again
            self.events.clear()
            self.send("Page.navigate", url=address)
            while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
                self.events.append(self._receive())

    @property
    def requests(self) -> list[str]:
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def evaluate(self, script: str) -> Any:
        """Returns the value of an expression, awaited where it is a promise."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails'].get('exception', {}).get('description')}")
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until an expression is true, after which the page has also been drawn."""
        self.evaluate(
            f"new Promise((done) => {{ const look = () => ({condition}) ? requestAnimationFrame(() => done(true)) "
            ": setTimeout(look, 10); look(); })"
        )

    def press(self, *keys: str) -> None:
        """Presses keys one after another: "Tab", "Shift+Tab", " ", "Enter", "ArrowRight", "Home", "End"."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39, "Escape": 27}
        texts = {"Enter": "\r", " ": " "}
        for key in keys:
            name = key.removeprefix("Shift+")
            one = {
                "key": name, "code": "Space" if name == " " else name, "windowsVirtualKeyCode": codes[name],
                "modifiers": 8 if key.startswith("Shift+") else 0,
            }  # fmt: skip
            text = {"text": texts[name]} if name in texts else {}
            self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **one, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", **one)

    def screenshot(self, out: Path, *, width: int, height: int, dark: bool = False) -> None:
        """Writes what a window of this size shows, as PNG."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        picture = self.send("Page.captureScreenshot", format="png")
        out.write_bytes(base64.b64decode(picture["data"]))
