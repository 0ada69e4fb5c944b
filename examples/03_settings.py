# SPDX-License-Identifier: Apache-2.0
from compysition import Director
from compysition.actors import STDOUT, Source

director = Director()
greeting = director.setting("greeting", "Hello", doc="what is said")
names = director.setting("names", ["Ada", "Grace"], doc="to whom")
times = director.setting("times", 1, doc="how often each of them hears it")

people = director.register_actor(Source, "people", names * times)
out = director.register_actor(STDOUT, "out", prefix=f"{greeting}, ")
director.connect_queue(people, out)
director.start(until_idle=True)
