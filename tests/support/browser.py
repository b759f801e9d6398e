"""A headless Chromium, if installed (Debian's packages chromium and chromium-driver)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    " --disable-background-networking --disable-component-update"
)

MILLISECONDS = 120_000  # until a page must have reacted: the machine may be busy


@pytest.fixture(scope="module")  # while it is open, nothing else can run an event loop in this thread
def browser() -> Iterator[Browser]:
    """Give one browser per test file; skip if none is installed."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        yield running
        running.close()


@contextmanager
def page_of(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Open the page at ``url``; fail if its script or its security policy reports an error."""
    page = browser.new_page(**options)
    page.set_default_timeout(MILLISECONDS)
    expect.set_options(timeout=MILLISECONDS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(url)
    try:
        yield page
        assert [text for text in problems if "Failed to load resource" not in text] == []
    finally:
        page.close()
