"""docs/clients.md and its examples: what is quoted is what runs, both clients do what is advised
against a real server and against one that fails by a script, and the API installs on its own."""
import contextlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import unittest

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import harness
from faulty_proxy import Fault, FaultyProxy

EXAMPLES = harness.REPO / "examples"
sys.path.insert(0, str(EXAMPLES / "python"))
import ask  # noqa: E402
import longdoc_client  # noqa: E402
from longdoc_client import Client, Failed, KeptDocuments, RetryPolicy  # noqa: E402
from longdoc.v1 import embedding_service_pb2 as embedding  # noqa: E402

Code = grpc.StatusCode
QUESTIONS = ["how is memory freed", "what is a passage"]
FAST = RetryPolicy(first_backoff=0.01, max_backoff=0.02)
# More than one chunk of 128 KiB.
DOCUMENT = (harness.REPO / "docs" / "api.md").read_bytes() * 9


class Excerpts(unittest.TestCase):
    """Every code block of docs/clients.md stands, line for line, in the file it names."""

    def test_blocks_are_excerpts(self):
        text = (harness.REPO / "docs" / "clients.md").read_text()
        fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
        named = re.findall(r"^<!-- excerpt: (\S+) -->\n```\w+\n(.*?)^```$", text, re.M | re.S)
        self.assertGreater(len(named), 8)
        self.assertEqual(len(fences), len(named), "every block names its file")
        for name, block in named:
            with self.subTest(file=name, block=block.splitlines()[0]):
                self.assertIn(self.flat(block), self.flat((harness.REPO / name).read_text()))

    @staticmethod
    def flat(text):
        """Lines without indentation, so that a method may be quoted by itself."""
        return "\n" + "\n".join(line.strip() for line in text.strip().splitlines()) + "\n"


class WithServer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        cls.work = stack.enter_context(harness.scratch_directory())
        cls.model = harness.make_model(cls.work, "colt5-tiny")
        cls.server = stack.enter_context(harness.Server(cls.work, {"tiny": cls.model}))
        cls.proxy = stack.enter_context(FaultyProxy(cls.server.address))
        cls.path = cls.work / "document.txt"
        cls.path.write_bytes(DOCUMENT)

    def setUp(self):
        self.proxy.reset()

    def start(self, config="", **options):
        server = harness.Server(self.work, {"tiny": self.model}, config, **options)
        self.addCleanup(server.stop)
        return server


