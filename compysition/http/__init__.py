# SPDX-License-Identifier: Apache-2.0
"""HTTP without actors: what a request is, what an answer is, and a server for loopback.

Reading path, each file only on those before it: `multidict` and `headers` (names, values, checks), `proxies` and
`trace` (what a request says of where it comes from), `request` (a frozen `Request` from an environ), `body` (reading
it within limits, decoding it by its type), `accept` and `routes` (types, and where a request goes), `plainxml`,
`content` and `response` (rendering an answer, problem details). None of them may know events, actors or servers.

Then two branches that do not know each other. `receiver`, `server`, `tls`, `wire`, `gunicorn`, `gate`, `message`,
`connection` and `strict` are the embedded server, which takes any WSGI application; `pywsgi_handler` and `pywsgi` are
its fallback, and `embedded` chooses. `event`, `tickets`, `hangups`, `health`, `exchange` join requests to events. The
door, `compysition.actors.wsgi`, brings the branches together.
"""
