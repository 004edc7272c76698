# SPDX-License-Identifier: Apache-2.0
"""A small NBD client, for requests that the ready-made ones do not make: one socket, many
requests in flight, errors as they come. Written from the public NBD protocol document."""

import socket
import struct
import threading

READ, WRITE, DISC, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
FUA, NO_HOLE = 1, 2
EXPORT_NAME_GO = 7
REPLY_ACK, REPLY_INFO = 1, 3


class NbdError(OSError):
    pass


class Nbd:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.lock = threading.Lock()
        self.waiting = {}
        self.next = 1
        self.gone = None
        self._hello()
        self.reader = threading.Thread(target=self._answers, daemon=True)
        self.reader.start()

    def _all(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise ConnectionError("the server has gone")
            data += more
        return data

    def _hello(self):
        magic, option, flags = struct.unpack(">8s8sH", self._all(18))
        assert magic == b"NBDMAGIC" and option == b"IHAVEOPT", (magic, option)
        self.sock.sendall(struct.pack(">I", flags & 3))
        self.sock.sendall(struct.pack(">8sII", b"IHAVEOPT", EXPORT_NAME_GO, 6) + bytes(6))
        while True:
            _, _, kind, length = struct.unpack(">QIII", self._all(20))
            data = self._all(length)
            if kind == REPLY_ACK:
                return
            if kind != REPLY_INFO:
                raise ConnectionError(f"refused: {data!r}")
            if struct.unpack(">H", data[:2])[0] == 0:
                self.size, self.flags = struct.unpack(">QH", data[2:12])

    def _answers(self):
        try:
            while True:
                _, code, handle = struct.unpack(">IIQ", self._all(16))
                with self.lock:
                    w = self.waiting.pop(handle)
                w.data = self._all(w.length) if w.length and code == 0 else b""
                w.code = code
                w.done.set()
        except (OSError, ConnectionError) as e:
            with self.lock:
                self.gone = e
                for w in self.waiting.values():
                    w.code = -1
                    w.done.set()
                self.waiting.clear()

    def begin(self, kind, offset=0, length=0, data=b"", flags=0):
        """Send a request; wait() on what is returned."""
        w = Waiting(length if kind == READ else 0)
        with self.lock:
            if self.gone:
                raise ConnectionError(str(self.gone))
            handle = self.next
            self.next += 1
            self.waiting[handle] = w
            self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, flags, kind, handle, offset,
                                          length or len(data)) + data)
        return w

    def read(self, offset, length):
        return self.begin(READ, offset, length).wait()

    def write(self, offset, data, flags=0):
        self.begin(WRITE, offset, data=data, flags=flags).wait()

    def zero(self, offset, length, flags=0):
        self.begin(ZEROES, offset, length, flags=flags).wait()

    def trim(self, offset, length):
        self.begin(TRIM, offset, length).wait()

    def flush(self):
        self.begin(FLUSH).wait()

    def close(self):
        try:
            self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, DISC, 0, 0, 0))
        except OSError:
            pass
        self.sock.close()


class Waiting:
    def __init__(self, length):
        self.length = length
        self.done = threading.Event()
        self.code = None
        self.data = b""

    def wait(self, timeout=120):
        if not self.done.wait(timeout):
            raise TimeoutError("no answer")
        if self.code == -1:
            raise ConnectionError("the server has gone")
        if self.code:
            raise NbdError(self.code, "refused")
        return self.data
