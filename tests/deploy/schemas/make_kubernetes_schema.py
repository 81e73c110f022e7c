#!/usr/bin/env python3
"""Cuts tests/deploy/schemas/kubernetes.json out of the schemas of a Kubernetes release.

Usage: make_kubernetes_schema.py VERSION

Needs the Python package kubernetes-validate (pip install, in a scratch environment); VERSION is one of
those it holds, for example 1.37.0. What stays is the names and types of the fields of the kinds that
our manifests use, and that no others are allowed. Tests read the result and need no package.
"""
import importlib.util
import json
import pathlib
import sys

KINDS = {
    "v1/Namespace": "io.k8s.api.core.v1.Namespace",
    "v1/ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "v1/Service": "io.k8s.api.core.v1.Service",
    "v1/ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "apps/v1/Deployment": "io.k8s.api.apps.v1.Deployment",
    "policy/v1/PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
    "networking.k8s.io/v1/NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "autoscaling/v2/HorizontalPodAutoscaler": "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
}
KEPT = {"$ref", "type", "properties", "required", "items", "enum", "format", "oneOf",
        "additionalProperties"}


def strip(schema, wanted, inside_properties=False):
    """The schema without prose; collects in `wanted` the definitions that it refers to."""
    if isinstance(schema, list):
        return [strip(part, wanted) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {}
    for key, value in schema.items():
        if key == "status" and inside_properties:
            continue  # is written by the cluster
        if not inside_properties and key not in KEPT:
            continue
        if key == "$ref" and not inside_properties:
            name = value.rsplit("/", 1)[1]
            wanted.add(name)
            value = f"#/$defs/{name}"
        else:
            value = strip(value, wanted, key == "properties" and not inside_properties)
        result[key] = value
    return result


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    package = pathlib.Path(importlib.util.find_spec("kubernetes_validate").origin).parent
    path = package / "kubernetes-json-schema" / f"v{sys.argv[1]}-local-strict" / "_definitions.json"
    definitions = json.loads(path.read_text())["$defs"]
    kept, wanted = {}, set(KINDS.values())
    while wanted - kept.keys():
        name = sorted(wanted - kept.keys())[0]
        kept[name] = strip(definitions[name], wanted)
    schema = {"kubernetes": sys.argv[1], "kinds": KINDS, "$defs": dict(sorted(kept.items()))}
    lines = ['{"kubernetes": "%s",' % sys.argv[1], '"kinds": %s,' % json.dumps(KINDS), '"$defs": {']
    lines += [",\n".join(f'"{name}": {json.dumps(body)}' for name, body in schema["$defs"].items())]
    (pathlib.Path(__file__).parent / "kubernetes.json").write_text("\n".join(lines + ["}}", ""]))


if __name__ == "__main__":
    main()