class Policy(WithServer):
    """The table of docs/clients.md, as the Python client keeps it."""

    def embed(self, deadline_seconds=60, policy=FAST):
        with Client(self.proxy.address, policy=policy) as client:
            return client.embed_document(b"one two three", deadline_seconds=deadline_seconds)

    def expect(self, attempts, *faults, fails=None, **options):
        self.proxy.reset()
        self.proxy.fail("EmbedDocument", *faults)
        if fails is None:
            self.assertEqual(self.embed(**options).result.vector.dimensions, 64)
        else:
            with self.assertRaises(Failed) as caught:
                self.embed(**options)
            self.assertEqual((caught.exception.code, caught.exception.reason),
                             (faults[-1].code, fails))
        self.assertEqual(self.proxy.calls["EmbedDocument"], attempts)

    def test_servers_that_are_away_are_tried_again_a_few_times(self):
        away = Fault(Code.UNAVAILABLE, "DRAINING")
        self.expect(2, away)
        self.expect(2, Fault(Code.CANCELLED))
        self.expect(6, *[away] * 5)
        self.expect(6, *[away] * 6, fails="DRAINING")

    def test_load_is_waited_for_until_the_deadline(self):
        full = Fault(Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_delay=0.01)
        self.expect(9, *[full] * 8)
        self.expect(13, *[full] * 7, *[Fault(Code.UNAVAILABLE, "DRAINING")] * 5)
        self.expect(1, Fault(Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_delay=30),
                    fails="QUEUE_FULL", deadline_seconds=5)

    def test_what_does_not_fit_is_not_tried_again(self):
        self.expect(1, Fault(Code.RESOURCE_EXHAUSTED, "DOCUMENT_EXCEEDS_MEMORY"),
                    fails="DOCUMENT_EXCEEDS_MEMORY")

    def test_internal_errors_are_tried_once_more(self):
        self.expect(2, Fault(Code.INTERNAL))
        self.expect(2, Fault(Code.UNKNOWN), Fault(Code.INTERNAL, "BROKEN"), fails="BROKEN")

    def test_what_would_get_the_same_answer_is_not_repeated(self):
        for code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNAUTHENTICATED,
                     Code.DEADLINE_EXCEEDED, Code.FAILED_PRECONDITION):
            self.expect(1, Fault(code, "SOME_REASON"), fails="SOME_REASON")

    def test_answers_of_a_failed_attempt_are_thrown_away(self):
        header = embedding.DocumentHeader(passages=[embedding.PassageSpec(tokens=256)] * 16)
        with Client(self.server.address) as client:
            expected = client.embed_document(DOCUMENT, header).passages
        self.proxy.fail("EmbedDocument", Fault(Code.UNAVAILABLE, messages=5))
        with Client(self.proxy.address, policy=FAST) as client:
            found = client.embed_document(DOCUMENT, header).passages
        self.assertEqual(self.proxy.calls["EmbedDocument"], 2)
        self.assertEqual(len(found), len(expected))

    def test_grpc_retries_unary_calls_by_the_service_config(self):
        for code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.CANCELLED):
            self.proxy.reset()
            self.proxy.fail("EmbedTexts", Fault(code, "SOME_REASON", retry_delay=0.01))
            with Client(self.proxy.address) as client:
                self.assertEqual(len(client.embed_texts(["a"]).items), 1)
            self.assertEqual(self.proxy.calls["EmbedTexts"], 2)

    def test_a_document_that_is_gone_is_kept_again(self):
        with KeptDocuments([self.proxy.address], policy=FAST) as kept:
            first = kept.score("key", b"a document", QUESTIONS)
            self.proxy.fail("ScoreCandidates", Fault(Code.NOT_FOUND, "DOCUMENT_EXPIRED"))
            second = kept.score("key", b"a document", QUESTIONS)
        self.assertEqual(self.proxy.calls["EncodeDocument"], 2)
        self.assertEqual([s.scores[0].score for s in first.scores],
                         [s.scores[0].score for s in second.scores])

    def test_all_attempts_have_one_request_id(self):
        seen = []
        self.proxy.fail("EmbedDocument", Fault(Code.UNAVAILABLE))
        with Client(self.proxy.address, authorization="Bearer x",
                    on_retry=lambda failure, delay: seen.append(
                        (failure.request_id, self.proxy.metadata["EmbedDocument"]))) as client:
            client.embed_document(b"text", request_id="mine")
        after = self.proxy.metadata["EmbedDocument"]
        self.assertEqual(seen, [("mine", after)])
        self.assertEqual(after["x-request-id"], "mine")
        self.assertEqual(after["authorization"], "Bearer x")
        self.assertRegex(after["traceparent"], "^00-[0-9a-f]{32}-[0-9a-f]{16}-01$")


