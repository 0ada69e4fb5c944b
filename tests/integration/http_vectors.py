# SPDX-License-Identifier: Apache-2.0
"""Requests on the wire, and what has to come back: `VECTORS`.

Each is what the client sends, the status lines that have to come, and whether the connection is kept (``K``) or closed
by the server (``C``). ``200/400`` are two answers, ``400|408`` is one of two: where the first is wanted and gunicorn's
reader of chunks waits for more. The flow is a door, an echo, and back; its deadline and those of the server are short.
"""

from typing import Final, NamedTuple

H: Final = b"Host: a\r\n"
G: Final = b"GET / HTTP/1.1\r\n" + H
P: Final = b"POST / HTTP/1.1\r\n" + H
END: Final = b"\r\n"
TE: Final = b"Transfer-Encoding: chunked\r\n\r\n"


class Vector(NamedTuple):
    sent: bytes
    #: Such as ``200 K`` or ``100/408 C``.
    wanted: str
    #: Whether it is for the door with routes.
    has_routes: bool = False

    def __str__(self) -> str:
        shown = repr(self.sent)[2:-1].replace("\\r\\n", "¶").replace("Host: a¶", "H¶")
        return f"{shown[:60]}{'…' if len(shown) > 60 else ''}-{len(self.sent)}-{self.wanted}"


def get(target: str, headers: bytes = b"") -> bytes:
    return b"GET " + target.encode("latin-1") + b" HTTP/1.1\r\n" + H + headers + END


def post(body: bytes, headers: bytes = b"") -> bytes:
    return P + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def json(body: bytes) -> bytes:
    return post(body, b"Content-Type: application/json\r\n")


def form(body: bytes) -> bytes:
    return post(body, b"Content-Type: application/x-www-form-urlencoded\r\n")


def multipart(body: bytes, parameters: bytes = b"; boundary=b") -> bytes:
    return post(body, b"Content-Type: multipart/form-data" + parameters + END)


def chunked(body: bytes) -> bytes:
    return P + TE + body


PART: Final = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'

