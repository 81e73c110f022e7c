#!/usr/bin/env python3
"""The shapes of longdoc-gpu-bench through PyTorch, timed the same way.

usage: torch_compare.py [--json FILE] [--ours FILE] [--seconds N] [--dry-run]

  --ours FILE   bench.json of longdoc-gpu-bench: the table then says how many times faster ours is
  --seconds N   no case is begun after that many (default 110); what is left out is listed
  --dry-run     tiny shapes on the CPU: whether this script runs at all. Its times mean nothing

SDPA has no ALiBi and FlexAttention skips only what a block mask says, so "no bias" and "mask" are
in the names of the implementations. Where a part is missing, its cases fail alone, with the reason.
Exit code: 0 if anything was measured, 77 where there is no PyTorch with CUDA, else 1.
"""
import argparse
import json
import math
import statistics
import sys
import time

LOGIT_BOUND = 20.0
EPSILON = 1e-3
STRETCH_SECONDS = 2e-3  # of the calls between two events
MAX_INNER = 64
CASE_SECONDS = 1.5
SAMPLES = 15


class Timer:
    """Seconds of a call, by device events; calls are replayed as a CUDA graph where that works."""

    def __init__(self, torch, device, dry_run):
        self.torch, self.device, self.dry_run = torch, device, dry_run
        self.l2_bytes = 1
        if not dry_run:
            self.l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size

    def copies(self, size):
        return 2 if self.dry_run else min(16, 3 * self.l2_bytes // max(size, 1) + 1)

    def stretch(self, work, calls):
        """Seconds per call of work(), which makes `calls` of them."""
        if self.dry_run:
            start = time.perf_counter()
            work()
            return (time.perf_counter() - start) / calls
        start = self.torch.cuda.Event(enable_timing=True)
        stop = self.torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) * 1e-3 / calls

    def capture(self, work):
        if self.dry_run:
            return None
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                work()
            return graph
        except Exception:  # timed with its launches then, and the result says so
            self.torch.cuda.synchronize()
            return None

    def measure(self, call, copies):
        def enqueue(count):
            for i in range(count):
                call(i % copies)

        self.stretch(lambda: enqueue(2), 2)  # compiles, chooses
        once = max(self.stretch(lambda: enqueue(copies), copies), 1e-9)
        inner = min(MAX_INNER, max(1, math.ceil(STRETCH_SECONDS / once)))
        inner = -(-inner // copies) * copies
        graph = self.capture(lambda: enqueue(inner)) if once < 20e-3 else None
        work = graph.replay if graph else lambda: enqueue(inner)
        samples = 1 if self.dry_run else int(min(SAMPLES, max(1, CASE_SECONDS / (once * inner))))
        self.stretch(work, inner)
        seconds = [self.stretch(work, inner) for _ in range(samples)]
        return {"seconds": statistics.median(seconds), "best_seconds": min(seconds),
                "samples": samples, "graph": graph is not None}


class Compare:
    def __init__(self, torch, options, keep):
        self.torch, self.options, self.keep = torch, options, keep
        self.dry_run = options.dry_run
        self.device = "cpu" if self.dry_run else "cuda"
        self.timer = Timer(torch, self.device, self.dry_run)
        self.begun = time.monotonic()
        self.results = []

    def case(self, section, name, implementation, size, make, flops=0.0, bytes_moved=0.0):
        """make(copies) returns call(copy). `size`: bytes of one copy of the data."""
        result = {"implementation": implementation, "section": section, "name": name}
        self.results.append(result)
        if time.monotonic() - self.begun > self.options.seconds:
            result["skipped"] = "out of time"
            self.keep(self.results)
            return
        copies = self.timer.copies(size)
        try:
            with self.torch.no_grad():
                result.update(self.timer.measure(make(copies), copies))
            if flops:
                result["flops"] = flops
            if bytes_moved:
                result["bytes"] = bytes_moved
        except Exception as error:  # whatever this PyTorch lacks
            result["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if not self.dry_run:
            self.torch.cuda.empty_cache()
        self.keep(self.results)

    def random(self, *shape, dtype=None):
        return self.torch.rand(*shape, device=self.device).mul_(2).sub_(1).to(
            dtype or self.torch.bfloat16)

    # ---- attention --------------------------------------------------------------------------

    def qkv(self, copies, heads, n, dim):
        norm = math.sqrt(LOGIT_BOUND * math.sqrt(dim))

        def rows():
            x = self.random(1, heads, n, dim, dtype=self.torch.float32)
            factor = norm * (0.5 + 0.5 * self.torch.rand(1, heads, n, 1, device=self.device))
            return (x * factor / x.norm(dim=-1, keepdim=True)).to(self.torch.bfloat16)

        return [(rows(), rows(), self.random(1, heads, n, dim)) for _ in range(copies)]

    def sdpa(self, backend, heads, n, dim):
        def make(copies):
            from torch.nn.attention import SDPBackend, sdpa_kernel
            attend = self.torch.nn.functional.scaled_dot_product_attention
            tensors = self.qkv(copies, heads, n, dim)

            def call(i):
                with sdpa_kernel(getattr(SDPBackend, backend)):
                    return attend(*tensors[i])
            return call
        return make

    def flex(self, heads, n, dim, mask):
        """FlexAttention with ALiBi; mask: None, "rule A" or a window's radius."""
        def make(copies):
            from torch.nn.attention.flex_attention import create_block_mask, flex_attention
            torch = self.torch
            slopes = torch.tensor([2.0 ** (-8 * (h + 1) / heads) for h in range(heads)],
                                  device=self.device)

            def alibi(score, batch, head, q, k):
                return score - slopes[head] * (q - k).abs()

            # What may be left out by our rule A, at the same bound and tolerance.
            reach = (2 * LOGIT_BOUND + math.log(2 / EPSILON)) / slopes

            def within_reach(batch, head, q, k):
                return (q - k).abs() <= reach[head]

            def within_window(batch, head, q, k):
                return (q - k).abs() <= mask

            block_mask = None
            if mask is not None:
                inside = within_reach if mask == "rule A" else within_window
                # Compiled: as it is, it would hold n x n values in memory.
                make_mask = create_block_mask if self.dry_run else torch.compile(create_block_mask)
                block_mask = make_mask(inside, None, heads, n, n, device=self.device)
            attend = flex_attention
            if not self.dry_run:
                attend = torch.compile(flex_attention, dynamic=False)
            tensors = self.qkv(copies, heads, n, dim)
            return lambda i: attend(*tensors[i], score_mod=alibi, block_mask=block_mask)
        return make

    def attention(self):
        heads = 8
        lengths = [256] if self.dry_run else [8192, 16384, 32768]
        for dim in (64, 128):
            for n in lengths:
                name = f"alibi dense h{heads} d{dim} n{n}"
                size, flops = 8 * heads * n * dim, 4.0 * heads * dim * n * n
                if not self.dry_run:
                    for label, backend in (("cuDNN", "CUDNN_ATTENTION"),
                                           ("flash", "FLASH_ATTENTION")):
                        self.case("attention", name, f"SDPA {label}, no bias", size,
                                  self.sdpa(backend, heads, n, dim), flops)
                else:
                    self.case("attention", name, "SDPA, no bias", size,
                              self.sdpa("MATH", heads, n, dim), flops)
                self.case("attention", name, "FlexAttention, ALiBi", size,
                          self.flex(heads, n, dim, None), flops)
        for n in [256] if self.dry_run else [8192, 32768, 100000]:
            size = 8 * heads * n * 64
            self.case("attention", f"alibi skip 1e-3 h{heads} d64 n{n}",
                      "FlexAttention, ALiBi, mask of rule A", size,
                      self.flex(heads, n, 64, "rule A"))
            self.case("attention", f"window 128 h{heads} d64 n{n}",
                      "FlexAttention, ALiBi, window mask", size, self.flex(heads, n, 64, 128))

    # ---- the others -------------------------------------------------------------------------

    def decode(self):
        keys, dim = (512, 64) if self.dry_run else (100000, 64)
        attend = self.torch.nn.functional.scaled_dot_product_attention
        for rows in (8, 256, 1024):
            def make(copies, rows=rows):
                q = self.random(1, 1, rows, dim)
                kv = [(self.random(1, 1, keys, dim), self.random(1, 1, keys, dim))
                      for _ in range(copies)]
                return lambda i: attend(q, *kv[i])
            self.case("decode", f"mqa rows {rows} keys {keys} d{dim}", "SDPA, PyTorch's choice",
                      4 * keys * dim, make, 4.0 * rows * keys * dim, 4.0 * keys * dim)

    def route(self):
        for n in [1000] if self.dry_run else [8192, 32768, 100000, 1000000]:
            def make(copies, n=n):
                scores = [self.random(n, dtype=self.torch.float32) for _ in range(copies)]
                return lambda i: self.torch.topk(scores[i], n // 8)
            # Neither soft weights nor ascending indices.
            self.case("route", f"select 1/8 n{n}", "torch.topk", 4 * n, make)

    def gemm(self):
        m = 64 if self.dry_run else 16384
        shapes = [(1536, 512), (512, 512), (4096, 512), (512, 2048),
                  (2304, 768), (768, 768), (6144, 768), (768, 3072)]
        for n, k in shapes[:1] if self.dry_run else shapes:
            def make(copies, n=n, k=k):
                w = self.random(n, k)
                a = [self.random(m, k) for _ in range(copies)]
                return lambda i: self.torch.matmul(a[i], w.t())
            self.case("gemm", f"bf16 {m}x{n}x{k}", "torch.matmul", 2 * m * (n + k), make,
                      2.0 * m * n * k, 2.0 * (m * k + n * k + m * n))

    def run(self):
        # The short ones first: a compiler that takes long shall not cost them.
        for section in (self.gemm, self.route, self.decode, self.attention):
            section()


def print_result(r, ours):
    head = f"{r['section'] + ': ' + r['name']:<44} {r['implementation']:<38} "
    if "seconds" not in r:
        reason = f"failed: {r['error']}" if "error" in r else f"skipped: {r['skipped']}"
        print(head + reason, flush=True)
        return
    rate = f"{r['flops'] / r['seconds'] / 1e12:8.1f}" if "flops" in r else " " * 8
    our = ours.get((r["section"], r["name"]))
    versus = f"{1e6 * our['seconds']:11.1f} {r['seconds'] / our['seconds']:6.2f}x" if our else ""
    print(f"{head}{1e6 * r['seconds']:11.1f} {rate} {versus}"
          + ("" if r["graph"] else "  (no graph)"), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="")
    parser.add_argument("--ours", default="")
    parser.add_argument("--seconds", type=float, default=110)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    ours = {}
    if options.ours:
        with open(options.ours, encoding="utf-8") as file:
            ours = {(r["section"], r["name"]): r for r in json.load(file)["results"]
                    if "seconds" in r}
    try:
        import torch
    except Exception as error:
        print(f"not run: python3 cannot import torch: {error}")
        return 77
    if not options.dry_run and not torch.cuda.is_available():
        print(f"not run: torch {torch.__version__} sees no CUDA device")
        return 77
    device = {"name": "cpu" if options.dry_run else torch.cuda.get_device_name(),
              "torch": torch.__version__, "cuda": torch.version.cuda,
              "cudnn": None if options.dry_run else torch.backends.cudnn.version()}
    print(f"PyTorch {device['torch']}, CUDA {device['cuda']}, cuDNN {device['cudnn']}, "
          f"{device['name']}; ratio: its time over ours")
    print(f"{'section: case':<44} {'implementation':<38} {'median us':>11} {'TFLOP/s':>8} "
          f"{'ours us':>11} {'ratio':>7}", flush=True)

    def keep(results):
        # After every case: the time for all of them may run out.
        print_result(results[-1], ours)
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump({"bench": "torch", "device": device, "results": results}, file, indent=1)
                file.write("\n")

    compare = Compare(torch, options, keep)
    compare.run()
    return 0 if any("seconds" in r for r in compare.results) else 1


if __name__ == "__main__":
    sys.exit(main())
