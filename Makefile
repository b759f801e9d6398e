.DEFAULT_GOAL := help
.PHONY: help setup test slow lint format types ci demo

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

setup:  ## install everything in the pinned versions
	uv sync

test:  ## run the tests
	uv run pytest

slow:  ## run the tests that take more than a minute each
	uv run pytest -m "slow and not gpu"

lint:  ## check style
	uv run ruff check . && uv run ruff format --check .

format:  ## format the code
	uv run ruff check --fix . && uv run ruff format .

types:  ## check types
	uv run mypy

ci:  ## run what CI runs
	bash .ci/run

demo:  ## run the loop on the embedded world
	uv run visvm demo
