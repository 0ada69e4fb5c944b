# SPDX-License-Identifier: Apache-2.0
"""MajorDomo without actors: 7/MDP (version 0.1), 18/MDP (0.2), 8/MMI, and what our own peers add.

Reading path, each file only on those before it: `frames` (what stands on the wire), `envelope` and `hello` (what our
peers add to it), `buckets` and `recently` (time and memory, bounded), `service` (requests, workers, the queue of one
service), `mmi`, `broker`. Then `window`, `worker` and `pool` are the worker's side, `link` and `client` the client's.

All of these are machines without any I/O or clock of their own: frames and times come in as arguments, what has to be
done stands in lists for the caller. They know bytes and `compysition.errors`, nothing else, and the tests hold that.

A rule's source stands where it is kept: "7/MDP, Heartbeating" is a section of both RFCs (18/MDP has the same titles),
"8/MMI", and "ours" is a decision of this project.
"""
