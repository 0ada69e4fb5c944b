# SPDX-License-Identifier: Apache-2.0
from compysition import Director
from compysition.actors import STDOUT, Data, EventFilter, EventJoin, EventRouter, FlowController, Source

ORDERS = [{"id": 1, "kind": "book"}, {"id": 2, "kind": "boat"}, {"id": 3, "kind": "pen"}]

director = Director()
orders = director.register_actor(Source, "orders", ORDERS)
ours = EventFilter("ask", regex="^(book|pen)$", path="data.kind")
router = director.register_actor(EventRouter, "router", [ours], default="refused")
ask = director.register_actor(FlowController, "ask")
price = director.register_actor(Data, "price", 12)  # two services that are asked side by side
stock = director.register_actor(Data, "stock", 3)
join = director.register_actor(EventJoin, "join")
offers = director.register_actor(STDOUT, "offers", prefix="offer: ")
refused = director.register_actor(STDOUT, "refused", prefix="refused: ")

director.connect_queue(orders, router)
director.connect_queue(router, [ask, refused])
director.connect_queue(ask, [price, stock])
director.connect_queue(price, join)
director.connect_queue(stock, join)
director.connect_queue(join, offers)
director.start(until_idle=True)
