#!/usr/bin/python3
"""What can be said of the manifests without a server: they build, fit the schemas, and fit together."""
import json
import pathlib
import re
import subprocess
import unittest

import jsonschema
import yaml

import kustomize
import manifests
from manifests import COMBINATIONS, KUBERNETES, of_kind, only, render, server_container

SCHEMAS = pathlib.Path(__file__).parent / "schemas"
KINDS_WITH_PODS = {"Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"}
# What a cluster must bring along: docs/operations.md, "Deployment".
FROM_OUTSIDE = {"persistentVolumeClaim": {"longdoc-models"}, "secret": {"longdoc-tls"}}


def each(test):
    """Runs a test for every combination of overlay and components."""
    def run(self):
        for overlay, components in COMBINATIONS:
            with self.subTest(overlay=overlay, components=components):
                test(self, render(overlay, components))
    return run


def pod_spec(objects):
    return only(objects, "Deployment")["spec"]["template"]["spec"]


def containers(objects):
    pod = pod_spec(objects)
    return pod["containers"] + pod["initContainers"]


def mebibytes(quantity):
    return int(re.fullmatch(r"(\d+)Mi", quantity).group(1))


def selector_of(item):
    if item["kind"] == "Service":
        return item["spec"]["selector"]
    if item["kind"] == "NetworkPolicy":
        return item["spec"]["podSelector"]["matchLabels"]
    return item["spec"]["selector"]["matchLabels"]


class Builds(unittest.TestCase):
    def test_kubectl_builds_the_same(self):
        """All other tests look at what the tests' own builder makes, which takes no time."""
        if not manifests.kubectl():
            self.skipTest("no kubectl that knows components")

        def by_name(objects):
            return {(o["kind"], o["metadata"]["name"]): o for o in objects}
        for overlay, components in COMBINATIONS:
            with self.subTest(overlay=overlay, components=components):
                self.assertEqual(
                    by_name(render(overlay, components, manifests.build_with_kubectl)),
                    by_name(render(overlay, components)))

    def test_base_and_dashboards_build_alone(self):
        self.assertTrue(kustomize.build(KUBERNETES / "base"))
        self.assertTrue(kustomize.build(KUBERNETES.parent / "grafana"))

    def test_prometheus_rule_is_up_to_date(self):
        subprocess.run([KUBERNETES / "rules", "--check"], check=True)

    def test_every_dashboard_is_deployed(self):
        data = only(render("cpu", ["monitoring"]), "ConfigMap", "longdoc-dashboards")["data"]
        files = {path.name for path in (KUBERNETES.parent / "grafana").glob("*.json")}
        self.assertEqual(set(data), files)
        self.assertLess(sum(map(len, data.values())), 1 << 20, "a ConfigMap holds 1 MiB")


class Schemas(unittest.TestCase):
    kubernetes = json.loads((SCHEMAS / "kubernetes.json").read_text())
    custom = yaml.safe_load((SCHEMAS / "custom.yaml").read_text())

    def problems(self, item):
        kind = f"{item['apiVersion']}/{item['kind']}"
        if kind in self.kubernetes["kinds"]:
            schema = {"$ref": f"#/$defs/{self.kubernetes['kinds'][kind]}",
                      "$defs": self.kubernetes["$defs"]}
        elif kind in self.custom:
            schema = {"$defs": self.custom["$defs"], "type": "object",
                      "required": ["apiVersion", "kind", "metadata", "spec"],
                      "additionalProperties": False,
                      "properties": {"apiVersion": {}, "kind": {}, "spec": self.custom[kind],
                                     "metadata": self.custom["$defs"]["metadata"]}}
        else:
            return [f"no schema for {kind}"]
        validator = jsonschema.Draft202012Validator(schema)
        return [f"{kind} {'/'.join(map(str, e.absolute_path))}: {e.message}"
                for e in validator.iter_errors(item)]

    @each
    def test_strict(self, objects):
        for item in objects:
            self.assertEqual(self.problems(item), [])

    def test_would_notice(self):
        """A field that does not exist, a wrong type, a missing field, an unknown kind."""
        objects = render("gpu", ["monitoring", "autoscaling/keda", "gateway"])
        changes = {
            "Deployment": lambda o: o["spec"]["template"]["spec"]["containers"][0].update(livenes={}),
            "Service": lambda o: o["spec"]["ports"][0].update(port="50051"),
            "NetworkPolicy": lambda o: o["spec"]["ingress"][0].update(form=[]),
            "PodDisruptionBudget": lambda o: o["spec"].update(maxUnavailble=1),
            "ScaledObject": lambda o: o["spec"]["triggers"][0]["metadata"].update(threshold=5),
            "PodMonitor": lambda o: o["spec"].pop("podMetricsEndpoints"),
            "GRPCRoute": lambda o: o["spec"]["rules"][0]["matches"][0]["method"].update(type="exact"),
            "BackendTrafficPolicy": lambda o: o["spec"]["loadBalancer"].update(type="Hash"),
            "PrometheusRule": lambda o: o["spec"]["groups"][0]["rules"][0].pop("expr"),
            "ServiceAccount": lambda o: o.update(kind="ServiceAcount"),
        }
        for kind, change in changes.items():
            item = json.loads(json.dumps(of_kind(objects, kind)[0]))
            self.assertEqual(self.problems(item), [])
            change(item)
            self.assertNotEqual(self.problems(item), [], kind)

    def test_behavior_of_the_scaled_object_is_an_autoscalers(self):
        scaled = only(render("cpu", ["autoscaling/keda"]), "ScaledObject")
        hpa = only(render("cpu", ["autoscaling/hpa"]), "HorizontalPodAutoscaler")
        self.assertEqual(scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
                         hpa["spec"]["behavior"])


