#!/usr/bin/python3
"""The manifests against the real server: configuration, probes, drain, memory, checksums, API names."""
import os
import pathlib
import re
import shutil
import subprocess
import unittest

import grpc
import health_pb2
import health_pb2_grpc
from longdoc.v1 import embedding_service_pb2, embedding_service_pb2_grpc

import harness
import kustomize
import manifests
from manifests import KUBERNETES, OVERLAYS, mounted_config_map, only, render, server_container

MIB = 1 << 20
SERVER = harness.binary("longdoc-server")
SERVICES = {"EmbeddingService", "DocumentService", "ScoringService", "ModelService"}


def effective_config(directory, *flags):
    """The server's own words about a configuration: field name to its (last) value, as text."""
    done = subprocess.run([SERVER, f"--config={directory}", "--print_config", *flags],
                          capture_output=True, text=True, check=True)
    return dict(re.findall(r"(\w+): \"?([^\"\n]*)\"?", done.stdout))


class PodServer(harness.Server):
    """The server with exactly the files of the ConfigMap. Ports, the place of the model and, on the GPU
    overlay, the device are the machine's; everything else is the manifest's."""

    def __init__(self, work, objects, model):
        self.config = pathlib.Path(work) / "config"
        self.config.mkdir(exist_ok=True)
        manifests.write_config(objects, self.config)
        arg, = server_container(objects)["args"]
        assert arg == "--config=/etc/longdoc/config", arg
        super().__init__(work, {}, flags=[f"--config={self.config}", f"--model=default={model}"])


