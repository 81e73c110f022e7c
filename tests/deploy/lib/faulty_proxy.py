"""A gRPC proxy before a real server that fails calls by a script, to see what a client makes of it.

    with FaultyProxy(server.address) as proxy:
        proxy.fail("EmbedDocument", Fault(grpc.StatusCode.UNAVAILABLE, "DRAINING"))
        ...                                  # the next call of it fails, later ones pass through
        proxy.calls["EmbedDocument"]         # how often it was called
"""
import collections
import concurrent.futures
import dataclasses
import threading

import grpc


@dataclasses.dataclass
class Fault:
    code: grpc.StatusCode
    reason: str = ""
    retry_delay: float = None  # seconds
    messages: int = 0          # responses that pass before it


class FaultyProxy(grpc.GenericRpcHandler):
    def __init__(self, address):
        self.calls = collections.Counter()
        self.metadata = {}  # of the last call of each method
        self._faults = collections.defaultdict(collections.deque)
        self._lock = threading.Lock()
        self._channel = grpc.insecure_channel(address)
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(32), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *exception):
        self._server.stop(0).wait()
        self._channel.close()

    def fail(self, method, *faults):
        """The next calls of `method` fail so, one after the other."""
        with self._lock:
            self._faults[method].extend(faults)

    def reset(self):
        with self._lock:
            self._faults.clear()
            self.calls.clear()

    def service(self, handler_call_details):
        """Every method, of whatever service: bytes in, bytes out."""
        path = handler_call_details.method
        method = path.rsplit("/", 1)[1]
        metadata = [item for item in handler_call_details.invocation_metadata
                    if item[0] in ("x-request-id", "traceparent", "authorization")]

        def forward(requests, context):
            with self._lock:
                self.calls[method] += 1
                self.metadata[method] = dict(metadata)
                faults = self._faults[method]
                fault = faults.popleft() if faults else None
            if fault and not fault.messages:
                self._abort(context, fault)
            # No deadline of its own: when the client goes, so does the call to the server.
            call = self._channel.stream_stream(path)(requests, metadata=metadata)
            context.add_callback(call.cancel)
            try:
                for count, response in enumerate(call, 1):
                    yield response
                    if fault and count == fault.messages:
                        call.cancel()
                        self._abort(context, fault)
            except grpc.RpcError as error:
                context.set_trailing_metadata(
                    [item for item in error.trailing_metadata() if item[0].startswith("longdoc-")])
                context.abort(error.code(), error.details())
        return grpc.stream_stream_rpc_method_handler(forward)

    @staticmethod
    def _abort(context, fault):
        trailers = [("longdoc-reason", fault.reason)] if fault.reason else []
        if fault.retry_delay is not None:
            trailers.append(("longdoc-retry-delay-seconds", str(fault.retry_delay)))
            trailers.append(("grpc-retry-pushback-ms", str(int(fault.retry_delay * 1000))))
        context.set_trailing_metadata(trailers)
        context.abort(fault.code, "made to fail")
