#!/usr/bin/env python3
"""Writes the Grafana dashboards and Prometheus' console page from panels.py.

Usage: deploy/grafana/make.py [--check]

  --check   write nothing; fail if a file that is there is not up to date

Written are overview.json and pod.json beside this file, and deploy/prometheus/consoles/longdoc.html
from deploy/prometheus/console.html.in. Needs Python 3 only.
"""
import html
import json
import pathlib
import re
import sys

sys.dont_write_bytecode = True
import panels  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
PROMETHEUS = HERE.parent / "prometheus"
DATASOURCE = {"type": "prometheus", "uid": "$datasource"}
COLORS = ("green", "orange", "red")
WIDTH = {"stat": 3}  # of 24 columns; 8 for all else
HEIGHT = {"stat": 4}  # 8 for all else


def grafana_expression(expression):
    for placeholder, value in (("SEL", 'job="$job",instance=~"$instance"'), ("JOB", 'job="$job"'),
                               ("MODEL", "$model"), ("RATE", "$__rate_interval")):
        expression = re.sub(rf"\b{placeholder}\b", lambda _: value, expression)
    return expression


def grafana_field(panel):
    """Defaults of the fields: unit, colours, how lines are drawn."""
    steps = [{"color": color, "value": value}
             for color, value in zip(COLORS, (None,) + panel.thresholds)]
    field = {"unit": panel.unit, "min": 0,
             "thresholds": {"mode": "absolute", "steps": steps},
             # A quantile or a mean of nothing is NaN.
             "mappings": [{"type": "special",
                           "options": {"match": "nan", "result": {"text": "no traffic"}}}]}
    if panel.kind in ("lines", "stack"):
        field["custom"] = {"drawStyle": "line", "lineWidth": 1, "showPoints": "never",
                           "fillOpacity": 25 if panel.kind == "stack" else 5,
                           "stacking": {"mode": "normal" if panel.kind == "stack" else "none"}}
    return field


def grafana_options(panel):
    if panel.kind == "stat":
        return {"colorMode": "value" if panel.thresholds else "none", "graphMode": "area",
                "reduceOptions": {"calcs": ["lastNotNull"]}}
    if panel.kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": panel.unit},
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                "cellGap": 1, "tooltip": {"show": True}}
    if panel.kind == "table":
        return {"showHeader": True}
    return {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"}}


def grafana_panel(panel, number, x, y):
    kind = {"stat": "stat", "heatmap": "heatmap", "table": "table"}.get(panel.kind, "timeseries")
    targets = []
    for i, (expression, legend) in enumerate(panel.queries):
        target = {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "legendFormat": legend,
                  "expr": grafana_expression(expression)}
        if kind == "heatmap":
            target["format"] = "heatmap"
        if kind in ("stat", "table"):
            target["instant"] = True
        if kind == "table":
            target["format"] = "table"
        targets.append(target)
    out = {"id": number, "type": kind, "title": panel.title, "description": panel.description,
           "datasource": DATASOURCE, "targets": targets, "options": grafana_options(panel),
           "fieldConfig": {"defaults": grafana_field(panel), "overrides": []},
           "gridPos": {"x": x, "y": y, "w": WIDTH.get(panel.kind, 8), "h": HEIGHT.get(panel.kind, 8)}}
    if kind == "table":
        out["transformations"] = [{"id": "organize",
                                   "options": {"excludeByName": {"Time": True, "Value": True}}}]
    return out


def variable(name, label, query, many=False):
    """A variable of the dashboard whose values are those of a label."""
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE,
            "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1,
            "multi": many, "includeAll": many, **({"allValue": ".*"} if many else {})}