class Kubernetes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls._scratch = harness.scratch_directory()
        cls.work = cls._scratch.__enter__()
        cls.model = harness.make_model(cls.work, "jina-small")
        cls.objects = render("cpu")
        cls.server = PodServer(cls.work, cls.objects, cls.model)

    @classmethod
    def tearDownClass(cls):
        cls.server.process.kill()  # a drain would last as long as the manifests say
        cls.server.process.wait()
        cls._scratch.__exit__(None, None, None)

    def config_of(self, overlay, components=()):
        directory = self.work / f"config-{overlay}-{len(components)}"
        directory.mkdir(exist_ok=True)
        manifests.write_config(render(overlay, components), directory)
        return directory

    def serving(self, name):
        with self.server.channel() as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30).status

    def test_configurations_are_valid(self):
        for overlay in OVERLAYS:
            config = self.config_of(overlay)
            done = subprocess.run([SERVER, f"--config={config}", f"--model=default={self.model}",
                                   "--check_config"], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            # And it was read: a mistake in the last file is seen.
            (config / "99-wrong.textproto").write_text("no_such_field: 1")
            done = subprocess.run([SERVER, f"--config={config}", "--check_config"], check=False,
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn("99-wrong.textproto", done.stderr)
            (config / "99-wrong.textproto").unlink()

    def test_tls_is_turned_on(self):
        config = effective_config(self.config_of("cpu", ["tls"]))
        mounts = {m["name"]: m["mountPath"] for m in server_container(render("cpu", ["tls"]))["volumeMounts"]}
        for field, key in (("tls_certificate_file", "tls.crt"), ("tls_key_file", "tls.key")):
            self.assertEqual(config[field], f"{mounts['tls']}/{key}")
        self.assertNotEqual(config.get("allow_insecure"), "true")

    def test_addresses_are_the_pods_ports_and_models_are_mounted(self):
        config = effective_config(self.config_of("cpu"))
        ports = {p["name"]: p["containerPort"] for p in server_container(self.objects)["ports"]}
        self.assertEqual(config["listen_address"], f"0.0.0.0:{ports['grpc']}")
        self.assertEqual(config["metrics_address"], f"0.0.0.0:{ports['metrics']}")
        mounts = {m["name"]: m["mountPath"] for m in server_container(self.objects)["volumeMounts"]}
        self.assertTrue(config["directory"].startswith(mounts["models"] + "/"))

    def test_probes_are_answered(self):
        ports = {p["name"]: p["containerPort"] for p in server_container(self.objects)["ports"]}
        names = []
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = server_container(self.objects)[kind]["grpc"]
            self.assertEqual(probe["port"], ports["grpc"])
            self.assertEqual(self.serving(probe["service"]), health_pb2.HealthCheckResponse.SERVING, kind)
            names.append(probe["service"])
        self.assertEqual(len(set(names)), 3, "each probe asks for a name of its own")
        with self.assertRaises(grpc.RpcError) as unknown:
            self.serving("no.such.Service")
        self.assertEqual(unknown.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_http_probes_are_answered(self):
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = server_container(render("cpu", ["tls"]))[kind]["httpGet"]
            self.assertEqual(self.server.get(probe["path"])[0], 200, probe)

    def test_readiness_turns_and_liveness_stays_in_a_drain(self):
        with harness.scratch_directory() as work, PodServer(work, self.objects, self.model) as server:
            with server.channel() as channel:
                stub = health_pb2_grpc.HealthStub(channel)

                def status(kind):
                    name = server_container(self.objects)[kind]["grpc"]["service"]
                    return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30).status
                self.assertEqual(status("readinessProbe"), health_pb2.HealthCheckResponse.SERVING)
                server.signal()
                harness.wait_until(
                    "NOT_SERVING", lambda: status("readinessProbe")
                    == health_pb2.HealthCheckResponse.NOT_SERVING, 9)
                self.assertEqual(status("livenessProbe"), health_pb2.HealthCheckResponse.SERVING)
            server.signal()  # the second one does not wait
            self.assertEqual(server.process.wait(30), 1)

    def test_grace_covers_the_drain(self):
        for overlay in OVERLAYS:
            objects = render(overlay)
            pod = only(objects, "Deployment")["spec"]["template"]["spec"]
            config = effective_config(self.config_of(overlay))
            hook = server_container(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
            delay = float(config["drain_delay_seconds"])
            needed = hook + delay + float(config["drain_grace_seconds"]) + 5
            self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], needed)
            # While endpoints still name the pod, it must take calls: readiness is asked that often.
            readiness = server_container(objects)["readinessProbe"]
            self.assertGreaterEqual(hook + delay,
                                    readiness["periodSeconds"] * readiness["failureThreshold"])
            age = float(config["max_connection_age_seconds"])
            self.assertGreater(age, 0)
            self.assertGreaterEqual(float(config["max_connection_age_grace_seconds"]),
                                    float(config["max_deadline_seconds"]))

    def test_startup_probe_and_deadline_of_the_rollout(self):
        spec = only(self.objects, "Deployment")["spec"]
        probe = server_container(self.objects)["startupProbe"]
        self.assertGreater(spec["progressDeadlineSeconds"],
                           probe["periodSeconds"] * probe["failureThreshold"])
        loaded = self.server.log("model loaded")[0]["seconds"]
        self.assertGreater(probe["periodSeconds"] * probe["failureThreshold"], 10 * loaded)

    def test_gateway_routes_services_that_exist(self):
        route, = only(render("cpu", ["gateway"]), "GRPCRoute")["spec"]["rules"]
        routed = {match["method"]["service"] for match in route["matches"]}
        self.assertEqual(routed, {f"longdoc.v1.{name}" for name in SERVICES})
        for name in routed:
            self.assertEqual(self.serving(name), health_pb2.HealthCheckResponse.SERVING)
        config = effective_config(self.config_of("cpu"))
        timeout = only(render("cpu", ["gateway"]), "BackendTrafficPolicy")["spec"]["timeout"]["http"]
        self.assertEqual(timeout["requestTimeout"], f"{config['max_deadline_seconds']}s")

    def test_sizing_is_what_the_planner_says(self):
        for overlay in OVERLAYS:
            subprocess.run([KUBERNETES / "sizing", overlay, "--check", "--model", str(self.model),
                            "--bin", os.path.dirname(SERVER)], check=True)

    def test_memory_of_a_running_server_stays_within_the_pod(self):
        """All but documents' budgets is in use after one document: that part of the sum is measured."""
        with self.server.channel() as channel:
            stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
            header = embedding_service_pb2.EmbedDocumentRequest()
            header.header.SetInParent()
            chunk = embedding_service_pb2.EmbedDocumentRequest()
            chunk.chunk.text = b"A long document has many sentences like this one. " * 400
            list(stub.EmbedDocument(iter([header, chunk]), timeout=120))
        metrics = self.server.get("/metrics")[1]

        def value(name):
            return float(re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.M).group(1))
        config = effective_config(self.config_of("cpu"))
        memory = server_container(self.objects)["resources"]["limits"]["memory"]
        for_itself = int(memory[:-2]) * MIB - int(config["memory_budget_bytes"]) - int(config["budget_bytes"])
        self.assertEqual(value('longdoc_document_memory_bytes{kind="budget"}'),
                         int(config["memory_budget_bytes"]))
        streams = int(config["max_streams"]) * (int(config["read_high_watermark_bytes"])
                                                + int(config["max_message_bytes"]))
        used = value("longdoc_resident_memory_peak_bytes") - value("longdoc_document_memory_peak_bytes")
        self.assertLess(used, for_itself - streams)