class FitsTogether(unittest.TestCase):
    @each
    def test_names_are_unique_and_in_one_namespace(self, objects):
        names = [(o["kind"], o["metadata"]["name"]) for o in objects]
        self.assertEqual(len(names), len(set(names)))
        namespace = only(objects, "Namespace")["metadata"]
        for item in objects:
            if item["kind"] != "Namespace":
                self.assertEqual(item["metadata"]["namespace"], namespace["name"], item["kind"])
        self.assertEqual(namespace["labels"]["pod-security.kubernetes.io/enforce"], "restricted")

    @each
    def test_selectors_select_the_pods(self, objects):
        deployment = only(objects, "Deployment")["spec"]
        labels = deployment["template"]["metadata"]["labels"].items()
        self.assertLessEqual(deployment["selector"]["matchLabels"].items(), labels)
        spread = deployment["template"]["spec"]["topologySpreadConstraints"]
        self.assertLessEqual(spread[0]["labelSelector"]["matchLabels"].items(), labels)
        found = [o for o in objects if o["kind"] in KINDS_WITH_PODS]
        self.assertGreaterEqual(len(found), 3)
        for item in found:
            self.assertTrue(selector_of(item))
            self.assertLessEqual(selector_of(item).items(), labels, item["kind"])

    @each
    def test_ports_exist(self, objects):
        ports = {p["name"]: p["containerPort"] for p in server_container(objects)["ports"]}
        self.assertEqual(set(ports), {"grpc", "metrics"})
        service = only(objects, "Service")["spec"]
        self.assertEqual(service["clusterIP"], "None", "dns:/// has to see the pods")
        for port in service["ports"]:
            self.assertIn(port["targetPort"], ports)
            self.assertEqual(port["port"], ports[port["targetPort"]],
                             "a headless service does not translate ports")
        for monitor in of_kind(objects, "PodMonitor"):
            self.assertEqual([e["port"] for e in monitor["spec"]["podMetricsEndpoints"]], ["metrics"])
            job = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"][
                monitor["spec"]["jobLabel"]]
            self.assertEqual(job, "longdoc", "rules and dashboards name the job")
        for route in of_kind(objects, "GRPCRoute"):
            for rule in route["spec"]["rules"]:
                for backend in rule["backendRefs"]:
                    only(objects, "Service", backend["name"])
                    self.assertIn(backend["port"], [p["port"] for p in service["ports"]])
        for policy in of_kind(objects, "BackendTrafficPolicy"):
            for target in policy["spec"]["targetRefs"]:
                only(objects, target["kind"], target["name"])

    @each
    def test_volumes_exist_and_cannot_be_written(self, objects):
        volumes = {v["name"]: v for v in pod_spec(objects)["volumes"]}
        mounted = set()
        for container in containers(objects):
            for mount in container["volumeMounts"]:
                self.assertIn(mount["name"], volumes)
                self.assertTrue(mount["readOnly"])
                mounted.add(mount["name"])
        self.assertEqual(mounted, set(volumes))
        for volume in volumes.values():
            if "configMap" in volume:
                only(objects, "ConfigMap", volume["configMap"]["name"])
            elif "secret" in volume:
                self.assertIn(volume["secret"]["secretName"], FROM_OUTSIDE["secret"])
            else:
                claim = volume["persistentVolumeClaim"]
                self.assertIn(claim["claimName"], FROM_OUTSIDE["persistentVolumeClaim"])
                self.assertTrue(claim["readOnly"])

    @each
    def test_network_policies_open_exactly_what_is_used(self, objects):
        """By whom each port may be reached: gRPC by clients and a gateway, metrics by Prometheus."""
        opened = set()
        for policy in of_kind(objects, "NetworkPolicy"):
            for rule in policy["spec"]["ingress"]:
                for peer in rule["from"]:
                    who = (peer.get("podSelector", peer["namespaceSelector"])["matchLabels"])
                    opened |= {(port["port"], *who.items()) for port in rule["ports"]}
                self.assertTrue(all(port["protocol"] == "TCP" for port in rule["ports"]))
        namespace = "kubernetes.io/metadata.name"
        expected = {("grpc", ("longdoc-client", "true"))}
        if of_kind(objects, "PodMonitor"):
            expected.add(("metrics", (namespace, "monitoring")))
        if of_kind(objects, "GRPCRoute"):
            gateway = only(objects, "GRPCRoute")["spec"]["parentRefs"][0]["namespace"]
            expected.add(("grpc", (namespace, gateway)))
        self.assertEqual(opened, expected)
        base = only(objects, "NetworkPolicy", "longdoc")["spec"]
        self.assertEqual((sorted(base["policyTypes"]), base.get("egress", [])),
                         (["Egress", "Ingress"], []), "the server calls nobody")

    @each
    def test_autoscalers_own_the_replicas(self, objects):
        scalers = of_kind(objects, "HorizontalPodAutoscaler") + of_kind(objects, "ScaledObject")
        self.assertEqual("replicas" in only(objects, "Deployment")["spec"], not scalers)
        for scaler in scalers:
            target = scaler["spec"]["scaleTargetRef"]
            only(objects, target["kind"], target["name"])

    def test_autoscaling_asks_for_queued_tokens(self):
        queries = list(manifests.autoscaling_queries())
        self.assertEqual(len(queries), 4)
        for _, query in queries:
            self.assertIn("longdoc_queued_tokens", query)

    def test_only_the_gpu_overlay_asks_for_gpus(self):
        for overlay, count in (("cpu", None), ("gpu", "1")):
            objects = render(overlay)
            limits = server_container(objects)["resources"]["limits"]
            self.assertEqual(limits.get("nvidia.com/gpu"), count)
            self.assertEqual("tolerations" in pod_spec(objects), overlay == "gpu")
            self.assertEqual("nodeSelector" in pod_spec(objects), overlay == "gpu")
            image = server_container(objects)["image"]
            self.assertTrue(image.endswith({"cpu": "-cpu", "gpu": "-cuda"}[overlay]))


