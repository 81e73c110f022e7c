"""Renders deploy/kubernetes for tests, and finds things in what comes out.

    objects = render("cpu", ["monitoring", "autoscaling/keda"])
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    for source, query in autoscaling_queries(): ...
"""
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile

import yaml

import kustomize

REPO = pathlib.Path(__file__).resolve().parents[3]
KUBERNETES = REPO / "deploy" / "kubernetes"
OVERLAYS = ["cpu", "gpu"]
COMPONENTS = ["monitoring", "autoscaling/hpa", "autoscaling/keda", "tls", "gateway"]
# Each overlay alone, with every component by itself, and with what people would use together.
COMBINATIONS = ([(overlay, ()) for overlay in OVERLAYS]
                + [(overlay, (component,)) for overlay in OVERLAYS for component in COMPONENTS]
                + [("cpu", ("monitoring", "autoscaling/hpa", "gateway")),
                   ("gpu", ("monitoring", "autoscaling/keda", "tls"))])


@functools.lru_cache()
def kubectl():
    """Path of a kubectl whose kustomize knows components (1.21 or later; Debian's does not), or None."""
    path = shutil.which("kubectl")
    if path is None:
        return None
    helps = subprocess.run([path, "kustomize", "--help"], capture_output=True, text=True, check=False)
    # The option came with the kustomize that has components, labels and patches.
    return path if "--enable-alpha-plugins" in helps.stdout else None


def build_with_kubectl(directory):
    """What `kubectl kustomize` makes of a directory; needs no cluster and no network."""
    done = subprocess.run([kubectl(), "kustomize", str(directory)], capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        raise RuntimeError(f"kubectl kustomize {directory}: {done.stderr}")
    return list(yaml.safe_load_all(done.stdout))


def _write_kustomization(directory, overlay, components):
    def relative(path):
        return os.path.relpath(KUBERNETES / path, directory)
    text = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": [relative(f"overlays/{overlay}")],
            "components": [relative(f"components/{name}") for name in components]}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(text))


@functools.lru_cache(maxsize=None)
def _render(overlay, components, builder):
    # As a user would: a kustomization of one's own that names an overlay and components.
    with tempfile.TemporaryDirectory() as scratch:
        directory = pathlib.Path(scratch).resolve()
        _write_kustomization(directory, overlay, components)
        return builder(directory)


def render(overlay, components=(), builder=kustomize.build):
    """The objects of an overlay with components, as the cluster would get them."""
    return _render(overlay, tuple(components), builder)


def of_kind(objects, kind):
    return [o for o in objects if o["kind"] == kind]


def only(objects, kind, name=None):
    """The one object of a kind (and name)."""
    found = [o for o in of_kind(objects, kind) if name in (None, o["metadata"]["name"])]
    if len(found) != 1:
        raise LookupError(f"{len(found)} objects of kind {kind}, name {name}")
    return found[0]


def server_container(objects):
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    return next(c for c in pod["containers"] if c["name"] == "server")


def mounted_config_map(objects, volume):
    """Data of the ConfigMap behind a volume of the pod."""
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    name = next(v["configMap"]["name"] for v in pod["volumes"] if v["name"] == volume)
    return only(objects, "ConfigMap", name)["data"]


def write_config(objects, directory):
    """Writes the files that the server finds in /etc/longdoc/config."""
    for name, text in mounted_config_map(objects, "config").items():
        (pathlib.Path(directory) / name).write_text(text)


def autoscaling_queries():
    """(where, PromQL) of everything that an autoscaler asks, from the rendered manifests."""
    for overlay in OVERLAYS:
        for component in ("autoscaling/hpa", "autoscaling/keda"):
            where = f"{overlay} with {component}"
            objects = render(overlay, [component])
            for hpa in of_kind(objects, "HorizontalPodAutoscaler"):
                for metric in hpa["spec"]["metrics"]:
                    yield where, metric["pods"]["metric"]["name"]
            for scaled in of_kind(objects, "ScaledObject"):
                for trigger in scaled["spec"]["triggers"]:
                    yield where, trigger["metadata"]["query"]


if __name__ == "__main__":
    import json
    for place, promql in autoscaling_queries():
        print(json.dumps({"where": place, "query": promql}))