class Documentation(unittest.TestCase):
    """What README.md and docs/operations.md tell people to type, in a copy of deploy/."""

    def setUp(self):
        scratch = harness.scratch_directory()
        self.work = scratch.__enter__()
        self.addCleanup(scratch.__exit__, None, None, None)
        self.clone = self.work / "longdoc"
        shutil.copytree(KUBERNETES.parent, self.clone / "deploy")
        (self.clone / "build").mkdir()
        (self.clone / "build" / "bin").symlink_to(os.path.abspath(os.path.dirname(SERVER)))

    def test_ten_lines_of_the_readme(self):
        models = self.work / "models"
        models.mkdir()
        harness.make_model(models, "colt5-tiny").rename(models / "default")
        text = (harness.REPO / "README.md").read_text()
        block = re.search(r"## Deploying it\n```\n(.*?)```", text, re.S)[1]
        lines = [line for line in block.splitlines() if not line.startswith(("docker", "kubectl"))]
        self.assertLessEqual(len(block.splitlines()), 10)
        script = "\n".join(lines).replace("MODELS", str(models)).replace("REGISTRY", "ours")
        subprocess.run(["bash", "-ec", script], cwd=self.clone, check=True)
        applied, = re.findall(r"kubectl apply --server-side -k (\S+)", block)
        objects = kustomize.build(self.clone / "deploy" / "kubernetes" / applied)
        self.assertEqual(server_container(objects)["image"], re.search(r"-t (\S+)", block)[1]
                         .replace("REGISTRY", "ours"))
        for path in (models / "default").iterdir():
            self.assertIn(f"  default/{path.name}\n", mounted_config_map(objects, "checksums")["models.sha256"])
        # Smaller than the model that the repository's numbers are for.
        self.assertNotEqual(server_container(objects)["resources"], server_container(render("cpu"))["resources"])

    def test_kustomization_of_the_manual(self):
        text = (harness.REPO / "docs" / "operations.md").read_text()
        block = re.search(r"### Kubernetes\n.*?```yaml\n(.*?)```", text, re.S)[1]
        (self.work / "kustomization.yaml").write_text(block)
        (self.work / "models.sha256").write_text("of ours\n")
        objects = kustomize.build(self.work)
        self.assertEqual(mounted_config_map(objects, "checksums"), {"models.sha256": "of ours\n"})
        self.assertEqual(server_container(objects)["image"], "REGISTRY/longdoc:0.1.0-cpu")
        for kind in ("PodMonitor", "PrometheusRule", "ScaledObject"):
            only(objects, kind)

        def by_name(found):
            return {(o["kind"], o["metadata"]["name"]): o for o in found}
        if manifests.kubectl():
            self.assertEqual(by_name(objects), by_name(manifests.build_with_kubectl(self.work)))


class Checksums(unittest.TestCase):
    """The init container's command, run by sh in a directory of models."""

    @classmethod
    def setUpClass(cls):
        cls._scratch = harness.scratch_directory()
        cls.made = harness.make_model(cls._scratch.__enter__(), "jina-small")

    @classmethod
    def tearDownClass(cls):
        cls._scratch.__exit__(None, None, None)

    def setUp(self):
        scratch = harness.scratch_directory()
        self.work = scratch.__enter__()
        self.addCleanup(scratch.__exit__, None, None, None)
        models = self.work / "models"
        self.model = models / "default"
        shutil.copytree(self.made, self.model)
        objects = render("cpu")
        pod = only(objects, "Deployment")["spec"]["template"]["spec"]
        self.container, = pod["initContainers"]
        checksums = self.work / "checksums"
        checksums.mkdir()
        for name, text in mounted_config_map(objects, "checksums").items():
            (checksums / name).write_text(text)
        self.places = {"/models": models, "/etc/longdoc/checksums": checksums}
        self.assertEqual({m["mountPath"] for m in self.container["volumeMounts"]}, set(self.places))

    def place(self, path):
        for there, here in self.places.items():
            if path == there or path.startswith(there + "/"):
                return str(here) + path[len(there):]
        return path

    def run_command(self):
        command = [self.place(word) for word in self.container["command"]]
        return subprocess.run(["sh", "-c", 'cd "$0" && exec "$@"', self.place(self.container["workingDir"]),
                               *command], capture_output=True, text=True, check=False)

    def test_good_model_passes_and_names_every_file(self):
        done = self.run_command()
        self.assertEqual(done.returncode, 0, done.stderr)
        listed = {line.split()[1] for line in
                  (self.places["/etc/longdoc/checksums"] / "models.sha256").read_text().splitlines()}
        self.assertEqual(listed, {f"default/{path.name}" for path in self.model.iterdir()})

    def test_flipped_bit_is_found(self):
        weights = self.model / "model.safetensors"
        with open(weights, "r+b") as file:
            file.seek(weights.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        done = self.run_command()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("default/model.safetensors: FAILED", done.stdout)

    def test_missing_file_is_found(self):
        (self.model / "vocab.txt").unlink()
        done = self.run_command()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("default/vocab.txt: FAILED", done.stdout)

    def test_list_that_lists_nothing_fails(self):
        for text in ("", "not a checksum\n"):
            (self.places["/etc/longdoc/checksums"] / "models.sha256").write_text(text)
            done = self.run_command()
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("no properly formatted", done.stderr)


if __name__ == "__main__":
    unittest.main()