#: The head line by line: version, host, fields.
HEADS: Final = [
    Vector(G + END, "200 K"),
    Vector(b"GET / HTTP/1.0\r\n\r\n", "200 C"),
    Vector(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "200 K"),
    Vector(b"GET / HTTP/1.0\r\nConnection: foo, Keep-Alive\r\n\r\n", "200 K"),
    Vector(b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", "200 C"),
    Vector(G + b"Connection: close\r\n\r\n", "200 C"),
    Vector(G + b"Connection: foo, Close\r\n\r\n", "200 C"),
    Vector(G + b"Connection: foo\r\nConnection: close\r\n\r\n", "200 C"),
    Vector(G + b"Connection: closed\r\n\r\n", "200 K"),
    Vector(b"GET / HTTP/1.1\r\n\r\n", "400 C"),
    Vector(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "400 C"),
    Vector(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400 C"),
    Vector(b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "400 C"),
    Vector(b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "400 C"),
    Vector(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400 C"),
    Vector(b"GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", "400 C"),
    Vector(b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", "400 C"),
    Vector(G + H + END, "400 C"),
    Vector(b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "200 K"),
    Vector(b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "200 K"),
    Vector(END + G + END, "200 K"),
    Vector(END + END + G + END, "400 C"),
    Vector(b"GET / HTTP/1.1\nHost: a\n\n", "400 C"),
    Vector(b"GET / HTTP/1.1\r\nHost: a\n\r\n", "400 C"),
    Vector(G + b"X: a\rb\r\n\r\n", "400 C"),
    Vector(G + b"X: a\0b\r\n\r\n", "400 C"),
    Vector(G + b"X: a\x7fb\r\n\r\n", "400 C"),
    Vector(G + b"X: a\x01b\r\n\r\n", "400 C"),
    Vector(G + b"X: \xe9\r\n\r\n", "200 K"),
    Vector(G + b"X:\ta \t\r\n\r\n", "200 K"),
    Vector(G + b"X : a\r\n\r\n", "400 C"),
    Vector(G + b"X\t: a\r\n\r\n", "400 C"),
    Vector(G + b"X: a\r\n b\r\n\r\n", "400 C"),
    Vector(G + b"X: a\r\n\tb\r\n\r\n", "400 C"),
    Vector(b"GET / HTTP/1.1\r\n X: a\r\n" + H + END, "400 C"),
    Vector(G + b": a\r\n\r\n", "400 C"),
    Vector(G + b"abc\r\n\r\n", "400 C"),
    Vector(G + b"\xc3\xa9: a\r\n\r\n", "400 C"),
    Vector(G + b"X(: a\r\n\r\n", "400 C"),
    Vector(G + b"X:\r\n\r\n", "200 K"),
    Vector(G + b"X_Y: a\r\n\r\n", "200 K"),
    Vector(G + b"Content_Length: 3\r\n\r\n", "200 K"),
    Vector(b"GET / HTTP/2.0\r\n" + H + END, "505 C"),
    Vector(b"GET / HTTP/0.9\r\n" + H + END, "505 C"),
    Vector(b"GET / HTTP/1.2\r\n" + H + END, "200 K"),
    Vector(b"GET / HTTP/1.10\r\n" + H + END, "400 C"),
    Vector(b"GET / http/1.1\r\n" + H + END, "400 C"),
    Vector(b"GET /\r\n\r\n", "400 C"),
    Vector(b"GET\r\n\r\n", "400 C"),
    Vector(b"GET / HTTX/1.1\r\n" + H + END, "400 C"),
    Vector(b"GET / HTTP/1.1 \r\n" + H + END, "400 C"),
    Vector(b"GET\t/ HTTP/1.1\r\n" + H + END, "400 C"),
    Vector(b" GET / HTTP/1.1\r\n" + H + END, "400 C"),
    Vector(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 C"),
    Vector(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400 C"),
    Vector(G + b"Cookie: a=1\r\nCookie: b=\xe9\r\n\r\n", "200 K"),
    Vector(P + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n", "400 C"),
    Vector(G + b"Authorization: Basic YTpi\r\nAuthorization: Basic YTpj\r\n\r\n", "400 C"),
    Vector(G + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", "200 K"),
    Vector(G + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "200 K"),
    Vector(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + END, "414 C"),
    Vector(G + b"X: " + b"a" * 9000 + b"\r\n\r\n", "431 C"),
    Vector(G + b"X: " + b"a" * 8000 + b"\r\n\r\n", "200 K"),
    Vector(G + b"".join([b"X%d: a\r\n" % number for number in range(150)]) + END, "431 C"),
    Vector(G + b"".join([b"X%d: a\r\n" % number for number in range(99)]) + END, "200 K"),
    Vector(G + (b"X: " + b"a" * 8000 + b"\r\n") * 9 + END, "431 C"),
    Vector(G + b"X: " + b"a" * 200_000, "431 C"),
    Vector(b"G" * 200_000, "414 C"),
    Vector(b"GET / HTTP/1.1\r\nHo", "408 C"),
    Vector(b"G", "408 C"),
    Vector(G, "408 C"),
]

#: Methods and targets.
TARGETS: Final = [
    Vector(b"get / HTTP/1.1\r\n" + H + END, "400 C"),
    Vector(b"G(T / HTTP/1.1\r\n" + H + END, "400 C"),
    Vector(b"BREW / HTTP/1.1\r\n" + H + END, "501 K"),
    Vector(b"TRACE / HTTP/1.1\r\n" + H + END, "405 K"),
    Vector(b"CONNECT a:1 HTTP/1.1\r\n" + H + END, "501 C"),
    Vector(b"CONNECT / HTTP/1.1\r\n" + H + END, "501 C"),
    Vector(b"CONNECT http://a/ HTTP/1.1\r\n" + H + END, "501 C"),
    Vector(b"OPTIONS * HTTP/1.1\r\n" + H + END, "204 K"),
    Vector(b"OPTIONS / HTTP/1.1\r\n" + H + END, "204 K"),
    Vector(b"HEAD / HTTP/1.1\r\n" + H + END, "200 K"),
    Vector(b"DELETE / HTTP/1.1\r\n" + H + END, "200 K"),
    Vector(get("*"), "400 C"),
    Vector(get("http://b/x"), "200 K"),
    Vector(get("HTTPS://b:443"), "200 K"),
    Vector(get("http://b/x?a=/%20"), "200 K"),
    Vector(get("ftp://b/x"), "400 C"),
    Vector(get("http:///x"), "400 C"),
    Vector(get("http://a@b/x"), "400 C"),
    Vector(get("http://a b/x"), "400 C"),
    Vector(get("x"), "400 C"),
    Vector(get("a:1"), "400 C"),
    Vector(get("//x"), "404 K"),
    Vector(get("/a//b"), "200 K"),
    Vector(get("/a b"), "400 C"),
    Vector(get("/\xe9"), "400 C"),
    Vector(get("/%C3%A9"), "200 K"),
    Vector(get("/%zz"), "400 C"),
    Vector(get("/%"), "400 C"),
    Vector(get("/a%2"), "400 C"),
    Vector(get("/a%00"), "400 C"),
    Vector(get("/a%0d%0aX:%20b"), "400 C"),
    Vector(get("/a%7f"), "400 C"),
    Vector(get("/%ff"), "400 C"),
    Vector(get("/%c0%ae"), "400 C"),
    Vector(get("/%ed%a0%80"), "400 C"),
    Vector(get("/a#b"), "400 C"),
    Vector(get("/a?b#c"), "400 C"),
    Vector(get("/a\\b"), "400 C"),
    Vector(get('/a"b'), "400 C"),
    Vector(get("/a<b>"), "400 C"),
    Vector(get("/a|b"), "200 K"),
    Vector(get("/a/../b"), "400 K"),
    Vector(get("/./a"), "400 K"),
    Vector(get("/.."), "400 K"),
    Vector(get("/a/%2e%2E/b"), "400 K"),
    Vector(get("/a/.%2e/b"), "400 K"),
    Vector(get("/a%2F..%2Fb"), "400 K"),
    Vector(get("/a/..;x=1/b"), "200 K"),
    Vector(get("/a%2Fb"), "200 K"),
    Vector(get("/a%252Fb"), "200 K"),
    Vector(get("/a;b=c"), "200 K"),
    Vector(get("/?a=b&a=c&%C3%A9=%ff"), "200 K"),
    Vector(get("/?a=b c"), "400 C"),
    Vector(get("/?a=%zz"), "400 C"),
    Vector(get("/?" + "a&" * 1001), "400 K"),
    Vector(get("/missing"), "404 K", has_routes=True),
    Vector(get("/known"), "200 K", has_routes=True),
    Vector(b"PUT /known HTTP/1.1\r\n" + H + END, "405 K", has_routes=True),
    Vector(b"OPTIONS /known HTTP/1.1\r\n" + H + END, "204 K", has_routes=True),
    Vector(b"BREW /known HTTP/1.1\r\n" + H + END, "501 K", has_routes=True),
]

#: Where a body ends.
FRAMING: Final = [
    Vector(post(b"abc"), "200 K"),
    Vector(post(b""), "200 K"),
    Vector(P + END, "200 K"),
    Vector(G + b"Content-Length: 3\r\n\r\nabc", "200 K"),
    Vector(P + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "400 C"),
    Vector(P + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "400 C"),
    Vector(P + b"Content-Length: 3, 3\r\n\r\nabc", "400 C"),
    Vector(P + b"Content-Length: +3\r\n\r\nabc", "400 C"),
    Vector(P + b"Content-Length: -3\r\n\r\nabc", "400 C"),
    Vector(P + b"Content-Length: 3.0\r\n\r\nabc", "400 C"),
    Vector(P + b"Content-Length: 0x3\r\n\r\nabc", "400 C"),
    Vector(P + b"Content-Length: 3 3\r\n\r\nabc", "400 C"),
    Vector(P + b"Content-Length: 1_0\r\n\r\nabc", "400 C"),
    Vector(P + b"Content-Length: \xb2\r\n\r\nab", "400 C"),
    Vector(P + b"Content-Length:\r\n\r\n", "400 C"),
    Vector(P + b"Content-Length: 003\r\n\r\nabc", "200 K"),
    Vector(P + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nabc", "413 C"),
    Vector(P + b"Content-Length: 16777217\r\n\r\nabc", "413 C"),
    Vector(P + b"Content-Length: 9\r\n\r\nabc", "408 C"),
    Vector(P + b"Content-Length: 3\r\n" + TE + b"0\r\n\r\n", "400 C"),
    Vector(P + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "400 C"),
    Vector(P + b"Transfer-Encoding: chunked\r\n" + TE + b"0\r\n\r\n", "400 C"),
    Vector(P + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "400 C"),
    Vector(P + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400 C"),
    Vector(P + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501 C"),
    Vector(P + b"Transfer-Encoding: gzip\r\n\r\n", "400 C"),
    Vector(P + b"Transfer-Encoding: xchunked\r\n\r\n", "501 C"),
    Vector(P + b"Transfer-Encoding: identity\r\n\r\n", "400 C"),
    Vector(P + b"Transfer-Encoding:\r\n\r\n", "501 C"),
    Vector(P + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", "200 K"),
    Vector(P + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", "400 C"),
    Vector(P + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400 C"),
    Vector(P + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', "501 C"),
    Vector(P + b"Transfer_Encoding: chunked\r\n\r\n", "200 K"),
    Vector(b"POST / HTTP/1.0\r\n" + TE + b"0\r\n\r\n", "400 C"),
    Vector(P + b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", "415 K"),
    Vector(P + b"Content-Encoding: identity\r\nContent-Length: 0\r\n\r\n", "200 K"),
    Vector(G + END + G + END, "200/200 K"),
    Vector(post(b"abc") + G + END, "200/200 K"),
    Vector(chunked(b"3\r\nabc\r\n0\r\n\r\n") + G + END, "200/200 K"),
    Vector(G + END + b"BAD\r\n\r\n", "200/400 C"),
    Vector(P + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc" + G + END, "200 C"),
    Vector(post(b"a" * 100, b"Content-Encoding: gzip\r\n") + G + END, "415/200 K"),
    Vector(b"HEAD / HTTP/1.1\r\n" + H + END + G + END, "200/200 K"),
]

#: Chunks and trailers.
CHUNKS: Final = [
    Vector(chunked(b"3\r\nabc\r\n0\r\n\r\n"), "200 K"),
    Vector(chunked(b"0\r\n\r\n"), "200 K"),
    Vector(chunked(b"003\r\nabc\r\n000\r\n\r\n"), "200 K"),
    Vector(chunked(b"A\r\n0123456789\r\n0\r\n\r\n"), "200 K"),
    Vector(chunked(b"1\r\na\r\n" * 50 + b"0\r\n\r\n"), "200 K"),
    Vector(chunked(b"3;a=b\r\nabc\r\n0\r\n\r\n"), "200 K"),
    Vector(chunked(b'3;a="b;c"\r\nabc\r\n0\r\n\r\n'), "200 K"),
    Vector(chunked(b"3;a=\rb\r\nabc\r\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b"3;\r\nabc\r\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b"0\r\nX: 1\r\n\r\n"), "200 K"),
    Vector(chunked(b"0\r\nX: 1\r\nY: 2\r\n\r\n") + G + END, "200/200 K"),
    Vector(chunked(b"0\r\nContent-Length: 3\r\n\r\n"), "400 C"),
    Vector(chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), "400 C"),
    Vector(chunked(b"0\r\nHost: b\r\n\r\n"), "400 C"),
    Vector(chunked(b"0\r\nAuthorization: Basic YTpi\r\n\r\n"), "400 C"),
    Vector(chunked(b"0\r\nX : 1\r\n\r\n"), "400 C"),
    Vector(chunked(b"0\r\nX: 1\r\n 2\r\n\r\n"), "400 C"),
    Vector(chunked(b"0\r\nX: " + b"a" * 20_000), "400 C"),
    Vector(chunked(b"-3\r\nabc\r\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b"+3\r\nabc\r\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b"3 \r\nabc\r\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b" 3\r\nabc\r\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b"\r\nabc\r\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b"g\r\nabc\r\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b"3\r\nabcXX0\r\n\r\n"), "400 C"),
    Vector(chunked(b"3\r\nabcd\r\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b"3\nabc\n0\n\n"), "400|408 C"),
    Vector(chunked(b"3\r\nabc\n0\r\n\r\n"), "400 C"),
    Vector(chunked(b"f" * 17 + b"\r\nabc"), "400|413|408 C"),
    Vector(chunked(b"f" * 17), "400|408 C"),
    Vector(chunked(b"3;" + b"a" * 20_000), "400 C"),
    Vector(chunked(b"3\r\nab"), "408 C"),
    Vector(chunked(b"3\r\nabc\r\n"), "408 C"),
    Vector(chunked(b"0\r\n"), "408 C"),
    Vector(P + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", "200 K"),
    Vector(P + b"Expect: 100-Continue\r\nContent-Length: 3\r\n\r\n", "100/408 C"),
    Vector(P + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n", "200 K"),
    Vector(P + b"Expect: 100-continue\r\n" + TE, "100/408 C"),
    Vector(P + b"Expect: 100-continue\r\nContent-Length: 16777217\r\n\r\n", "413 C"),
    Vector(P + b"Expect: 100-continue\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n", "415 C"),
    Vector(P + b"Expect: foo\r\n\r\n", "417 C"),
    Vector(b"POST / HTTP/1.0\r\nExpect: foo\r\n\r\n", "200 C"),
    Vector(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", "200 C"),
]

#: JSON and forms.
BODIES: Final = [
    Vector(json(b"{}"), "200 K"),
    Vector(json(b"\xef\xbb\xbf[1]"), "200 K"),
    Vector(json(b'"\\ud83d\\ude00"'), "200 K"),
    Vector(json(b""), "400 K"),
    Vector(json(b"{"), "400 K"),
    Vector(json(b"{}x"), "400 K"),
    Vector(json(b"{'a':1}"), "400 K"),
    Vector(json(b"[1,]"), "400 K"),
    Vector(json(b"NaN"), "400 K"),
    Vector(json(b"[-Infinity]"), "400 K"),
    Vector(json(b"1e999"), "400 K"),
    Vector(json(b"9" * 5000), "400 K"),
    Vector(json(b"[" * 100_000), "400 K"),
    Vector(json(b"[" * 65 + b"]" * 65), "400 K"),
    Vector(json(b"[" * 64 + b"]" * 64), "200 K"),
    Vector(json(b"\xff"), "400 K"),
    Vector(json(b'"\\ud800"'), "400 K"),
    Vector(json(b'"\x00"'), "400 K"),
    Vector(json(b'{"a":1,"a":2}'), "200 K"),
    Vector(post(b"{", b"Content-Type: application/problem+json\r\n"), "400 K"),
    Vector(post(b"{", b"Content-Type: text/plain\r\n"), "200 K"),
    Vector(form(b"a=1&b=2&a=3"), "200 K"),
    Vector(form(b""), "200 K"),
    Vector(form(b"a=%ff&b=\xff"), "400 K"),
    Vector(form(b"a=%zz"), "400 K"),
    Vector(form(b"&".join([b"a=1"] * 1001)), "413 K"),
    Vector(form(b"a=" + b"1" * (1024 * 1024)), "413 K"),
    Vector(form(b"a" * 257 + b"=1"), "400 K"),
    Vector(multipart(PART + b"--b--\r\n"), "200 K"),
    Vector(multipart(PART), "400 K"),
    Vector(multipart(PART + b"--b"), "400 K"),
    Vector(multipart(b"x", b""), "400 K"),
    Vector(multipart(PART + b"--b--\r\n", b"; boundary="), "400 K"),
    Vector(multipart(PART + b"--b--\r\n", b"; boundary=c"), "400 K"),
    Vector(multipart(b"--b\r\n\r\n1\r\n--b--\r\n"), "400 K"),
    Vector(multipart(b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--\r\n"), "400 K"),
    Vector(multipart(PART.replace(b"\r\n1", b"\r\n\xff") + b"--b--\r\n"), "400 K"),
    Vector(multipart(PART * 1001 + b"--b--\r\n"), "413 K"),
    Vector(multipart(PART.replace(b"1\r\n", b"1" * 600_000 + b"\r\n") + b"--b--\r\n"), "413 K"),
]

VECTORS: Final = [*HEADS, *TARGETS, *FRAMING, *CHUNKS, *BODIES]
