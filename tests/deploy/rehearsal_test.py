"""Rolling restart on one machine: two servers behind the client of examples/python, continuous
traffic of short texts, long documents and kept ones, one server after the other drained with
SIGTERM and replaced, three times. No call may fail that the client's policy does not absorb, none
may be lost, every answer must be right, and what runs on a drained server must finish there.

    rehearsal_test.py [--seconds N]    traffic before, between and after the restarts; default 8
"""
import argparse
import array
import collections
import hashlib
import io
import itertools
import random
import sys
import threading
import time

import harness

sys.path.insert(0, str(harness.REPO / "examples" / "python"))
from longdoc_client import Client, KeptDocuments  # noqa: E402
from longdoc.v1 import embedding_service_pb2 as embedding  # noqa: E402

TOLERANCE = 1e-5  # docs/api.md: how far an answer may depend on its neighbours
DEADLINE_SECONDS = 120
RESTARTS = 3
UPLOAD_SECONDS = 4  # of a document that is sent slowly, so that it is under way when a drain begins
# One server tells of its drain for a while before it refuses, the other refuses at once. Clients'
# connections are closed for age all the while.
LIFECYCLE = ("lifecycle { drain_delay_seconds: %g drain_grace_seconds: 60 "
             "max_connection_age_seconds: 7 max_connection_age_grace_seconds: 60 }")
DRAIN_DELAYS = (1.5, 0)


