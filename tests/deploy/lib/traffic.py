"""Traffic of every RPC, and of every reason for an error in docs/api.md, for a server with config().

What the server answers is collected by reason, from the trailing metadata of calls and from the
status of items, so that a test can compare it with the list in docs/api.md.
"""
import contextlib
import re
import threading
import time

import grpc
from harness import wait_until
from longdoc.v1 import common_pb2 as common
from longdoc.v1 import document_service_pb2 as documents
from longdoc.v1 import document_service_pb2_grpc as documents_grpc
from longdoc.v1 import embedding_service_pb2 as embedding
from longdoc.v1 import embedding_service_pb2_grpc as embedding_grpc
from longdoc.v1 import model_service_pb2 as models
from longdoc.v1 import model_service_pb2_grpc as models_grpc
from longdoc.v1 import scoring_service_pb2 as scoring
from longdoc.v1 import scoring_service_pb2_grpc as scoring_grpc

TOKEN = "token-of-the-test"
MAX_QUEUED_TOKENS = 100_000
MAX_STREAMS = 8
MODELS = ("tiny", "colt5-tiny", "reranker-tiny")  # by these names, the first is the default


def config(token_file):
    """Limits so low that each can be broken in a moment. The file gets TOKEN."""
    token_file.write_text(TOKEN + "\n")
    return f"""
engine {{ threads: 2 memory_budget_bytes: 400000000 max_queued_tokens: {MAX_QUEUED_TOKENS} }}
limits {{
  max_text_tokens: 256 max_texts: 8 max_passages: 64 max_streams: {MAX_STREAMS} max_candidates: 4
  max_ranked_documents: 4 max_message_bytes: 2097152 idle_timeout_seconds: 1
}}
documents {{ budget_bytes: 4000000 max_documents: 2 }}
security {{ bearer_token_file: "{token_file}" }}
lifecycle {{ drain_grace_seconds: 20 }}
"""

# Reasons that a client cannot bring about, or that it does not get to see.
NOT_SEEN = {
    "OUT_OF_MEMORY": "needs an allocation to fail",
    "DEVICE_LOST": "needs a CUDA device to fail",
    "DEADLINE_EXCEEDED": "the client library makes its own status when the deadline passes",
    "CANCELLED": "likewise when the call is cancelled",
    "READ_STALLED": "the call is reset, so that the client library says CANCELLED",
}

WORDS = "the quick brown fox jumps over the lazy dog and finds a very long document ".split()


def text_of(words):
    return " ".join(WORDS[i % len(WORDS)] for i in range(words)).encode()


def ids(count, first=1000):
    return embedding.TokenIds(ids=[first + i % 500 for i in range(count)])


