"""JupyterLab, driven as a person drives it: a server on loopback, a notebook opened in Chromium, all cells run.

A browser test writes a notebook of a few cells, runs it, and works the widgets with Playwright:

    def test_my_widget(chromium, tmp_path):
        write_notebook(tmp_path / "box.ipynb", "from nitro_lab.widgets.prompt_box import prompt_box", "prompt_box()")
        with jupyter_lab(tmp_path) as lab, open_notebook(chromium, lab, "box.ipynb") as notebook:
            notebook.run_all_cells()
            before = notebook.picture()
            notebook.set_slider("seed", 7)
            notebook.wait_for_new_picture(before)
            notebook.keep_screenshot("prompt_box")
            assert notebook.errors == []

`picture()` is the `src` of a widget's picture (a blob's address, new for each picture); `picture_bytes()` are its
bytes. Controls are found by their description, `field("seed")`, so a test reads like the page. `notebook.page` is
Playwright's page, for all else. A server takes some seconds to start and a page some more: share them among checks.
"""

import json
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Locator, Page

PATIENCE = 240  # seconds for anything to appear: a busy machine may need many for a kernel and its imports
SCREENSHOTS = Path(__file__).parent.parent / "build" / "browser"
SETTINGS = {  # no questions, no news from the network, and every cell drawn even when it is far down the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
}


@dataclass(frozen=True)
class Lab:
    """A running server: its address, and the token that it asks for."""

    url: str
    token: str

    def address_of(self, notebook: str) -> str:
        """A page with this notebook alone, in a fresh workspace."""
        return f"{self.url}/doc/tree/{notebook}?reset&token={self.token}"


def write_notebook(path: Path, *sources: str) -> None:
    """A notebook of code cells, to be run by the kernel `python3`."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[Lab]:
    """Serve `folder` by JupyterLab on 127.0.0.1, at a free port, until the block ends.

    Raises:
        RuntimeError: if the server ends or does not answer in time; the message holds the end of its log.
    """
    settings = folder / ".lab-settings"
    for name, values in SETTINGS.items():
        file = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lab = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(16))
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={lab.token}",
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.user_settings_dir={settings}",
        f"--LabApp.workspaces_dir={settings / 'workspaces'}",
        "--LabApp.extension_manager=readonly",
    ]
    log = folder / ".lab.log"
    with log.open("w") as output:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=output, stderr=output)
    try:
        wait_for_server(lab, server, log)
        yield lab
    finally:
        server.terminate()  # the server ends its kernels, then itself
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def wait_for_server(lab: Lab, server: subprocess.Popen, log: Path) -> None:
    """Ask until the server answers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        if answers(f"{lab.url}/api?token={lab.token}"):
            return
        time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not answer at {lab.url}. Its log ends with:\n{log.read_text()[-2000:]}")


def answers(url: str) -> bool:
    """Whether a server answers there, and well."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:  # refused, timed out, or an error as answer
        return False
    return True


@contextmanager
def open_notebook(browser: Browser, lab: Lab, name: str) -> Iterator["NotebookPage"]:
    """Open a notebook of the served folder, and wait until its kernel is ready."""
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(PATIENCE * 1000)
    notebook = NotebookPage(page)
    page.on("console", lambda message: notebook.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: notebook.errors.append(str(error)))
    try:
        page.goto(lab.address_of(name))
        notebook.wait_until_idle()
        yield notebook
    finally:
        page.close()


@dataclass
class NotebookPage:
    """An open notebook. `errors` collects what the browser's console reports, and exceptions of the page."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def wait_until_idle(self) -> None:
        """Wait until the kernel is there and has nothing to do."""
        self.page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()

    def run_all_cells(self) -> None:
        """Run > Run All Cells, and wait for the last one's end.

        Raises:
            AssertionError: if a cell ends in a traceback, with its text.
        """
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        running = "prompt => prompt.textContent.includes('*') || !prompt.textContent.match(/\\d/)"
        prompts = ".jp-CodeCell .jp-InputArea-prompt"
        self.page.wait_for_function(f"![...document.querySelectorAll('{prompts}')].some({running})")
        self.wait_until_idle()
        tracebacks = self.page.locator(".jp-OutputArea-output[data-mime-type*=error]")
        assert tracebacks.count() == 0, tracebacks.first.inner_text()

    def field(self, description: str) -> Locator:
        """The widget with this description: its whole row."""
        label = self.page.locator(".widget-label", has_text=description)
        return self.page.locator(".jupyter-widgets.widget-inline-hbox").filter(has=label).first

    def set_slider(self, description: str, value: float) -> None:
        """Type a number into the read-out beside a slider, as a person can."""
        readout = self.field(description).locator(".widget-readout")
        readout.click()
        readout.fill(str(value))
        readout.press("Enter")

    def press_slider(self, description: str, key: str = "ArrowRight") -> None:
        """Take the handle of a slider and press a key."""
        handle = self.field(description).locator(".noUi-handle")
        handle.focus()
        handle.press(key)

    def picture(self, index: int = 0) -> str:
        """Address of a picture that a widget shows; each new picture has another."""
        image = self.page.locator("img.widget-image").nth(index)
        image.wait_for()
        return image.get_attribute("src") or ""

    def picture_bytes(self, index: int = 0) -> bytes:
        """What the browser holds of that picture."""
        read = "async address => Array.from(new Uint8Array(await (await fetch(address)).arrayBuffer()))"
        return bytes(self.page.evaluate(read, self.picture(index)))

    def wait_for_new_picture(self, before: str, index: int = 0) -> None:
        """Wait until the picture is another one, and drawn."""
        condition = """([before, index]) => {
            const image = document.querySelectorAll('img.widget-image')[index];
            return image && image.src && image.src !== before && image.complete && image.naturalWidth > 0;
        }"""
        self.page.wait_for_function(condition, arg=[before, index])

    def button(self, name: str) -> Locator:
        """The button with this word on it."""
        return self.page.get_by_role("button", name=name, exact=True)

    def progress(self) -> str:
        """What a run says of itself: "step 3 of 500 ..."."""
        return self.page.get_by_text(re.compile(r"^step \d+ of \d+")).inner_text()

    def step(self) -> int:
        """Steps that a run says are done."""
        return int(self.progress().split()[1])

    def wait_for_step(self, least: int) -> None:
        """Wait until a run has done so many steps."""
        condition = f"""() => [...document.querySelectorAll('.widget-html-content')].some(
            box => Number((box.textContent.match(/^step (\\d+) of/) || [])[1]) >= {least})"""
        self.page.wait_for_function(condition)

    def keep_screenshot(self, name: str) -> Path:
        """Save what the page shows as build/browser/<name>.png."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        file = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=file)
        return file