class SlowFile(io.BytesIO):
    """A document that arrives in sixteen pieces over UPLOAD_SECONDS."""
    PIECES = 16

    def read(self, size=-1):
        time.sleep(UPLOAD_SECONDS / self.PIECES)
        return super().read(min(size, len(self.getbuffer()) // self.PIECES + 1))


class Counts:
    """What became of every call that was made."""

    def __init__(self):
        self.lock = threading.Lock()
        self.sent, self.answered, self.retried = (collections.Counter() for _ in range(3))
        self.reasons = collections.Counter()
        self.failures = []
        self.ids = {}  # request id to kind, of answered calls

    def retry(self, kind):
        def note(failure, delay):
            with self.lock:
                self.retried[kind] += 1
                self.reasons[f"{failure.code.name} {failure.reason}".strip()] += 1
        return note

    def run(self, kind, call, check):
        """Makes one call and checks its answer; nothing that goes wrong ends the traffic."""
        with self.lock:
            self.sent[kind] += 1
            request_id = f"{kind}-{self.sent[kind]}"
        try:
            check(call(request_id))
        except Exception as error:  # of whatever kind: a failed call is the result here
            with self.lock:
                self.failures.append(f"{request_id}: {error!r}"[:400])
        else:
            with self.lock:
                self.answered[kind] += 1
                self.ids[request_id] = kind


def make_texts(seed):
    """Words in an order of their own: texts, and documents of 1,000 to 25,000 tokens."""
    words = sorted(set((harness.REPO / "docs" / "api.md").read_text().split()))
    generator = random.Random(seed)
    texts = [" ".join(generator.choices(words, k=12)) for _ in range(24)]
    documents = [" ".join(generator.choices(words, k=count)).encode()
                 for count in (400, 2500, 2500, 10000)]
    return texts, documents


def floats(vector):
    return list(array.array("f", vector.data))


def compare(found, expected):
    """Fails when two lists of numbers are not the same numbers."""
    if len(found) != len(expected):
        raise AssertionError(f"{len(found)} numbers instead of {len(expected)}")
    worst = max(abs(a - b) for a, b in zip(found, expected))
    if not worst <= TOLERANCE:  # and not a number is wrong, too
        raise AssertionError(f"off by {worst:g}")


class Traffic:
    """Threads that call without a pause, each answer compared with that of a lone call before."""
    HEADER = embedding.DocumentHeader(passages=[embedding.PassageSpec(tokens=512)])

    def __init__(self, servers):
        addresses = [server.address for server in servers]
        target = f"ipv4:{','.join(addresses)}"
        self.counts = Counts()
        self._texts, self._documents = make_texts(seed=1)
        self._clients = {kind: Client(target, on_retry=self.counts.retry(kind))
                         for kind in ("short", "long", "slow")}
        self._kept = KeptDocuments(addresses, on_retry=self.counts.retry("kept"))
        self._stop = threading.Event()
        self._expect()
        makers = [self.short, self.short, self.long, self.slow, self.slow, self.kept]
        self._threads = [threading.Thread(target=self._repeat, args=(make, number))
                         for number, make in enumerate(makers)]

    def _expect(self):
        """One call at a time, before any traffic."""
        client = self._clients["short"]
        self._vectors = [floats(client.embed_texts([text]).items[0].vector)
                         for text in self._texts]
        self._embedded = [self.numbers(client.embed_document(document, self.HEADER))
                          for document in self._documents]
        self._scores = [self.score_numbers(self._kept.score(self.key(document), document,
                                                            self._texts[:8]))
                        for document in self._documents]

    @staticmethod
    def numbers(answer):
        """All vectors of a document, one after the other."""
        vectors = [answer.result.vector, *(passage.vector for passage in answer.passages)]
        return [number for vector in vectors for number in floats(vector)]

    @staticmethod
    def score_numbers(answer):
        if any(score.status.code for score in answer.scores):
            raise AssertionError("a candidate failed")
        return [score.scores[0].score for score in answer.scores]

    @staticmethod
    def key(document):
        return hashlib.sha256(document).hexdigest()

    def short(self, number):
        picked = [(number * 7 + i) % len(self._texts) for i in range(1 + number % 5)]

        def call(request_id):
            return self._clients["short"].embed_texts([self._texts[i] for i in picked],
                                                      deadline_seconds=DEADLINE_SECONDS,
                                                      request_id=request_id)

        def check(response):
            for i, item in zip(picked, response.items, strict=True):
                compare(floats(item.vector), self._vectors[i])
        self.counts.run("short", call, check)
        time.sleep(0.02)

    def long(self, number, kind="long", opened=lambda document: document):
        picked = number % len(self._documents)

        def call(request_id):
            return self._clients[kind].embed_document(opened(self._documents[picked]), self.HEADER,
                                                      deadline_seconds=DEADLINE_SECONDS,
                                                      request_id=request_id)
        self.counts.run(kind, call,
                        lambda answer: compare(self.numbers(answer), self._embedded[picked]))

    def slow(self, number):
        self.long(number, "slow", lambda document: lambda: SlowFile(document))

    def kept(self, number):
        picked = number % len(self._documents)
        document = self._documents[picked]

        def call(request_id):
            return self._kept.score(self.key(document), document, self._texts[:8],
                                    deadline_seconds=DEADLINE_SECONDS, request_id=request_id)
        self.counts.run("kept", call,
                        lambda answer: compare(self.score_numbers(answer), self._scores[picked]))
        time.sleep(0.02)

    def _repeat(self, make, first):
        for number in itertools.count(first):
            if self._stop.is_set():
                return
            make(number)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        """Stops when all calls that were made have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def ok_calls(server):
    return sum(line["code"] == "OK" for line in server.log("rpc"))


def wait_for_traffic(servers, calls=20):
    """Until each server has answered so many more calls."""
    before = [ok_calls(server) for server in servers]
    for server, count in zip(servers, before):
        harness.wait_until("traffic on " + server.address,
                           lambda: ok_calls(server) >= count + calls, seconds=60, interval=0.2)


def drain(server):
    """SIGTERM while documents are being received or encoded there; they must finish there."""
    def busy():
        gauges = dict(line.rsplit(" ", 1) for line in server.get("/metrics")[1].splitlines()
                      if not line.startswith("#"))
        return float(gauges["longdoc_streams_open"]) >= 1
    harness.wait_until("a document under way", busy, seconds=30)
    server.signal()
    status = server.process.wait(90)
    started, finished = server.log("drain started")[0], server.log("drain finished")[0]
    refused = [line for line in server.log("rpc") if line["code"] != "OK"]
    print(f"drained {server.address} in {finished['seconds']:.1f} s: {started['running']} calls "
          f"were running, {len(refused)} refused, {ok_calls(server)} answered in its life")
    assert status == 0, f"exit status {status}"
    assert started["running"] >= 1, "nothing was running: the drain was not put to the test"
    assert finished["cancelled"] == 0, f"{finished['cancelled']} calls were cut off"
    # A document that the process before this one had kept is not found.
    expected = ("DRAINING", "CANCELLED", "DOCUMENT_FOREIGN")
    wrong = [line for line in refused if line["reason"] not in expected]
    assert not wrong, wrong[:3]
    cut = [line for line in refused if line["reason"] == "CANCELLED" and line["total_seconds"] > 0.5]
    assert not cut, cut[:3]


def rehearse(work, seconds):
    model = harness.make_model(work, "colt5-tiny")

    def start(delay, listen="127.0.0.1:0"):
        return harness.Server(work, {"tiny": model}, LIFECYCLE % delay, listen=listen)
    servers = [start(delay) for delay in DRAIN_DELAYS]
    ended = []
    try:
        traffic = Traffic(servers)
        with traffic:
            time.sleep(seconds)
            for restart in range(RESTARTS):
                wait_for_traffic(servers)
                number = restart % len(servers)
                old = servers[number]
                drain(old)
                ended.append(old)
                servers[number] = start(DRAIN_DELAYS[number], old.address)
                time.sleep(seconds)
            wait_for_traffic(servers)
    finally:
        statuses = [server.stop() for server in servers]
    assert statuses == [0] * len(servers), statuses
    report(traffic.counts, ended + servers)


def report(counts, servers):
    """Prints the numbers and fails unless every call was answered, once, by somebody."""
    answers = collections.Counter()
    lines = collections.Counter()
    for server in servers:
        for line in server.log("rpc"):
            lines[line["code"]] += 1
            # Of a kept document the scores are the answer; it may be encoded more than once.
            if line["code"] == "OK" and line["method"] != "EncodeDocument":
                answers[line["request_id"]] += 1
    for kind, sent in sorted(counts.sent.items()):
        print(f"{kind:6} {sent:5} sent, {counts.answered[kind]:5} answered, "
              f"{counts.retried[kind]:3} times tried again by the client")
    print(f"reasons: {dict(counts.reasons)}; calls by status on the servers: {dict(lines)}")
    for failure in counts.failures[:10]:
        print("failed", failure)
    assert not counts.failures, f"{len(counts.failures)} calls failed"
    assert counts.answered == counts.sent
    assert all(counts.sent[kind] >= least for kind, least in
               {"short": 100, "long": 10, "slow": 6, "kept": 20}.items()), "too little traffic"
    lost = [request_id for request_id in counts.ids if answers[request_id] == 0]
    assert not lost, f"answered, but in no server's log: {lost[:5]}"
    twice = [request_id for request_id in counts.ids if answers[request_id] > 1]
    assert not twice, f"computed more than once: {twice[:5]}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8)
    arguments = parser.parse_args()
    with harness.scratch_directory() as work:
        rehearse(work, arguments.seconds)


if __name__ == "__main__":
    main()
