"""One file = one command = one pipeline: ``visvm VERB`` or ``python -m jobs.NAME``."""

import os

if "RAY_ADDRESS" not in os.environ:
    # Under `uv run` Ray would give the workers an environment of their own, installed anew for every
    # job. On this machine they have the driver's already. Ray reads this when it is imported.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
