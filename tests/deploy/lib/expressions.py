"""Every PromQL expression that we ship, where it stands, and what is wrong with one.

    for expression in collect(REPO):
        problems += check(expression, known)
"""
import dataclasses
import html
import json
import pathlib
import re

import promql
import yaml

# Labels that Kubernetes' discovery gives a target; here there are only job and instance.
TARGET_LABELS = {"job", "instance", "namespace", "pod", "container", "endpoint"}
# Series of other exporters: {name: {label: values, or none if any}}.
EXTERNAL = {"DCGM_FI_DEV_GPU_UTIL": {"gpu": set(), "Hostname": set()}}
GRAFANA = {"$job": "longdoc", "$instance": ".*", "$model": ".*", "$__rate_interval": "1m"}


@dataclasses.dataclass
class Expression:
    place: str
    text: str
    labels: tuple = ()       # what a legend or a message reads of a result's labels
    condition: bool = False  # answers only when something is wrong
    single: bool = False     # must answer with one series


def _grafana_text(text):
    for name, value in GRAFANA.items():
        text = text.replace(name, value)
    return text


def _placeholders(text):
    return tuple(re.findall(r"\{\{\s*(\w+)\s*\}\}", text or ""))


def of_dashboard(place, dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield Expression(f"{place}: {panel['title']}", _grafana_text(target["expr"]),
                             _placeholders(target.get("legendFormat")))
    for annotation in dashboard["annotations"]["list"]:
        yield Expression(f"{place}: annotation {annotation['name']}",
                         _grafana_text(annotation["expr"]),
                         _placeholders(annotation.get("titleFormat")), condition=True)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            yield Expression(f"{place}: variable {variable['name']}",
                             _grafana_text(match.group(1)), (match.group(2),))


def of_rules(place, groups):
    for group in groups:
        for rule in group["rules"]:
            messages = " ".join(rule.get("annotations", {}).values())
            yield Expression(f"{place}: {rule.get('alert') or rule['record']}", rule["expr"],
                             tuple(re.findall(r"\$labels\.(\w+)", messages)),
                             condition="alert" in rule)


def of_console(place, page):
    """Expressions of the template's queries, and of the graphs that the page's script draws."""
    page = re.sub(r"\{\{/\*.*?\*/\}\}", "", page, flags=re.DOTALL)
    for text in re.findall(r"query `([^`]*)`", page):
        yield Expression(f"{place}: query", text)
    for figure in re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL):
        title = re.search(r"<figcaption>(.*?)</figcaption>", figure).group(1)
        for text, legend in re.findall(r'<data value="([^"]*)">([^<]*)</data>', figure):
            yield Expression(f"{place}: {title}", re.sub(r"\bRATE\b", "1m", html.unescape(text)),
                             tuple(re.findall(r"\[(\w+)\]", legend)))


def of_manifest(place, document):
    """Expressions of an object of Kubernetes: rules, queries of KEDA, metrics of an autoscaler."""
    kind, spec = document.get("kind"), document.get("spec", {})
    if kind == "PrometheusRule":
        yield from of_rules(place, spec["groups"])
    elif kind == "ScaledObject":
        for trigger in spec["triggers"]:
            if trigger["type"] == "prometheus":
                yield Expression(f"{place}: trigger", trigger["metadata"]["query"], single=True)
    elif kind == "HorizontalPodAutoscaler":
        for metric in spec["metrics"]:
            name = (metric.get("pods") or metric.get("external") or {}).get("metric", {}).get("name")
            if name:  # the adapter asks for the series of that name
                yield Expression(f"{place}: metric", name)


def collect(root):
    """All expressions of deploy/."""
    deploy = pathlib.Path(root) / "deploy"
    out = []
    for path in sorted((deploy / "grafana").glob("*.json")):
        out += of_dashboard(path.name, json.loads(path.read_text()))
    for path in sorted((deploy / "prometheus" / "rules").glob("*.yaml")):
        out += of_rules(path.name, yaml.safe_load(path.read_text())["groups"])
    for path in sorted((deploy / "prometheus" / "consoles").glob("*.html")):
        out += of_console(path.name, path.read_text())
    for path in sorted((deploy / "kubernetes").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict):
                out += of_manifest(str(path.relative_to(deploy)), document)
    return out


def _matches(operator, value, values):
    """Whether a matcher can select any of a label's values; of alternatives, whether each can."""
    if operator in ("!=", "!~"):
        return True
    if operator == "=":
        return value in values
    simple = re.fullmatch(r"[\w|]+", value)
    return all(any(re.fullmatch(part, v) for v in values)
               for part in (value.split("|") if simple else [value]))


def check(expression, known):
    """What is wrong with the names in an expression; `known` is {series: {label: values}}."""
    known = {**known, **EXTERNAL}
    problems = []
    try:
        selectors, groupings = promql.parse(expression.text)
    except (ValueError, IndexError) as error:
        return [f"{expression.place}: {error}: {expression.text}"]
    if not selectors:
        problems.append("it names no series")
    for selector in selectors:
        if selector.name not in known:
            problems.append(f"unknown series {selector.name}")
            continue
        labels = known[selector.name]
        for label, operator, value in selector.matchers:
            if label not in labels:
                if label not in TARGET_LABELS:
                    problems.append(f"{selector.name} has no label {label}")
            elif labels[label] and not _matches(operator, value, labels[label]):
                problems.append(f"{selector.name} has no {label}{operator}\"{value}\"")
    for grouping in groupings:
        there = {label for s in grouping.selectors for label in known.get(s.name, ())}
        for label in grouping.labels:
            if label not in there | TARGET_LABELS:
                problems.append(f"{grouping.keyword} ({label}): no series there has that label")
    return [f"{expression.place}: {problem}: {expression.text}" for problem in problems]


def names(expressions):
    """The series that expressions name."""
    return {s.name for e in expressions for s in promql.parse(e.text)[0]}


def families(exposition):
    """{name: type} of an exposition in text."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposition, flags=re.MULTILINE))


def unused(exported, used):
    """Exported families that no expression names; a histogram is used by any of its series."""
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    return sorted(name for name, kind in exported.items()
                  if not any(name + suffix in used for suffix in suffixes.get(kind, ("",))))
