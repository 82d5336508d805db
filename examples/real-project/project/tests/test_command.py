"""Runs the program as a user does: as a process, with files, stdin and an exit code."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def wordcount(*arguments, text=None):
    return subprocess.run(  # noqa: PLW1510  the exit code is what is tested
        [sys.executable, "-m", "wordcount", *arguments],
        cwd=PROJECT,
        input=text,
        capture_output=True,
        text=True,
    )


class Command(unittest.TestCase):
    def test_a_file_is_counted(self):
        done = wordcount("sample.txt", "--top", "2")
        self.assertEqual(done.stdout, "     3 to\n     2 be\n")
        self.assertEqual(done.returncode, 0)

    def test_stdin_is_counted(self):
        self.assertEqual(wordcount(text="go go").stdout, "     2 go\n")

    def test_a_file_written_here_is_counted(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "words.txt"
            path.write_text("sand box sand\n")
            self.assertEqual(wordcount(str(path), "--top", "1").stdout, "     2 sand\n")

    def test_no_words_is_a_failure(self):
        self.assertEqual(wordcount(text="12 34").returncode, 1)
