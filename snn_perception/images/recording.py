"""Recordings of images: an image topic of a ROS 2 bag, or a folder of image files."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from snn_perception.data.images import read_image
from snn_perception.errors import EventDataError
from snn_perception.events.bag_files import BagFiles, is_bag, shown
from snn_perception.events.bag_messages import MESSAGE_TYPES
from snn_perception.events.bag_storage import StoredMessage
from snn_perception.images.messages import IMAGE, parse_image
from snn_perception.images.stream import ImageStream
from snn_perception.types import ImageWindow, RawImage

log = logging.getLogger(__name__)

DEFAULT_FPS = 30.0
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageRecording(ABC):
    """Images, read front to back any number of times.

    Attributes:
        path, format: where it is and what it is (``rosbag2``, ``image folder``).
        topic: of a bag; empty otherwise.
        first: the first image, whose numbers may be impossible.
    """

    path: Path
    format: str
    topic: str = ""
    first: RawImage

    @abstractmethod
    def images(self) -> Iterator[RawImage]:
        """Yield the images in order. Raises EventDataError where none can be read."""

    @abstractmethod
    def progress(self) -> tuple[int, int]:
        """Return (done, total) of the pass under way, in any unit."""


class ImageBag(ImageRecording):
    """The messages of one image topic in a bag.

    Args:
        topic: which; needed where several hold images.

    Raises:
        EventDataError: if there is no such bag, no or more than one image topic, or no readable message on it.
    """

    format = "rosbag2"

    def __init__(self, path: str | Path, *, topic: str | None = None) -> None:
        self.path = Path(path)
        self._bag = BagFiles(self.path)
        self.topic, _ = self._bag.choose_topic(topic, ((IMAGE,),), "images")
        first = next(self.images(), None)
        if first is None:
            raise EventDataError(f"{self.path}: topic '{shown(self.topic)}' holds no images; was the camera running?")
        self.first = first

    def images(self) -> Iterator[RawImage]:
        """Yield the topic's images by log time; messages that are none are left out, with a note in the log."""
        return self._bag.read(self.topic, parse_image)

    def listen(self, listener: Callable[[StoredMessage], None] | None) -> None:
        """Let `listener` have every message that `images` yields, as it was recorded; None ends that."""
        self._bag.listener = listener

    def progress(self) -> tuple[int, int]:
        """Return bytes done and bytes in all."""
        return self._bag.progress()


class ImageFolder(ImageRecording):
    """The image files of a folder, in the order of their names (``frame10`` after ``frame9``), at a steady rate.

    The first is taken at one period, so that its window begins at 0 where the model's windows are one period long.

    Args:
        fps: images per second.

    Raises:
        EventDataError: if the folder holds no images, or for a rate that is not positive.
    """

    format = "image folder"

    def __init__(self, path: str | Path, *, fps: float = DEFAULT_FPS) -> None:
        self.path = Path(path)
        if not 0 < fps <= 1e6:
            raise EventDataError(f"{self.path}: images per second must lie above 0 and up to a million, got {fps}")
        self._period_ns = 1e9 / fps
        self._files = _image_files(self.path)
        if not self._files:
            raise EventDataError(f"{self.path}: expected image files ({', '.join(SUFFIXES)}), found none")
        self._done = 0
        self.first = next(self.images())

    def images(self) -> Iterator[RawImage]:
        """Yield the images; a file that is damaged is left out, with a line in the log, and leaves its time empty."""
        failed: EventDataError | None = None
        read = 0
        for number in range(len(self._files)):
            self._done = number
            try:
                image = self._image(number)
            except EventDataError as error:
                if failed is None:
                    log.warning("%s; left out", error)
                failed = error
                continue
            read += 1
            yield image
        if not read and failed is not None:
            raise EventDataError(f"{self.path}: none of {len(self._files)} images can be read: {failed}")

    def progress(self) -> tuple[int, int]:
        """Return files done and files in all."""
        return self._done, len(self._files)

    def _image(self, number: int) -> RawImage:
        pixels = read_image(self._files[number])
        height, width = pixels.shape[:2]
        flat = np.ascontiguousarray(pixels).reshape(-1)
        return RawImage(flat, "rgb8", height, width, 3 * width, round((number + 1) * self._period_ns))


class ImageSource:
    """The windows of an image recording, in order, and how many images could not be used.

    Args:
        window_us: length of a window.
        start_us, stop_us: leave out the images before, and from there on.

    Attributes:
        stream: what makes the windows, and its counts.
    """

    def __init__(
        self, recording: ImageRecording, window_us: int, *, start_us: int | None = None, stop_us: int | None = None
    ) -> None:
        self.recording = recording
        self.stream = ImageStream(window_us, topic=recording.topic or str(recording.path))
        self._start_us, self._stop_us = start_us, stop_us

    def __iter__(self) -> Iterator[ImageWindow]:
        """Yield the window of every image; one that cannot be read is counted and passed over, as the node does."""
        last_error: EventDataError | None = None
        for raw in self.recording.images():
            try:
                window = self.stream.push(raw)
            except EventDataError as error:
                if self.stream.bad_images == 1:
                    log.warning("%s: an image cannot be read: %s", self.recording.path, error)
                last_error = error
                continue
            if self._stop_us is not None and window.t_end_us >= self._stop_us:
                return
            if self._start_us is None or window.t_end_us >= self._start_us:
                yield window
        if last_error is not None and not self.stream.images:
            raise EventDataError(f"{self.recording.path}: no image can be read: {last_error}")


def open_images(path: str | Path, *, topic: str | None = None, fps: float = DEFAULT_FPS) -> ImageRecording:
    """Return the images at `path`: of a topic of a ROS 2 bag, or of a folder of files.

    Args:
        topic: of a bag. fps: images per second of a folder.

    Raises:
        EventDataError: if it does not exist, holds no images, or several topics of them.
    """
    path = Path(path)
    if not path.exists():
        raise EventDataError(f"{path}: no such file or folder")
    if is_bag(path):
        return ImageBag(path, topic=topic)
    if path.is_dir() and _image_files(path):
        if topic is not None:
            raise EventDataError(f"{path}: is a folder of image files, which have no topic; leave the topic out")
        return ImageFolder(path, fps=fps)
    raise EventDataError(f"{path}: expected images: a ROS 2 bag with a {IMAGE} topic, or a folder of image files")


def holds_images(path: Path, topic: str | None = None) -> bool:
    """Return whether what is to be read at `path` is images: the named topic, or all there is beside no events."""
    if not is_bag(path):
        return path.is_dir() and bool(_image_files(path))
    kinds = BagFiles(path).topics()
    if topic is not None:
        return kinds.get(topic) == IMAGE
    return IMAGE in kinds.values() and not set(kinds.values()) & set(MESSAGE_TYPES)


def _image_files(folder: Path) -> list[Path]:
    """Return a folder's image files in order of their names, numbers by their value."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()]
    return sorted(files, key=lambda file: [(int(n or 0), text) for n, text in re.findall(r"(\d*)(\D*)", file.name)])
