import sys

import numpy as np
import pytest

from snn_perception.errors import SnnPerceptionError
from snn_perception.runtime.render import THEMES, default_scale, draw_events, draw_window
from snn_perception.runtime.video import VideoWriter, check_video, count_distinct_frames
from snn_perception.types import Detections, EventArray, EventWindow, SensorSize
from tests.runtime_support import file_size_limit, random_windows

SIZE = SensorSize(height=60, width=80)
CLASSES = ("car", "pedestrian")
NOTHING = Detections.empty(50_000)


def window_at(*rows, size=SIZE):
    """Return a window of events (x, y, p)."""
    x, y, p = (np.array([row[k] for row in rows], np.int64) for k in range(3))
    t = np.arange(len(rows), dtype=np.int64)
    return EventWindow(EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t, size), 0, 50_000)


def boxes(*xyxy, classes=None):
    count = len(xyxy)
    ids = np.zeros(count, np.int64) if classes is None else np.array(classes)
    return Detections(np.array(xyxy, np.float32), np.linspace(0.9, 0.5, count, dtype=np.float32), ids, 50_000)


def header_px(picture, size=SIZE, scale=8):
    return picture.shape[0] - size.height * scale


def luminance(colour):
    """Return the relative luminance of an sRGB colour (WCAG 2)."""
    c = np.asarray(colour, float) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_each_event_shows_at_its_pixel_in_the_hue_of_its_polarity(theme):
    colours = THEMES[theme]
    picture = draw_events(window_at((3, 4, 1), (70, 50, 0)).events, colours)
    assert picture.shape == (60, 80, 3) and picture.dtype == np.uint8
    lit = np.argwhere((picture != colours.background).any(axis=-1)).tolist()
    assert lit == [[4, 3], [50, 70]]
    on, off = picture[4, 3].astype(int), picture[50, 70].astype(int)
    assert on[2] > on[0] and off[0] > off[2], "ON is blue, OFF is orange"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("p", [0, 1])
def test_more_events_stand_out_more_and_the_first_already_does(theme, p):
    background = THEMES[theme].background
    shades = [draw_events(window_at(*[(1, 1, p)] * n).events, THEMES[theme])[1, 1] for n in (1, 2, 3, 4, 50)]
    ratios = [contrast(shade, background) for shade in shades]
    assert ratios[0] > 1.5
    assert ratios == sorted(ratios) and ratios[0] < ratios[1] < ratios[3] == ratios[4]
    assert ratios[3] > 3


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_boxes_are_legible(theme):
    colours = THEMES[theme]
    assert contrast(colours.text, colours.band) > 7
    for colour in colours.classes:
        assert contrast(colour, colours.background) > 4.5


def test_events_are_enlarged_below_a_header():
    picture = draw_window(window_at((3, 4, 1)), NOTHING, CLASSES, scale=5)
    header = header_px(picture, scale=5)
    assert picture.shape[1] == 400 and header >= 20
    block = picture[header + 20 : header + 25, 15:20]
    assert (block == block[0, 0]).all() and (block[0, 0] != THEMES["dark"].background).any()
    around = picture[header + 19 : header + 26, 14:21].copy()
    around[1:-1, 1:-1] = THEMES["dark"].background
    assert (around == THEMES["dark"].background).all()


@pytest.mark.parametrize(("width", "scale"), [(64, 9), (304, 2), (346, 2), (640, 1), (1280, 1)])
def test_small_sensors_are_enlarged(width, scale):
    assert default_scale(width) == scale
    picture = draw_window(window_at(size=SensorSize(20, width)), NOTHING, CLASSES)
    assert picture.shape[1] == width * scale


def test_the_header_tells_what_the_window_holds():
    plain = draw_window(window_at((3, 4, 1)), NOTHING, CLASSES, number=7)
    header = header_px(plain)
    for other in (
        draw_window(window_at((3, 4, 1)), NOTHING, CLASSES, number=8),
        draw_window(window_at((3, 4, 1), (3, 4, 1)), NOTHING, CLASSES, number=7),
        draw_window(EventWindow(window_at((3, 4, 1)).events, 0, 51_000), NOTHING, CLASSES, number=7),
        draw_window(EventWindow(window_at((3, 4, 1)).events, 0, 50_000, lossy=True), NOTHING, CLASSES, number=7),
        draw_window(window_at((3, 4, 1)), boxes([10, 10, 20, 20]), CLASSES, number=7),
    ):
        assert (plain[:header] != other[:header]).any()


