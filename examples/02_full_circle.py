# SPDX-License-Identifier: Apache-2.0
from compysition import Director
from compysition.actors import WSGIServer, Transformer

from full_circle_service import Auth as BasicAuth, SomeRequestExecutor, xsls  # the user's own part

director = Director()
wsgi = director.register_actor(WSGIServer, "wsgi")
auth = director.register_actor(BasicAuth, "auth")
submit_transform = director.register_actor(Transformer, "submit_transform", xsls["submit"])
acknowledge_transform = director.register_actor(Transformer, "acknowledge_transform", xsls["acknowledge"])
request_executor = director.register_actor(SomeRequestExecutor, "request_executor")  # the user's own actor

director.connect_queue(wsgi, auth)
director.connect_queue(auth, submit_transform)
director.connect_queue_error(auth, wsgi)  # a refused login is answered 401
director.connect_queue(submit_transform, request_executor)
director.connect_queue_error(submit_transform, wsgi)
director.connect_queue(request_executor, acknowledge_transform)
director.connect_queue(acknowledge_transform, wsgi)
director.start()
