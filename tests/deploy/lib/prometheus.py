"""Starts the real Prometheus with the rules and the console page of deploy/prometheus."""
import json
import pathlib
import shutil
import socket
import subprocess
import urllib.parse

from harness import REPO, http_get, stop_process, wait_until

DIRECTORY = REPO / "deploy" / "prometheus"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    """`targets` are scraped as the job longdoc; intervals in seconds."""

    def __init__(self, work, targets, interval=1):
        if not shutil.which("prometheus"):
            raise SystemExit("prometheus is missing: scripts/setup installs it")
        directory = pathlib.Path(work) / "prometheus"
        directory.mkdir()
        config = directory / "prometheus.yml"
        # JSON is YAML. The configuration of the local stack, but for interval and targets.
        config.write_text(json.dumps({
            "global": {"scrape_interval": f"{interval}s", "evaluation_interval": f"{interval}s",
                       "scrape_timeout": f"{interval}s"},
            "rule_files": [str(DIRECTORY / "rules" / "*.yaml")],
            "scrape_configs": [{"job_name": "longdoc",
                                "static_configs": [{"targets": list(targets)}]}]}))
        self.address = f"127.0.0.1:{free_port()}"
        self.log_path = directory / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
                 f"--web.console.templates={DIRECTORY / 'consoles'}",
                 f"--web.console.libraries={DIRECTORY / 'consoles'}",
                 f"--web.listen-address={self.address}"], stdout=log, stderr=log)
        wait_until("Prometheus ready", self._ready)

    def _ready(self):
        if self.process.poll() is not None:
            raise RuntimeError("Prometheus ended:\n" + self.log_path.read_text()[-4000:])
        return self.get("/-/ready")[0] == 200

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        stop_process(self.process)

    def get(self, path, **parameters):
        """(status, body) of a path."""
        query = "?" + urllib.parse.urlencode(parameters, doseq=True) if parameters else ""
        return http_get(f"http://{self.address}{path}{query}", timeout=30)

    def api(self, path, **parameters):
        """`data` of an answer of the API; ValueError with its message for a bad query."""
        status, body = self.get("/api/v1/" + path, **parameters)
        answer = json.loads(body) if body else {"status": "error", "error": f"status {status}"}
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return answer["data"]

    def query(self, expression):
        """The series of an instant query, a dict of labels each; of a scalar one without labels."""
        data = self.api("query", query=expression)
        return [entry["metric"] for entry in data["result"]] if data["resultType"] == "vector" else [{}]

    def value(self, expression):
        """The value of a query that answers with one series, or None."""
        result = self.api("query", query=expression)["result"]
        return float(result[0]["value"][1]) if result else None

    def series(self):
        """Everything stored: {name: {label: set of values}}."""
        known = {}
        for labels in self.api("series", **{"match[]": '{__name__=~".+"}'}):
            values = known.setdefault(labels.pop("__name__"), {})
            for label, value in labels.items():
                values.setdefault(label, set()).add(value)
        return known
