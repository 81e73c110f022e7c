"""Checks of deploy/prometheus and deploy/grafana that need no server, and of the checks themselves:
a wrong series, a wrong label, a wrong value and an unused series are planted and have to be found."""
import json
import re
import subprocess
import sys
import unittest

import expressions
import promql
import yaml
from expressions import Expression, check
from harness import REPO

KNOWN = {
    "longdoc_requests_total": {"job": {"longdoc"}, "instance": {"a"}, "rpc": {"EmbedTexts"},
                               "code": {"OK", "INTERNAL"}},
    "longdoc_queued_tokens": {"job": {"longdoc"}, "instance": {"a"}},
}
PROMETHEUS = REPO / "deploy" / "prometheus"
RULE_TESTS = REPO / "tests" / "deploy" / "rules"


def problems(text):
    return check(Expression("here", text), KNOWN)


def alerts():
    groups = yaml.safe_load((PROMETHEUS / "rules" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def anchors(markdown):
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", markdown, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class ParserTest(unittest.TestCase):
    def names(self, text):
        return [s.name for s in promql.parse(text)[0]]

    def test_selectors(self):
        self.assertEqual(self.names('sum by (rpc) (rate(a_total{x="1",y=~"b|c"}[5m])) / on (job) b'),
                         ["a_total", "b"])
        self.assertEqual(self.names("histogram_quantile(0.9, sum(rate(x_bucket[1m])) by (le))"),
                         ["x_bucket"])
        self.assertEqual(self.names("a offset 5m unless on () b or time() - c > bool 1e-9"),
                         ["a", "b", "c"])
        self.assertEqual(self.names('{__name__="a",b="c"}'), ["a"])
        self.assertEqual(self.names("job:a:rate5m{j='}'} @ 17 # b"), ["job:a:rate5m"])

    def test_matchers_and_groupings(self):
        selectors, groupings = promql.parse('sum by (p, q) (a{x!="1",} + b) / sum(c) without (r)')
        self.assertEqual(selectors[0].matchers, [("x", "!=", "1")])
        self.assertEqual([(g.keyword, g.labels, [s.name for s in g.selectors]) for g in groupings],
                         [("by", ["p", "q"], ["a", "b"]), ("without", ["r"], ["c"])])

    def test_conditions(self):
        self.assertEqual(promql.without_conditions('a{x!="1"} offset 1h > 2 and b == bool 0'),
                         'a {x!="1"} > bool 2 and b == bool 0')

    def test_nonsense(self):
        self.assertTrue(problems("longdoc_queued_tokens ; 1"))
        self.assertTrue(problems("1 + 1"))


class CheckTest(unittest.TestCase):
    def test_good_ones(self):
        for text in ('sum by (rpc, namespace) (rate(longdoc_requests_total{code=~"OK|INTERNAL"}[5m]))',
                     'longdoc_queued_tokens{job="longdoc",pod="p"}',
                     'sum(longdoc_requests_total{rpc!="Gone"}) by (code)'):
            self.assertEqual(problems(text), [], text)

    def test_planted_series(self):
        self.assertIn("unknown series longdoc_queue_tokens", problems("sum(longdoc_queue_tokens)")[0])

    def test_planted_label(self):
        self.assertIn("no label method", problems('longdoc_requests_total{method="EmbedTexts"}')[0])
        self.assertIn("by (stage)", problems("sum by (stage) (longdoc_requests_total)")[0])
        # The label is one of another series of the expression.
        self.assertIn("by (rpc)", problems(
            "sum by (rpc) (longdoc_queued_tokens) / sum(longdoc_requests_total)")[0])

    def test_planted_value(self):
        self.assertIn('no code="FINE"', problems('longdoc_requests_total{code="FINE"}')[0])
        self.assertTrue(problems('longdoc_requests_total{code=~"OK|FINE"}'))
        self.assertTrue(problems('longdoc_requests_total{job="other"}'))

    def test_planted_in_files(self):
        panel = {"title": "t", "targets": [{"expr": "wrong{job=\"$job\"}", "legendFormat": "{{no}}"}]}
        dashboard = {"panels": [panel], "annotations": {"list": []}, "templating": {"list": []}}
        group = {"rules": [{"alert": "A", "expr": "wrong == 0",
                            "annotations": {"summary": "{{ $labels.no }}"}}]}
        scaled = {"kind": "ScaledObject", "spec": {"triggers": [
            {"type": "prometheus", "metadata": {"query": "wrong"}}]}}
        scaler = {"kind": "HorizontalPodAutoscaler",
                  "spec": {"metrics": [{"pods": {"metric": {"name": "wrong"}}}]}}
        figure = '<figure><figcaption>t</figcaption><data value="wrong{a=&#x27;b&#x27;}">[no]</data></figure>'
        found = [*expressions.of_dashboard("d", dashboard), *expressions.of_rules("r", [group]),
                 *expressions.of_manifest("k", scaled), *expressions.of_manifest("h", scaler),
                 *expressions.of_console("c", figure), *expressions.of_console("c", "{{query `wrong`}}")]
        self.assertEqual(len(found), 6)
        for expression in found:
            self.assertIn("unknown series wrong", check(expression, KNOWN)[0])
        self.assertEqual([e.labels for e in found], [("no",), ("no",), (), (), ("no",), ()])

    def test_unused(self):
        exported = expressions.families("# TYPE a counter\n# TYPE b histogram\n# TYPE c gauge\n")
        self.assertEqual(expressions.unused(exported, {"a", "b_sum"}), ["c"])
        self.assertEqual(expressions.unused(exported, {"b", "c_count"}), ["a", "b", "c"])


class FilesTest(unittest.TestCase):
    def run_tool(self, *command):
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)
        self.assertEqual(done.returncode, 0, f"{command}:\n{done.stdout}\n{done.stderr}")

    def test_up_to_date(self):
        self.run_tool(sys.executable, "deploy/grafana/make.py", "--check")

    def test_promtool(self):
        self.run_tool("promtool", "check", "config", "deploy/prometheus/prometheus.yml")
        self.run_tool("promtool", "check", "rules", "--lint-fatal",
                      *map(str, sorted((PROMETHEUS / "rules").glob("*.yaml"))))

    def test_rules(self):
        self.run_tool("promtool", "test", "rules", *map(str, sorted(RULE_TESTS.glob("*.yaml"))))

    def test_every_alert_fires_and_resolves_in_its_test(self):
        tests = yaml.safe_load((RULE_TESTS / "alerts_test.yaml").read_text())["tests"]
        for alert in alerts():
            name = alert["alert"]
            mine = [t for t in tests if t["name"].split(",")[0] == name]
            self.assertEqual(len(mine), 1, name)
            steps = sorted(mine[0]["promql_expr_test"], key=lambda t: int(t["eval_time"][:-1]))
            fires = [f'alertname="{name}"' in str(t.get("exp_samples", "")) for t in steps]
            self.assertIn(True, fires, name)
            last = steps[-1]
            self.assertTrue(last["expr"] == "ALERTS" and "exp_samples" not in last,
                            f"{name} has to be resolved at the end")

    def test_every_recording_is_tested(self):
        groups = yaml.safe_load((PROMETHEUS / "rules" / "recording.yaml").read_text())["groups"]
        tests = (RULE_TESTS / "recording_test.yaml").read_text()
        for rule in groups[0]["rules"]:
            self.assertRegex(tests, r"expr: '(round\()?" + rule["record"], rule["record"])

    def test_runbooks(self):
        for alert in alerts():
            page, anchor = alert["annotations"]["runbook_url"].split("#")
            self.assertIn(anchor, anchors((REPO / page).read_text()), alert["alert"])
            self.assertEqual(anchor, alert["alert"].lower())
            self.assertIn(alert["labels"]["severity"], ("critical", "warning"))

    def test_dashboards(self):
        for name in ("overview", "pod"):
            board = json.loads((REPO / "deploy" / "grafana" / f"{name}.json").read_text())
            self.assertEqual({v["name"] for v in board["templating"]["list"]},
                             {"datasource", "job", "model", "instance"})
            seen, places = set(), []
            for panel in board["panels"]:
                self.assertNotIn(panel["id"], seen)
                seen.add(panel["id"])
                at = panel["gridPos"]
                self.assertLessEqual(at["x"] + at["w"], 24)
                for other in places:
                    apart = (at["x"] + at["w"] <= other["x"] or other["x"] + other["w"] <= at["x"] or
                             at["y"] + at["h"] <= other["y"] or other["y"] + other["h"] <= at["y"])
                    self.assertTrue(apart, f"{name}: {panel['title']} covers another panel")
                places.append(at)
                if panel["type"] != "row":
                    self.assertGreater(len(panel["description"]), 15, panel["title"])
                    self.assertTrue(panel["fieldConfig"]["defaults"]["unit"], panel["title"])
                    self.assertEqual(panel["datasource"]["uid"], "$datasource")


if __name__ == "__main__":
    unittest.main()