class RealServer(WithServer):
    """The policy against refusals that a server really makes."""

    def test_the_split_into_chunks_does_not_matter(self):
        with Client(self.server.address) as client:
            whole = client.embed_document(self.path)
            self.addCleanup(setattr, longdoc_client, "CHUNK_BYTES", longdoc_client.CHUNK_BYTES)
            longdoc_client.CHUNK_BYTES = 1001
            self.assertEqual(client.embed_document(DOCUMENT).result.vector, whole.result.vector)

    def test_reasons_of_the_server(self):
        with Client(self.server.address) as client:
            with self.assertRaises(Failed) as caught:
                client.embed_document(b"\xff", request_id="bad-text")
            failure = caught.exception
            self.assertEqual((failure.code, failure.reason, failure.request_id),
                             (Code.INVALID_ARGUMENT, "INVALID_UTF8", "bad-text"))
            self.assertGreater(client.deadline_for(1000), 30)

    def test_a_refusal_for_load_passes(self):
        server = self.start("limits { max_streams: 1 }")
        retries, answers = [], []
        held, release = threading.Event(), threading.Event()
        self.addCleanup(release.set)

        class Slow(io.BytesIO):
            def read(self, size=-1):
                text = super().read(size)
                if not text:
                    held.set()
                    release.wait(30)
                return text

        with Client(server.address,
                    on_retry=lambda failure, _: (retries.append(failure), release.set())) as client:
            first = threading.Thread(
                target=lambda: answers.append(client.embed_document(lambda: Slow(DOCUMENT))))
            first.start()
            held.wait(30)
            answers.append(client.embed_document(DOCUMENT))
            first.join()
        self.assertEqual(answers[0].result.vector, answers[1].result.vector)
        self.assertEqual({failure.reason for failure in retries}, {"TOO_MANY_STREAMS"})

    def test_unary_calls_to_a_draining_server_go_elsewhere(self):
        """gRPC retries what a server refused only if nothing but the refusal was sent."""
        draining = self.start()
        target = f"ipv4:{draining.address},{self.server.address}"
        config = longdoc_client.SERVICE_CONFIG.replace("healthCheckConfig", "notThis")
        self.assertNotEqual(config, longdoc_client.SERVICE_CONFIG)
        held, release = threading.Event(), threading.Event()
        self.addCleanup(release.set)

        class Slow(io.BytesIO):
            def read(self, size=-1):
                held.set()
                release.wait(30)
                return super().read(size)

        with Client(draining.address) as client:
            document = threading.Thread(
                target=lambda: client.embed_document(lambda: Slow(b"text")))
            document.start()
            held.wait(30)
            harness.wait_until("stream", lambda: "longdoc_streams_open 1" in
                               draining.get("/metrics")[1])
            draining.signal()
            harness.wait_until("drain", lambda: draining.log("drain started"))
            # A client without health checks goes on sending every second call to it.
            channel = grpc.insecure_channel(target, [("grpc.service_config", config)])
            stub = longdoc_client.embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
            request = embedding.EmbedTextsRequest(inputs=[embedding.TextInput(text=b"a")])
            for _ in range(20):
                self.assertEqual(len(stub.EmbedTexts(request, timeout=30).items), 1)
            channel.close()
            # Ours does not send to it at all.
            before = self.refused(draining)
            self.assertGreaterEqual(before, 5)
            with Client(target) as healthy:
                for _ in range(20):
                    healthy.embed_texts(["a"])
            self.assertEqual(self.refused(draining), before)
            release.set()
            document.join()
        self.assertEqual(draining.process.wait(30), 0)

    @staticmethod
    def refused(server):
        return sum(line["code"] == "UNAVAILABLE" for line in server.log("rpc"))

    def test_a_restarted_server_gets_the_document_again(self):
        server = self.start()
        with KeptDocuments([server.address]) as kept:
            before = kept.score("key", self.path, QUESTIONS)
            server.stop()
            self.start(listen=server.address)
            after = kept.score("key", self.path, QUESTIONS)
        self.assertEqual([s.scores[0].score for s in before.scores],
                         [s.scores[0].score for s in after.scores])

    def test_calls_spread_and_documents_stay(self):
        servers = [self.start(), self.start()]
        addresses = [server.address for server in servers]
        with Client(f"ipv4:{','.join(addresses)}") as client, KeptDocuments(addresses) as kept:
            for _ in range(40):
                client.embed_texts(["a"])
            for _ in range(2):
                for number in range(12):
                    kept.score(str(number), b"document %d" % number, ["a"])
        for server in servers:
            harness.wait_until("log", lambda: self.count(server, "EmbedTexts") >= 15)
        self.assertEqual(sum(self.count(server, "EncodeDocument") for server in servers), 12)
        self.assertEqual(sum(self.count(server, "ScoreCandidates") for server in servers), 24)
        self.assertLess(0, self.count(servers[0], "EncodeDocument"))
        self.assertLess(0, self.count(servers[1], "EncodeDocument"))

    @staticmethod
    def count(server, rpc):
        return sum(line["method"] == rpc and line["code"] == "OK" for line in server.log("rpc"))


