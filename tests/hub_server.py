"""A stand-in for the hub on this machine: it answers what huggingface_hub asks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What the hub stores by its hash, apart from the commit.
_LARGE = (".safetensors", ".png")


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        return hashlib.sha1("\n".join(self.commits).encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """The server; ``token`` is what private repositories and writing take."""

    daemon_threads = True

    def __init__(self, token: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self._note()
        if path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif not self._known():
            self._json(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            self._preupload(json.loads(body))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(found[1], body)
        else:
            self._json(404, {"error": path})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        oid = self._note().rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.objects[oid] = content
        self._json(200, {})

    def do_GET(self) -> None:
        path = self._note()
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            if repository := self._repository(found[1]):
                names = [{"rfilename": name} for name in repository.files]
                self._json(
                    200,
                    {
                        "id": found[1],
                        "sha": repository.head,
                        "private": repository.private,
                        "siblings": names,
                    },
                )
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            if repository := self._repository(found[1]):
                tree = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for name, content in repository.files.items()
                ]
                self._json(200, tree)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._resolve(found[1], found[2])
        else:
            self._json(404, {"error": path})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        answer = {"url": f"{self.server.address}/{name}", "name": name}
        if name in self.server.repositories:
            self._json(409, answer | {"error": "You already created this model repo"})
            return
        private = asked.get("private") is True or asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(private)
        self._json(200, answer)

    def _preupload(self, asked: dict[str, Any]) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in asked["files"]
        ]
        self._json(200, {"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            upload = {"href": f"{self.server.address}/objects/{each['oid']}", "header": {}}
            objects.append({**each, "actions": {"upload": upload}})
        self._json(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.server.repositories[name]
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.server.objects[value["oid"]]
        repository.commits.append(lines[0]["value"]["summary"])
        url = f"{self.server.address}/{name}/commit/{repository.head}"
        self._json(200, {"success": True, "commitUrl": url, "commitOid": repository.head})

    def _resolve(self, name: str, file: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if file not in repository.files:
            self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        content = repository.files[file]
        tag = hashlib.sha256(content).hexdigest()
        self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": repository.head})

    def _repository(self, name: str) -> Repository | None:
        """A repository that the asker may see; otherwise the answer says no, as the hub does."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self._known()):
            self._json(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repository

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def _note(self) -> str:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        return path

    def _json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self._send(
            status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass
