# SPDX-License-Identifier: Apache-2.0
"""HTTP without actors: what a request is, what an answer is, and a server for loopback.

Reading path, each file only on those before it: `multidict` and `headers` (names, values, checks), `request` (a frozen
`Request` from a WSGI environ), `body` (reading it within limits, decoding it by its type), `response` (rendering an
answer, problem details), `pywsgi` (the embedded server).

None of them may know events, actors or the Director. The door, `compysition.actors.wsgi`, builds on them, and every
server that speaks WSGI can stand in for `pywsgi`.
"""
