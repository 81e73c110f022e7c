#!/usr/bin/python3
"""deploy/docker without Docker: the list of packages, the Dockerfile's text, and its stages replayed.

The image that runs is rebuilt in a directory: the server and exactly the libraries of the packages in
runtime-packages.txt. There it is started as the container would be: that root, read-only, that user, no
capabilities.
"""
import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import subprocess
import unittest

import grpc
import health_pb2
import health_pb2_grpc

import harness
import manifests

REPO = harness.REPO
DOCKER = REPO / "deploy" / "docker"
PACKAGES = DOCKER / "runtime-packages.txt"
SERVER = harness.binary("longdoc-server")
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
LABELS = {f"org.opencontainers.image.{key}" for key in
          ("title", "description", "licenses", "version", "revision", "created", "base.name")}
BUILD_TOOLS = re.compile(r"\b(gcc|g\+\+|clang|cmake|ninja|make|build-essential|git|\S+-dev)\b")


class Stage:
    def __init__(self, base, name):
        self.base, self.name, self.instructions = base, name, []

    def of(self, word):
        return [rest for instruction, rest in self.instructions if instruction == word]


def read_dockerfile():
    """(ARGs before the first stage, stages by name)."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.M)
    arguments, stages = {}, {}
    stage = None
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = stages[name] = Stage(base, name)
        elif stage is None:
            assert word == "ARG", line
            key, _, value = rest.partition("=")
            arguments[key] = value
        else:
            stage.instructions.append((word, rest))
    return arguments, stages


ARGUMENTS, STAGES = read_dockerfile()


def lineage(name):
    """A stage and those it is made from, the first one first."""
    stage = STAGES[name]
    return (lineage(stage.base) if stage.base in STAGES else []) + [stage]


def inherited(name, word):
    return [rest for stage in lineage(name) for rest in stage.of(word)]


class Packages(unittest.TestCase):
    def run_script(self, *args):
        return subprocess.run([DOCKER / "runtime_packages", *args], capture_output=True, text=True,
                              check=False)

    def test_list_is_exactly_what_the_server_loads(self):
        done = self.run_script("--check", PACKAGES, SERVER)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_missing_and_superfluous_packages_are_found(self):
        lines = PACKAGES.read_text().splitlines()
        with harness.scratch_directory() as work:
            for name, changed, seen in (("missing", lines[1:], f"> {lines[0]}"),
                                        ("superfluous", lines + ["libzstd1"], "< libzstd1")):
                (work / name).write_text("\n".join(changed) + "\n")
                done = self.run_script("--check", work / name, SERVER)
                self.assertEqual(done.returncode, 1, name)
                self.assertIn(seen, done.stderr)

    def test_says_what_it_cannot_read(self):
        self.assertEqual(self.run_script("/nowhere/program").returncode, 1)
        with harness.scratch_directory() as work:
            shutil.copy(SERVER, work / "program")
            # A library that nobody has, of a name of the same length.
            text = (work / "program").read_bytes().replace(b"libcivetweb.so.1\0", b"libcivetwex.so.1\0")
            (work / "program").write_bytes(text)
            done = self.run_script(work / "program")
            self.assertEqual(done.returncode, 1)
            self.assertIn("libcivetwex.so.1", done.stderr)


class Text(unittest.TestCase):
    def test_stages_and_their_bases(self):
        self.assertEqual(list(STAGES)[-1], "cpu", "the last stage is the default")
        for name, stage in STAGES.items():
            if stage.base not in list(STAGES)[:list(STAGES).index(name)]:
                self.assertIn(stage.base, {f"${{{key}}}" for key in ARGUMENTS}, "bases are arguments")
        for key, image in ARGUMENTS.items():
            first, slash, _ = image.partition("/")
            self.assertFalse(slash and re.search(r"[.:]|^localhost$", first), f"{key} names a registry")
            self.assertRegex(image, r":(?!latest)[\w.-]+$", f"{key} has no tag")
        self.assertTrue(ARGUMENTS["DEBIAN_IMAGE"].startswith("debian:bookworm"))

    def test_copied_files_exist_and_are_let_through(self):
        ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
        self.assertIn("*", ignored)
        allowed = [line[1:] for line in ignored if line.startswith("!")]
        used = set()
        for stage in STAGES.values():
            for rest in stage.of("COPY"):
                words = rest.split()
                if words[0].startswith("--from="):
                    self.assertIn(words[0].removeprefix("--from="), STAGES)
                    continue
                for source in words[:-1]:
                    self.assertTrue((REPO / source).exists(), source)
                    self.assertIn(source, allowed)
                    used.add(source)
            self.assertEqual(stage.of("ADD"), [])
        self.assertEqual(used, set(allowed), "Dockerfile.dockerignore lets through what nobody copies")

    def test_images_that_run(self):
        for target in ("cpu", "cuda"):
            with self.subTest(target=target):
                uid, gid = inherited(target, "USER")[-1].split(":")
                self.assertGreater(int(uid), 0)
                self.assertGreater(int(gid), 0)
                entry = json.loads(inherited(target, "ENTRYPOINT")[-1])
                self.assertEqual(entry, ["/usr/local/bin/longdoc-server"])
                copied = [rest.split() for rest in inherited(target, "COPY")]
                self.assertIn([f"--from=build-{target}", "/src/build/bin/longdoc-server", entry[0]], copied)
                labels = set(re.findall(r"([\w.]+)=\"", " ".join(inherited(target, "LABEL"))))
                self.assertEqual(labels, LABELS)
                for run in inherited(target, "RUN"):
                    self.assertNotRegex(run, BUILD_TOOLS)
                self.assertFalse({"sources", f"build-{target}", "toolkit"}
                                 & {stage.name for stage in lineage(target)})
                self.assertEqual(inherited(target, "STOPSIGNAL"), ["SIGTERM"])

    def test_user_and_ports_are_those_of_the_manifests(self):
        objects = manifests.render("cpu")
        pod = manifests.only(objects, "Deployment")["spec"]["template"]["spec"]["securityContext"]
        self.assertEqual(inherited("cpu", "USER")[-1], f"{pod['runAsUser']}:{pod['runAsGroup']}")
        ports = {p["containerPort"] for p in manifests.server_container(objects)["ports"]}
        self.assertEqual({int(p) for p in inherited("cpu", "EXPOSE")[-1].split()}, ports)

    def test_packages_are_cleaned_up_where_they_are_installed(self):
        installs = [run for stage in STAGES.values() for run in stage.of("RUN")
                    if "apt-get install" in run or "scripts/setup" in run]
        self.assertEqual(len(installs), 2)
        for run in installs:
            self.assertIn("rm -rf /var/lib/apt/lists/*", run)
        self.assertIn("--no-install-recommends", installs[1])

    def test_version_is_the_projects(self):
        version = re.search(r"project\(longdoc VERSION (\S+)", (REPO / "CMakeLists.txt").read_text())[1]
        self.assertIn(f"VERSION={version}", inherited("cpu", "ARG"))
        for overlay in manifests.OVERLAYS:
            image = manifests.server_container(manifests.render(overlay))["image"]
            self.assertTrue(image.startswith(f"longdoc:{version}-"), image)
        self.assertIn(version, subprocess.run([SERVER, "--version"], capture_output=True, text=True,
                                              check=True).stdout)

    def test_cuda_image_has_what_the_server_opens(self):
        source = (REPO / "kernels" / "cuda" / "cublaslt_library.cc").read_text()
        opened = re.findall(r'"(lib\w+\.so)\."', source)
        self.assertEqual(opened, ["libcublasLt.so"])
        self.assertEqual(len(re.findall(r"\bdlopen\(", source)), 1)
        major = re.search(r"cuda:(\d+)\.", ARGUMENTS["CUDA_IMAGE"])[1]
        library = f"{opened[0]}.{major}"
        self.assertIn(f"--from=toolkit /usr/local/cuda/lib64/{library} {LIBRARIES}/{library}",
                      inherited("cuda", "COPY"))

    def test_nothing_else_is_opened_at_run_time(self):
        """A dlopen elsewhere would need a line in the Dockerfile, too."""
        found = subprocess.run(["grep", "-rlw", "--include=*.cc", "--include=*.cu", "--include=*.h", "dlopen",
                                "kernels", "engine", "service"], cwd=REPO,
                               capture_output=True, text=True, check=True).stdout.split()
        self.assertEqual(found, ["kernels/cuda/cublaslt_library.cc"])


class BuildStage(unittest.TestCase):
    def test_what_is_copied_is_enough_to_build(self):
        """CMake in a tree of the copied files alone, then ninja's plan, which misses no source."""
        with harness.scratch_directory() as work:
            for name in lineage("build-cpu"):
                for rest in name.of("COPY"):
                    *sources, target = rest.split()
                    for source in sources:
                        place = work / target / (source if target == "./" else "")
                        place.parent.mkdir(parents=True, exist_ok=True)
                        copy = shutil.copytree if (REPO / source).is_dir() else shutil.copy
                        copy(REPO / source, place)
            run, = STAGES["build-cpu"].of("RUN")
            configure, build, _ = [part.split() for part in run.split(" && ")]
            subprocess.run(configure, cwd=work, check=True, stdout=subprocess.DEVNULL)
            ninja = subprocess.run(["ninja", "-C", "build", "-n", *build[build.index("--target") + 1:]],
                                   cwd=work, capture_output=True, text=True, check=False)
            self.assertEqual(ninja.returncode, 0, ninja.stdout[-2000:] + ninja.stderr)
            self.assertIn("bin/longdoc-server", ninja.stdout)


