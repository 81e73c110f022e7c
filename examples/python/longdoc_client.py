"""A client of longdoc that does what docs/clients.md advises. Copy it, or import it.

Needs python3-grpcio, python3-protobuf and the modules that make_stubs writes, in PYTHONPATH.

    with Client("dns:///longdoc:50051") as client:
        answer = client.embed_document("book.txt")
"""
import contextlib
import dataclasses
import hashlib
import io
import pathlib
import random
import secrets
import socket
import time

import grpc

from longdoc.v1 import common_pb2
from longdoc.v1 import document_service_pb2 as documents
from longdoc.v1 import document_service_pb2_grpc
from longdoc.v1 import embedding_service_pb2 as embedding
from longdoc.v1 import embedding_service_pb2_grpc
from longdoc.v1 import model_service_pb2 as models
from longdoc.v1 import model_service_pb2_grpc
from longdoc.v1 import scoring_service_pb2 as scoring
from longdoc.v1 import scoring_service_pb2_grpc

CHUNK_BYTES = 128 * 1024  # 64 to 256 KiB: small enough to flow, large enough to cost nothing

# Beside the stubs: round robin, health checking, and retries of the calls that are not streams.
SERVICE_CONFIG = (pathlib.Path(common_pb2.__file__).parent.parent
                  / "service_config.json").read_text()

