"""A server of a folder with range requests and ETags, in a process of its own, for GDAL keeps the GIL while it waits.

    python -m tests.web FOLDER

It prints its port. While there is a file ``FOLDER/failures`` that holds a number above 0, that many requests get 503.
With ``FOLDER/drops``, which holds a number, every so manieth request gets no answer at all: the connection is closed.
"""

import http.server
import itertools
import sys
from pathlib import Path

COUNT = itertools.count(1)
FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = FOLDER / self.path.lstrip("/")
        if not path.is_file():
            return self.send_error(404)
        drops = FOLDER / "drops"
        if drops.exists() and not next(COUNT) % int(drops.read_text()):
            self.close_connection = True
            return None
        failures = FOLDER / "failures"
        left = int(failures.read_text()) if failures.exists() else 0
        if left:
            failures.write_text(str(left - 1))
            return self.send_error(503)
        data, wanted = path.read_bytes(), self.headers.get("Range")
        first, last = 0, len(data) - 1
        if wanted:
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[first : last + 1])

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
