"""The servers that are compared: ours, nginx, and the registry of the CNCF's distribution project."""

import hashlib
import http.client
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from tests.controlplane import binaries, ports, processes, tenants
from tests.controlplane.children import Child, Program
from tests.controlplane.controlplane import ControlPlane, probe
from tests.e2e.rest import Rest
from tests.e2e.teams import Team

DISTRIBUTION = "github.com/distribution/distribution/v3/cmd/registry@v3.1.2"
MEDIA_TYPE = "application/octet-stream"
HOST = "127.0.0.1"
PREFIX_BYTES = 16
_SMALL_BYTES = 64 << 10


@dataclass(frozen=True)
class Upload:
    """A request whose body is `prefix` and the common bytes."""

    head: str
    prefix: bytes


class Contender(Protocol):
    """A running server."""

    name: str
    ports: list[int]

    @property
    def pids(self) -> list[int]:
        """Return the processes whose CPU counts."""
        ...

    def store(self, file: Path) -> str:
        """Take a payload, and return the head of the request that downloads it."""
        ...

    def uploads(self, count: int, common: Path) -> list[Upload]:
        """Prepare uploads, each of a payload of its own, so that only their bytes remain to be sent."""
        ...

    def clean(self) -> None:
        """Remove what was uploaded."""
        ...


def head(method: str, path: str, headers: dict[str, str]) -> str:
    """Return the head of an HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines) + "\r\n\r\n"


class Ours:
    """The facade as it is deployed: a real API server, JWTs, grants, audit lines; an operator beside it."""

    name = "manifestry"

    def __init__(self, facades: list[processes.FacadeProcess], rest: Rest, folder: Path) -> None:
        self.facades, self.rest = facades, rest
        self.ports = [int(urlsplit(facade.base_url).port or 80) for facade in facades]
        self._folder = folder
        self._kept: set[str] = set()
        self._uploaded: list[str] = []

    @property
    def pids(self) -> list[int]:
        """Return the facades' processes."""
        return [facade.pid for facade in self.facades]

    def store(self, file: Path) -> str:
        """Upload an artifact and wait until it is ready."""
        name = self._create()
        sent = {"Content-Type": MEDIA_TYPE, "Prefer": "wait=60"}
        done = self.rest.call("PUT", f"/artifacts/{name}/content", data=file.read_bytes(), headers=sent)
        assert done.json["status"] == "ready", done.data
        self._kept.add(done.json["digest"].partition(":")[2])
        return head("GET", f"/artifacts/{name}/content", self.rest.headers)

    def uploads(self, count: int, common: Path) -> list[Upload]:
        """Create the artifacts."""
        size = str(PREFIX_BYTES + common.stat().st_size)
        sent = {
            **self.rest.headers,
            "Content-Type": MEDIA_TYPE,
            "Content-Length": size,
            "Prefer": "respond-async",
        }
        self._uploaded += [self._create() for _ in range(count)]
        paths = [f"/artifacts/{name}/content" for name in self._uploaded]
        return [Upload(head("PUT", path, sent), os.urandom(PREFIX_BYTES)) for path in paths]

    def clean(self) -> None:
        """Delete what was uploaded, and its bytes at once: garbage collection takes its time."""
        for name in self._uploaded:
            self.rest.call("DELETE", f"/artifacts/{name}")
        self._uploaded.clear()
        _remove_others(self._folder / "store" / "tenants", self._kept)

    def _create(self) -> str:
        name = f"b-{uuid.uuid4().hex[:12]}"
        body = {"name": name, "mediaType": MEDIA_TYPE, "upload": {}}
        made = self.rest.call("POST", "/artifacts", body, headers={"Prefer": "respond-async"})
        assert made.status == 202, made.data
        return name


class Nginx:
    """Debian's nginx: sendfile for GET, its DAV module for PUT (no digest, no sync, no check of anybody)."""

    name = "nginx"

    def __init__(self, folder: Path, port: int) -> None:
        self.ports = [port]
        self._root = folder / "root"
        self._root.mkdir(parents=True)
        config = folder / "nginx.conf"
        config.write_text(_nginx_config(folder, port))
        argv = [_program("nginx"), "-p", str(folder), "-c", str(config)]
        self.child = Child(
            Program("nginx", argv, lambda: probe(f"http://127.0.0.1:{port}/up")), folder / "nginx.log"
        )
        (self._root / "up").write_text("up")

    @property
    def pids(self) -> list[int]:
        """Return the master; its workers are its children."""
        return [self.child.pid]

    def store(self, file: Path) -> str:
        """Link the file into the folder that is served."""
        name = uuid.uuid4().hex
        os.link(file, self._root / name)
        return head("GET", f"/{name}", {})

    def uploads(self, count: int, common: Path) -> list[Upload]:
        """Return uploads of files with new names."""
        sent = {"Content-Length": str(PREFIX_BYTES + common.stat().st_size)}
        paths = [f"/put/{uuid.uuid4().hex}" for _ in range(count)]
        return [Upload(head("PUT", path, sent), os.urandom(PREFIX_BYTES)) for path in paths]

    def clean(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._root / "put", ignore_errors=True)