class Programs(WithServer):
    """Both examples as their readers run them; C++ from an installed API, outside of our tree."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        source = cls.work / "elsewhere"
        shutil.copytree(EXAMPLES / "cpp", source)
        environment = dict(os.environ, CCACHE_BASEDIR=str(cls.work), CCACHE_NOHASHDIR="1")
        if shutil.which("ccache"):
            environment["CMAKE_CXX_COMPILER_LAUNCHER"] = "ccache"
        build = subprocess.run([source / "build", harness.REPO, cls.work / "out"], text=True,
                               env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if build.returncode != 0:
            raise AssertionError(build.stdout[-6000:])
        cls.package = cls.work / "out" / "prefix" / "share" / "longdoc_proto"

    def run_cpp(self, target):
        return subprocess.run([self.work / "out" / "example" / "ask", target, self.path, "tiny",
                               *QUESTIONS], capture_output=True, text=True, timeout=120)

    def run_python(self, target):
        """With stubs made from the installed API."""
        stubs = self.work / "stubs"
        subprocess.run([EXAMPLES / "python" / "make_stubs", self.package, stubs], check=True)
        return subprocess.run([sys.executable, "-B", EXAMPLES / "python" / "ask.py", target,
                               self.path, "tiny", *QUESTIONS], capture_output=True, text=True,
                              timeout=120, env=dict(os.environ, PYTHONPATH=str(stubs)))

    def test_both_say_the_same(self):
        outputs = [self.run_cpp(self.server.address), self.run_python(self.server.address)]
        for run in outputs:
            self.assertEqual((run.returncode, run.stderr), (0, ""))
        lines = [run.stdout.splitlines() for run in outputs]
        self.assertEqual(len(lines[0]), 1 + 2 * len(QUESTIONS))
        self.assertRegex(lines[0][0], r"^document \d{5} tokens, 64 dimensions, \d{3} passages$")
        number = re.compile(r"-?\d+\.\d+")
        for cpp, python in zip(*lines):
            self.assertEqual(number.sub("", cpp), number.sub("", python))
            for a, b in zip(number.findall(cpp), number.findall(python)):
                self.assertAlmostEqual(float(a), float(b), delta=2e-4)

    def test_cpp_keeps_to_the_policy(self):
        self.proxy.fail("EmbedDocument", Fault(Code.UNAVAILABLE, "DRAINING"),
                        Fault(Code.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", retry_delay=0.01),
                        Fault(Code.CANCELLED))
        self.proxy.fail("EmbedTexts", Fault(Code.UNAVAILABLE))
        self.proxy.fail("EncodeDocument", Fault(Code.INTERNAL))
        self.proxy.fail("ScoreCandidates", Fault(Code.NOT_FOUND, "DOCUMENT_EVICTED"),
                        Fault(Code.UNAVAILABLE))
        run = self.run_cpp(self.proxy.address)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        for method, calls in {"EmbedDocument": 4, "EmbedTexts": 2, "EncodeDocument": 3,
                              "ScoreCandidates": 3}.items():
            self.assertEqual(self.proxy.calls[method], calls, method)
        self.assertEqual(run.stdout, self.run_cpp(self.server.address).stdout)

    def test_cpp_gives_up_and_says_why(self):
        for calls, faults in ((1, [Fault(Code.INVALID_ARGUMENT, "INVALID_UTF8")]),
                              (1, [Fault(Code.RESOURCE_EXHAUSTED, "DOCUMENT_EXCEEDS_MEMORY")]),
                              (2, [Fault(Code.INTERNAL, "BROKEN")] * 2),
                              (6, [Fault(Code.UNAVAILABLE, "DRAINING")] * 6)):
            self.proxy.reset()
            self.proxy.fail("EmbedDocument", *faults)
            run = self.run_cpp(self.proxy.address)
            self.assertEqual(run.returncode, 1)
            self.assertIn(faults[0].reason, run.stderr)
            self.assertEqual(self.proxy.calls["EmbedDocument"], calls)

    def test_the_descriptor_set_is_enough_for_a_client(self):
        """No stubs, no .proto files: the installed FileDescriptorSet describes itself wholly."""
        files = descriptor_pb2.FileDescriptorSet.FromString(
            (self.package / "longdoc_api.pb").read_bytes())
        pool = descriptor_pool.DescriptorPool()
        for file in files.file:  # a file comes after those it imports
            pool.Add(file)
        service = pool.FindServiceByName("longdoc.v1.ModelService")
        method = service.methods_by_name["ListModels"]
        request, response = (message_factory.MessageFactory(pool).GetPrototype(kind)
                             for kind in (method.input_type, method.output_type))
        with self.server.channel() as channel:
            call = channel.unary_unary(f"/{service.full_name}/{method.name}",
                                       request.SerializeToString, response.FromString)
            self.assertEqual([model.name for model in call(request()).models], ["tiny"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
