"""Repositories of the loopback Hub, and what it tells of their files."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

import yaml


GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class Refusal(Exception):
    """An answer other than 200; the code decides which exception the client raises."""

    def __init__(self, status: int, message: str, code: str | None = None, sha: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.sha = status, message, code, sha


@dataclass
class Repository:
    """Commits are dictionaries from a file's name to its content."""

    name: str
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def commit(self, branch: str, files: dict[str, bytes], title: str) -> str:
        listing = sorted((name, hashlib.sha1(content).hexdigest()) for name, content in files.items())
        sha = hashlib.sha1(json.dumps([len(self.commits), branch, title, listing]).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.titles.append(title)
        return sha

    def sha(self, revision: str) -> str:
        for refs in (self.branches, self.tags, {sha: sha for sha in self.commits}):
            if revision in refs:
                return refs[revision]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.sha(revision)]


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def entry(name: str, content: bytes) -> dict[str, Any]:
    """What the Hub tells of a file."""
    about = {"type": "file", "path": name, "rfilename": name, "size": len(content), "oid": git_oid(content)}
    if is_large(name):
        sha256 = hashlib.sha256(content).hexdigest()
        about["lfs"] = {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": 130}
    return about


def metadata_of(card: bytes) -> dict[str, Any]:
    block = re.match(r"---\r?\n(.*?)^---\s*$", card.decode(), re.DOTALL | re.MULTILINE)
    return dict((yaml.safe_load(block[1]) if block else None) or {})
