"""A small Hub on the loopback interface: the real clients push to it and load from it, without internet.

    with LocalHub({"hf_ann": "ann"}) as hub:
        subprocess.run(command, env=hub.environment(home, token="hf_ann"))

The clients read HF_ENDPOINT when they are imported, so they run in processes of their own. It answers what
huggingface_hub and transformers ask for when they push a model and load it: repositories of all kinds, tokens, private
repositories, branches, tags, LFS uploads and commits, and no more. `hub.lose` names requests at which the connection
breaks, `hub.before` what happens before others.
"""

import base64
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from local_repository import GITATTRIBUTES, Refusal, Repository, entry, is_large, metadata_of


API = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = []


def route(method: str, pattern: str, access: str | None = None):
    """Register a method of the handler; `access` is what its repository must allow, "read" or "write"."""

    def register(function):
        ROUTES.append((method, re.compile(pattern), access, function))
        return function

    return register


class Handler(BaseHTTPRequestHandler):
    """One request; the functions on the routes return what becomes JSON, or bytes and headers."""

    protocol_version, disable_nagle_algorithm, hub = "HTTP/1.1", True, None

    def log_message(self, *_):
        pass

    def handle(self):
        # a client that goes away is no news
        with suppress(ConnectionError):
            super().handle()

    def answer_request(self):
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        for request, act in self.hub.before.items():
            if re.fullmatch(request, f"{self.command} {path}"):
                act()
        if self.hub.lose and re.fullmatch(self.hub.lose, f"{self.command} {path}"):
            self.close_connection = True
            self.connection.close()
            return
        try:
            with self.hub.lock:
                self.reply(*self.find_answer(url.path))
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message, "X-Error-Code": refusal.code, "X-Repo-Commit": refusal.sha}
            self.reply({"error": refusal.message}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer_request

    def find_answer(self, path: str) -> tuple:
        self.user = self.who()
        for method, pattern, access, function in ROUTES:
            match = pattern.fullmatch(path)
            if match is None or self.command not in method.split():
                continue
            found = {key: value and unquote(value) for key, value in match.groupdict().items()}
            if access:
                self.repository = self.find_repository(found.pop("kind", None), found.pop("name"), access)
            answer = function(self, **found)
            return answer if isinstance(answer, tuple) else (answer,)
        raise Refusal(404, f"not served: {self.command} {path}")

    def who(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def find_repository(self, kind: str | None, name: str, access: str) -> Repository:
        repository = self.hub.repositories.get((kind or "models", name))
        if repository is None or (repository.private and self.user != repository.owner):
            # the same for a private one as for none
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if access == "write" and self.user != repository.owner:
            raise Refusal(403, f"You don't have the rights to write under the namespace {repository.owner}")
        return repository

    def reply(self, data: Any, status: int = 200, headers: dict[str, Any] | None = None):
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for key, value in {"Content-Length": len(raw), **(headers or {})}.items():
            if value is not None:
                self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    @route("GET", "/api/whoami-v2")
    def whoami(self):
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        role = "read" if self.user in self.hub.readers else "write"
        return {"name": self.user, "orgs": [], "auth": {"type": "access_token", "accessToken": {"role": role}}}

    @route("POST", "/api/validate-yaml")
    def validate(self):
        data = metadata_of(json.loads(self.body)["content"].encode())
        if data.get("license") == "apache2":
            return {"errors": [{"message": '"license" must be one of [apache-2.0, mit, ...]'}]}, 400
        return {"errors": [], "warnings": []}

    @route("POST", "/api/repos/create")
    def create(self):
        asked = json.loads(self.body)
        owner = asked.get("organization") or self.user
        key = (f"{asked.get('type') or 'model'}s", f"{owner}/{asked['name']}")
        if owner != self.user:
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner}")
        if key in self.hub.repositories:
            raise Refusal(409, "You already created this repo")
        repository = Repository(key[1], asked.get("visibility") == "private" or bool(asked.get("private")))
        repository.commit("main", {".gitattributes": GITATTRIBUTES}, "initial commit")
        self.hub.repositories[key] = repository
        return {"url": f"{self.hub.url}/{key[1]}"}

    @route("GET", f"{API}(?:/revision/{REVISION})?", "read")
    def info(self, revision):
        sha = self.repository.sha(revision or "main")
        files = self.repository.files(sha)
        card = metadata_of(files.get("README.md", b""))
        siblings = [entry(name, content) for name, content in files.items()]
        about = {key: card.get(key) for key in ("library_name", "pipeline_tag")}
        return {
            "id": self.repository.name,
            "sha": sha,
            "private": self.repository.private,
            "siblings": siblings,
            "tags": [],
            **about,
        }

    @route("GET", f"{API}/tree/{REVISION}(?:/(?P<folder>.+))?", "read")
    def tree(self, revision, folder):
        if folder:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        return [entry(name, content) for name, content in sorted(self.repository.files(revision).items())]

    @route("POST", f"{API}/paths-info/{REVISION}", "read")
    def paths_info(self, revision):
        files, asked = self.repository.files(revision), parse_qs(self.body.decode()).get("paths", [])
        return [entry(name, files[name]) for name in asked if name in files]

    @route("GET", f"{API}/refs", "read")
    def refs(self):
        def listed(refs, prefix):
            return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": sha} for name, sha in refs.items()]

        branches, tags = self.repository.branches, self.repository.tags
        return {"branches": listed(branches, "refs/heads/"), "tags": listed(tags, "refs/tags/"), "converts": []}

    @route("POST", f"{API}/branch/(?P<branch>[^/]+)", "write")
    def create_branch(self, branch):
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        self.repository.branches[branch] = self.repository.sha(start)
        return {}

    @route("POST", f"{API}/tag/{REVISION}", "write")
    def create_tag(self, revision):
        tag = json.loads(self.body)["tag"]
        if tag in self.repository.tags:
            raise Refusal(409, f"Tag {tag} already exists")
        self.repository.tags[tag] = self.repository.sha(revision)
        return {}

    @route("POST", f"{API}/preupload/{REVISION}", "write")
    def preupload(self, revision):
        files = self.repository.files(revision)

        def about(name):
            oid = entry(name, files[name]).get("lfs", entry(name, files[name]))["oid"] if name in files else None
            mode = "lfs" if is_large(name) else "regular"
            return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

        return {"files": [about(asked["path"]) for asked in json.loads(self.body)["files"]]}

    @route("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "write")
    def lfs_batch(self):
        asked = [{key: item[key] for key in ("oid", "size")} for item in json.loads(self.body)["objects"]]
        for item in asked:
            if item["oid"] not in self.hub.large_files:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
        return {"transfer": "basic", "objects": asked}

    @route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def lfs_upload(self, oid):
        self.hub.large_files[oid] = self.body
        return {}

    @route("POST", f"{API}/commit/{REVISION}", "write")
    def commit(self, revision):
        header, *changes = [json.loads(line) for line in self.body.splitlines() if line]
        head = self.repository.branches[revision]
        if header["value"].get("parentCommit", head) != head:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(self.repository.files(head))
        for key, value in ((change["key"], change["value"]) for change in changes):
            if key == "deletedFile":
                del files[value["path"]]
            else:
                is_file = key == "file"
                files[value["path"]] = (
                    base64.b64decode(value["content"]) if is_file else self.hub.large_files[value["oid"]]
                )
        sha = self.repository.commit(revision, files, header["value"]["summary"])
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{self.repository.name}/commit/{sha}"}

    @route("GET HEAD", rf"/(?P<name>[^/]+/[^/]+)/resolve/{REVISION}/(?P<path>.+)", "read")
    def resolve(self, revision, path):
        sha = self.repository.sha(revision)
        content = self.repository.files(sha).get(path)
        if content is None:
            # told the commit, the client remembers that the file is not there
            raise Refusal(404, "Entry not found", "EntryNotFound", sha)
        about = entry(path, content)
        tag = f'"{about.get("lfs", about)["oid"]}"'
        headers = {"X-Repo-Commit": sha, "ETag": tag, "Content-Length": len(content)}
        linked = {"X-Linked-Etag": tag, "X-Linked-Size": len(content)} if "lfs" in about else {}
        return (b"" if self.command == "HEAD" else content), 200, headers | linked


class LocalHub:
    """The server, as a context manager.

    Args:
        tokens: users by their tokens.
        readers: users whose tokens may only read.
    """

    def __init__(self, tokens: dict[str, str], readers: tuple[str, ...] = ()):
        self.tokens, self.readers = tokens, readers
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lose: str | None = None
        self.before: dict[str, Callable[[], Any]] = {}
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def model(self, name: str) -> Repository | None:
        return self.repositories.get(("models", name))

    def environment(self, home: str | Path | None = None, token: str | None = None) -> dict[str, str]:
        """For a client's process: this Hub, caches and a token of its own, no Xet."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        settings = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home or tempfile.mkdtemp()),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "no_proxy": "127.0.0.1",
        }
        return {**inherited, **settings, **({"HF_TOKEN": token} if token else {})}

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
