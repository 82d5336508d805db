"""The Engine's own floor: its API over the socket, no client in between."""

import http.client
import json
import socket
import uuid
from dataclasses import dataclass

_HEADER = 8
"""What stands before each piece of output: stream and length."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class RawDocker:
    """Runs one-shot containers by create, attach, start, wait, remove."""

    path: str
    image: str

    def run(self, command: list[str], *, removes: bool = True) -> str:
        """Return what it printed; without `removes` the name, to be removed by the caller."""
        connection = _Connection(self.path)
        name = f"bench-{uuid.uuid4().hex[:12]}"
        host = {"NetworkMode": "none"}
        body = {"Image": self.image, "Cmd": command, "AttachStdout": True, "HostConfig": host}
        self._call(connection, "POST", f"/containers/create?name={name}", body)
        output = self._attach(name)
        self._call(connection, "POST", f"/containers/{name}/start")
        said = self._read(output)
        self._call(connection, "POST", f"/containers/{name}/wait")
        if removes:
            self.remove(name)
        if said != b"hi\n":
            raise RuntimeError(f"the container said {said!r}")
        return name

    def remove(self, name: str) -> None:
        """Take it away."""
        self._call(_Connection(self.path), "DELETE", f"/containers/{name}?force=1")

    def create(self, body: dict[str, object]) -> str:
        """Make a container; return its id."""
        said = self._call(_Connection(self.path), "POST", "/containers/create", body)
        return str(json.loads(said)["Id"])

    def start(self, container: str, *, checkpoint: str | None = None) -> None:
        """Start it, perhaps from a checkpoint in its own folder."""
        query = "" if checkpoint is None else f"?checkpoint={checkpoint}"
        self._call(_Connection(self.path), "POST", f"/containers/{container}/start{query}")

    def checkpoint(self, container: str, checkpoint: str) -> None:
        """Take its processes; it runs on."""
        body = {"CheckpointID": checkpoint, "Exit": False}
        self._call(_Connection(self.path), "POST", f"/containers/{container}/checkpoints", body)

    def commit(self, name: str, image: str) -> dict[str, object]:
        """Make an image of a container's layer, as `docker commit` does; return the answer."""
        repository, _, tag = image.partition(":")
        path = f"/commit?container={name}&repo={repository}&tag={tag}"
        return json.loads(self._call(_Connection(self.path), "POST", path, {}))

    def _call(self, connection: _Connection, method: str, path: str, body: object = None) -> bytes:
        raw = None if body is None else json.dumps(body)
        connection.request(method, f"/v1.41{path}", raw, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {said[:300]!r}")
        return said

    def _attach(self, name: str) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(60)
        stream.connect(self.path)
        stream.sendall(
            f"POST /v1.41/containers/{name}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: engine\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += stream.recv(1)
        return stream

    def _read(self, stream: socket.socket) -> bytes:
        said = b""
        with stream:
            while data := stream.recv(65536):
                said += data
        return said[_HEADER:]
