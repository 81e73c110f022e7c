"""Every expression that we ship, asked of a real Prometheus that scrapes the real server under
traffic of every RPC and of every refusal.

Fails if an expression answers with no series, names an unknown series, label or value, if a legend or
message reads a label that its result lacks, or if the server exports a series that nothing uses.
"""
import contextlib
import re
import subprocess
import sys
import time
import unittest

import expressions
import promql
import traffic
from harness import REPO, Server, make_model, scratch_directory, wait_until
from prometheus import Prometheus

# Expressions without an answer here, by place or series: why. Their names are checked all the same.
SILENT = {
    "DCGM_FI_DEV_GPU_UTIL": "NVIDIA's exporter, on machines with its devices",
    "LongdocAbsent": "answers only without a target",
    "LongdocLoading": "answers only of a server without a model",
}
# Exported series that nothing shows: why.
UNUSED = {}

SCRAPE_SECONDS = 1


class Observed:
    """A server with all its traffic behind it, which drains, and what Prometheus has of it."""

    def __init__(self, work, prometheus, server, sent):
        self.prometheus, self.server, self.traffic = prometheus, server, sent
        self.exposition = server.get("/metrics")[1]
        self.shipped = expressions.collect(REPO)
        self.known = prometheus.series()


@contextlib.contextmanager
def observed(work):
    models = {name: make_model(work, name) for name in traffic.MODELS}
    with Server(work, models, config=traffic.config(work / "token")) as server, \
            Prometheus(work, [server.metrics_address], SCRAPE_SECONDS) as prometheus:
        wait_until("first scrape", lambda: prometheus.query('up{job="longdoc"} == 1'))
        sent = traffic.Traffic(server)
        sent.successes()
        sent.refusals()
        sent.successes()  # rates need counters that move while they are watched
        with sent.draining():
            wait_until("the drain is scraped",
                       lambda: prometheus.query("longdoc_draining == 1"), interval=0.1)
            time.sleep(2 * SCRAPE_SECONDS)  # rules are evaluated after that
            yield Observed(work, prometheus, server, sent)


class ObserveTest(unittest.TestCase):
    seen: Observed

    def fail_with(self, problems):
        if problems:
            self.fail("\n".join(["", *problems]))

    def test_api_reasons_were_seen(self):
        page = (REPO / "docs" / "api.md").read_text()
        table = page.split("| code | reason | meaning |")[1].split("\n\n")[0]
        listed = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", table))
        self.assertGreater(len(listed), 50)
        self.assertEqual(listed - set(self.seen.traffic.reasons) - set(traffic.NOT_SEEN), set())
        # gRPC's own codes stand for errors without a reason.
        self.assertEqual(set(self.seen.traffic.reasons) - listed, set())

    def test_rpcs_and_refusals_were_counted(self):
        counts = dict(re.findall(r"^(longdoc_\w+(?:\{[^}]*\})?) (\S+)$", self.seen.exposition,
                                 flags=re.MULTILINE))
        idle = [name for name, value in counts.items() if float(value) == 0 and (
            name.startswith("longdoc_rejected_total") or
            re.search(r'longdoc_requests_total\{.*code="OK"', name))]
        self.assertEqual(idle, [])
        for series in ('longdoc_requests_total{code="CANCELLED",rpc="EmbedDocument"}',
                       'longdoc_kept_document_events_total{event="evicted"}',
                       'longdoc_kept_document_events_total{event="expired"}',
                       'longdoc_kept_document_events_total{event="reused"}',
                       "longdoc_truncated_tokens_total"):
            self.assertGreater(float(counts[series]), 0, series)

    def test_names(self):
        self.fail_with([problem for expression in self.seen.shipped
                        for problem in expressions.check(expression, self.seen.known)])

    def silent(self, expression):
        named = {s.name for s in promql.parse(expression.text)[0]}
        return [key for key in SILENT if key in named or expression.place.endswith(f": {key}")]

    def test_answers(self):
        problems, spoke = [], set()
        for expression in self.seen.shipped:
            text = expression.text
            if expression.condition:
                text = promql.without_conditions(text)
            try:
                result = self.seen.prometheus.query(text)
            except ValueError as error:
                problems.append(f"{expression.place}: {error}: {text}")
                continue
            if not result:
                if not self.silent(expression):
                    problems.append(f"{expression.place}: no series: {text}")
                continue
            spoke.update(self.silent(expression))
            if expression.single and len(result) != 1:
                problems.append(f"{expression.place}: {len(result)} series, not one: {text}")
            for label in expression.labels:
                if not all(label in labels for labels in result):
                    problems.append(f"{expression.place}: the result has no label {label}: {text}")
        problems += [f"{key} answers: it need not be listed as silent" for key in sorted(spoke)]
        self.fail_with(problems)

    def test_every_series_is_used(self):
        exported = expressions.families(self.seen.exposition)
        self.assertGreater(len(exported), 50)
        left = expressions.unused(exported, expressions.names(self.seen.shipped))
        self.assertEqual(left, sorted(UNUSED))

    def test_sources(self):
        """Nothing is left out: all kinds of files were read."""
        places = " ".join(expression.place for expression in self.seen.shipped)
        for source in ("overview.json", "pod.json", "alerts.yaml", "recording.yaml", "longdoc.html",
                       "variable", "annotation", "prometheus_rule.yaml", "scaled_object.yaml: trigger",
                       "autoscaler.yaml: metric"):
            self.assertIn(source, places)

    def test_promtool_finds_no_fault_with_the_metrics(self):
        done = subprocess.run(["promtool", "check", "metrics"], input=self.seen.exposition, text=True,
                              capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_rules_are_healthy(self):
        groups = self.seen.prometheus.api("rules")["groups"]
        sick = [(rule["name"], rule.get("lastError")) for group in groups for rule in group["rules"]
                if rule["health"] == "err"]
        self.assertEqual(sick, [])
        self.assertGreater(sum(len(group["rules"]) for group in groups), 25)

    def test_console_page(self):
        status, page = self.seen.prometheus.get("/consoles/longdoc.html")
        self.assertEqual(status, 200, page[:500])
        stats = re.findall(r"<b>([^<]*)</b>(.*)", page)
        self.assertGreater(len(stats), 6)
        self.assertNotIn("-", [value for value, _ in stats], stats)
        self.assertIn(f"127.0.0.1:{self.seen.server.metrics_port}: ", page)
        self.assertIn("LongdocNeverFits", page)  # of the traffic: an alert that fires


def main():
    # One world for all tests, which stays up while they run.
    with scratch_directory() as work, observed(work) as ObserveTest.seen:
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(ObserveTest)
        return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
