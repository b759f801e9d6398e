"""The Arrow schemas of the files that the stages write, declared once and asserted on every write."""

from __future__ import annotations

import pyarrow as pa

RESPONSE = pa.struct(
    [
        ("temperature", pa.float32()),
        ("seed", pa.int64()),
        ("text", pa.string()),
        ("sentences", pa.list_(pa.string())),
        ("rewards", pa.list_(pa.float32())),
        ("num_tokens", pa.int32()),
        ("finish_reason", pa.string()),
    ]
)

ROLLOUTS = pa.schema(
    [
        ("id", pa.string()),
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("content_hash", pa.string()),
        ("prompt", pa.string()),
        ("responses", pa.list_(RESPONSE)),
    ]
)

STATES = pa.schema(
    [
        ("id", pa.string()),
        ("image_id", pa.string()),
        ("responses", pa.list_(RESPONSE)),
        ("fingerprint", pa.string()),  # of the policy
        # of all sentences of all responses, one after the other: [sentences * hidden]
        ("prefix_states", pa.list_(pa.float32())),
        ("sentence_states", pa.list_(pa.float32())),
    ]
)

TRIPLES = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.int32()),
        ("step", pa.int32()),
        ("sentence", pa.string()),
        ("next_sentence", pa.string()),
        ("reward", pa.float32()),
    ]
)

CANDIDATE = pa.struct(
    [
        ("text", pa.string()),
        ("temperature", pa.float32()),
        ("value", pa.float32()),
        ("num_tokens", pa.int32()),
        ("finish_reason", pa.string()),
    ]
)

STEP = pa.struct([("candidates", pa.list_(CANDIDATE)), ("choice", pa.int32())])

# What was promised when sentences below tau were dropped; null if nothing was.
CALIBRATION = pa.struct(
    [("tau", pa.float64()), ("risk", pa.string()), ("alpha", pa.float64()), ("num_images", pa.int64())]
)

CAPTIONS = pa.schema(
    [
        ("id", pa.string()),
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("content_hash", pa.string()),
        ("prompt", pa.string()),
        ("method", pa.string()),
        ("caption", pa.string()),
        ("sentences", pa.list_(pa.string())),
        ("values", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("trace", pa.list_(STEP)),
        ("num_generated_tokens", pa.int32()),
        ("num_value_calls", pa.int32()),
        ("seconds", pa.float32()),
        ("calibration", CALIBRATION),
    ]
)

ERRORS = pa.schema(
    [("uri", pa.string()), ("image_id", pa.string()), ("stage", pa.string()), ("reason", pa.string())]
)
