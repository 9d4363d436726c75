"""Pictures to a video file, ``.mp4`` or ``.gif``, and back for a check that it shows what it should."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.errors import SnnPerceptionError
from snn_perception.types import U8
from snn_perception.whole_file import check_writable, whole_file

SUFFIXES = (".mp4", ".gif")
MAX_GIF_FPS = 50  # viewers slow down a GIF that asks for more
_COMPRESSION_LEVELS = 96  # grey levels that a pixel may change by through compression alone; text changes by 200


class VideoWriter:
    """Writes frames to ``.mp4`` (H.264, or MPEG-4 where that encoder is missing) or ``.gif``, in a ``with`` block.

    The first frame decides the size. The file appears when the block ends without an error and a frame was written;
    otherwise nothing is left behind, and an older file stays.

    Args:
        path: the suffix decides the format.
        fps: frames per second; a GIF plays at most 50.

    Raises:
        SnnPerceptionError: for another suffix, a folder that is not writable, or without PyAV.
    """

    def __init__(self, path: str | Path, fps: float | Fraction) -> None:
        self.path = Path(path)
        check_video(self.path)
        self.is_gif = self.path.suffix.lower() == ".gif"
        rate = min(fps, MAX_GIF_FPS) if self.is_gif else fps
        self.fps = Fraction(rate).limit_denominator(1000)
        if self.fps <= 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.frames = 0
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        self._stack = ExitStack()
        return self

    def write(self, frame: U8) -> None:
        """Add a frame, uint8 RGB [H, W, 3]; one of another size than the first is cut or padded, right and bottom.

        Raises:
            SnnPerceptionError: if the encoder or the disk refuses it.
        """
        if self._stream is None:
            self._guarded(self._start, frame.shape[1] + frame.shape[1] % 2, frame.shape[0] + frame.shape[0] % 2)
        self._guarded(self._encode, _fit(frame, self._stream.width, self._stream.height))
        self.frames += 1

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self._stack.__exit__(kind, *rest)

    def _start(self, width: int, height: int) -> None:
        """Open the file beside its final name. Encoders of H.264 and MPEG-4 want even sizes."""
        av = _av()
        self._container = av.open(str(self._stack.enter_context(whole_file(self.path))), "w")
        self._stack.push(self._finish)
        codec = "gif" if self.is_gif else "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}, "gif": {}}[codec]
        self._stream = self._container.add_stream(codec, rate=self.fps, options=options)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "pal8" if self.is_gif else "yuv420p"

    def _encode(self, frame: U8) -> None:
        picture = _av().VideoFrame.from_ndarray(
            _indexed(frame) if self.is_gif else frame, format="pal8" if self.is_gif else "rgb24"
        )
        picture.pts = self.frames
        picture.time_base = 1 / self.fps
        self._mux(picture)

    def _finish(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Close the container, complete if all went well; `whole_file` then renames or removes the file."""
        try:
            if kind is None:
                self._guarded(self._mux, None)
        finally:
            self._guarded(self._container.close)

    def _mux(self, picture: Any) -> None:
        for packet in self._stream.encode(picture):  # None asks for what the encoder still holds
            self._container.mux(packet)

    def _guarded(self, action: Any, *arguments: Any) -> None:
        """Run `action`; what FFmpeg or the system refuses becomes our error."""
        try:
            action(*arguments)
        except (OSError, ValueError) as error:  # FFmpegError is one or both
            raise SnnPerceptionError(f"{self.path}: the video cannot be written: {error}") from error


def check_video(path: str | Path) -> None:
    """Raise SnnPerceptionError unless a video can be made at `path`: suffix, folder, encoder; for before long work."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise SnnPerceptionError(f"{path}: a video ends in {' or '.join(SUFFIXES)}, got {path.suffix or 'no suffix'!r}")
    check_writable(path)
    _av()


def count_distinct_frames(path: str | Path) -> int:
    """Return how many frames of a video differ visibly from the frame before them, the first one included.

    Raises:
        SnnPerceptionError: if the file is no readable video, or without PyAV.
    """
    av = _av()
    distinct, earlier = 0, None
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                grey = frame.to_ndarray(format="gray").astype(np.int16)
                if earlier is None or np.abs(grey - earlier).max() > _COMPRESSION_LEVELS:
                    distinct += 1
                earlier = grey
    except (OSError, ValueError, IndexError) as error:
        raise SnnPerceptionError(f"{path}: cannot be read as a video: {error}") from error
    return distinct


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise SnnPerceptionError("videos need PyAV: pip install 'snn_perception[video]' or pip install av") from error
    return av


def _fit(frame: U8, width: int, height: int) -> U8:
    """Return the frame cut or padded to the size, its last row and column repeated."""
    frame = frame[:height, :width]
    missing = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
    return np.ascontiguousarray(np.pad(frame, missing, mode="edge"))


def _indexed(frame: U8) -> tuple[U8, U8]:
    """Return palette indices [H, W] and the palette [256, 4] (alpha, red, green, blue), exact up to 256 colours."""
    from PIL import Image

    palette = np.full((256, 4), 255, np.uint8)
    image = Image.fromarray(frame)
    if image.getcolors(256) is None:  # more than that
        image = image.quantize(256, dither=Image.Dither.NONE)
        rgb = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        palette[: len(rgb), 1:] = rgb
        return np.asarray(image, np.uint8), palette
    packed = frame.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, index = np.unique(packed, return_inverse=True)
    palette[: len(colours), 1:] = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1)
    return index.reshape(packed.shape).astype(np.uint8), palette
