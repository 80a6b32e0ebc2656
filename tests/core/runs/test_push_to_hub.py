"""`mmcore export --push-to-hub` against a stand-in that speaks the Hub's HTTP: failures, the same command, the card.

The real client asks it, in a process of its own, for its address is read when the client is imported.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mmcore.base.yamltext import parse_yaml
from mmcore.plugins.scaffold import write_plugin
from PIL import Image

COMMAND = ("export", "runs/toy", "--out", "model", "--push-to-hub", "me/mine", "--private", "--license", "apache-2.0")


class Hub(ThreadingHTTPServer):
    """What it was given, and which of its next answers are refusals."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.created: list[dict[str, Any]] = []
        self.blobs: dict[str, bytes] = {}
        self.puts = 0
        self.committed: dict[str, bytes] = {}
        self.refusals: dict[str, int] = {}
        """Part of a path -> status of its next answer."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    """The requests of an upload."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_POST(self) -> None:
        body, hub = self.rfile.read(int(self.headers.get("Content-Length") or 0)), self.server
        if self.refused():
            return
        if self.path.endswith("/repos/create"):
            hub.created.append(json.loads(body))
            self.say({"url": f"{hub.address}/me/mine"})
        elif "preupload" in self.path:
            large = {name: name.endswith(".safetensors") for name in (f["path"] for f in json.loads(body)["files"])}
            files = [{"path": n, "uploadMode": "lfs" if big else "regular"} for n, big in large.items()]
            self.say({"files": [{**one, "shouldIgnore": False, "oid": None} for one in files]})
        elif "lfs/objects/batch" in self.path:
            self.say({"transfer": "basic", "objects": [self.wanted(one) for one in json.loads(body)["objects"]]})
        elif "/commit/" in self.path:
            self.commit(body)
            self.say({"success": True, "commitOid": "a" * 40, "commitUrl": f"{hub.address}/me/mine/commit/{'a' * 40}"})
        else:
            self.say({"errors": [], "warnings": []})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.refused():
            self.server.puts += 1
            self.server.blobs[hashlib.sha256(body).hexdigest()] = body
            self.say({})

    def do_GET(self) -> None:
        self.say({"id": "me/mine", "sha": "a" * 40, "siblings": []})

    def wanted(self, one: dict[str, Any]) -> dict[str, Any]:
        """What is there already is not asked for."""
        if one["oid"] in self.server.blobs:
            return one
        return {**one, "actions": {"upload": {"href": f"{self.server.address}/blob/{one['oid']}"}}}

    def commit(self, body: bytes) -> None:
        for line in body.splitlines():
            value = json.loads(line)["value"]
            if "content" in value:
                self.server.committed[value["path"]] = base64.b64decode(value["content"])
            elif "oid" in value:
                self.server.committed[value["path"]] = self.server.blobs[value["oid"]]

    def refused(self) -> bool:
        for part in [part for part in self.server.refusals if part in self.path]:
            self.say({"error": "not now"}, self.server.refusals.pop(part))
            return True
        return False

    def say(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Desk:
    """A folder with a plugin of the scaffold and a short run of it."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder = folder
        project = folder / "mmcore-toy"
        write_plugin("toy", project)
        told = project / "mmcore_toy.egg-info"
        told.mkdir()
        (told / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: mmcore-toy\nVersion: 0.1.0\n")
        (told / "entry_points.txt").write_text("[mmcore]\ntoy = mmcore_toy\n")
        self.environment = {
            **os.environ,
            "PYTHONPATH": ":".join([str(project), *[path for path in sys.path if path]]),
            "MMCORE_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": "hf_nobody",
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        self.environment.pop("HF_HUB_OFFLINE", None)
        short = ("--set", "steps=2", "--device", "cpu", "--workers", "0", "--no-tensorboard", "--quiet")
        self.run("train", "--plugin", "toy", "--stage", "1", "--demo", "--out", "runs/toy", *short)

    def run(self, *words: str, code: int = 0) -> str:
        """What a command wrote; it ends with this code, and without a traceback."""
        return self.python("-m", "mmcore", *words, code=code)

    def python(self, *words: str, code: int = 0, where: str = ".") -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder / where, env=self.environment, capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert "Traceback" not in said
        return said


def test_an_upload_fails_thrice_goes_on_with_the_same_command_and_its_card_is_true(tmp_path: Path, hub: Hub) -> None:
    desk = Desk(tmp_path, hub)
    hub.refusals = {"preupload": 403}
    said = desk.run(*COMMAND, code=1)
    assert "lets nobody write to me/mine" in said
    assert "hf auth login" in said
    hub.refusals = {"/blob/": 400}
    assert "run the same command again" in desk.run(*COMMAND, code=1)
    hub.refusals = {"/commit/": 400}
    assert "stands from a command" in desk.run(*COMMAND, code=1)
    assert hub.puts == 1
    assert "https://huggingface.co/me/mine" in desk.run(*COMMAND)
    assert hub.puts == 1  # the weights were there already
    assert {one["visibility"] for one in hub.created} == {"private"}

    files = {path.name: path for path in (tmp_path / "model").iterdir()}
    assert {name: path.read_bytes() for name, path in files.items()} == hub.committed
    assert {"README.md", "config.json", "model.safetensors"} <= {*files}
    assert {oct(path.stat().st_mode & 0o777) for path in files.values()} == {"0o644"}
    assert "is not empty" in desk.run(*COMMAND, code=2)  # nothing waits any more: an export is not written over

    _, head, text = files["README.md"].read_text().split("---\n", 2)
    told = parse_yaml(head, "card")
    assert (told["license"], told["pipeline_tag"]) == ("apache-2.0", "object-detection")
    Image.new("RGB", (64, 48), (20, 40, 90)).save(tmp_path / "model" / "photo.jpg")
    (usage,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert desk.python("-c", usage, where="model").startswith("[")
    assert (tmp_path / "model" / "drawn.png").is_file()