def test_a_note_stands_below_the_picture():
    plain = draw_window(window_at((3, 4, 1)), NOTHING, CLASSES)
    noted = draw_window(window_at((3, 4, 1)), NOTHING, CLASSES, note="untrained")
    np.testing.assert_array_equal(noted[: len(plain)], plain)
    footer = noted[len(plain) :]
    assert len(footer) >= 20 and (footer != THEMES["dark"].band).any()


def test_a_box_is_drawn_where_it_is_in_the_colour_of_its_class():
    found = boxes([10, 20, 40, 50], [50, 30, 70, 55], classes=[0, 1])
    picture = draw_window(window_at(), found, CLASSES, scale=8)
    header = header_px(picture)
    for (x1, y1, x2, y2), class_id in zip(found.xyxy.astype(int) * 8, (0, 1), strict=True):
        colour = THEMES["dark"].classes[class_id]
        for x, y in ((x1, (y1 + y2) // 2), (x2, (y1 + y2) // 2), ((x1 + x2) // 2, y2), ((x1 + x2) // 2, y1)):
            assert tuple(picture[header + y, x]) == colour, (x, y)
        inside = picture[header + y1 + 8 : header + y2 - 8, x1 + 8 : x2 - 8]
        assert (inside == THEMES["dark"].background).all(), "a box is an outline"


def test_a_label_names_class_and_score():
    one = draw_window(window_at(), boxes([20, 30, 60, 50], classes=[0]), CLASSES)
    header = header_px(one)
    label = one[header + 30 * 8 - 12, 20 * 8 + 1 : 20 * 8 + 60]
    assert (label == THEMES["dark"].classes[0]).all(axis=-1).any(), "the label has the class's colour"
    other_class = draw_window(window_at(), boxes([20, 30, 60, 50], classes=[0]), ("bus", "pedestrian"))
    other_score = draw_window(
        window_at(), Detections(np.array([[20, 30, 60, 50]], np.float32), np.float32([0.1]), np.array([0])), CLASSES
    )
    for other in (other_class, other_score):
        assert (one[header:] != other[header:]).any()


@pytest.mark.parametrize(
    "xyxy",
    [
        [0, 0, 80, 60],
        [-500, -500, 500, 500],
        [79, 59, 80, 60],
        [0, 0, 1, 1],
        [70, 0, 80, 5],
        [30, 30, 30, 30],
        [50, 50, 10, 10],
        [np.inf, -np.inf, np.inf, np.nan],
        [1e30, 1e30, 2e30, 2e30],
    ],
)
def test_any_box_leaves_its_mark_inside_the_picture(xyxy):
    picture = draw_window(window_at((3, 4, 1)), boxes(xyxy, classes=[1]), CLASSES, note="note")
    clean = draw_window(window_at((3, 4, 1)), NOTHING, CLASSES, note="note")
    assert picture.shape == clean.shape
    footer = picture.shape[0] - 23
    header = clean.shape[0] - 60 * 8 - 23
    assert (picture[header:footer] != clean[header:footer]).any()
    np.testing.assert_array_equal(picture[footer:], clean[footer:])


def test_a_class_without_a_name_shows_its_number():
    named = draw_window(window_at(), boxes([20, 30, 60, 50], classes=[5]), ("a", "b", "c", "d", "e", "class 5"))
    np.testing.assert_array_equal(draw_window(window_at(), boxes([20, 30, 60, 50], classes=[5]), CLASSES), named)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="dark, light"):
        draw_window(window_at(), NOTHING, CLASSES, theme="pink")
    with pytest.raises(ValueError, match="scale"):
        draw_window(window_at(), NOTHING, CLASSES, scale=0)


def test_without_pillow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SnnPerceptionError, match="pip install pillow"):
        draw_window(window_at(), NOTHING, CLASSES)


av = pytest.importorskip("av", reason="PyAV is not installed")


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def pictures(count):
    windows = random_windows(count, SIZE, per_window=300)
    return [draw_window(window, NOTHING, CLASSES, number=i, scale=2) for i, window in enumerate(windows)]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".MP4"])
