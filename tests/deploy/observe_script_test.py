"""scripts/observe: all of it comes up, the console page shows the load, and nothing is left behind."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest

from harness import REPO, binary, http_get, stop_process, wait_until
from prometheus import free_port


def children(pid):
    """Process ids of everything below a process."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *children(child)]
    return found


class ObserveScriptTest(unittest.TestCase):
    def build(self, directory):
        """A build folder with our programs and stubs; its stack/ is this test's alone."""
        root = pathlib.Path(directory)
        (root / "tests" / "deploy").mkdir(parents=True)
        (root / "bin").symlink_to(pathlib.Path(binary("longdoc-server")).parent)
        stubs = next(p for p in sys.path if p.endswith("stubs"))
        (root / "tests" / "deploy" / "stubs").symlink_to(stubs)
        return root

    def start(self, root, *options):
        self.port = free_port()
        with open(root / "out", "wb") as out:
            process = subprocess.Popen(
                [str(REPO / "scripts" / "observe"), "--build", str(root), "--port", str(self.port),
                 *options], stdout=out, stderr=out)
        self.addCleanup(stop_process, process)
        return process

    def test_comes_up_and_goes(self):
        with tempfile.TemporaryDirectory() as directory:
            root = self.build(directory)
            process = self.start(root)
            url = f"http://127.0.0.1:{self.port}"

            def shows_load():
                self.assertIsNone(process.poll(), (root / "out").read_text())
                page = http_get(f"{url}/consoles/longdoc.html")[1]
                values = dict((title, value) for value, title in
                              re.findall(r"<b>([^<]*)</b>(.*)", page))
                return values if values.get("Tokens encoded", "-") not in ("-", "0") else None
            values = wait_until("the page shows tokens", shows_load, 60, 0.5)
            self.assertEqual(values["Replicas up"], "1")
            for line in ("console ", "alerts ", "metrics ", "gRPC "):
                self.assertIn(line, (root / "out").read_text())
            below = children(process.pid)
            self.assertGreaterEqual(len(below), 3)
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(60), 0, (root / "out").read_text())
            self.assertEqual([pid for pid in below if os.path.exists(f"/proc/{pid}")], [])
            self.assertIn('"event":"stopped"', (root / "stack" / "server.log").read_text())

    def test_stops_by_itself(self):
        with tempfile.TemporaryDirectory() as directory:
            root = self.build(directory)
            process = self.start(root, "--seconds=1", "--no-load")
            self.assertEqual(process.wait(60), 0, (root / "out").read_text())
            self.assertFalse((root / "stack" / "load.log").exists())

    def test_a_process_that_ends_is_an_error(self):
        with tempfile.TemporaryDirectory() as directory:
            root = self.build(directory)
            process = self.start(root, "--no-load")
            wait_until("it runs", lambda: "console " in (root / "out").read_text())
            server = next(pid for pid in children(process.pid) if
                          b"longdoc-server" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())
            os.kill(server, signal.SIGTERM)
            self.assertEqual(process.wait(60), 1)
            self.assertIn("a process ended", (root / "out").read_text())

    def test_wrong_options(self):
        for options in (["--seconds", "soon"], ["--port=x"], ["--what"], ["--port"]):
            done = subprocess.run([str(REPO / "scripts" / "observe"), *options], text=True,
                                  capture_output=True, check=False)
            self.assertEqual(done.returncode, 1, options)
            self.assertTrue(done.stderr.startswith("observe: "), done.stderr)


if __name__ == "__main__":
    unittest.main()
