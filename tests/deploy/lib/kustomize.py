"""Builds our kustomizations for tests: Debian's kubectl is too old to know components.

Only what deploy/ uses; anything else is an error. Where a newer kubectl is installed, a test compares its
output with ours object by object. Users need kubectl 1.21 or later, or kustomize 4 or later, never this.
"""
import copy
import hashlib
import json
import pathlib

import yaml

CLUSTER_SCOPED = {"Namespace"}
# Lists whose elements have a key; other lists are replaced whole.
MERGE_KEYS = {"containers": "name", "initContainers": "name", "volumes": "name", "env": "name",
              "ports": "containerPort", "volumeMounts": "mountPath"}
FIELDS = {"apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "patches",
          "images"}


def build(directory):
    """The objects of a kustomization, with the names of generated ConfigMaps carrying their hashes."""
    objects = _accumulate(pathlib.Path(directory), [])
    renamed = {}
    for item in objects:
        if item.pop("_hashed", False):
            name = item["metadata"]["name"]
            renamed[name] = item["metadata"]["name"] = f"{name}-{_hash(item)}"
    _rename_volumes(objects, renamed)
    return objects


def _load(path):
    return [o for o in yaml.safe_load_all(path.read_text()) if o]


def _accumulate(directory, objects):
    """Adds a kustomization's objects to `objects` and transforms all of them: a component sees those of
    whoever names it."""
    text, = _load(directory / "kustomization.yaml")
    if set(text) - FIELDS:
        raise ValueError(f"{directory}: {sorted(set(text) - FIELDS)} is not understood here")
    for resource in text.get("resources", []):
        path = directory / resource
        objects += _accumulate(path, []) if path.is_dir() else _load(path)
    for component in text.get("components", []):
        _accumulate(directory / component, objects)
    for generator in text.get("configMapGenerator", []):
        _generate(directory, generator, objects)
    for patch in text.get("patches", []):
        _patch(directory, patch, objects)
    for item in objects:
        if "namespace" in text and item["kind"] not in CLUSTER_SCOPED:
            item["metadata"]["namespace"] = text["namespace"]
        _set_images(item, text.get("images", []))
    return objects


def _generate(directory, generator, objects):
    data = {pathlib.Path(f).name: (directory / f).read_text() for f in generator["files"]}
    options = generator.get("options", {})
    if generator.get("behavior") in ("merge", "replace"):
        there = _find(objects, "ConfigMap", generator["name"])["data"]
        if generator["behavior"] == "replace":
            there.clear()
        there.update(data)
        return
    metadata = {"name": generator["name"]}
    if "labels" in options:
        metadata["labels"] = options["labels"]
    objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data,
                    "_hashed": not options.get("disableNameSuffixHash", False)})


def _find(objects, kind, name):
    for item in objects:
        if (item["kind"], item["metadata"]["name"]) == (kind, name):
            return item
    raise LookupError(f"no {kind} {name} to change")


def _patch(directory, patch, objects):
    if "path" in patch:
        change, = _load(directory / patch["path"])
        _merge(_find(objects, change["kind"], change["metadata"]["name"]), change)
        return
    item = _find(objects, patch["target"]["kind"], patch["target"]["name"])
    for operation in yaml.safe_load(patch["patch"]):
        if operation["op"] != "remove":
            raise ValueError(f"{directory}: operation {operation['op']} is not understood here")
        *path, last = operation["path"].strip("/").split("/")
        for step in path:
            item = item[int(step) if isinstance(item, list) else step]
        del item[last]


def _merge(target, change):
    """Strategic merge: null deletes, keyed lists merge with new elements in front."""
    for key, value in change.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        elif isinstance(value, list) and key in MERGE_KEYS and key in target:
            target[key] = _merge_list(target[key], value, MERGE_KEYS[key])
        else:
            target[key] = copy.deepcopy(value)


def _merge_list(old, new, key):
    known = {element[key]: element for element in old}
    fresh = []
    for element in new:
        if element[key] in known:
            _merge(known[element[key]], element)
        else:
            fresh.append(copy.deepcopy(element))
    return fresh + old


def _pod(item):
    return item.get("spec", {}).get("template", {}).get("spec", {}) if item["kind"] == "Deployment" else {}


def _set_images(item, images):
    for container in _pod(item).get("containers", []) + _pod(item).get("initContainers", []):
        for image in images:
            # By the name that the image has by now: the innermost kustomization may have changed it.
            if container["image"].rsplit(":", 1)[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"


def _rename_volumes(objects, renamed):
    for item in objects:
        for volume in _pod(item).get("volumes", []):
            if "configMap" in volume:
                name = volume["configMap"]["name"]
                volume["configMap"]["name"] = renamed.get(name, name)


def _hash(config_map):
    """The suffix that kustomize gives: of the JSON of the data, with digits that spell nothing."""
    encoded = json.dumps({"data": config_map["data"], "kind": "ConfigMap", "name": ""},
                         sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for char in "<>&":
        encoded = encoded.replace(char, f"\\u{ord(char):04x}")
    digest = hashlib.sha256(encoded.encode()).hexdigest()[:10]
    return digest.translate(str.maketrans("013ae", "ghkmt"))
