"""Artifacts in and out: ours beside nginx and CNCF distribution, on one disk, in one run.

`make bench-artifacts`, or `python -m tests.bench.artifacts --help`. Every figure is the best of the repeats,
which go round the contenders, because others may use the machine: the load is printed with them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.artifacts import contenders, meters

CLIENT = Path(__file__).with_name("client.py")
GIB, MIB = 1 << 30, 1 << 20
SIZES = {"1MiB": MIB, "100MiB": 100 * MIB}
CLIENT_PROCESSES = 2


@dataclass(frozen=True)
class Run:
    """One measurement."""

    mib_per_second: float
    cpu_per_gib: float
    system_share: float
    seconds: list[float]
    first_seconds: list[float]
    peak_bytes: int
    client_cpu_per_gib: float
    load: float


def measure(contender: contenders.Contender, plans: list[dict[str, Any]]) -> Run:
    """Run the clients against one contender."""
    clients = [_client() for _ in plans]
    for client, plan in zip(clients, plans, strict=True):
        _write(client, json.dumps(plan))
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
    before, began = meters.usage(contender.pids), time.perf_counter()
    for client in clients:
        _write(client, "go")
    results = [json.loads(client.communicate()[0]) for client in clients]
    elapsed = time.perf_counter() - began
    after = meters.usage(contender.pids)
    if errors := [error for result in results for error in result["errors"]]:
        raise SystemExit(f"{contender.name}: {len(errors)} errors, such as {errors[:3]}")
    gib = sum(result["bytes"] for result in results) / GIB
    cpu = after.cpu_seconds - before.cpu_seconds
    return Run(
        gib * 1024 / min(elapsed, max(result["elapsed"] for result in results)),
        cpu / gib,
        (after.system_seconds - before.system_seconds) / cpu if cpu else 0.0,
        sorted(second for result in results for second in result["seconds"]),
        sorted(second for result in results for second in result["firstSeconds"]),
        after.peak_bytes,
        sum(result["cpuSeconds"] for result in results) / gib,
        os.getloadavg()[0],
    )


def _client() -> "subprocess.Popen[str]":
    argv = [sys.executable, "-I", "-S", str(CLIENT)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _write(client: "subprocess.Popen[str]", line: str) -> None:
    assert client.stdin is not None
    client.stdin.write(line + "\n")
    client.stdin.flush()


def downloads(contender: contenders.Contender, head: str, options: argparse.Namespace) -> Run:
    """GET one payload for some seconds."""
    plan = {
        "host": contenders.HOST, "head": head, "seconds": options.seconds,
        "connections": options.clients // CLIENT_PROCESSES,
    }  # fmt: skip
    return measure(contender, [{**plan, "port": port} for port in _ports(contender)])


def _ports(contender: contenders.Contender) -> list[int]:
    return [contender.ports[number % len(contender.ports)] for number in range(CLIENT_PROCESSES)]


def uploads(contender: contenders.Contender, common: Path, options: argparse.Namespace) -> Run:
    """PUT payloads that differ, two for each client or as many as make the wanted bytes."""
    size = contenders.PREFIX_BYTES + common.stat().st_size
    count = max(options.clients, min(options.upload_mib * MIB // size, 1024))
    made = [{"head": each.head, "prefix": each.prefix.hex()} for each in contender.uploads(count, common)]
    plans = [
        {
            "host": contenders.HOST, "port": port,
            "connections": options.clients // CLIENT_PROCESSES,
            "uploads": made[number::CLIENT_PROCESSES], "file": str(common), "count": common.stat().st_size,
        }
        for number, port in enumerate(_ports(contender))
    ]  # fmt: skip
    os.sync()  # nobody pays for the one before
    try:
        return measure(contender, plans)
    finally:
        contender.clean()


def best(runs: Iterable[Run]) -> Run:
    """Return the fastest run, with the least CPU of any."""
    found = list(runs)
    fastest = max(found, key=lambda run: run.mib_per_second)
    least = min(found, key=lambda run: run.cpu_per_gib)
    return Run(
        fastest.mib_per_second,
        least.cpu_per_gib,
        least.system_share,
        fastest.seconds,
        fastest.first_seconds,
        max(run.peak_bytes for run in found),
        fastest.client_cpu_per_gib,
        max(run.load for run in found),
    )


def _row(title: str, name: str, run: Run, reference: Run | None) -> str:
    ratio = "" if reference is None else f"{reference.mib_per_second / run.mib_per_second:5.2f}x"
    cpu = "" if reference is None else f"{reference.cpu_per_gib / run.cpu_per_gib:5.2f}x"
    p50, p95, p99 = (
        run.seconds[min(int(len(run.seconds) * q), len(run.seconds) - 1)] for q in (0.5, 0.95, 0.99)
    )
    first = run.first_seconds[len(run.first_seconds) // 2]
    return (
        f"{title:11} {name:13} {run.mib_per_second:8.0f} {ratio:>7} {run.cpu_per_gib:8.3f} {cpu:>7}"
        f" {run.system_share:5.0%} {first * 1e3:8.1f} {p50 * 1e3:8.1f} {p95 * 1e3:8.1f} {p99 * 1e3:8.1f}"
        f" {run.peak_bytes / MIB:7.0f} {run.client_cpu_per_gib:7.2f} {run.load:5.1f}"
    )


HEADINGS = (
    f"{'':11} {'':13} {'MiB/s':>8} {'ours/it':>7} {'cpu s/GiB':>8} {'ours/it':>7} {'sys':>5} {'ttfb ms':>8}"
    f" {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'peakMiB':>7} {'client':>7} {'load':>5}"
)


def main() -> None:
    """Measure what the options ask for and print the table."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="bench-artifacts-", dir=options.folder))
    say = print
    try:
        with contenders.running(
            options.only, folder, options.cache, options.replicas, dict(options.env)
        ) as running:
            say(
                f"{options.clients} clients, {os.cpu_count()} CPUs, {options.replicas} of our processes, "
                f"best of {options.repeat}, in {folder}"
            )
            say(HEADINGS)
            for size in options.sizes:
                for title, runs in _measured(running, size, folder, options):
                    ours = runs.get("manifestry")
                    for name, run in runs.items():
                        say(_row(title, name, run, ours if name != "manifestry" else None), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(
    running: list[contenders.Contender], size: str, folder: Path, options: argparse.Namespace
) -> Iterable[tuple[str, dict[str, Run]]]:
    file, common = folder / size, folder / f"{size}-common"
    file.write_bytes(os.urandom(SIZES[size]))
    common.write_bytes(os.urandom(SIZES[size] - contenders.PREFIX_BYTES))
    if "get" in options.kinds:
        heads = {each.name: each.store(file) for each in running}
        runs: dict[str, list[Run]] = {each.name: [] for each in running}
        for _ in range(options.repeat):
            for each in running:
                runs[each.name].append(downloads(each, heads[each.name], options))
        yield f"GET {size}", {name: best(found) for name, found in runs.items()}
    if "put" in options.kinds:
        runs = {each.name: [] for each in running}
        for _ in range(options.repeat):
            for each in running:
                runs[each.name].append(uploads(each, common, options))
        yield f"PUT {size}", {name: best(found) for name, found in runs.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.artifacts", description=__doc__)
    names = ["manifestry", "nginx", "distribution"]
    cache = Path.home() / ".cache" / "manifestry" / "bench"
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--kinds", nargs="+", choices=["get", "put"], default=["get", "put"])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one GET run")
    parser.add_argument(
        "--upload-mib", type=int, default=3200, help="of one PUT run, at least one for a client"
    )
    parser.add_argument("--replicas", type=int, default=1, help="of our facade")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    parser.add_argument("--cache", type=Path, default=cache, help="where built programs are kept")
    parser.add_argument(
        "--env", nargs="*", default=[], type=lambda text: text.split("=", 1), help="MANIFESTRY_*=... for ours"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
