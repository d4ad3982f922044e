"""Records README's three commands in a terminal and writes cast.svg. Run it in the repository's root
with gpt-oss-export on PATH; needs onnxruntime for the program, and pyte."""

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import termios
import time
from html import escape
from pathlib import Path

import pyte

COLUMNS, ROWS = 120, 60
WIDTH, HEIGHT = 8.4, 18  # pixels of a character
TYPING, PAUSE, FRAME = 0.08, 0.7, 0.1  # seconds
STYLE = """
text { font: 14px ui-monospace, Menlo, Consolas, monospace; fill: #24292f; white-space: pre }
.command { font-weight: 600 } .screen { fill: #f6f8fa }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .screen { fill: #161b22 } }
"""


def main():
    readme = Path("README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", readme, re.S)
    (commands,) = (block for block in blocks if "generate" in block)
    recording = Recording()
    shutil.rmtree("out", ignore_errors=True)
    for command in commands.replace("\\\n    ", "").splitlines():
        recording.type(command)
        recording.run(command)
    Path("docs/cast.svg").write_text(recording.svg())


class Recording:
    """What the rows of a terminal show, and from when to when."""

    def __init__(self):
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.ByteStream(self.screen)
        self.now, self.shown, self.past = 0.0, {}, []

    def type(self, command):
        for typed in re.findall(".{1,4}", f"$ {command}"):
            self.feed(typed.encode(), TYPING)
        self.feed(b"\r\n", PAUSE)

    def run(self, command):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execlp("sh", "sh", "-c", command)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        before = time.monotonic()
        while select.select([terminal], [], [])[0]:
            try:
                output = os.read(terminal, 1 << 16)
            except OSError:  # the end of a terminal on Linux
                break
            now = time.monotonic()
            self.feed(output, now - before)
            before = now
            time.sleep(FRAME)
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"{command} ended with {status}"
        self.feed(b"\r\n", PAUSE)

    def feed(self, output, seconds):
        self.now += seconds
        self.stream.feed(output)
        for row, text in enumerate(self.screen.display):
            shown, since = self.shown.get(row, ("", 0))
            if text.rstrip() != shown:
                self.past.append((row, shown, since, self.now))
                self.shown[row] = (text.rstrip(), self.now)

    def svg(self):
        rows = max(row for row, (text, _) in self.shown.items() if text) + 2
        width, height = COLUMNS * WIDTH + 32, rows * HEIGHT + 16
        lines = [line(row, text, since, until) for row, text, since, until in self.past if text]
        lines += [line(row, text, since) for row, (text, since) in self.shown.items() if text]
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">',
                "<title>gpt-oss-export exports a checkpoint, verifies the model and continues a text</title>",
                f"<style>{STYLE}</style>",
                '<rect class="screen" width="100%" height="100%" rx="8"/>',
                *lines,
                "</svg>\n",
            ]
        )


def line(row, text, since, until=None):
    """A row that is seen from a time on; without an end also where nothing is animated."""
    kind = ' class="command"' if text.startswith("$ ") else ""
    place = f'x="16" y="{(row + 1.3) * HEIGHT:.0f}"'
    if until is None:
        hidden, times = "", f'<set attributeName="visibility" to="hidden" end="{since:.2f}s"/>'
    else:
        hidden = ' visibility="hidden"'
        times = f'<set attributeName="visibility" to="visible" begin="{since:.2f}s" end="{until:.2f}s"/>'
    return f"<text{kind} {place}{hidden}>{escape(text)}{times}</text>"


if __name__ == "__main__":
    main()
