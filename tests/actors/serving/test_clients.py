"""What people use to reach the endpoint: OpenAI's own client, and the page in a browser."""

from __future__ import annotations

import base64
import re
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import browser, page_of
from tests.support.endpoint import PROMPT, body
from tests.support.serving import Case, Endpoint, local_captions

__all__ = ["browser"]


def messages(endpoint: Endpoint) -> Any:
    return body(endpoint.files[0].read_bytes())["messages"]


def written(endpoint: Endpoint, method: str) -> str:
    case = Case(endpoint.files[0], PROMPT, method, 0, stream=False)
    return local_captions([case])[0]


@pytest.mark.ray
@pytest.mark.parametrize(("model", "method"), [("policy", "greedy"), ("policy+search", "visvm")])
def test_openais_client(endpoint: Endpoint, model: str, method: str) -> None:
    client = openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0)
    assert model in [one.id for one in client.models.list()]
    plain = client.chat.completions.create(model=model, messages=messages(endpoint))
    caption = written(endpoint, method)
    assert plain.choices[0].message.content == caption
    assert plain.choices[0].finish_reason == "stop" and plain.usage and plain.usage.completion_tokens > 0
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=model, messages=messages(endpoint), stream=True, stream_options=options
        )
    )
    sentences = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(filter(None, sentences)) == caption and len(list(filter(None, sentences))) > 1
    assert chunks[-1].usage == plain.usage


@pytest.mark.ray
def test_openais_client_knows_the_errors(endpoint: Endpoint) -> None:
    client = openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt", messages=messages(endpoint))
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="image_url"):
        client.chat.completions.create(model="policy", messages=[{"role": "user", "content": "Hello"}])


@pytest.mark.ray
def test_the_page_shows_the_caption_and_what_it_was_chosen_from(browser: Browser, endpoint: Endpoint) -> None:
    with page_of(browser, endpoint.url) as page:
        page.get_by_label("Image", exact=True).set_input_files(endpoint.files[0])
        page.get_by_label("Prompt").fill(PROMPT)
        page.get_by_role("button", name="Describe").click()
        expect(page.get_by_text("done", exact=True)).to_have_count(2, timeout=60_000)
        guided = page.get_by_role("article").first
        expect(guided.get_by_role("heading")).to_have_text("Guided: visvm")
        sentences = guided.locator("summary").all_inner_texts()
        assert " ".join(sentences) == written(endpoint, "visvm").strip()
        guided.locator("summary").first.click()
        rows = guided.locator("details").first.locator("li").all_inner_texts()
        assert sum(int(merged[1]) if (merged := re.search(r"(\d+) of 6:", row)) else 1 for row in rows) == 6
        expect(guided.locator("details").first.locator(".chosen")).to_have_count(1)


@pytest.mark.ray
def test_a_files_bytes_give_the_same_whoever_sends_them(endpoint: Endpoint) -> None:
    data = base64.b64encode(endpoint.files[0].read_bytes()).decode()
    wrapped = "\n".join(data[i : i + 76] for i in range(0, len(data), 76))
    url = f"data:image/jpeg;base64,{wrapped}"  # lmms-eval says so of PNG
    answer = endpoint.chat(body(url, model="policy"))
    assert answer.json()["choices"][0]["message"]["content"] == written(endpoint, "greedy")
