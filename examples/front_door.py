"""Caption, score and stream from Python, with the embedded world's models; seconds on a laptop, no GPU.

uv run python examples/front_door.py
"""

from __future__ import annotations

from collections.abc import Sequence

import visvm
from visvm.world.rendering import image
from visvm.world.scenes import layout


class Brevity:
    """A scorer of one's own: the shorter a sentence, the better."""

    def score(self, questions: Sequence[visvm.Question]) -> list[list[float]]:
        """Return one float per sentence of each question; higher is better."""
        return [[-float(len(sentence)) for sentence in question.sentences] for question in questions]


def main() -> None:
    """Run the story of the README on one image of the world."""
    drawing = image(layout("test", 18))  # a PIL image; a path, bytes or a URI will do as well
    captioner = visvm.load(policy="world", value="world")

    print("greedy: ", captioner.caption(drawing, method="greedy").text)
    caption = captioner.caption(drawing, method="visvm")
    print("guided: ", caption.text)
    print(f"         {caption.cost.num_generated_tokens} tokens, {caption.cost.num_value_calls} values")

    sentences = ["There is a dog.", "There is a giraffe."]
    for sentence, value in zip(sentences, captioner.score(drawing, sentences), strict=True):
        print(f"value {value:+.2f}: {sentence}")

    print("streamed:", *(step.text for step in captioner.stream(drawing)))

    own = visvm.load(policy="world", scorer=Brevity())
    print("by a scorer of one's own:", own.caption(drawing, method="visvm", max_sentences=3).text)


if __name__ == "__main__":
    main()