class Security(unittest.TestCase):
    @each
    def test_pods_are_locked(self, objects):
        pod = pod_spec(objects)
        self.assertIs(pod["automountServiceAccountToken"], False)
        self.assertIs(only(objects, "ServiceAccount")["automountServiceAccountToken"], False)
        self.assertEqual(pod["serviceAccountName"], only(objects, "ServiceAccount")["metadata"]["name"])
        context = pod["securityContext"]
        self.assertIs(context["runAsNonRoot"], True)
        self.assertGreater(context["runAsUser"], 0)
        self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertFalse({"hostNetwork", "hostPID", "hostIPC"} & set(pod))
        for container in containers(objects):
            self.assertEqual(container["securityContext"],
                             {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                              "capabilities": {"drop": ["ALL"]}}, container["name"])

    @each
    def test_memory_is_bounded_and_guaranteed(self, objects):
        for container in containers(objects):
            resources = container["resources"]
            self.assertEqual(mebibytes(resources["limits"]["memory"]),
                             mebibytes(resources["requests"]["memory"]), container["name"])
            self.assertIn("cpu", resources["requests"])

    def test_no_image_names_a_registry(self):
        """Whoever deploys says where images come from; a host is a first part with a dot or a port."""
        for overlay, components in COMBINATIONS:
            for container in containers(render(overlay, components)):
                first, slash, _ = container["image"].partition("/")
                self.assertFalse(slash and re.search(r"[.:]|^localhost$", first), container["image"])
                self.assertNotIn("latest", container["image"])
                self.assertIn(":", container["image"])

    def test_no_file_names_a_registry(self):
        """Every HOST/PATH in deploy/ is an API group or the prefix of a label or a resource."""
        known = re.compile(r"(([a-z-]+\.)*kubernetes\.io|([a-z]+\.)*k8s\.io|monitoring\.coreos\.com|"
                           r"gateway\.envoyproxy\.io|keda\.sh|nvidia\.com)/"
                           r"[a-z0-9-]+\b")
        host = re.compile(r"(?<![\w./-])[a-z0-9-]+(\.[a-z0-9-]+)*\.(io|com|org|net|dev|sh|ai)(:\d+)?/[\w.-]+")
        files = [path for path in KUBERNETES.parent.rglob("*") if path.is_file()]
        self.assertGreater(len(files), 30)
        for path in files:
            for found in host.finditer(path.read_text()):
                self.assertTrue(known.match(found[0]), f"{path.name}: {found[0]}")

    def test_tls_leaves_no_plain_grpc(self):
        objects = render("cpu", ["tls"])
        self.assertNotIn("appProtocol", only(objects, "Service")["spec"]["ports"][0])
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertNotIn("grpc", server_container(objects)[probe], "these probes speak no TLS")
            self.assertEqual(server_container(objects)[probe]["httpGet"]["port"], "metrics")


if __name__ == "__main__":
    unittest.main()
