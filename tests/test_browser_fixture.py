"""Without a browser its tests are skipped with a plain word, or failed where one is required."""

import conftest
import pytest


@pytest.fixture(autouse=True)
def no_browser(monkeypatch):
    monkeypatch.setattr(conftest, "find_browser", lambda: None)


def test_skipped_with_a_plain_word(monkeypatch):
    monkeypatch.delenv("NITRO_LAB_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no browser: none of chromium, .* is installed"):
        conftest.require_browser()


def test_failed_where_required(monkeypatch):
    monkeypatch.setenv("NITRO_LAB_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        conftest.require_browser()


def test_drives_a_page(chromium):
    page = chromium.new_page()
    page.set_content("<h1>hello</h1>")
    assert page.inner_text("h1") == "hello"
    page.close()
