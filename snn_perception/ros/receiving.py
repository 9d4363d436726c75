"""Takes the messages of one subscription in a thread of its own, as they are on the wire.

The node's executor asks every entity of the node about every message, in Python: half a millisecond of CPU for each at
a thousand per second, during which nobody else has Python's lock (docs/benchmarks/node.md). Here the middleware waits,
in C, for one subscription, and what has come by then is taken in one go. A camera that waits for room in its queue
holds up nobody else either.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.subscription import Subscription

REST_S = 0.005
LAST_S = 0.1  # at the end, for what has come and is not taken yet; a sender that goes on must not keep it from ending
LOOK_NS = 500_000_000  # how soon the end of the context is seen; the end of the receiver is at once
log = logging.getLogger(__name__)


class OwnThread(CallbackGroup):
    """Keeps a subscription and its QoS events out of the executor: those, too, would wake it with every message."""

    def can_execute(self, entity: Any) -> bool:
        """Return that the executor is not to look after an entity."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Return that the executor may not run an entity's callback."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Note nothing: callbacks of this group do not exclude each other."""


class Receiver:
    """Hands over the messages of a subscription, which is in the group `OwnThread`, in their order, and calls what is
    to be called at its QoS events.

    Args:
        node: of the subscription.
        take: called in the receiver's thread with a message (bytes of a raw subscription) and the time at which the
            middleware had it, in nanoseconds since 1970 (0: not known). What it raises is logged; the next one comes.
        rests: asked each time that something has come; when true, more is let come for `REST_S` before it is taken.
        give_way: called before each message is taken; may wait. has_taken: called when all is taken that has come.
    """

    def __init__(
        self,
        node: Node,
        subscription: Subscription,
        take: Callable[[Any, int], None],
        rests: Callable[[], bool] = lambda: False,
        give_way: Callable[[], None] = lambda: None,
        has_taken: Callable[[], None] = lambda: None,
    ) -> None:
        self._context: Any = node.context  # its handle is there as long as a node is
        self._subscription, self._take = subscription, take
        self._rests, self._give_way, self._has_taken = rests, give_way, has_taken
        self._ends = False
        self._wake = GuardCondition(None, None, context=self._context)
        self._thread = threading.Thread(target=self._run, name=f"receive {subscription.topic_name}", daemon=True)

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End after what has come by now (`LAST_S` at most); return whether it has ended within `timeout_s`."""
        self._ends = True
        if self._thread.is_alive():
            self._wake.trigger()
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with ExitStack() as held:  # the middleware's part of nothing that is waited for goes meanwhile
                parts = (self._context.handle, self._wake.handle, self._subscription.handle)
                for part in (*parts, *self._subscription.event_handlers):
                    held.enter_context(part)
                self._receive()
        except _rclpy.InvalidHandle:
            log.debug("'%s' was destroyed before it was received from", self._subscription.topic_name)
        except _rclpy.RCLError:
            if self._context.ok() and not self._ends:
                log.exception("nothing more is received from '%s'", self._subscription.topic_name)

    def _receive(self) -> None:
        handle, events = self._subscription.handle, self._subscription.event_handlers
        ready = _rclpy.WaitSet(1, 1, 0, 0, 0, len(events), self._context.handle)
        with ready:
            while not self._ends and self._context.ok():
                ready.clear_entities()  # a wait takes out what is not ready
                ready.add_subscription(handle)
                ready.add_guard_condition(self._wake.handle)
                for event in events:
                    event.add_to_wait_set(ready)
                ready.wait(LOOK_NS)
                for event in events:
                    if event.is_ready(ready):
                        self._guarded(event.callback, event.take_data())
                if self._rests():
                    time.sleep(REST_S)
                self._take_while(lambda: not self._ends)
        until_s = time.monotonic() + LAST_S
        self._take_while(lambda: time.monotonic() < until_s and self._context.ok())

    def _take_while(self, goes_on: Callable[[], bool]) -> None:
        """Hand over what has come."""
        more = True
        while more and goes_on():
            if not self._ends:
                self._give_way()
            more = self._take_next()
        self._has_taken()

    def _take_next(self) -> bool:
        """Hand over a message; return whether there was one."""
        found = self._next()
        if found is not None:
            self._guarded(self._take, found[0], found[1].get("received_timestamp", 0))
        return found is not None

    def _next(self) -> Any:
        """Return a message that has come with what is known of it; None if there is none, or none that can be read."""
        message_type: Any = self._subscription.msg_type
        try:
            return self._subscription.handle.take_message(message_type, self._subscription.raw)
        except _rclpy.RCLError:
            log.exception("a message of '%s' cannot be read", self._subscription.topic_name)
            return None

    def _guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception:  # one message must not end a camera
            log.exception("a message of '%s' is left out", self._subscription.topic_name)
