"""The tools of browser tests: what happens without a browser, and when a cell fails."""

import conftest
import pytest
from browser import jupyter_lab, open_notebook, write_notebook


@pytest.mark.parametrize(("required", "outcome"), [("0", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_without_a_browser_a_test_is_skipped_or_fails(required, outcome, monkeypatch):
    monkeypatch.setattr(conftest, "find_browser", lambda: None)
    monkeypatch.setenv("NITRO_LAB_REQUIRE_BROWSER", required)
    with pytest.raises(outcome, match="chromium"):
        conftest.require_browser()


def test_a_cell_that_fails_fails_the_test_at_once(chromium, tmp_path):
    write_notebook(tmp_path / "a.ipynb", "import sys\nprint('no error', file=sys.stderr)", "import nowhere", "2")
    with jupyter_lab(tmp_path) as lab, open_notebook(chromium, lab, "a.ipynb") as notebook:
        notebook.page.set_default_timeout(30_000)
        with pytest.raises(AssertionError, match="ModuleNotFoundError: No module named 'nowhere'"):
            notebook.run_all_cells()
