"""The sqlite3 storage of ROS 2 bags: tables ``topics`` and ``messages``, read without writing anything beside them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.events.bag_storage import MAX_MESSAGE_BYTES, BagStorage, StoredMessage

MAGIC = b"SQLite format 3\0"
MAX_TOPICS = 10_000
# A damaged or hostile tree of pages can lead in circles. Honest work is bounded by the file: a row takes some 20 steps
# of sqlite's machine and at least 20 bytes.
_STEPS_AT_LEAST, _STEPS_PER_BYTE, _STEPS_PER_CALL = 20_000_000, 4, 100_000
_LENGTH_AT_LEAST = 1 << 20
# Python fails to decode sqlite's own message where a damaged name is part of it. Damaged lengths can ask for more
# memory than there is.
_ERRORS = (sqlite3.Error, OverflowError, UnicodeDecodeError, MemoryError)


class SqliteStorage(BagStorage):
    """A ``.db3`` file. Raises EventDataError if it is no database or lacks the two tables."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._bytes = path.stat().st_size
        try:
            with closing(self._connect()) as database:
                self._check_tables(database)
                rows = database.execute("SELECT name, type FROM topics").fetchmany(MAX_TOPICS)
        except _ERRORS as error:
            raise self._damaged(error) from error
        self.topics = {str(name): str(kind) for name, kind in rows}
        stated_bytes = _stated_bytes(path)
        if self._bytes < stated_bytes:  # sqlite may read zeros there
            self.note(f"is cut off: {self._bytes} of {stated_bytes} bytes; messages may be missing")
        for suffix in ("-wal", "-journal"):
            beside = path.with_name(path.name + suffix)
            if beside.exists() and beside.stat().st_size:
                self.note(f"{beside.name} beside it holds changes that are not read; open the file once with sqlite3")

    def messages(self, topic: str) -> Iterator[StoredMessage]:
        """Yield a topic's messages by log time, damaged rows left out with a note.

        Raises:
            EventDataError: if the file is damaged before its first message.
        """
        yielded = yielded_bytes = 0
        try:
            with closing(self._connect()) as database:
                first, last = self._time_span(database)
                for log_time, data in self._rows(database, topic):
                    if not isinstance(log_time, int) or not isinstance(data, bytes):
                        self.note("rows without a time, without data or too long, left out")
                        continue
                    yielded_bytes += len(data)
                    if yielded_bytes > self._bytes:
                        raise sqlite3.DatabaseError("its messages are longer than the file")
                    self.fraction = (log_time - first) / max(last - first, 1)
                    yield StoredMessage(log_time, data)
                    yielded += 1
        except _ERRORS as error:
            if not yielded:
                raise self._damaged(error) from error
            self.note(f"damaged after {yielded} messages ({error}); the rest is lost")
        self.fraction = 1.0

    def _connect(self) -> sqlite3.Connection:
        # immutable: sqlite takes no locks and makes no files, so that read-only media work.
        uri = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"
        database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        if hasattr(database, "setlimit"):  # Python 3.11
            longest = min(MAX_MESSAGE_BYTES, max(self._bytes, _LENGTH_AT_LEAST))  # a row lies in the file
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)
        steps_left = (_STEPS_AT_LEAST + _STEPS_PER_BYTE * self._bytes) // _STEPS_PER_CALL

        def out_of_steps() -> bool:
            nonlocal steps_left
            steps_left -= 1
            return steps_left < 0

        database.set_progress_handler(out_of_steps, _STEPS_PER_CALL)
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
        return database

    def _check_tables(self, database: sqlite3.Connection) -> None:
        """Refuse views in place of tables: a view can hold any computation."""
        found = dict(database.execute("SELECT name, type FROM sqlite_master WHERE name IN ('topics', 'messages')"))
        if found != {"topics": "table", "messages": "table"}:
            raise EventDataError(
                f"{self.path}: expected a bag with the tables 'topics' and 'messages', got another sqlite database"
            )

    @staticmethod
    def _time_span(database: sqlite3.Connection) -> tuple[int, int]:
        ends = [database.execute(f"SELECT {end}(timestamp) FROM messages").fetchone()[0] for end in ("min", "max")]
        return (ends[0], ends[1]) if all(isinstance(end, int) for end in ends) else (0, 0)

    @staticmethod
    def _rows(database: sqlite3.Connection, topic: str) -> Iterator[tuple[object, object]]:
        """Yield (timestamp, data) by time; data beyond the bound is None.

        Data is fetched one by one, so that a sort never holds it.
        """
        fetch = (
            f"SELECT timestamp, CASE WHEN length(data) <= {MAX_MESSAGE_BYTES} THEN data END FROM messages WHERE id = ?"
        )
        ids = database.execute(
            "SELECT id FROM messages WHERE topic_id IN (SELECT id FROM topics WHERE name = ?) ORDER BY timestamp, id",
            (topic,),
        )
        for row in ids:
            yield from database.execute(fetch, row)

    def _damaged(self, error: Exception) -> EventDataError:
        reason = str(error) or "its lengths are damaged"
        return EventDataError(
            f"{self.path}: expected the sqlite3 storage of a bag, but it cannot be read ({reason}); copy it again, "
            "or recover it with 'sqlite3 FILE .recover'"
        )


def _stated_bytes(path: Path) -> int:
    """Return how long a database is by its header, 0 where that does not say (SQLite file format, section 1.3)."""
    with path.open("rb") as file:
        head = file.read(100)
    if len(head) < 100 or head[24:28] != head[92:96]:  # changed since by a program that does not note the length
        return 0
    page_bytes = int.from_bytes(head[16:18], "big")
    return int.from_bytes(head[28:32], "big") * (1 << 16 if page_bytes == 1 else page_bytes)
