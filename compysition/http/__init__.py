# SPDX-License-Identifier: Apache-2.0
"""HTTP without actors: what a request is, what an answer is, and a server for loopback.

Reading path, each file only on those before it: `multidict` and `headers` (names, values, checks), `request` (a frozen
`Request` from a WSGI environ), `body` (reading it within limits, decoding it by its type), `response` (rendering an
answer, problem details). None of them may know events, actors or servers.

Then two branches that do not know each other: `receiver`, `pywsgi_handler` and `pywsgi` are the embedded server, which
takes any WSGI application, and for which every server that speaks WSGI can stand in; `event` and `tickets` join
requests to events. The door, `compysition.actors.wsgi`, brings the branches together.
"""