def may_mount():
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False,
                                                capture_output=True).returncode == 0


@unittest.skipUnless(may_mount(), "a root directory of one's own needs root")
class Run(unittest.TestCase):
    """The image in a directory; a container is that root, a user, no capabilities, nothing writable."""

    @classmethod
    def setUpClass(cls):
        cls._scratch = harness.scratch_directory()
        cls.work = cls._scratch.__enter__()
        cls.root = cls.work / "root"
        entry, = json.loads(inherited("cpu", "ENTRYPOINT")[-1])
        cls.server = entry
        cls.put(os.path.realpath(SERVER), entry)
        # Packages know files of the C library under /lib; the image has the link to /usr/lib as Debian does.
        for directory in ("lib", "lib64"):
            (cls.root / "usr" / directory).mkdir(parents=True, exist_ok=True)
            (cls.root / directory).symlink_to(f"usr/{directory}")
        for package in PACKAGES.read_text().split():
            listed = subprocess.run(["dpkg-query", "-L", package], capture_output=True, text=True,
                                    check=True).stdout.split("\n")
            for path in listed:
                if re.search(r"\.so(\.|$)", os.path.basename(path)) and not os.path.isdir(path):
                    cls.put(path, os.path.realpath(os.path.dirname(path)) + "/" + os.path.basename(path))
        for directory in ("proc", "models", "etc/longdoc/config"):
            (cls.root / directory).mkdir(parents=True)
        shutil.copytree(harness.make_model(cls.work, "colt5-tiny"), cls.root / "models" / "default")
        manifests.write_config(manifests.render("cpu"), cls.root / "etc/longdoc/config")
        os.chmod(cls.work, 0o755)  # a scratch directory is its owner's alone

    @classmethod
    def tearDownClass(cls):
        cls._scratch.__exit__(None, None, None)

    @classmethod
    def put(cls, source, target):
        place = cls.root / str(target).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink() and not place.exists():
            shutil.copy2(source, place, follow_symlinks=False)

    def command(self, *args):
        """In namespaces of its own, so that mounts are gone with the process."""
        user = inherited("cpu", "USER")[-1]
        script = ('mount --make-rprivate / && mount --bind "$0" "$0" && mount -t proc proc "$0/proc" && '
                  'mount -o remount,bind,ro "$0" && '
                  f'exec setpriv --no-new-privs chroot --userspec={user} "$0" "$@"')
        return ["unshare", "--mount", "sh", "-c", script, str(self.root), self.server, *args]

    def test_version(self):
        done = subprocess.run(self.command("--version"), capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("longdoc-server", done.stdout)

    def test_starts_with_no_library_less(self):
        """Each listed package is needed, and nothing of the machine outside shines through."""
        library = self.root / LIBRARIES.lstrip("/") / "libcivetweb.so.1"
        library.rename(self.work / "away")
        try:
            done = subprocess.run(self.command("--version"), capture_output=True, text=True, check=False)
        finally:
            (self.work / "away").rename(library)
        self.assertEqual(done.returncode, 127, done.stderr)
        self.assertIn("libcivetweb.so.1", done.stderr)

    @contextlib.contextmanager
    def serving(self, *flags):
        """(process, the log's line `serving`) of a server in the root, on free ports."""
        log_path = self.work / "log"
        with open(log_path, "wb") as log:
            process = subprocess.Popen(self.command("--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
                                                    *flags), stdout=log, stderr=log)

        def ready():
            self.assertIsNone(process.poll(), log_path.read_text())
            lines = [json.loads(line) for line in log_path.read_text().splitlines()
                     if line.startswith("{") and line.endswith("}")]
            return [line for line in lines if line["event"] == "serving"]
        try:
            yield process, harness.wait_until("serving", ready)[0]
        finally:
            process.kill()
            process.wait()

    def readiness(self, channel):
        return health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="readiness"), timeout=30).status

    def test_serves(self):
        with self.serving("--config=/etc/longdoc/config") as (process, ready):
            with grpc.insecure_channel(f"127.0.0.1:{ready['port']}") as channel:
                self.assertEqual(self.readiness(channel), health_pb2.HealthCheckResponse.SERVING)
            self.assertEqual(harness.http_get(f"http://127.0.0.1:{ready['metrics_port']}/readyz")[0], 200)
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            uid, gid = inherited("cpu", "USER")[-1].split(":")
            self.assertRegex(status, rf"Uid:\t{uid}\t{uid}")
            self.assertRegex(status, rf"Gid:\t{gid}\t{gid}")
            self.assertRegex(status, r"CapEff:\t0+\n")
            self.assertRegex(status, r"CapPrm:\t0+\n")
            self.assertRegex(status, r"NoNewPrivs:\t1")
            with self.assertRaises(OSError) as write:  # even by root, seen from inside
                (pathlib.Path(f"/proc/{process.pid}/root") / "models" / "file").write_text("")
            self.assertEqual(write.exception.errno, errno.EROFS)

    def test_serves_with_the_component_tls(self):
        """The Secret at the place and with the mode that the component gives it."""
        objects = manifests.render("cpu", ["tls"])
        pod = manifests.only(objects, "Deployment")["spec"]["template"]["spec"]
        secret = next(v["secret"] for v in pod["volumes"] if "secret" in v)
        place = next(m["mountPath"] for m in manifests.server_container(objects)["volumeMounts"]
                     if m["name"] == "tls")
        directory = self.root / place.lstrip("/")
        directory.mkdir()
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                        "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout",
                        directory / "tls.key", "-out", directory / "tls.crt"],
                       check=True, capture_output=True)
        for file in directory.iterdir():
            os.chown(file, 0, pod["securityContext"]["fsGroup"])
            file.chmod(secret["defaultMode"])
        config = self.root / "etc/longdoc/config-tls"
        config.mkdir()
        manifests.write_config(objects, config)
        with self.serving("--config=/etc/longdoc/config-tls") as (_, ready):
            self.assertTrue(ready["tls"])
            trust = grpc.ssl_channel_credentials((directory / "tls.crt").read_bytes())
            with grpc.secure_channel(f"localhost:{ready['port']}", trust) as channel:
                self.assertEqual(self.readiness(channel), health_pb2.HealthCheckResponse.SERVING)
            with grpc.insecure_channel(f"localhost:{ready['port']}") as channel:
                with self.assertRaises(grpc.RpcError):
                    self.readiness(channel)
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                path = manifests.server_container(objects)[kind]["httpGet"]["path"]
                url = f"http://127.0.0.1:{ready['metrics_port']}{path}"
                self.assertEqual(harness.http_get(url)[0], 200, kind)


if __name__ == "__main__":
    unittest.main()