def _nginx_config(folder: Path, port: int) -> str:
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""
{user} worker_processes {os.cpu_count()}; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log {folder}/access.log; sendfile on; tcp_nopush on; keepalive_requests 1000000000; {temporary}
  server {{
    listen 127.0.0.1:{port}; root {folder}/root;
    location /put/ {{ client_max_body_size 0; dav_methods PUT; create_full_put_path on; }}
  }}
}}
"""


class Distribution:
    """The registry with its file system driver, without authentication and without an access log."""

    name = "distribution"

    def __init__(self, folder: Path, port: int, program: Path) -> None:
        self.ports = [port]
        self._folder = folder
        self._kept: set[str] = set()
        folder.mkdir(parents=True)
        config = folder / "config.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
            f"http: {{addr: 127.0.0.1:{port}}}\n"
        )
        # It would export traces to a collector on this machine, and wait for it.
        env = {**os.environ, "OTEL_TRACES_EXPORTER": "none", "OTEL_SDK_DISABLED": "true"}
        self.child = Child(
            Program(
                "distribution",
                [str(program), "serve", str(config)],
                lambda: probe(f"http://127.0.0.1:{port}/v2/"),
                env=env,
                may_be_forced=True,
            ),
            folder / "registry.log",
        )

    @property
    def pids(self) -> list[int]:
        """Return the registry's process."""
        return [self.child.pid]

    def store(self, file: Path) -> str:
        """Push a blob."""
        data = file.read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        location = self._session()
        connection = http.client.HTTPConnection(HOST, self.ports[0])
        connection.request("PUT", f"{location}&digest={digest}", data, {"Content-Type": MEDIA_TYPE})
        assert connection.getresponse().status == 201
        self._kept.add(digest.partition(":")[2])
        connection.close()
        return head("GET", f"/v2/bench/blobs/{digest}", {})

    def uploads(self, count: int, common: Path) -> list[Upload]:
        """Open upload sessions; a digest must be known before its blob is sent."""
        sent = {"Content-Type": MEDIA_TYPE, "Content-Length": str(PREFIX_BYTES + common.stat().st_size)}
        found, data = [], common.read_bytes()
        for _ in range(count):
            prefix = os.urandom(PREFIX_BYTES)
            sha256 = hashlib.sha256(prefix)
            sha256.update(data)
            path = f"{self._session()}&digest=sha256:{sha256.hexdigest()}"
            found.append(Upload(head("PUT", path, sent), prefix))
        return found

    def clean(self) -> None:
        """Remove the blobs that nobody downloads."""
        _remove_others(self._folder / "data" / "docker" / "registry" / "v2" / "blobs", self._kept)

    def _session(self) -> str:
        connection = http.client.HTTPConnection(HOST, self.ports[0])
        connection.request("POST", "/v2/bench/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        url = urlsplit(answer.headers["Location"])
        return f"{url.path}?{url.query}"


def _remove_others(folder: Path, kept: set[str]) -> None:
    """Remove large files whose path does not name one of the kept digests: disks are not endless."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > _SMALL_BYTES and kept.isdisjoint(path.parts):
            path.unlink()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} must be installed (Debian: apt-get install nginx-light)")
    return found


def registry(cache: Path) -> Path:
    """Return distribution's program, built once by Go: two or three minutes."""
    program = cache / "registry"
    if not program.exists():
        print(f"go install {DISTRIBUTION} ...", flush=True)
        env = {**os.environ, "GOBIN": str(cache), "GOFLAGS": ""}
        subprocess.run(["nice", "-n", "10", "go", "install", DISTRIBUTION], env=env, check=True)
    return program


@contextmanager
def running(
    names: list[str], folder: Path, cache: Path, replicas: int, env: dict[str, str]
) -> Iterator[list[Contender]]:
    """Run the contenders, all with their data below one folder.

    Args:
        names: which.
        folder: on the disk that is measured.
        cache: where built programs are kept.
        replicas: of our facade: one process uses one processor.
        env: MANIFESTRY_* variables for ours.
    """
    with ExitStack() as stack:
        made: list[Contender] = []
        for name in names:
            match name:
                case "manifestry":
                    made.append(stack.enter_context(_ours(folder / name, replicas, env)))
                case "nginx":
                    made.append(_started(stack, Nginx(folder / name, ports.free_port())))
                case "distribution":
                    made.append(
                        _started(stack, Distribution(folder / name, ports.free_port(), registry(cache)))
                    )
        yield made


def _started(stack: ExitStack, contender: Any) -> Any:
    stack.callback(contender.child.dispose)
    contender.child.start()
    return contender


@contextmanager
def _ours(folder: Path, replicas: int, env: dict[str, str]) -> Iterator[Ours]:
    (folder / "cluster").mkdir(parents=True)
    cp = ControlPlane(binaries.program("kb"), folder / "cluster")
    given = {"MANIFESTRY_WEBHOOK_ENABLED": "false", "MANIFESTRY_SCRUB_BYTES_PER_SECOND": "0", **env}
    setup = processes.Setup(folder, given)
    with ExitStack() as stack:
        stack.callback(cp.stop)
        cp.start()
        operator = processes.operator(cp, setup)
        facades = [processes.facade(cp, setup) for _ in range(replicas)]
        for child in (operator, *facades):
            stack.callback(child.dispose)
            child.start()
        team = Team(tenants.make(cp), cp, facades[0].base_url)
        yield Ours(facades, team.caller("publisher"), folder)
