"""The text of an answer as it may be sent, while it is being written."""

from __future__ import annotations

from visvm.records import Request
from visvm.search.draft import find_stop


class AnswerText:
    """Holds back what may turn out to be the beginning of a stop text."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.text, self.num_sent = "", 0

    def feed(self, piece: str) -> str:
        """Return what may be sent, now that ``piece`` follows."""
        self.text += piece if self.text else trim(piece, self.request)
        end = find_stop(self.text, self.request.stop)
        end = len(self.text) - self._num_held() if end is None else end
        start, self.num_sent = self.num_sent, max(end, self.num_sent)
        return self.text[start:end]

    def _num_held(self) -> int:
        beginnings = (stop[:n] for stop in self.request.stop for n in range(1, len(stop)))
        return max((len(part) for part in beginnings if self.text.endswith(part)), default=0)


def trim(text: str, request: Request) -> str:
    """Return the beginning of an answer without the white space that the given start ends with already."""
    start = request.start
    return text.removeprefix(start[len(start.rstrip()) :])
