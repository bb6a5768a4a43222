"""What goes through the links, as the kernel counts it: so a fault counts only where somebody felt it.

Linux tells of each TCP connection how many bytes were acknowledged and received (sock_diag(7)). The connections that are
looked at are those of clients to the ports of proxies, at 127.0.0.1; what a proxy does with the bytes does not matter.
"""

import socket
import struct
from dataclasses import dataclass

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, DUMP = 4, 20, 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
HEADER = struct.Struct("=IHHII")
REQUEST = struct.Struct("=BBBBI48x")  # family, protocol, what else is wanted, states, and an empty id
WANT_INFO, INFO = 1 << 1, 2
ESTABLISHED = 1 << 1
PORTS = struct.Struct("!HH")  # at 4 of each answer: ours, theirs
ANSWER_BYTES = 72  # struct inet_diag_msg
COUNTS_AT, COUNTS = 120, struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received


def connections(ports):
    """{(our port, port of a proxy): (bytes sent and acknowledged, bytes received)} of established connections to `ports`."""
    found = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        body = REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, WANT_INFO, 0, ESTABLISHED)
        kernel.send(HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, DUMP, 1, 0) + body)
        while True:
            data, at = kernel.recv(1 << 17), 0
            while at < len(data):
                length, kind, *_ = HEADER.unpack_from(data, at)
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    raise OSError("the kernel does not tell of TCP connections: sock_diag(7)")
                mine, theirs = PORTS.unpack_from(data, at + HEADER.size + 4)
                if theirs in ports:
                    counts = counts_of(data[at + HEADER.size + ANSWER_BYTES : at + length])
                    if counts:
                        found[mine, theirs] = counts
                at += (length + 3) & ~3


def counts_of(attributes):
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if kind == INFO and length >= 4 + COUNTS_AT + COUNTS.size:
            return COUNTS.unpack_from(attributes, at + 4 + COUNTS_AT)
        at += max(4, (length + 3) & ~3)
    return None


@dataclass
class Passed:
    """What was seen since the watch began."""

    sent: int = 0
    received: int = 0
    opened: int = 0
    ended: int = 0


class Watch:
    """Looks at the connections to some ports again and again; one that comes and goes between two looks is not seen."""

    def __init__(self, ports, look=connections):
        self.ports, self.connections = frozenset(ports), look
        self.before = self.now = look(self.ports)
        self.passed = Passed()

    def look(self):
        self.before, self.now = self.now, self.connections(self.ports)
        for place, (sent, received) in self.now.items():
            known = self.before.get(place)
            if known is None or sent < known[0]:  # another one, perhaps with the same port
                self.passed.opened += 1
                self.passed.ended += known is not None
                known = (0, 0)
            self.passed.sent += sent - known[0]
            self.passed.received += max(0, received - known[1])
        self.passed.ended += len(self.before.keys() - self.now.keys())
        return self.passed

    def open(self):
        """Connections at the last look."""
        return len(self.now)