def dashboard(uid, title, description, rows, one_pod):
    out, x, y = [], 0, 0
    for row in rows:
        chosen = [p for p in row.panels if not (one_pod and "{JOB}" in p.queries[0][0])]
        out.append({"id": len(out) + 1, "type": "row", "title": row.title, "collapsed": False,
                    "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        x, y = 0, y + 1
        for panel in chosen:
            made = grafana_panel(panel, len(out) + 1, x, y)
            if x + made["gridPos"]["w"] > 24:
                x, y = 0, y + made["gridPos"]["h"]
                made["gridPos"].update(x=x, y=y)
            out.append(made)
            x += made["gridPos"]["w"]
        y += HEIGHT.get(chosen[-1].kind, 8)
    model = variable("model", "Model", 'label_values(longdoc_model_info{job="$job"}, model)', True)
    # Requests carry no model; the replicas on show are those that serve one of the chosen models.
    instance = variable(
        "instance", "Replica",
        'label_values(longdoc_model_info{job="$job",model=~"$model"}, instance)', not one_pod)
    return {
        "uid": uid, "title": title, "description": description, "tags": ["longdoc"],
        "schemaVersion": 38, "version": 1, "editable": True, "graphTooltip": 1, "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
        "annotations": {"list": [{
            "name": "Drains", "enable": True, "iconColor": "orange", "datasource": DATASOURCE,
            "expr": grafana_expression("longdoc_draining{SEL} == 1"),
            "titleFormat": "{{instance}} drains"}]},
        "links": [{"title": "longdoc dashboards", "type": "dashboards", "tags": ["longdoc"],
                   "keepTime": True, "includeVars": True}],
        "templating": {"list": [
            {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
            variable("job", "Job", "label_values(longdoc_build_info, job)"), model, instance]},
        "panels": out}


def console_expression(expression):
    """As an attribute of HTML in a Go template; the page's script puts in the range RATE."""
    for placeholder, value in (("SEL", 'job="longdoc"'), ("JOB", 'job="longdoc"'), ("MODEL", ".*")):
        expression = re.sub(rf"\b{placeholder}\b", lambda _: value, expression)
    return expression


def console_page():
    def attribute(text):
        return html.escape(text.replace('"', "'"))

    def legend(text):  # {{ }} means something to the template
        return attribute(re.sub(r"\{\{(\w+)\}\}", r"[\1]", text))

    stats, figures = [], []
    for panel in panels.STATS:
        expression = console_expression(panel.queries[0][0]).replace("RATE", "1m")
        limits = " ".join(map(str, panel.thresholds))
        stats.append(f'<div class="stat" data-unit="{panel.unit}" data-limits="{limits}" '
                     f'title="{attribute(panel.description)}">\n'
                     f"  <b>{{{{ with query `{expression}` }}}}{{{{ . | first | value }}}}"
                     f"{{{{ else }}}}-{{{{ end }}}}</b>{html.escape(panel.title)}\n</div>")
    for row in panels.ROWS + [panels.Row("Process", panels.PROCESS)]:
        shown = [panel for panel in row.panels if panel.console]
        if shown:
            figures.append(f"<h2>{row.title}</h2>\n<section>")
        for panel in shown:
            queries = "\n".join(
                f'  <data value="{attribute(console_expression(expression))}">{legend(name)}</data>'
                for expression, name in panel.queries)
            figures.append(f'<figure data-kind="{panel.kind}" data-unit="{panel.unit}" '
                           f'title="{attribute(panel.description)}">\n'
                           f"  <figcaption>{html.escape(panel.title)}</figcaption>\n"
                           f"{queries}\n</figure>")
        if shown:
            figures.append("</section>")
    page = (PROMETHEUS / "console.html.in").read_text()
    return page.replace("@STATS@", "\n".join(stats)).replace("@FIGURES@", "\n".join(figures))


def files():
    head = panels.Row("Now", panels.STATS)
    process = panels.Row("Process", panels.PROCESS)
    overview = dashboard(
        "longdoc-overview", "longdoc / Overview", "All replicas of a job.",
        [head] + panels.ROWS + [process], one_pod=False)
    pod = dashboard(
        "longdoc-pod", "longdoc / Pod", "One replica.",
        [head, process] + [row for row in panels.ROWS if row.pod], one_pod=True)
    return {HERE / "overview.json": json.dumps(overview, indent=1) + "\n",
            HERE / "pod.json": json.dumps(pod, indent=1) + "\n",
            PROMETHEUS / "consoles" / "longdoc.html": console_page()}


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    for path, text in files().items():
        if check:
            if not path.exists() or path.read_text() != text:
                sys.exit(f"{path} is out of date: run deploy/grafana/make.py")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


if __name__ == "__main__":
    main()
