"""What the dashboards show: the panels, once, for Grafana and for Prometheus' console page.

In an expression SEL stands for the matchers that select the replicas on show, JOB for the matcher of
their job, and RATE for a range that holds a few scrapes. make.py puts in what each place needs.
"""
import dataclasses

DOCUMENT_RPCS = 'rpc=~"EmbedDocument|EncodeDocument"'


@dataclasses.dataclass
class Panel:
    title: str
    kind: str  # stat, lines, stack (lines on top of each other), heatmap, table
    unit: str  # Grafana's name of it
    description: str
    queries: list  # (expression, legend): "{{label}}" in a legend is the label's value
    thresholds: tuple = ()  # (orange from, red from), of a stat
    console: bool = False   # on the console page, too


@dataclasses.dataclass
class Row:
    title: str
    panels: list
    pod: bool = True  # on the dashboard of a single pod, too


def of(name, labels=""):
    return f"{name}{{SEL{',' if labels else ''}{labels}}}"


def rate(name, by="", labels=""):
    """Per second, summed over the replicas on show."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({of(name, labels)}[RATE]))"


def total(name, by="", labels=""):
    return f"sum{f' by ({by}) ' if by else ''}({of(name, labels)})"


def quantile(q, histogram, by="", labels=""):
    buckets = rate(histogram + "_bucket", f"le{', ' if by else ''}{by}", labels)
    return f"histogram_quantile({q}, {buckets})"


def quantiles(histogram, labels=""):
    mean = (f"{rate(histogram + '_sum', labels=labels)}"
            f" / {rate(histogram + '_count', labels=labels)}")
    return [(quantile(0.5, histogram, labels=labels), "p50"),
            (quantile(0.95, histogram, labels=labels), "p95"),
            (quantile(0.99, histogram, labels=labels), "p99"), (mean, "mean")]


def heatmap(title, unit, description, histogram, labels="", console=False):
    buckets = of(histogram + "_bucket", labels)
    return Panel(title, "heatmap", unit, description,
                 [(f"sum by (le) (increase({buckets}[RATE]))", "{{le}}")], console=console)


STATS = [
    Panel("Replicas up", "stat", "short",
          "Replicas whose metrics port answers (up).",
          [("sum(up{SEL})", "up")], console=True),
    Panel("Requests", "stat", "reqps", "Finished RPCs per second (longdoc_requests_total).",
          [(rate("longdoc_requests_total"), "requests")], console=True),
    Panel("Tokens encoded", "stat", "short",
          "Tokens per second through the whole encoder (longdoc_encoded_tokens_total).",
          [(rate("longdoc_encoded_tokens_total"), "tokens/s")], console=True),
    Panel("Errors", "stat", "percentunit",
          "Share of RPCs of this job that ended with INTERNAL, UNKNOWN or DATA_LOSS, over 5 minutes.",
          [("job:longdoc_request_errors:ratio_rate5m{JOB}", "errors")], (0.001, 0.01), console=True),
    Panel("Refused for load", "stat", "percentunit",
          "Share of RPCs of this job refused because queue or streams were full, over 5 minutes.",
          [("job:longdoc_rejected_load:ratio_rate5m{JOB}", "refused")], (0.01, 0.05), console=True),
    Panel("Longest queue", "stat", "s",
          "Largest estimate of a replica: its queued tokens over its throughput of 5 minutes.",
          [(f"max({of('instance:longdoc_queue_seconds:estimate')})", "wait")], (60, 300),
          console=True),
    Panel("Time to first result, p95", "stat", "s",
          "95 % of the streams had their first vector by then (longdoc_time_to_first_result_seconds).",
          [(quantile(0.95, "longdoc_time_to_first_result_seconds"), "p95")], console=True),
    Panel("Alerts", "stat", "short", "Alerts of ours that fire now (ALERTS).",
          [('count(ALERTS{alertname=~"Longdoc.*",alertstate="firing"}) or vector(0)', "firing")],
          (1, 3), console=True),
]

LATENCY = [
    Panel("Request duration by RPC, p95", "lines", "s",
          "From the start of an RPC to its status (longdoc_request_duration_seconds).",
          [(quantile(0.95, "longdoc_request_duration_seconds", "rpc"), "{{rpc}}")], console=True),
    Panel("Document duration", "lines", "s",
          "EmbedDocument and EncodeDocument. It grows with the document: see time per 1,000 tokens.",
          quantiles("longdoc_request_duration_seconds", DOCUMENT_RPCS)),
    Panel("Slowest RPC of a job, p99", "lines", "s",
          "Recorded over 5 minutes per RPC; the alert LongdocTextsSlow reads EmbedTexts.",
          [("job_rpc:longdoc_request_duration_seconds:p99_5m{JOB}", "{{rpc}}")]),
    Panel("Mean time in each stage", "stack", "s",
          "Per request (longdoc_stage_duration_seconds): a long queue calls for replicas, a long "
          "receive is the client's upload, a long send its reading.",
          [(f"{rate('longdoc_stage_duration_seconds_sum', 'stage')} / "
            f"{rate('longdoc_stage_duration_seconds_count', 'stage')}", "{{stage}}")], console=True),
    Panel("Time per 1,000 tokens", "lines", "s",
          "Latency independent of length. encode: time of the stage, waiting for the other documents "
          "in turn included. workers: their own time, by replica, over 15 minutes.",
          [("1000 * " + rate("longdoc_stage_duration_seconds_sum", labels='stage="encode"')
            + " / " + rate("longdoc_encoded_tokens_total"), "encode"),
           ("1000 * " + of("instance:longdoc_worker_seconds_per_token:rate15m"),
            "workers {{instance}}")], console=True),
    Panel("Time to first result", "lines", "s",
          "From the start of a stream to its first vector (longdoc_time_to_first_result_seconds).",
          quantiles("longdoc_time_to_first_result_seconds"), console=True),
    heatmap("Document duration", "s", "Distribution of the duration of EmbedDocument and "
            "EncodeDocument.", "longdoc_request_duration_seconds", DOCUMENT_RPCS, console=True),
    heatmap("Time in the queue", "s", "Distribution of the stage queue "
            "(longdoc_stage_duration_seconds).", "longdoc_stage_duration_seconds", 'stage="queue"',
            console=True),
    heatmap("Time in the encoder", "s", "Distribution of the stage encode "
            "(longdoc_stage_duration_seconds).", "longdoc_stage_duration_seconds",
            'stage="encode"'),
]

THROUGHPUT = [
    Panel("Requests by RPC", "stack", "reqps", "Finished RPCs per second (longdoc_requests_total).",
          [(rate("longdoc_requests_total", "rpc"), "{{rpc}}")], console=True),
    Panel("Requests by status", "stack", "reqps",
          "Finished RPCs per second by gRPC status code (longdoc_requests_total).",
          [(rate("longdoc_requests_total", "code") + " > 0", "{{code}}")]),
    Panel("Tokens", "lines", "short",
          "Per second: received, encoded, and through the decoder: candidates' tokens scored, tokens "
          "generated.",
          [(rate("longdoc_input_tokens_total"), "received"),
           (rate("longdoc_encoded_tokens_total"), "encoded"),
           (rate("longdoc_decoded_tokens_total", "kind"), "{{kind}}")], console=True),
    Panel("Encoded tokens by replica", "lines", "short",
          "Tokens per second over 5 minutes; lines apart mean that the load is not balanced.",
          [(of("instance:longdoc_encoded_tokens:rate5m"), "{{instance}}")]),
    Panel("Content received", "lines", "Bps", "Bytes of text and ids (longdoc_received_bytes_total).",
          [(rate("longdoc_received_bytes_total"), "received")]),
    Panel("Mean batch", "lines", "short",
          "Texts and tokens of a forward pass: longdoc_batch_sequences_total and "
          "longdoc_batch_tokens_total over longdoc_batches_total.",
          [(f"{rate('longdoc_batch_sequences_total')} / {rate('longdoc_batches_total')}", "texts"),
           (f"{rate('longdoc_batch_tokens_total')} / {rate('longdoc_batches_total')}", "tokens")],
          console=True),
    Panel("Candidates scored", "lines", "cps",
          "By likelihood, per second (longdoc_scored_candidates_total).",
          [(rate("longdoc_scored_candidates_total"), "candidates")]),
]

SATURATION = [
    Panel("Encodes", "lines", "short", "Encodes that have started, and those in the queue "
          "(longdoc_tasks_running, longdoc_tasks_waiting).",
          [(total("longdoc_tasks_running"), "running"), (total("longdoc_tasks_waiting"), "waiting")],
          console=True),
    Panel("Tokens in work", "lines", "short", "Tokens of the same encodes (longdoc_running_tokens, "
          "longdoc_queued_tokens). Autoscaling acts on the queued ones per replica.",
          [(total("longdoc_running_tokens"), "running"), (total("longdoc_queued_tokens"), "queued")],
          console=True),
    Panel("Queue by replica", "lines", "s", "Queued tokens over throughput: how long a document that "
          "arrives now waits.",
          [(of("instance:longdoc_queue_seconds:estimate"), "{{instance}}")]),
    Panel("RPCs in progress", "stack", "short", "longdoc_requests_running, by RPC.",
          [(total("longdoc_requests_running", "rpc"), "{{rpc}}")]),
    Panel("Document streams", "lines", "short", "Open document streams (longdoc_streams_open); at the "
          "limit max_streams new ones are refused.",
          [(total("longdoc_streams_open"), "open")]),
    Panel("Received, not yet tokenized", "lines", "bytes", "longdoc_stream_buffered_bytes. Each stream "
          "stops reading at its watermark.",
          [(total("longdoc_stream_buffered_bytes"), "buffered")]),
    Panel("Stream events", "lines", "cps", "Per second (longdoc_stream_events_total): reads paused by "
          "flow control are normal; idle timeouts and vanished clients are not.",
          [(rate("longdoc_stream_events_total", "event"), "{{event}}")]),
    Panel("Workers", "stack", "short", "Worker threads at work: in attention, in everything else of "
          "the encoder (longdoc_worker_seconds_total), in the decoder (longdoc_decode_seconds_total).",
          [(rate("longdoc_worker_seconds_total", "kind"), "{{kind}}"),
           (rate("longdoc_decode_seconds_total"), "decoder")], console=True),
]

LENGTHS = [
    heatmap("Lengths", "short", "Distribution of texts' and documents' tokens before truncation "
            "(longdoc_request_input_tokens).", "longdoc_request_input_tokens", console=True),
    Panel("Length quantiles", "lines", "short", "Tokens of a text or document "
          "(longdoc_request_input_tokens).", quantiles("longdoc_request_input_tokens"),
          console=True),
    Panel("Longer than 65,536 tokens", "lines", "percentunit", "Their share of all texts "
          "and documents (longdoc_request_input_tokens).",
          [("1 - " + rate("longdoc_request_input_tokens_bucket", labels='le=~"65536(.0)?"')
            + " / " + rate("longdoc_request_input_tokens_count"), "share")], console=True),
]

REJECTIONS = [
    Panel("Refused by reason", "stack", "cps", "Per second (longdoc_rejected_total). queue_full and "
          "too_many_streams call for replicas, memory and document_budget for memory; most others "
          "are clients' mistakes.",
          [(rate("longdoc_rejected_total", "reason") + " > 0", "{{reason}}")], console=True),
    Panel("Cancelled or too late, by stage", "stack", "cps", "Requests cancelled or past their "
          "deadline, by the stage they had reached (longdoc_cancelled_total).",
          [(rate("longdoc_cancelled_total", "stage"), "{{stage}}")], console=True),
    Panel("Truncated", "lines", "percentunit", "Share of texts and documents that were cut on request, "
          "and share of all tokens cut off (longdoc_truncated_requests_total, "
          "longdoc_truncated_tokens_total).",
          [(f"{rate('longdoc_truncated_requests_total')} / "
            f"{rate('longdoc_request_input_tokens_count')}", "texts and documents"),
           (f"{rate('longdoc_truncated_tokens_total')} / {rate('longdoc_input_tokens_total')}",
            "tokens")], console=True),
    Panel("Past the deadline", "lines", "percentunit", "Share of RPCs of this job that ended with "
          "DEADLINE_EXCEEDED, over 5 minutes.",
          [("job:longdoc_request_deadlines:ratio_rate5m{JOB}", "too late")]),
    Panel("Requests of the job", "lines", "reqps", "RPCs per second of all replicas, over 5 minutes: "
          "what the shares are shares of.",
          [("job:longdoc_requests:rate5m{JOB}", "requests")]),
]

ATTENTION = [
    Panel("Attention tiles", "lines", "short", "Per second: computed, and what dense attention would "
          "have computed (longdoc_attention_tiles_computed_total, "
          "longdoc_attention_tiles_dense_total).",
          [(rate("longdoc_attention_tiles_computed_total"), "computed"),
           (rate("longdoc_attention_tiles_dense_total"), "dense")]),
    Panel("Attention tiles computed", "lines", "percentunit", "Share of those of dense attention, by "
          "replica, over 5 minutes. The longer the documents, the smaller.",
          [(of("instance:longdoc_attention_tiles:ratio_rate5m"), "{{instance}}")], console=True),
    heatmap("Attention tiles computed, per encode", "percentunit", "Distribution of the same share "
            "(longdoc_attention_tile_ratio).", "longdoc_attention_tile_ratio"),
    Panel("Attention policies", "stack", "cps", "Encodes per second by policy "
          "(longdoc_attention_mode_total).",
          [(rate("longdoc_attention_mode_total", "mode"), "{{mode}}")], console=True),
    Panel("Tokens routed", "lines", "short", "Tokens per second sent through the heavy branch of "
          "conditional computation, over all layers (longdoc_routed_tokens_total).",
          [(rate("longdoc_routed_tokens_total", "router"), "{{router}}")], console=True),
    Panel("Mean weight of routed tokens", "lines", "percentunit", "longdoc_routed_weight_total over "
          "longdoc_routed_tokens_total. Near 0 the router selects tokens that hardly matter.",
          [(f"{rate('longdoc_routed_weight_total', 'router')} / "
            f"{rate('longdoc_routed_tokens_total', 'router')}", "{{router}}")]),
    Panel("Queries routed again by the next layer", "lines", "percentunit",
          "longdoc_routed_queries_repeated_total over longdoc_routed_queries_compared_total.",
          [(f"{rate('longdoc_routed_queries_repeated_total')} / "
            f"{rate('longdoc_routed_queries_compared_total')}", "repeated")]),
]

KEPT = [
    Panel("Kept documents", "lines", "short", "Documents that stay encoded, and those of them in use "
          "(longdoc_kept_documents, longdoc_kept_documents_pinned).",
          [(total("longdoc_kept_documents"), "kept"),
           (total("longdoc_kept_documents_pinned"), "in use")], console=True),
    Panel("Their memory", "stack", "bytes", "longdoc_kept_document_bytes by kind, and what is promised "
          "to documents being encoded (longdoc_kept_document_reserved_bytes).",
          [(total("longdoc_kept_document_bytes", "kind"), "{{kind}}"),
           (total("longdoc_kept_document_reserved_bytes"), "promised")], console=True),
    Panel("Share of their budget", "lines", "percentunit", "Memory of kept documents over "
          "longdoc_kept_document_budget_bytes. Full is normal: then the least recently used one goes.",
          [(f"{total('longdoc_kept_document_bytes', 'instance')} / "
            f"{total('longdoc_kept_document_budget_bytes', 'instance')}", "{{instance}}")]),
    Panel("Comings and goings", "lines", "cps", "Per second (longdoc_kept_document_events_total). "
          "reused: sent again and not encoded again.",
          [(rate("longdoc_kept_document_events_total", "event"), "{{event}}")]),
    Panel("Uses by name", "stack", "cps", "Per second (longdoc_kept_document_lookups_total). Many "
          "missed ones: the budget is too small, or clients reach the wrong replica.",
          [(rate("longdoc_kept_document_lookups_total", "outcome"), "{{outcome}}")], console=True),
    Panel("Uses that miss", "lines", "percentunit", "Share over 5 minutes, of all replicas.",
          [("job:longdoc_kept_document_misses:ratio_rate5m{JOB}", "missed")]),
    Panel("KV cache of the decoder", "lines", "bytes", "Its own keys and values, in use now "
          "(longdoc_kv_cache_bytes); those of kept documents are cross_kv above.",
          [(total("longdoc_kv_cache_bytes"), "in use")]),
]

MEMORY = [
    Panel("Memory of documents", "lines", "bytes", "Reserved by admission (the prediction), allocated "
          "(actual), and the budget (longdoc_document_memory_bytes), with the peak since the start.",
          [(total("longdoc_document_memory_bytes", "kind"), "{{kind}}"),
           (total("longdoc_document_memory_peak_bytes"), "peak")], console=True),
    Panel("Reserved", "lines", "percentunit", "Share of the budget given away, by replica. At 100 % "
          "documents wait for memory.",
          [(of("instance:longdoc_document_memory_reserved:ratio"), "{{instance}}")]),
    heatmap("Actual over predicted", "percentunit", "Peak memory of an encode that had its pass to "
            "itself over what was reserved for it (longdoc_document_memory_use_ratio). Above 1 the "
            "prediction was too low.",
            "longdoc_document_memory_use_ratio", console=True),
    Panel("Actual over predicted, quantiles", "lines", "percentunit",
          "The same; the alert LongdocMemoryUnderpredicted acts above 1.1.",
          quantiles("longdoc_document_memory_use_ratio")),
    Panel("Workspaces", "lines", "bytes", "Of the workers, kept and reused (longdoc_workspace_bytes).",
          [(total("longdoc_workspace_bytes"), "workspaces")], console=True),
]

GPU = [
    Panel("Device memory", "lines", "bytes", "Of weights, workspaces and documents together: allocated, "
          "retained (free, kept for reuse) and the limit (longdoc_device_memory_bytes), with the "
          "peak. 0 on CPUs.",
          [(total("longdoc_device_memory_bytes", "kind"), "{{kind}}"),
           (total("longdoc_device_memory_peak_bytes"), "peak")]),
    Panel("Kept documents that can move", "lines", "bytes", "Their keys, values and token vectors, on the "
          "device and in pinned host memory (longdoc_spill_bytes), and the most that the host may "
          "hold (longdoc_spill_limit_bytes).",
          [(total("longdoc_spill_bytes", "place"), "{{place}}"),
           (total("longdoc_spill_limit_bytes"), "limit of the host")]),
    Panel("Moves", "lines", "cps", "Documents moved to the host because the device was full, and back "
          "to be used, per second (longdoc_spill_moves_total).",
          [(rate("longdoc_spill_moves_total", "to"), "to {{to}}")]),
    Panel("GPU utilisation", "lines", "percent", "From NVIDIA's DCGM exporter, where one is scraped: "
          "all GPUs that it sees, not only ours.",
          [("avg by (gpu, Hostname) (DCGM_FI_DEV_GPU_UTIL)", "{{Hostname}} {{gpu}}")]),
]

SERVERS = [
    Panel("Servers", "table", "short", "Version and device (longdoc_build_info).",
          [(f"max by (instance, version, device) ({of('longdoc_build_info')})", "{{instance}}")]),
    Panel("Models", "table", "short", "What is served (longdoc_model_info).",
          [("max by (instance, model, revision, compute_type, dimensions) "
            '(longdoc_model_info{SEL,model=~"MODEL"})', "{{model}}")]),
    Panel("Loading of models", "lines", "s", "Reading, packing and warming up "
          "(longdoc_model_load_duration_seconds); size the startup probe by it.",
          [('max by (instance, model) (longdoc_model_load_duration_seconds{SEL,model=~"MODEL"})',
            "{{model}} {{instance}}")]),
    Panel("Uptime", "lines", "s", "Since process_start_time_seconds.",
          [(f"time() - {of('process_start_time_seconds')}", "{{instance}}")]),
    Panel("Draining", "lines", "short", "1 while a replica drains (longdoc_draining).",
          [(of("longdoc_draining"), "{{instance}}")]),
    Panel("Bugs survived", "lines", "short", "Broken invariants since the start (longdoc_bugs_total); "
          "any is worth a report.",
          [(total("longdoc_bugs_total", "instance, site"), "{{site}} {{instance}}")]),
]

PROCESS = [
    Panel("CPU", "lines", "short", "Cores in use (process_cpu_seconds_total).",
          [(rate("process_cpu_seconds_total", "instance"), "{{instance}}")], console=True),
    Panel("Memory of the process", "lines", "bytes", "Resident memory, its peak since the start, and "
          "virtual memory.",
          [(of("process_resident_memory_bytes"), "resident"),
           (of("longdoc_resident_memory_peak_bytes"), "peak"),
           (of("process_virtual_memory_bytes"), "virtual")], console=True),
    Panel("File descriptors", "lines", "short", "Open ones, and the most that may be "
          "(process_open_fds, process_max_fds).",
          [(of("process_open_fds"), "open"), (of("process_max_fds"), "limit")], console=True),
]

ROWS = [
    Row("Latency", LATENCY),
    Row("Throughput", THROUGHPUT),
    Row("Saturation", SATURATION),
    Row("Document lengths", LENGTHS, pod=False),
    Row("Refusals and truncations", REJECTIONS),
    Row("Attention and routing", ATTENTION, pod=False),
    Row("Kept documents and KV cache", KEPT),
    Row("Predicted and actual memory", MEMORY),
    Row("GPU", GPU),
    Row("Servers and models", SERVERS),
]
