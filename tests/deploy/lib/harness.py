"""Starts the real server for tests in Python: models, ports, readiness, log, drain, stubs.

Run by ctest, which sets the environment (tests/deploy/CMakeLists.txt):
  LONGDOC_BIN   the directory of longdoc-server and longdoc
  PYTHONPATH    this directory, and the stubs that protoc made from proto/

    with scratch_directory() as work:
        model = make_model(work, "colt5-tiny")
        with Server(work, models={"tiny": model}) as server:
            stub = DocumentServiceStub(server.channel())
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import grpc

REPO = pathlib.Path(__file__).resolve().parents[3]
READY_SECONDS = 60  # a sanitizer build on a busy machine; a tiny model loads in well below one


def binary(name):
    """Path of a program that was built."""
    directory = os.environ.get("LONGDOC_BIN", str(REPO / "build" / "bin"))
    path = pathlib.Path(directory) / name
    if not path.exists():
        raise SystemExit(f"{path} is missing: build the target, or set LONGDOC_BIN")
    return str(path)


@contextlib.contextmanager
def scratch_directory():
    """A directory that is gone afterwards; set LONGDOC_KEEP=1 to look at what a test left."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="longdoc-deploy-"))
    try:
        yield path
    finally:
        if os.environ.get("LONGDOC_KEEP"):
            print(f"left in {path}")
        else:
            shutil.rmtree(path, ignore_errors=True)


def wait_until(what, condition, seconds=READY_SECONDS, interval=0.02):
    """Calls `condition` until it returns something true, and returns that; else TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(interval)


def make_model(directory, preset, seed=1):
    """Makes a model with random weights and returns its directory, DIRECTORY/PRESET-SEED."""
    path = pathlib.Path(directory) / f"{preset}-{seed}"
    if not path.exists():
        subprocess.run([binary("longdoc"), "model", "create", "--preset", preset, "--seed",
                        str(seed), "--output", str(path)],
                       check=True, stdout=subprocess.DEVNULL)
    return path


def http_get(url, timeout=10):
    """(status, body as text); a refused connection is status 0."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (urllib.error.URLError, OSError):
        return 0, ""


def stop_process(process, seconds=30):
    """SIGTERM, then SIGKILL to one that does not end in time. Returns the exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class Server:
    """A longdoc-server process on free ports of the loopback interface.

    models  name to directory; the first is the default model
    config  further text-format ServerConfig: limits, documents, lifecycle, security …
    listen  HOST:PORT; port 0 takes a free one. The port of one that has ended may be given again.
    wait    whether to return only when the server serves
    """
    _count = 0

    def __init__(self, work, models, config="", listen="127.0.0.1:0",
                 metrics_listen="127.0.0.1:0", flags=(), wait=True):
        Server._count += 1
        self.directory = pathlib.Path(work) / f"server-{Server._count}"
        self.directory.mkdir()
        self.log_path = self.directory / "log.jsonl"
        config_path = self.directory / "server.textproto"
        blocks = [f'models {{ name: "{name}" directory: "{path}" }}'
                  for name, path in models.items()]
        config_path.write_text("\n".join(blocks + [config, ""]))
        self.port = self.metrics_port = None
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [binary("longdoc-server"), f"--config={config_path}", f"--listen={listen}",
                 f"--metrics_listen={metrics_listen}", "--device=cpu", *flags],
                stderr=log, stdout=log)
        if wait:
            self.wait_ready()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()

    def log(self, event=None):
        """The log so far, a dict per line; only those of an event, if one is named."""
        lines = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                if event is None or entry.get("event") == event:
                    lines.append(entry)
        return lines

    def wait_ready(self, seconds=READY_SECONDS):
        """Waits for the log line `serving`, which names the ports, and for /readyz."""
        def serving():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n"
                                   + self.log_path.read_text(errors="replace")[-4000:])
            return self.log("serving")
        line = wait_until("server ready", serving, seconds)[0]
        self.port, self.metrics_port = line["port"], line["metrics_port"]
        wait_until("/readyz", lambda: self.get("/readyz")[0] == 200, seconds)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def metrics_address(self):
        return f"127.0.0.1:{self.metrics_port}"

    def channel(self, options=()):
        """A new insecure channel; the caller closes it, or lets it go."""
        return grpc.insecure_channel(self.address, options=options)

    def get(self, path):
        """(status, body) of a path of the metrics port."""
        return http_get(f"http://{self.metrics_address}{path}")

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def stop(self, seconds=30):
        """Drains and waits. Returns the exit status, 0 after a clean drain."""
        return stop_process(self.process, seconds)
