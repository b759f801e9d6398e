"""A Hugging Face hub on loopback that takes commits: what `huggingface_hub` needs to upload a folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from fastapi import FastAPI, Request, Response
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from tests.support.servers import running

TOKEN = "hf_loopback"


class Hub:
    """Repositories by kind and name: their files by path, in memory."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.url = ""

    def app(self) -> FastAPI:
        app = FastAPI()
        app.get("/api/whoami-v2")(self.whoami)
        app.post("/api/repos/create")(self.create)
        app.post("/api/validate-yaml")(self.validate)
        app.get("/api/{kind}/{org}/{name}")(self.info)
        app.get("/api/{kind}/{org}/{name}/revision/main")(self.info)
        app.post("/api/{kind}/{org}/{name}/preupload/main")(self.preupload)
        app.post("/api/{kind}/{org}/{name}/commit/main")(self.commit)
        return app

    async def whoami(self, request: Request) -> Response:
        known = request.headers.get("authorization") == f"Bearer {TOKEN}"
        return Response('{"name": "me", "type": "user", "orgs": []}', 200 if known else 401)

    async def create(self, request: Request) -> dict[str, str]:
        body = await request.json()
        name, kind = f"{body['organization']}/{body['name']}", f"{body.get('type') or 'model'}s"
        self.private[name] = body.get("private", body.get("visibility") == "private")
        self.files.setdefault((kind, name), {})
        return {"url": f"{self.url}/{name}", "name": name, "id": name}

    async def validate(self, request: Request) -> Response:
        head = yaml.safe_load((await request.json())["content"].split("---")[1]) or {}
        try:
            validate_repo_id(head.get("base_model", "org/name"))
        except HFValidationError as error:
            return Response(json.dumps({"errors": [{"message": str(error)}], "warnings": []}), 400)
        return Response('{"errors": [], "warnings": []}')

    async def info(self, kind: str, org: str, name: str) -> dict[str, object]:
        return {"id": f"{org}/{name}", "sha": "0" * 40, "siblings": [], "private": True, "tags": []}

    async def preupload(self, request: Request) -> dict[str, object]:
        files = (await request.json())["files"]
        regular = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
        return {"files": [{"path": file["path"], **regular} for file in files]}

    async def commit(self, kind: str, org: str, name: str, request: Request) -> dict[str, str]:
        for line in (await request.body()).decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.files[kind, f"{org}/{name}"][entry["value"]["path"]] = content
        page = f"{self.url}/{'datasets/' if kind == 'datasets' else ''}{org}/{name}"
        return {"commitUrl": f"{page}/commit/main", "commitOid": "0" * 40, "hookOutput": ""}


@contextmanager
def loopback() -> Iterator[Hub]:
    """Serve an empty hub."""
    hub = Hub()
    with running(hub.app()) as hub.url:
        yield hub
