"""Opens a page in headless Chromium over its debugging pipe: what it asked for, what it looks like."""

import base64
import contextlib
import fcntl
import io
import json
import os
import shutil
import subprocess

import numpy as np
from PIL import Image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Pipe:
    """Commands and events of the Chrome DevTools protocol, JSON that ends with a zero byte."""

    def __init__(self, read, write):
        self.read, self.write, self.rest, self.count, self.events = read, write, b"", 0, []

    def message(self):
        while b"\0" not in self.rest:
            more = os.read(self.read, 1 << 16)
            assert more, "the browser ended"
            self.rest += more
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def ask(self, method, session=None, **parameters):
        self.count += 1
        row = {"id": self.count, "method": method, "params": parameters}
        row |= {"sessionId": session} if session else {}
        text = json.dumps(row).encode() + b"\0"
        while text:
            text = text[os.write(self.write, text) :]
        while (answer := self.message()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def until(self, method):
        while not any(e.get("method") == method for e in self.events):
            self.events.append(self.message())


@contextlib.contextmanager
def _started(profile):
    (low_in, ours_out), (ours_in, low_out) = os.pipe(), os.pipe()
    # Above 9, so that neither is one of the two that the browser uses.
    theirs_in, theirs_out = (fcntl.fcntl(f, fcntl.F_DUPFD, 10) for f in (low_in, low_out))
    os.close(low_in)
    os.close(low_out)
    words = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-dev-shm-usage", "--proxy-server=127.0.0.1:9", "--remote-debugging-pipe",
        f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    # The browser reads commands from descriptor 3 and answers on 4.
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-'
    process = subprocess.Popen(
        ["bash", "-c", shell, "browser", *words],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Pipe(ours_in, ours_out)
    finally:
        process.kill()
        process.wait()
        os.close(ours_in)
        os.close(ours_out)


def opened(path, profile, width, dark=False):
    """(picture, requests, overflow): uint8 (H, W, 3) of the whole page at this width; addresses that
    the page itself asked for, other than itself; pixels by which it is wider than the window."""
    with _started(profile) as pipe:
        target = pipe.ask("Target.createTarget", url="about:blank")["targetId"]
        found = pipe.ask("Target.attachToTarget", targetId=target, flatten=True)
        session = found["sessionId"]
        pipe.ask("Network.enable", session)
        pipe.ask("Page.enable", session)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        pipe.ask("Emulation.setDeviceMetricsOverride", session, **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        pipe.ask("Emulation.setEmulatedMedia", session, features=[scheme])
        pipe.ask("Page.navigate", session, url=f"file://{path}")
        pipe.until("Page.loadEventFired")
        script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        over = pipe.ask("Runtime.evaluate", session, expression=script)["result"]["value"]
        shot = pipe.ask("Page.captureScreenshot", session, captureBeyondViewport=True)
        rows = [e["params"] for e in pipe.events if e["method"] == "Network.requestWillBeSent"]
    urls = [r["request"]["url"] for r in rows]
    asked = [u for u in urls if u != f"file://{path}" and not u.startswith("data:")]
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    return np.array(image), asked, over
