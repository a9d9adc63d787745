"""JupyterLab, driven as a person drives it: a server on loopback, a notebook opened in Chromium, all cells run.

A small example is test_browser_refinement.py. Controls are found by their description.
"""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Locator, Page

PATIENCE = 240  # seconds for anything to appear: a busy machine takes long to start a kernel
SCREENSHOTS = Path(__file__).parent.parent / "build" / "browser"
SETTINGS = {  # no questions, no news from the network, and every cell rendered, even far down the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
}
TRACEBACK = '[data-mime-type="application/vnd.jupyter.stderr"]:has(.ansi-red-fg)'  # without colour, it is only stderr


def write_notebook(path: Path, *sources: str) -> None:
    """A notebook of code cells, to be run by the kernel `python3`."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """Serve `folder` with JupyterLab on 127.0.0.1 until the block ends. Yields an address with `{}` for the page."""
    settings = folder / ".lab-settings"
    for name, values in SETTINGS.items():
        file = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    lab = f"http://127.0.0.1:{port}/{{}}?reset&token={token}"
    options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0"]
    options += [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    options += [f"--LabApp.user_settings_dir={settings}", f"--LabApp.workspaces_dir={settings / 'workspaces'}"]
    options += ["--LabApp.extension_manager=readonly"]
    log = folder / ".lab.log"
    with log.open("w") as output:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "notebooks")}  # for the kernels
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(lab.format("api")):
            if time.monotonic() > deadline or server.poll() is not None:
                raise RuntimeError(f"JupyterLab did not answer at port {port}. Its log: {log.read_text()[-2000:]}")
            time.sleep(0.3)
        yield lab
    finally:
        server.terminate()  # the server ends its kernels, then itself
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()  # does nothing if it has ended


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False


@contextmanager
def open_notebook(browser: Browser, lab: str, name: str) -> Iterator["NotebookPage"]:
    """Open a notebook of the served folder, and wait until its kernel is ready."""
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(PATIENCE * 1000)
    notebook = NotebookPage(page)
    page.on("console", lambda message: notebook.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: notebook.errors.append(str(error)))
    try:
        page.goto(lab.format(f"doc/tree/{name}"))
        notebook.wait_until_idle()
        yield notebook
    finally:
        page.close()


@dataclass
class NotebookPage:
    """An open notebook. `errors` collects errors of the browser's console, and exceptions of the page."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def wait_until_idle(self) -> None:
        """Wait until the kernel has started and is idle."""
        self.page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()

    def run_all_cells(self) -> None:
        """Run > Run All Cells, and wait for the end of the last one or for a traceback, which fails the test."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        done = """traceback => document.querySelector(traceback) || [...document.querySelectorAll(
            '.jp-CodeCell .jp-InputArea-prompt')].every(prompt => prompt.textContent.match(/\\d/))"""
        self.page.wait_for_function(done, arg=TRACEBACK)
        self.wait_until_idle()
        self.check_outputs()

    def check_outputs(self) -> None:
        """Fail if a cell shows a traceback."""
        tracebacks = self.page.locator(TRACEBACK).all_inner_texts()
        assert not tracebacks, tracebacks[0]

    def field(self, description: str) -> Locator:
        """The row of the widget with this description."""
        return self.page.locator(".jupyter-widgets.widget-inline-hbox").filter(has_text=description).first

    def set_slider(self, description: str, value: float) -> None:
        """Type a number into the read-out beside a slider."""
        readout = self.field(description).locator(".widget-readout")
        readout.click()
        readout.fill(str(value))
        readout.press("Enter")

    def press_slider(self, description: str, key: str = "ArrowRight") -> None:
        """Focus the handle of a slider and press a key."""
        handle = self.field(description).locator(".noUi-handle")
        handle.focus()
        handle.press(key)

    def picture(self, index: int = 0) -> str:
        """Address (`src`) of the image that a widget shows; each new image has another."""
        return self.page.locator("img.widget-image").nth(index).get_attribute("src") or ""  # waits for the image

    def picture_bytes(self, index: int = 0) -> bytes:
        """The bytes of that image."""
        read = "async address => Array.from(new Uint8Array(await (await fetch(address)).arrayBuffer()))"
        return bytes(self.page.evaluate(read, self.picture(index)))

    def wait_for_new_picture(self, before: str, index: int = 0) -> None:
        """Wait until another image is shown completely."""
        image = "document.querySelectorAll('img.widget-image')[index]"
        condition = f"([before, index]) => {image}?.src && {image}.src !== before && {image}.naturalWidth > 0"
        self.page.wait_for_function(condition, arg=[before, index])

    def button(self, name: str) -> Locator:
        """The button with this label."""
        return self.page.get_by_role("button", name=name, exact=True)

    def step(self) -> int:
        """Number of steps done, from the progress of a run: "step 3 of 500 ..."."""
        return int(self.page.get_by_text(re.compile(r"^step \d+ of \d+")).inner_text().split()[1])

    def wait_for_step(self, least: int) -> None:
        """Wait until a run has done this many steps."""
        condition = f"""() => [...document.querySelectorAll('.widget-html-content')].some(
            box => Number((box.textContent.match(/^step (\\d+) of/) || [])[1]) >= {least})"""
        self.page.wait_for_function(condition)

    def keep_screenshot(self, name: str) -> None:
        """Save what the page shows as build/browser/<name>.png."""
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")
