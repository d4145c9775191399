"""A real S3 server on disk, to archive into."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pyarrow import fs

PROGRAM: Final = Path(sys.executable).with_name("weed")
PATIENCE: Final = 60.0
KEY: Final = "rwriter"
SECRET: Final = "of this test"  # noqa: S105 -- of a server that is made for it
BUCKET: Final = "logs"
ENVIRONMENT: Final = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextlib.contextmanager
def bucket_in(folder: Path) -> Iterator[str]:
    """Yield ``host:port`` of a running server that has ``BUCKET``; it is killed in the end."""
    ports = _free_ports(8)
    identity = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    roles = ("master", "volume", "filer", "s3")
    options = [f"-{role}.port{kind}={ports.pop()}" for role in roles for kind in ("", ".grpc")]
    address = "127.0.0.1:" + next(each for each in options if each.startswith("-s3.port=")).partition("=")[2]
    command = [str(PROGRAM), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3", *options]
    command += [f"-s3.config={folder}/s3.json", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _make_bucket(address, process, folder / "log")
            yield address
        finally:
            process.kill()


def _make_bucket(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    server = fs.S3FileSystem(
        access_key=KEY, secret_key=SECRET, endpoint_override=address, scheme="http", allow_bucket_creation=True
    )
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            server.create_dir(BUCKET)
            with server.open_output_stream(f"{BUCKET}/welcome") as file:
                file.write(b"welcome")
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