CHANNEL_OPTIONS = (
    ("grpc.service_config", SERVICE_CONFIG),
    # A server that vanished during a long, quiet encode is noticed after 50 s. The server allows a
    # ping every 10 s. Without the third line gRPC stops after two, for it counts what we send.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A server that was replaced is found again after 5 s at most; gRPC would wait up to 2 minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


class Failed(Exception):
    """A call that did not succeed, and what the server says about it."""

    def __init__(self, error, request_id):
        trailers = dict(error.trailing_metadata() or ())
        self.code = error.code()
        self.reason = trailers.get("longdoc-reason", "")  # docs/api.md lists them
        delay = trailers.get("longdoc-retry-delay-seconds")
        self.retry_delay = None if delay is None else float(delay)
        self.request_id = request_id  # the server's log has it, too
        super().__init__(f"{self.code.name} {self.reason}: {error.details()} "
                         f"(request {request_id})")


@dataclasses.dataclass
class RetryPolicy:
    """When a call is tried again, and after how long."""
    attempts: int = 6  # for servers that are not there; refusals for load end with the deadline
    first_backoff: float = 0.1
    max_backoff: float = 5.0

    def delay(self, failure, attempt):
        """Seconds until the next attempt, after `attempt` earlier failures; None: there is none."""
        if failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            if failure.retry_delay is None:
                return None  # does not fit this server, now or later
            return failure.retry_delay * random.uniform(1, 1.5)
        # CANCELLED, for we never cancel: the call crossed the end of a drain on the wire.
        if failure.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            if attempt + 1 >= self.attempts:
                return None
            if attempt == 0:
                return 0.0  # round robin takes another server
            backoff = self.first_backoff * 2 ** (attempt - 1)
            return min(backoff, self.max_backoff) * random.uniform(0.5, 1)
        if failure.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
            return self.first_backoff if attempt == 0 else None  # once
        return None  # the same request would get the same answer


def new_traceparent():
    """W3C Trace Context of a new trace. Within a trace, pass on the one of the current span."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


class Caller:
    """Runs calls by the policy: one deadline for all attempts, one request id for all of them."""

    def __init__(self, policy=None, authorization=None, on_retry=None):
        self._policy = policy or RetryPolicy()
        self._authorization = authorization  # "Bearer TOKEN"
        self._on_retry = on_retry or (lambda failure, delay: None)

    def run(self, call, deadline_seconds, retry=True, traceparent=None, request_id=None):
        """Returns what call(attempt, options) returns, as soon as it succeeds. `options()` makes
        the keyword arguments of an RPC: what is left of the deadline, and metadata."""
        request_id = request_id or secrets.token_hex(16)
        metadata = [("x-request-id", request_id), ("traceparent", traceparent or new_traceparent())]
        if self._authorization:
            metadata.append(("authorization", self._authorization))
        end = time.monotonic() + deadline_seconds

        def options():
            return {"timeout": end - time.monotonic(), "metadata": metadata}

        attempt = 0
        while True:
            try:
                return call(attempt, options)
            except grpc.RpcError as error:
                failure = Failed(error, request_id)
                delay = self._policy.delay(failure, attempt) if retry else None
                if delay is None or time.monotonic() + delay >= end:
                    raise failure from error
                self._on_retry(failure, delay)
                time.sleep(delay)
                if failure.code != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    attempt += 1  # load does not wear out the attempts


def open_document(document):
    """A file to read the document from, at its beginning. It has to be read again for every
    attempt, so a document is a path, bytes, or a function that opens it."""
    if callable(document):
        return document()
    if isinstance(document, bytes):
        return io.BytesIO(document)
    return open(document, "rb")


def chunks(file):
    """The content, cut anywhere, each piece with its offset."""
    offset = 0
    while text := file.read(CHUNK_BYTES):
        yield embedding.DocumentChunk(offset=offset, text=text)
        offset += len(text)


@dataclasses.dataclass
class EmbeddedDocument:
    result: embedding.EmbedDocumentResult
    passages: list  # of PassageVector


@dataclasses.dataclass
class Scores:
    summary: scoring.ScoreSummary
    scores: list  # of CandidateScore, in the order of the candidates


class Client:
    """All servers behind one target: "dns:///name:port", or "ipv4:10.0.0.1:50051,10.0.0.2:50051".

    Threads may share it. `credentials`: grpc.ssl_channel_credentials(...) for TLS.
    """

    def __init__(self, target, credentials=None, **caller):
        if credentials is None:
            self._channel = grpc.insecure_channel(target, CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, CHANNEL_OPTIONS)
        self._caller = Caller(**caller)
        self._embedding = embedding_service_pb2_grpc.EmbeddingServiceStub(self._channel)
        self._documents = document_service_pb2_grpc.DocumentServiceStub(self._channel)
        self._scoring = scoring_service_pb2_grpc.ScoringServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._channel.close()

    def embed_texts(self, texts, model="", deadline_seconds=60, **tracing):
        """EmbedTexts: a status and a vector for each text. gRPC itself retries it."""
        request = embedding.EmbedTextsRequest(
            model=model, inputs=[embedding.TextInput(text=text.encode()) for text in texts])

        def call(attempt, options):
            return self._embedding.EmbedTexts(request, **options())
        return self._caller.run(call, deadline_seconds, retry=False, **tracing)

    def deadline_for(self, tokens, model=""):
        """Seconds to allow for a document: the server knows its speed and its queue."""
        request = models.EstimateDocumentRequest(model=model, tokens=tokens)

        def call(attempt, options):
            return self._models.EstimateDocument(request, **options())
        estimate = self._caller.run(call, 10, retry=False)
        return 30 + 3 * (estimate.expected_seconds + estimate.expected_queue_seconds)

    def embed_document(self, document, header=None, deadline_seconds=600, on_progress=None,
                       **tracing):
        """EmbedDocument: vectors of the whole and, as `header` asks for them, of passages."""
        header = header or embedding.DocumentHeader()

        def requests():
            yield embedding.EmbedDocumentRequest(header=header)
            with open_document(document) as file:
                for chunk in chunks(file):
                    yield embedding.EmbedDocumentRequest(chunk=chunk)

        def call(attempt, options):
            answer = EmbeddedDocument(None, [])
            # gRPC takes requests on a thread of its own, while we read: as fast as the server does.
            for response in self._embedding.EmbedDocument(requests(), **options()):
                if response.HasField("progress") and on_progress:
                    on_progress(response.progress)
                elif response.HasField("passages"):
                    answer.passages.extend(response.passages.passages)
                elif response.HasField("result"):
                    answer.result = response.result
            return answer  # what a failed attempt had brought is gone with it
        return self._caller.run(call, deadline_seconds, **tracing)

    def keep_document(self, document, header=None, deadline_seconds=600, **tracing):
        """EncodeDocument: the same content is encoded once, so repeating the call is safe."""
        def call(attempt, options):
            return self.keep_once(document, header, options)
        return self._caller.run(call, deadline_seconds, **tracing)

    def keep_once(self, document, header, options):
        """One attempt, without retries."""
        header = header or embedding.DocumentHeader()

        def requests():
            yield documents.EncodeDocumentRequest(
                header=documents.EncodeDocumentHeader(document=header))
            with open_document(document) as file:
                for chunk in chunks(file):
                    yield documents.EncodeDocumentRequest(chunk=chunk)
        for response in self._documents.EncodeDocument(requests(), **options()):
            if response.HasField("result"):
                result = response.result
        return result

    def score_once(self, name, candidates, methods, options):
        """ScoreCandidates of a kept document: one attempt, without retries."""
        def requests():
            yield scoring.ScoreCandidatesRequest(
                header=scoring.ScoreHeader(name=name, methods=methods))
            for candidate in candidates:
                yield scoring.ScoreCandidatesRequest(
                    candidate=scoring.Candidate(text=candidate.encode()))
        answer = Scores(None, [])
        for response in self._scoring.ScoreCandidates(requests(), **options()):
            if response.HasField("score"):
                answer.scores.append(response.score)
            elif response.HasField("summary"):
                answer.summary = response.summary
        answer.scores.sort(key=lambda score: score.index)  # they come as they are ready
        return answer


def addresses_of(host, port):
    """Every server behind a name: a headless Service has one address per pod."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({f"{where[0]}:{port}" for *_, where in found})


class KeptDocuments:
    """Scores against kept documents. A document is kept by one server, so calls about it go to one:
    the servers are ranked by a hash of content and address, and when the first is away the second
    takes over, which encodes the document once more."""

    def __init__(self, addresses, header=None, **caller):
        self._clients = {address: Client(f"ipv4:{address}") for address in addresses}
        self._header = header
        self._caller = Caller(**caller)
        self._names = {}  # (address, key) to name

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with contextlib.ExitStack() as stack:
            for client in self._clients.values():
                stack.push(client)

    def servers_of(self, key):
        """Addresses, the one that is asked first at the front (rendezvous hashing)."""
        return sorted(self._clients,
                      key=lambda address: hashlib.sha256(f"{address} {key}".encode()).digest())

    def score(self, key, document, candidates, methods=(), deadline_seconds=600, **tracing):
        """Scores in the order of the candidates. `key` stands for the content: a hash, an id."""
        servers = self.servers_of(key)

        def call(attempt, options):
            address = servers[attempt % len(servers)]
            client = self._clients[address]
            name = self._names.get((address, key))
            if name is not None:
                try:
                    return client.score_once(name, candidates, methods, options)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.NOT_FOUND:
                        raise
                    # Expired, evicted, or kept by a process that is no more: encode it again.
            name = client.keep_once(document, self._header, options).document.name
            self._names[address, key] = name
            return client.score_once(name, candidates, methods, options)
        return self._caller.run(call, deadline_seconds, **tracing)
