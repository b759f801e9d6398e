"""The front door: ``visvm.load`` and what it gives, in this process."""

import base64
import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import visvm
from tests.support.own import ShortestFirst, TwoSentences
from tests.support.paths import ROOT
from visvm.world import coco_export

GOLDEN = json.loads((ROOT / "tests/visvm/world/golden_captions.json").read_text())


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test image of the world."""
    return Path(coco_export.make(tmp_path_factory.mktemp("images"), split="test", count=1)[0])


@pytest.fixture(scope="module")
def captioner() -> visvm.Captioner:
    return visvm.load(policy="world", value="world")


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the embedded models")
        yield


@pytest.mark.parametrize("method", list(GOLDEN))
def test_captions_are_the_committed_texts(captioner: visvm.Captioner, drawing: Path, method: str) -> None:
    caption = captioner.caption(drawing, method=method)
    digest = hashlib.sha256(caption.text.encode()).hexdigest()[:16]
    assert digest == GOLDEN[method][str(int(drawing.stem))]
    assert caption.text == "".join(caption.sentences) and caption.method == method
    assert len(caption.values) == len(caption.trace) == (len(caption.sentences) if method == "visvm" else 0)
    assert caption.cost.seconds > 0 and caption.cost.num_generated_tokens > 0


def test_an_image_is_a_path_bytes_a_data_url_or_a_pil_image(
    captioner: visvm.Captioner, drawing: Path
) -> None:
    data = drawing.read_bytes()
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    forms = [drawing, str(drawing), drawing.as_uri(), data, url]
    sampled = {captioner.caption(one, "sample", seed=3).text for one in forms}
    assert len(sampled) == 1  # the seed of a draw is derived from the file's bytes
    with Image.open(drawing) as pil:
        assert captioner.caption(pil, "greedy").text == captioner.caption(drawing, "greedy").text


@pytest.mark.parametrize("method", ["visvm", "greedy", "best_of_n"])
def test_a_stream_gives_the_sentences_of_the_caption(
    captioner: visvm.Captioner, drawing: Path, method: str
) -> None:
    stream = captioner.stream(drawing, method)
    chosen = list(stream)
    caption = captioner.caption(drawing, method)
    assert stream.caption is not None and stream.caption.text == caption.text
    assert [one.text for one in chosen] == list(caption.sentences)
    if method == "visvm":
        assert [one.trace for one in chosen] == list(caption.trace)
        assert [one.value for one in chosen] == list(caption.values)


def test_a_stream_given_up_leaves_nothing_behind(captioner: visvm.Captioner, drawing: Path) -> None:
    stream, other = captioner.stream(drawing), captioner.stream(drawing, "greedy")
    next(stream)
    digest = hashlib.sha256("".join(one.text for one in other).encode()).hexdigest()[:16]
    assert digest == GOLDEN["greedy"][str(int(drawing.stem))]
    with pytest.raises(RuntimeError, match="another caption was begun"):
        list(stream)
    assert stream.caption is None


def test_score_is_the_value_that_the_search_saw(captioner: visvm.Captioner, drawing: Path) -> None:
    caption = captioner.caption(drawing)
    first = caption.trace[0]
    texts = [one.text for one in first.candidates if not one.ended]
    values = [value for one, value in zip(first.candidates, first.values, strict=True) if not one.ended]
    assert captioner.score(drawing, texts) == pytest.approx(values, abs=1e-5)
    rewards = captioner.score(drawing, texts, method="prm")
    assert all(-1 <= reward <= 1 for reward in rewards) and rewards != pytest.approx(values)
    assert captioner.score(drawing, []) == []


def test_a_scorer_and_a_search_of_ones_own(drawing: Path, captioner: visvm.Captioner) -> None:
    own = visvm.load(scorer=ShortestFirst())
    assert own.score(drawing, ["A.", "A dog."], method="prm") == [-2.0, -6.0]
    caption = own.caption(drawing, TwoSentences(step_size=3))
    assert caption.method == "two_sentences" and len(caption.sentences) <= 2
    assert caption.values == tuple(-float(len(text.strip())) for text in caption.sentences)
    assert own.caption(drawing, "greedy").text == captioner.caption(drawing, "greedy").text
    by_name = captioner.caption(drawing, "tests.support.own:TwoSentences", step_size=3)
    assert by_name.method == "two_sentences" and len(by_name.trace[0].candidates) == 4


def test_a_photo_under_the_worlds_policy_is_warned_of(captioner: visvm.Captioner) -> None:
    with pytest.warns(UserWarning, match="drawings of their own world.*llava"):
        captioner.caption(Image.new("RGB", (96, 96), "navy"), "greedy", max_sentences=1)


def test_mistakes_are_value_errors_that_say_what_was_expected(
    captioner: visvm.Captioner, drawing: Path, tmp_path: Path, tiny_policy: Path
) -> None:
    (text := tmp_path / "text.png").write_text("no image")
    calls = {
        "cannot read .*missing.png": lambda: captioner.caption(tmp_path / "missing.png"),
        "not a usable image": lambda: captioner.caption(text),
        "not a usable image: cannot identify": lambda: captioner.caption(b"no image"),
        "image is a int": lambda: captioner.caption(3),  # type: ignore[arg-type]
        "not fetched from the web": lambda: captioner.caption("https://example.org/a.png"),
        "data: URL must read": lambda: captioner.caption("data:image/png,abc"),
        "expected one of greedy": lambda: captioner.caption(drawing, "beam"),
        "step_size = 0": lambda: captioner.caption(drawing, step_size=0),
        "steps = 2": lambda: captioner.caption(drawing, steps=2),
        "centre: give it to visvm.load": lambda: captioner.caption(drawing, centre=0.2),
        "predicts 'value'": lambda: captioner.caption(drawing, "reward_plus_future"),
        "'greedy' has no scorer": lambda: captioner.score(drawing, ["A."], method="greedy"),
        "sentences is one str": lambda: captioner.score(drawing, "A."),
        "no such directory": lambda: visvm.load("./missing"),
        "not a value model": lambda: visvm.load(value=str(tiny_policy)),
        "device = 'tpu'": lambda: visvm.load(device="tpu"),
        "options of load": lambda: visvm.load(max_tokens=3),
        "int is not a scorer": lambda: visvm.load(scorer=3),  # type: ignore[arg-type]
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_names_are_lazy_and_complete() -> None:
    assert all(getattr(visvm, name) is not None for name in visvm.__all__)
    assert set(visvm.__all__) <= set(dir(visvm))
    assert (ROOT / "visvm" / "py.typed").exists()
    with pytest.raises(AttributeError, match="nothing"):
        _ = visvm.nothing


@pytest.mark.parametrize("first", ["import visvm", "import transformers.models.auto.modeling_auto"])
def test_auto_model_loads_a_value_model_whichever_is_imported_first(first: str) -> None:
    code = f"{first}\nimport visvm\nfrom transformers import AutoModel\n" + (
        f"model = AutoModel.from_pretrained({str(ROOT / 'visvm/world/weights/value')!r})\n"
        "print(type(model).__name__, model.head.weight.abs().sum().item() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["VisionValueModel", "True"], done.stderr
