"""The page in a real browser, with a server that does what a healthy one does too seldom to test."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from actors.serving import page
from actors.serving.page import GALLERY
from tests.support.browser import browser, page_of
from tests.support.servers import running
from visvm.world import coco_export, scenes

__all__ = ["browser"]

SENTENCES = ("One cat <b>sits</b>.", " It is late.")


def chunk(text: str | None, **extra: Any) -> str:
    delta = {} if text is None else {"content": text}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}], **extra})}\n\n"


def step(text: str, other: str) -> dict[str, Any]:
    rest = {"value": 0.25, "num_tokens": 4, "finish_reason": "sentence"}
    candidates = [
        {"text": other, "temperature": 0.0, **rest},
        {"text": text, "temperature": 0.7, "value": 0.5, "num_tokens": 4, "finish_reason": "stop"},
        {"text": other, "temperature": 0.3, **rest},
        {"text": other, "temperature": 0.5, **rest, "value": -1.5},
    ]
    return {"step": {"candidates": candidates, "choice": 1}}


def stream(seed: int) -> Iterator[str]:
    yield chunk("")
    yield chunk(SENTENCES[0], visvm=step(SENTENCES[0], "A dog sits."))
    if seed == 2:
        yield 'data: {"error": {"message": "A replica was lost."}}\n\n'
        return
    if seed == 3:
        return
    while seed == 4:
        yield ": waiting\n\n"
        time.sleep(0.05)
    yield chunk(SENTENCES[1], visvm=step(SENTENCES[1], ""))
    cost = {"num_generated_tokens": 16, "num_value_calls": 4, "seconds": 0.5}
    yield chunk(None, visvm={"method": "visvm", "cost": cost}) + "data: [DONE]\n\n"


def make_app(asked: list[dict[str, Any]]) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def index() -> Response:
        return HTMLResponse(page.html("org/captioner <1>", is_world=False), headers=page.headers())

    @app.get("/world")
    def world() -> Response:
        return HTMLResponse(page.html("world", is_world=True), headers=page.headers())

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"data": [{"id": "policy"}, {"id": "policy+search", "visvm": {"methods": ["visvm", "prm"]}}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        asked.append(body | {"authorization": request.headers.get("authorization")})
        if body["seed"] == 503:
            error = {"error": {"message": "The server is busy."}}
            return JSONResponse(error, 503, headers={"Retry-After": "7"})
        if body["seed"] == 500:
            return Response("oops", 500)
        return StreamingResponse(stream(body["seed"]), media_type="text/event-stream")

    return app


@pytest.fixture(scope="module")
def asked() -> list[dict[str, Any]]:
    """The requests that the server got."""
    return []


@pytest.fixture(scope="module")
def url(asked: list[dict[str, Any]]) -> Iterator[str]:
    with running(make_app(asked)) as address:
        yield f"{address}/"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "cat.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def describe(page: Page, image: Path, *, seed: int = 0) -> None:
    page.get_by_label("Image", exact=True).set_input_files(image)
    page.get_by_text("Settings").click()
    page.get_by_label("Seed").fill(str(seed))
    page.get_by_role("button", name="Describe").click()


def test_sentences_arrive_and_open(browser: Browser, url: str, image: Path, asked: list) -> None:
    with page_of(browser, url) as page:
        describe(page, image, seed=11)
        expect(page.get_by_text("done", exact=True)).to_have_count(2)
        guided = page.get_by_role("article").first
        steps = guided.locator("details")
        expect(steps.locator("summary")).to_have_text(
            [sentence.strip() for sentence in SENTENCES]
        )  # no markup
        expect(steps.first.locator("li")).to_have_count(3)
        expect(steps.first.locator("li").first).to_be_hidden()
        steps.first.locator("summary").press("Enter")
        best, other, worst = steps.first.locator("li").all_inner_texts()
        assert "0.5000" in best and "chosen" in best and "temperature 0.7" in best
        assert "A dog sits." in other and "0.2500" in other and "2 of 4: greedy, 0.3" in other
        assert "-1.5000" in worst and "temperature 0.5" in worst
        expect(guided.get_by_text("16 tokens, 4 sentences scored, 0.5\u00a0s")).to_be_visible()
    models = sorted(body["model"] for body in asked if body["seed"] == 11)
    assert models == ["policy", "policy+search"]


def test_bars_share_one_scale_from_zero(browser: Browser, url: str, image: Path) -> None:
    with page_of(browser, url) as page:
        describe(page, image)
        expect(page.get_by_text("done", exact=True)).to_have_count(2)
        article = page.get_by_role("article").first
        expect(article.get_by_text("Bars run from -2 to 1, the same for every sentence.")).to_be_visible()
        places = article.locator(".bar").evaluate_all(
            "bars => bars.map(bar => [bar.style.left, bar.style.width].map(parseFloat).map(Math.round))"
        )
    assert places == 2 * [[67, 17], [67, 8], [17, 50]]  # % of the track: 0.5, 0.25 and -1.5 on -2..1


def test_the_captioner_is_named_and_the_world_brings_its_drawings(
    browser: Browser, url: str, asked: list
) -> None:
    with page_of(browser, url) as page:
        expect(page.locator("#served")).to_have_text("org/captioner <1>")
        expect(page.locator("#gallery")).to_have_count(0)
    with page_of(browser, f"{url}world") as page:
        expect(page.get_by_text("know only drawings like these")).to_be_visible()
        drawing = page.get_by_role("group", name="Drawings").get_by_role("button").nth(1)
        drawing.click()
        expect(drawing).to_have_attribute("aria-pressed", "true")
        page.get_by_text("Settings").click()
        page.get_by_label("Seed").fill("13")
        page.get_by_role("button", name="Describe").click()
        expect(page.get_by_text("done", exact=True)).to_have_count(2)
    sent = {body["messages"][0]["content"][0]["image_url"]["url"] for body in asked if body["seed"] == 13}
    data = coco_export.png(scenes.layout("test", GALLERY[1]))
    assert sent == {f"data:image/png;base64,{base64.b64encode(data).decode()}"}


def test_settings_and_the_files_own_bytes_are_sent(
    browser: Browser, url: str, image: Path, asked: list
) -> None:
    with page_of(browser, url) as page:
        page.get_by_text("Settings").click()
        page.get_by_label("Method").select_option("prm")
        page.get_by_label("Candidates").fill("3")
        page.get_by_label("Sentences at most").fill("5")
        page.get_by_label("API key").fill("secret")
        page.get_by_label("Compare").uncheck()
        page.get_by_label("Prompt").fill("What is this?")
        page.get_by_text("Settings").click()
        describe(page, image, seed=12)
        expect(page.get_by_text("done", exact=True)).to_have_count(1)
    [body] = [body for body in asked if body["seed"] == 12]
    assert body["visvm"] == {"method": "prm", "step_size": 3, "max_sentences": 5, "trace": True}
    assert body["authorization"] == "Bearer secret" and body["stream"] is True
    part, text = body["messages"][0]["content"]
    assert text["text"] == "What is this?"
    sent = part["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(sent) == image.read_bytes()


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (503, "The server is busy. Try again in 7 s."),
        (500, "The server answered 500."),
        (2, "A replica was lost."),
        (3, "The answer broke off."),
    ],
)
def test_errors_are_shown(browser: Browser, url: str, image: Path, *, seed: int, message: str) -> None:
    with page_of(browser, url) as page:
        describe(page, image, seed=seed)
        expect(page.get_by_role("alert").filter(has_text=message)).to_have_count(2)
        expect(page.get_by_role("button", name="Describe")).to_be_enabled()


def test_writing_can_be_stopped_and_an_image_is_needed(browser: Browser, url: str, image: Path) -> None:
    with page_of(browser, url) as page:
        page.get_by_role("button", name="Describe").click()
        expect(page.get_by_text("Choose an image first.")).to_be_visible()
        describe(page, image, seed=4)
        expect(page.locator(".step summary").filter(has_text=SENTENCES[0])).to_have_count(2)
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("stopped", exact=True)).to_have_count(2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_screen_and_needs_nothing_from_elsewhere(
    browser: Browser, url: str, image: Path, *, width: int, scheme: Any
) -> None:
    addresses = []
    view: Any = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    for path in ("", "world"):
        with page_of(browser, url + path, **view) as page:
            page.on("request", lambda request: addresses.append(request.url))
            describe(page, image)
            expect(page.get_by_text("done", exact=True)).to_have_count(2)
            page.locator("details.step summary").first.click()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(251, 250, 247)", "dark": "rgb(22, 24, 27)"}[scheme]
    assert all(address.startswith((url, "data:")) for address in addresses)


def test_the_page_may_run_its_own_script_alone() -> None:
    policy = page.headers()["Content-Security-Policy"]
    assert "default-src 'none'" in policy and policy.count("'sha256-") == 2
    assert "unsafe" not in policy and "img-src data:;" in policy
    assert "://" not in page.html("world", is_world=True)
