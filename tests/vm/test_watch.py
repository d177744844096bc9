"""The tests' own machinery: a test host that hangs is noticed."""

import pathlib
import tempfile
import unittest

import host


class TestWatch(unittest.TestCase):
    def test_output_and_trouble_come_back(self):
        self.assertEqual(host.watch(["sh", "-c", "echo out; echo err >&2"], quiet=30), (b"out\n", "err\n"))

    def test_a_silent_program_is_stopped(self):
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory, "told")
            output, trouble = host.watch(["sh", "-c", f"trap 'echo stopped >{file}; exit' TERM; echo out; while :; do sleep 0.1; done"],
                                         quiet=1)
            self.assertEqual((output, file.read_text()), (b"out\n", "stopped\n"))
        self.assertIn("said nothing for 1 seconds", trouble)


if __name__ == "__main__":
    unittest.main()
