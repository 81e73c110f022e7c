#!/usr/bin/env python3
"""A bounded load of all kinds of requests, so that graphs have something to show.

Usage: load.py HOST:PORT

For a server with the models "tiny" (the default) and "colt5"; scripts/observe starts it. Each of four
clients sends one request at a time and pauses for twice as long as it took. Runs until it is stopped.
"""
import itertools
import random
import sys
import threading
import time

import grpc
from longdoc.v1 import common_pb2 as common
from longdoc.v1 import document_service_pb2 as documents
from longdoc.v1 import document_service_pb2_grpc as documents_grpc
from longdoc.v1 import embedding_service_pb2 as embedding
from longdoc.v1 import embedding_service_pb2_grpc as embedding_grpc
from longdoc.v1 import model_service_pb2 as models
from longdoc.v1 import model_service_pb2_grpc as models_grpc
from longdoc.v1 import scoring_service_pb2 as scoring
from longdoc.v1 import scoring_service_pb2_grpc as scoring_grpc

WORDS = "a long document about the history of rivers bridges and the towns between them".split()
TIMEOUT = 120


def text(words):
    return " ".join(random.choices(WORDS, k=words)).encode()


def length(shortest, longest):
    """Log-uniform: as many between 100 and 1,000 as between 1,000 and 10,000."""
    return int(shortest * (longest / shortest) ** random.random())


class Client:
    def __init__(self, address):
        channel = grpc.insecure_channel(address)
        self.embedding = embedding_grpc.EmbeddingServiceStub(channel)
        self.documents = documents_grpc.DocumentServiceStub(channel)
        self.scoring = scoring_grpc.ScoringServiceStub(channel)
        self.models = models_grpc.ModelServiceStub(channel)

    def stream(self, request, header, content):
        yield request(header=header)
        for at in range(0, len(content), 65536):
            yield request(chunk=embedding.DocumentChunk(offset=at, text=content[at:at + 65536]))

    def texts(self):
        inputs = [embedding.TextInput(text=text(length(5, 300))) for _ in range(random.randint(1, 16))]
        self.embedding.EmbedTexts(embedding.EmbedTextsRequest(inputs=inputs), timeout=TIMEOUT)

    def long_texts(self):
        """Longer than a text may be, to be cut."""
        inputs = [embedding.TextInput(text=text(9000))]
        self.embedding.EmbedTexts(embedding.EmbedTextsRequest(
            inputs=inputs, overflow=common.OVERFLOW_TRUNCATE_END), timeout=TIMEOUT)

    def document(self):
        attention = random.choice([
            None, None, common.AttentionPolicy(exact=common.AttentionPolicy.Exact()),
            common.AttentionPolicy(window=common.AttentionPolicy.Window(radius=256))])
        header = embedding.DocumentHeader(
            attention=attention, passages=[embedding.PassageSpec(tokens=256)])
        list(self.embedding.EmbedDocument(
            self.stream(embedding.EmbedDocumentRequest, header, text(length(500, 40_000))),
            timeout=TIMEOUT))

    def kept(self):
        header = documents.EncodeDocumentHeader(ttl_seconds=random.choice([20, 60, 300]), document=(
            embedding.DocumentHeader(model="colt5", token_vectors=True,
                                     passages=[embedding.PassageSpec(tokens=256)])))
        content = text(length(500, 8000))
        for _ in range(random.randint(1, 2)):  # the second time it is there already
            name = list(self.documents.EncodeDocument(
                self.stream(documents.EncodeDocumentRequest, header, content),
                timeout=TIMEOUT))[-1].result.document.name
        for method in (common.QUERY_LIKELIHOOD, common.COSINE, common.LATE_INTERACTION):
            requests = [scoring.ScoreCandidatesRequest(header=scoring.ScoreHeader(name=name, methods=[method]))]
            requests += [scoring.ScoreCandidatesRequest(candidate=scoring.Candidate(text=text(12)))
                         for _ in range(8)]
            list(self.scoring.ScoreCandidates(iter(requests), timeout=TIMEOUT))
        self.scoring.RankDocuments(scoring.RankDocumentsRequest(
            model="colt5", query=embedding.TextInput(text=text(8)),
            documents=[scoring.RankInput(name=name),
                       scoring.RankInput(text=embedding.TextInput(text=text(100)))]), timeout=TIMEOUT)
        list(self.scoring.GenerateText(scoring.GenerateTextRequest(
            document=name, prompt=embedding.TextInput(text=b"the river"), max_new_tokens=16),
            timeout=TIMEOUT))
        self.documents.GetDocument(documents.GetDocumentRequest(name=name), timeout=TIMEOUT)
        if random.random() < 0.3:
            self.documents.DeleteDocument(documents.DeleteDocumentRequest(name=name), timeout=TIMEOUT)

    def questions(self):
        self.models.ListModels(models.ListModelsRequest(), timeout=TIMEOUT)
        self.models.Tokenize(models.TokenizeRequest(text=text(50)), timeout=TIMEOUT)
        self.models.EstimateDocument(models.EstimateDocumentRequest(tokens=100_000), timeout=TIMEOUT)
        self.documents.ListDocuments(documents.ListDocumentsRequest(), timeout=TIMEOUT)

    def mistakes(self):
        """One of the ways to be refused or to be too late."""
        kind = random.randrange(5)
        stream = [embedding.EmbedDocumentRequest(header=embedding.DocumentHeader())]
        if kind == 0:
            self.models.GetModel(models.GetModelRequest(model="nobody"), timeout=TIMEOUT)
        elif kind == 1:
            stream.append(embedding.EmbedDocumentRequest(chunk=embedding.DocumentChunk(text=b"\xff")))
            list(self.embedding.EmbedDocument(iter(stream), timeout=TIMEOUT))
        elif kind == 2:
            header = embedding.DocumentHeader(declared_tokens=50_000_000)
            list(self.embedding.EmbedDocument(
                iter([embedding.EmbedDocumentRequest(header=header)]), timeout=TIMEOUT))
        elif kind == 3:
            list(self.embedding.EmbedDocument(self.stream(
                embedding.EmbedDocumentRequest, embedding.DocumentHeader(), text(20_000)), timeout=0.02))
        else:
            self.documents.GetDocument(documents.GetDocumentRequest(
                name="documents/0123456789abcdef-" + "0" * 32), timeout=TIMEOUT)


def run(*kinds):
    for kind in itertools.cycle(kinds):
        begin = time.monotonic()
        try:
            kind()
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:  # the server drains, or is gone
                time.sleep(1)
        time.sleep(0.05 + 2 * (time.monotonic() - begin))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    client = Client(sys.argv[1])
    threads = [threading.Thread(target=run, args=kinds, daemon=True) for kinds in (
        (client.texts,) * 20 + (client.long_texts,), (client.document,),
        (client.kept, client.questions), (client.mistakes, client.questions, lambda: time.sleep(1)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