def test_a_video_shows_every_frame_in_order(suffix, tmp_path):
    path, drawn = tmp_path / f"v{suffix}", pictures(12)
    with VideoWriter(path, fps=20) as video:
        for picture in drawn:
            video.write(picture)
        assert not path.exists(), "it appears only when it is complete"
    shown = frames_of(path)
    assert len(shown) == video.frames == 12
    for picture, frame in zip(drawn, shown, strict=True):
        height, width = picture.shape[:2]
        difference = np.abs(frame[:height, :width].astype(int) - picture).mean()
        assert difference == 0 if suffix == ".gif" else difference < 8
    assert count_distinct_frames(path) == 12
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 20


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_still_video_has_one_distinct_frame(suffix, tmp_path):
    path, (picture,) = tmp_path / f"still{suffix}", pictures(1)
    with VideoWriter(path, fps=20) as video:
        for _ in range(40):
            video.write(picture)
    assert len(frames_of(path)) == 40
    assert count_distinct_frames(path) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_odd_sizes_are_padded_and_other_sizes_fitted(suffix, tmp_path):
    path = tmp_path / f"odd{suffix}"
    frames = [np.full(shape, 200, np.uint8) for shape in ((41, 63, 3), (20, 100, 3), (90, 30, 3))]
    with VideoWriter(path, fps=10) as video:
        for frame in frames:
            video.write(frame)
    shown = frames_of(path)
    assert {frame.shape for frame in shown} == {(42, 64, 3)}
    assert all(abs(frame.astype(int) - 200).max() < 12 for frame in shown)


def test_a_gif_of_many_colours_is_reduced(tmp_path):
    y, x = np.mgrid[:64, :64]
    frame = np.stack([4 * x, 4 * y, 2 * (x + y)], axis=-1).astype(np.uint8)
    with VideoWriter(tmp_path / "v.gif", fps=10) as video:
        video.write(frame)
    (shown,) = frames_of(tmp_path / "v.gif")
    assert np.abs(shown.astype(int) - frame).mean() < 12


def test_a_gif_plays_no_faster_than_viewers_do(tmp_path):
    with VideoWriter(tmp_path / "v.gif", fps=1000) as video:
        video.write(np.zeros((10, 10, 3), np.uint8))
    assert video.fps == 50


def test_without_h264_the_video_is_mpeg4(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4", "gif"})
    with VideoWriter(tmp_path / "v.mp4", fps=20) as video:
        for picture in pictures(3):
            video.write(picture)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert count_distinct_frames(tmp_path / "v.mp4") == 3


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_an_error_leaves_the_older_file_and_nothing_else(suffix, tmp_path):
    path = tmp_path / f"v{suffix}"
    path.write_bytes(b"older")
    with pytest.raises(ZeroDivisionError), VideoWriter(path, fps=20) as video:
        video.write(pictures(1)[0])
        raise ZeroDivisionError
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_full_disk_leaves_nothing(suffix, tmp_path):
    rng = np.random.default_rng(0)
    with (
        pytest.raises(SnnPerceptionError, match="cannot be written"),
        file_size_limit(20_000),
        VideoWriter(tmp_path / f"v{suffix}", fps=20) as video,
    ):
        for _ in range(60):
            video.write(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_frames_is_not_written(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", fps=20):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_told_before_the_work(tmp_path):
    with pytest.raises(SnnPerceptionError, match=r"a video ends in .mp4 or .gif, got '.avi'"):
        check_video(tmp_path / "v.avi")
    with pytest.raises(SnnPerceptionError, match="does not exist"):
        VideoWriter(tmp_path / "none" / "v.mp4", fps=20)
    (tmp_path / "v.mp4").mkdir()
    with pytest.raises(SnnPerceptionError, match="is a folder"):
        check_video(tmp_path / "v.mp4")
    with pytest.raises(ValueError, match="fps"):
        VideoWriter(tmp_path / "w.mp4", fps=0)


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SnnPerceptionError, match="pip install"):
        VideoWriter(tmp_path / "v.mp4", fps=20)


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"no video at all" * 100)
    for path in (tmp_path / "v.mp4", tmp_path / "none.mp4"):
        with pytest.raises(SnnPerceptionError, match="cannot be read as a video"):
            count_distinct_frames(path)
