# SPDX-License-Identifier: Apache-2.0
import sys

from compysition import Actor, Director, Event
from compysition.actors import EventLogger, FileLogger, Source
from compysition.errors import UnprocessableError


class Square(Actor):
    def consume(self, event: Event) -> None:
        if not event.data.isdigit():
            raise UnprocessableError(f"{event.data!r} is no number")
        event.data = int(event.data) ** 2
        self.send_event(event)


director = Director()
path = director.setting("path", "squares.txt", doc="where the squares are written")
numbers = director.register_actor(Source, "numbers", ["1", "2", "three", "4"])
square = director.register_actor(Square, "square")
squares = director.register_actor(FileLogger, "squares", path, sync="stop")
director.register_error_actor(EventLogger, "refused", level="warning")
director.connect_queue(numbers, square)
director.connect_queue(square, squares)

report = director.start(until_idle=True)
if report is not None:
    print(f"{report.reason}; exit code {report.exit_code}")
    sys.exit(report.exit_code)
