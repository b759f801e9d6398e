"""States: what a policy's hidden states are behind the sentences of its rollouts."""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa

from visvm import images
from visvm.policy import SharedPrefixPolicy
from visvm.schemas import STATES
from visvm.value.head import fingerprint
from visvm.value.head_scorer import read_responses

logger = logging.getLogger(__name__)


class GatherStates:
    """ROLLOUTS -> STATES: the policy reads every response again, behind its image stored once."""

    def __init__(self, policy: dict[str, Any]) -> None:
        """Load the policy; ``policy`` are keywords of ``SharedPrefixPolicy.from_pretrained``."""
        self.policy = SharedPrefixPolicy.from_pretrained(**policy)
        self.fingerprint = fingerprint(self.policy.family.base)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [self._gather(row) for row in batch.to_pylist()]
        return pa.Table.from_pylist([row for row in rows if row is not None], schema=STATES)

    def _gather(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Return a row of STATES; None, with a warning, where the image is not what it was any more."""
        try:
            image = images.load(row["uri"], id=row["image_id"])
            if image.content_hash != row["content_hash"]:
                raise ValueError(f"{row['uri']} has changed since the rollouts were made")
        except ValueError as error:
            logger.warning("left out: %s", error)
            return None
        responses = [one["sentences"] for one in row["responses"] if one["sentences"]]
        if not responses:
            return None
        states = read_responses(self.policy, image, row["prompt"], responses)
        flat = {f"{reads}_states": own.float().cpu().numpy().reshape(-1) for reads, own in states.items()}
        kept = {key: row[key] for key in ("id", "image_id", "responses")}
        return kept | flat | {"fingerprint": self.fingerprint}
