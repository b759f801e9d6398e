"""A policy behind a server: search in front of vLLM, SGLang or any server of OpenAI's API."""