class Traffic:
    def __init__(self, server):
        # One connection reads nothing ahead, so that a client that does not read is soon noticed.
        self.channel = server.channel([("grpc.http2.bdp_probe", 0),
                                       ("grpc.max_send_message_length", -1)])
        self.server = server
        self.embed = embedding_grpc.EmbeddingServiceStub(self.channel)
        self.documents = documents_grpc.DocumentServiceStub(self.channel)
        self.score = scoring_grpc.ScoringServiceStub(self.channel)
        self.models = models_grpc.ModelServiceStub(self.channel)
        self.metadata = [("authorization", f"Bearer {TOKEN}")]
        self.reasons = {}  # reason to what brought it about

    # One call. Returns the list of responses; an error is noted by its reason, and returns None.
    # `items` gives those parts of a response that have a status of their own, which is noted, too.
    def call(self, what, method, request, timeout=30, metadata=None, items=lambda answer: ()):
        options = {"timeout": timeout, "metadata": self.metadata if metadata is None else metadata}
        try:
            answer = method(request, **options)
            answers = list(answer) if isinstance(answer, grpc.Call) else [answer]
        except grpc.RpcError as error:
            self.note(what, error)
            return None
        for item in (item for answer in answers for item in items(answer)):
            if item.status.code:
                self.reasons.setdefault(item.status.reason, what)
        return answers

    def note(self, what, error):
        trailing = dict(error.trailing_metadata() or ())
        reason = trailing.get("longdoc-reason", error.code().name)
        self.reasons.setdefault(reason, what)

    # A stream of EmbedDocument, or with `keep` of EncodeDocument, from a header and content.
    def document(self, what, *content, keep=False, ttl=None, timeout=30, pause=0, **header):
        request = documents.EncodeDocumentRequest if keep else embedding.EmbedDocumentRequest

        def messages():
            head = embedding.DocumentHeader(**header)
            if keep:
                head = documents.EncodeDocumentHeader(document=head, ttl_seconds=ttl)
            yield request(header=head)
            offset = 0
            for part in content:
                if isinstance(part, bytes):
                    yield request(chunk=embedding.DocumentChunk(offset=offset, text=part))
                    offset += len(part)
                elif isinstance(part, embedding.TokenIds):
                    yield request(chunk=embedding.DocumentChunk(offset=offset, token_ids=part))
                    offset += len(part.ids)
                else:
                    yield request(**part)
            if pause:
                time.sleep(pause)
        method = self.documents.EncodeDocument if keep else self.embed.EmbedDocument
        return self.call(what, method, messages(), timeout)

    def keep(self, *content, **options):
        """The name of a document that was encoded to be kept."""
        answers = self.document("keep", *content, keep=True, **options)
        return answers[-1].result.document.name if answers else None

    def candidates(self, what, *messages, **header):
        """A stream of ScoreCandidates; a message is a Candidate or fields of a request."""
        def requests():
            yield scoring.ScoreCandidatesRequest(header=scoring.ScoreHeader(**header))
            for message in messages:
                if isinstance(message, scoring.Candidate):
                    message = {"candidate": message}
                yield scoring.ScoreCandidatesRequest(**message)
        return self.call(what, self.score.ScoreCandidates, requests(),
                         items=lambda answer: [answer.score])

    def rank(self, what, inputs, query=b"which fox", **fields):
        return self.call(what, self.score.RankDocuments, scoring.RankDocumentsRequest(
            query=embedding.TextInput(text=query), documents=inputs, **fields),
                         items=lambda answer: answer.failures)

    def texts(self, what, *inputs, **fields):
        return self.call(what, self.embed.EmbedTexts, embedding.EmbedTextsRequest(
            inputs=[embedding.TextInput(text=text) for text in inputs], **fields),
                         items=lambda answer: answer.items)

    def wait_for_metric(self, series, value):
        """Until the server exports that value, or a larger one."""
        pattern = re.compile(rf"^{re.escape(series)} (\S+)$", re.MULTILINE)
        wait_until(f"{series} {value}", lambda: float(
            pattern.search(self.server.get("/metrics")[1]).group(1)) >= value, interval=0.1)

    # --- What succeeds: all RPCs, truncation, reuse, attention policies.
    def successes(self):
        self.texts("texts", b"a short text", b"another one", text_of(20))
        self.texts("truncated", text_of(400), overflow=common.OVERFLOW_TRUNCATE_END)
        policy = common.AttentionPolicy
        for attention in (None, policy(exact=policy.Exact()),
                          policy(window=policy.Window(radius=32)),
                          policy(tolerance=policy.Tolerance(epsilon=0.01))):
            assert self.document("document", text_of(1500), attention=attention,
                                 passages=[embedding.PassageSpec(tokens=64)])
        assert self.document("longer document", text_of(6000), token_vectors=True)
        name = self.keep(text_of(800), model="colt5-tiny", token_vectors=True,
                         passages=[embedding.PassageSpec(tokens=64)])
        assert self.keep(text_of(800), model="colt5-tiny", token_vectors=True,
                         passages=[embedding.PassageSpec(tokens=64)]) == name
        for method in (common.QUERY_LIKELIHOOD, common.COSINE, common.LATE_INTERACTION):
            assert self.candidates("score", scoring.Candidate(text=b"the lazy dog"),
                                   scoring.Candidate(text=b"a cat"), name=name, methods=[method])
        assert self.rank("rank", [scoring.RankInput(name=name)], model="colt5-tiny")
        assert self.rank("rank", [scoring.RankInput(text=embedding.TextInput(text=text_of(50)))],
                         model="reranker-tiny", method=common.CROSS_ENCODER)
        assert self.call("generate", self.score.GenerateText, scoring.GenerateTextRequest(
            document=name, prompt=embedding.TextInput(text=b"the fox"), max_new_tokens=8))
        for method, request in (
                (self.models.ListModels, models.ListModelsRequest()),
                (self.models.GetModel, models.GetModelRequest(model="tiny")),
                (self.models.Tokenize, models.TokenizeRequest(text=b"some text")),
                (self.models.EstimateDocument, models.EstimateDocumentRequest(tokens=5000)),
                (self.documents.GetDocument, documents.GetDocumentRequest(name=name)),
                (self.documents.ListDocuments, documents.ListDocumentsRequest()),
                (self.documents.DeleteDocument, documents.DeleteDocumentRequest(name=name))):
            assert self.call("unary", method, request), method
        self.get_document("deleted", name)

    def get_document(self, what, name):
        return self.call(what, self.documents.GetDocument, documents.GetDocumentRequest(name=name))

    # --- What is refused.
    def refusals(self):
        self._order_of_messages()
        self._content()
        self._options()
        self._kept_documents()
        self._scores()
        self._load()

    def _order_of_messages(self):
        request, chunk = embedding.EmbedDocumentRequest, embedding.DocumentChunk
        header = request(header=embedding.DocumentHeader())
        for what, messages in (
                ("no header", []), ("chunk first", [request(chunk=chunk(text=b"a"))]),
                ("two headers", [header, header]), ("empty message", [header, request()]),
                ("gap", [header, request(chunk=chunk(offset=5, text=b"a"))]),
                ("overlap", [header, request(chunk=chunk(text=b"abc")),
                             request(chunk=chunk(offset=1, text=b"abc"))])):
            self.call(what, self.embed.EmbedDocument, iter(messages))
        raw = self.channel.stream_stream("/longdoc.v1.EmbeddingService/EmbedDocument")
        self.call("bytes that are no message", raw, iter([b"\xff\xff\xff"]))

    def _content(self):
        declared = 1_000_000
        self.document("declared differently", b"abc", declared_bytes=100)
        self.document("negative size", declared_bytes=-1)
        self.document("bad UTF-8", b"ab\xff")
        self.document("empty document")
        self.document("text and ids", b"abc", ids(3))
        self.document("unknown id", ids(3, first=2_000_000))
        self.document("too many tokens", declared_tokens=2_000_000)
        self.document("too many bytes", declared_bytes=1 << 30)
        self.document("more than the memory", declared_tokens=declared, token_vectors=True)
        self.document("passages", text_of(500), passages=[embedding.PassageSpec(tokens=1)])
        self.call("no text", self.embed.EmbedTexts, embedding.EmbedTextsRequest(
            inputs=[embedding.TextInput()]), items=lambda answer: answer.items)
        self.texts("no texts")
        self.texts("texts", *[b"text"] * 9)
        self.call("text of Tokenize", self.models.Tokenize,
                  models.TokenizeRequest(text=b"a " * 600_000))
        self.call("tokens of a long text", self.models.Tokenize,
                  models.TokenizeRequest(text=b"a " * 500_000))
        self.call("no such model", self.models.GetModel, models.GetModelRequest(model="nobody"))
        self.call("no token", self.models.ListModels, models.ListModelsRequest(), metadata=[])

    def _options(self):
        tolerance = common.AttentionPolicy.Tolerance(epsilon=2)
        self.document("bad passage", b"abc", passages=[embedding.PassageSpec(tokens=-1)])
        self.document("break", b"abc", {"passage_break": embedding.PassageBreak()})
        self.document("dimensions", b"abc", vector=common.VectorOptions(dimensions=9999))
        self.document("policy", b"abc", attention=common.AttentionPolicy(tolerance=tolerance))
        self.document("interval", b"abc", progress_interval_seconds=-1)
        self.document("long id", b"abc", document_id="x" * 300)
        self.document("nothing", b"abc", omit_document_vector=True)

    def _kept_documents(self):
        self.document("time to live", b"abc", keep=True, ttl=-1)
        self.get_document("no name", "nonsense")
        self.call("page token", self.documents.ListDocuments,
                  documents.ListDocumentsRequest(page_token="nonsense"))
        self.document("budget", keep=True, declared_tokens=60_000, token_vectors=True,
                      model="colt5-tiny")
        first = self.keep(text_of(30), model="colt5-tiny")
        for words in (31, 32, 33):  # max_documents is 2
            self.keep(text_of(words), model="colt5-tiny")
        self.get_document("evicted", first)
        prefix = first[:first.index("-") + 1]
        self.get_document("never here", prefix + "0" * 32)
        self.get_document("of another server", "documents/0123456789abcdef-" + "0" * 32)
        short = self.keep(text_of(34), model="colt5-tiny", ttl=1)
        wait_until("the document has expired",
                   lambda: self.get_document("expired", short) is None, interval=0.2)

    def _scores(self):
        name = self.keep(text_of(60), model="colt5-tiny")
        inline = embedding.DocumentHeader(model="tiny")
        candidate = scoring.Candidate(text=b"a fox")
        content = {"chunk": embedding.DocumentChunk(text=b"some text")}
        end = {"document_end": scoring.DocumentEnd()}
        self.candidates("no document")
        self.candidates("no end", content, candidate, inline=inline)
        self.candidates("content of a kept one", content, name=name)
        self.candidates("no candidates", name=name)
        self.candidates("many candidates", *[candidate] * 5, name=name)
        self.candidates("bad candidates", scoring.Candidate(text=b""),
                        scoring.Candidate(text=text_of(9000)), scoring.Candidate(text=b"x", id="i" * 300),
                        name=name)
        self.candidates("large candidate", scoring.Candidate(text=b"a " * 40_000), name=name)
        self.candidates("impossible method", content, end, candidate, inline=inline,
                        methods=[common.CROSS_ENCODER])
        one = scoring.RankInput(text=embedding.TextInput(text=b"one"))
        self.rank("no documents", [])
        self.rank("documents", [one] * 5)
        self.rank("of another model", [scoring.RankInput(name=name), one], method=common.COSINE)
        self.call("sampling", self.score.GenerateText, scoring.GenerateTextRequest(
            document=name, prompt=embedding.TextInput(text=b"a"),
            sampling=scoring.Sampling(temperature=-1)))

    def _load(self):
        self.document("queue", ids(MAX_QUEUED_TOKENS + 1))
        self.document("a silent client", b"abc", pause=2.5)
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_STREAMS):
                stack.enter_context(self.open_stream())
            self.wait_for_metric("longdoc_streams_open", MAX_STREAMS)
            self.document("streams", b"abc")
        self._stalled_reader()
        with self.open_stream():  # is cancelled by us as it closes
            self.wait_for_metric("longdoc_streams_open", 1)
        self.document("deadline", b"abc", timeout=0.3, pause=0.6)

    @contextlib.contextmanager
    def open_stream(self):
        """A document stream that stays open: a byte now and then holds off the idle timeout."""
        done = threading.Event()

        def messages():
            yield embedding.EmbedDocumentRequest(header=embedding.DocumentHeader())
            for offset in range(100):
                if done.wait(0.3):
                    return
                yield embedding.EmbedDocumentRequest(
                    chunk=embedding.DocumentChunk(offset=offset, text=b"a"))
        call = self.embed.EmbedDocument(messages(), metadata=self.metadata, timeout=30)
        try:
            yield call
        finally:
            call.cancel()
            done.set()

    def _stalled_reader(self):
        """Asks for far more bytes than a connection buffers, and reads none for a while."""
        window = common.AttentionPolicy(window=common.AttentionPolicy.Window(radius=8))  # soon done

        def messages():
            yield embedding.EmbedDocumentRequest(
                header=embedding.DocumentHeader(token_vectors=True, attention=window))
            yield embedding.EmbedDocumentRequest(
                chunk=embedding.DocumentChunk(token_ids=ids(10_000)))
        call = self.embed.EmbedDocument(messages(), metadata=self.metadata, timeout=30)
        self.wait_for_metric('longdoc_rejected_total{reason="read_stalled"}', 1)
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            self.note("a client that does not read", error)

    @contextlib.contextmanager
    def draining(self):
        """SIGTERM while a stream is open, and a request meanwhile; within, the server drains."""
        with self.open_stream():
            self.wait_for_metric("longdoc_streams_open", 1)
            self.server.signal()
            wait_until("a request is refused", lambda: self.call(
                "while it drains", self.models.ListModels, models.ListModelsRequest()) is None)
            yield
