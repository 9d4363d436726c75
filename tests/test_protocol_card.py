"""The card says under which conditions a figure holds, and which figures may be compared."""

import json
from dataclasses import replace

import numpy as np
import pytest

from snn_perception.errors import SnnPerceptionError
from snn_perception.evaluation.card import ProtocolCard, make_card
from snn_perception.evaluation.coco import coco_scores
from snn_perception.evaluation.protocol import PROTOCOLS
from tests.evaluation_support import CLASSES, GEN1, random_results, recording

RESULTS = random_results(3)


def card(results=RESULTS, protocol=PROTOCOLS["gen1"], **changes) -> ProtocolCard:
    options = {"dataset": "gen1", "split": "test", **changes}
    return make_card(results, CLASSES, GEN1, protocol, **options)


def test_a_card_survives_json():
    ours = card(provenance="synthetic-gen1/1")
    again = ProtocolCard.from_dict(json.loads(json.dumps(ours.as_dict(), allow_nan=False)))
    assert again == ours and again.hash == ours.hash and not again.differences(ours)


def test_detections_software_and_names_of_protocols_do_not_matter():
    ours = card()
    other = card([replace(result, score=result.score / 2) for result in reversed(RESULTS)])
    renamed = replace(other, protocol=replace(other.protocol, name="mine", source=""), versions={"numpy": "0"})
    assert renamed.hash == ours.hash and renamed.differences(ours) == ()


def _with_labels_of(result, **columns):
    return replace(result, truth=replace(result.truth, **columns))


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (lambda: card(protocol=PROTOCOLS["toolbox"]), "smallest side in px: 10.0 against 20.0"),
        (lambda: card(protocol=PROTOCOLS["stvgg"]), "how labels and detections meet: tolerance against window"),
        (lambda: card(provenance="synthetic-gen1/1"), "data set: gen1 against synthetic-gen1/1"),
        (lambda: card(dataset="one_mpx"), "data set: gen1 against one_mpx"),
        (lambda: card(split="val"), "split: test against val"),
        (lambda: card(RESULTS[:2]), "recordings: 3 against 2"),
        (lambda: card([replace(RESULTS[0], name="x"), *RESULTS[1:]]), "names of the recordings"),
        (lambda: card([_with_labels_of(RESULTS[0], t_us=RESULTS[0].truth.t_us + 1), *RESULTS[1:]]), "labels (digest)"),
        (lambda: card([_with_labels_of(RESULTS[0], xywh=RESULTS[0].truth.xywh + 1), *RESULTS[1:]]), "labels (digest)"),
        (
            lambda: card([_with_labels_of(RESULTS[0], class_id=1 - RESULTS[0].truth.class_id), *RESULTS[1:]]),
            "labels (digest)",
        ),
        (lambda: card([replace(RESULTS[0], truth=RESULTS[0].truth[1:]), *RESULTS[1:]]), "labels (digest)"),
        (lambda: replace(card(), classes=("pedestrian", "car")), "classes: car, pedestrian against pedestrian, car"),
        (lambda: replace(card(), size="1280x720"), "image size: 304x240 against 1280x720"),
    ],
)
def test_what_changes_the_meaning_changes_the_hash(changed, word):
    ours, other = card(), changed()
    assert ours.hash != other.hash
    differences = ours.differences(other)
    assert any(text.startswith(word) for text in differences), differences


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_label_is_to_be_found_or_ignored_for_one_reason(name):
    protocol = replace(PROTOCOLS[name], skip_us=600_000) if name == "toolbox" else PROTOCOLS[name]
    foreign = recording([(900_000, 10, 10, 60, 60, 9), (900_000, 400, 10, 60, 60, 0), (900_010, 10, 10, 60, 60, 9, 0)])
    results = [*RESULTS, foreign]
    ours = card(results, protocol)
    scores = coco_scores(results, CLASSES, GEN1, protocol)
    assert sum(ours.ignored.values()) + scores.ground_truths == sum(len(result.truth) for result in results)
    assert ours.ignored["class not evaluated"] >= 1
    if protocol.min_side_px:
        assert ours.ignored["a side too short"] > 0
    if name == "stvgg":
        assert ours.ignored["outside the image"] == 1
        assert ours.ignored["replaced by a later label of its track in the window"] == 1
    if name == "toolbox":
        assert ours.ignored["not later than the skipped start"] > 0


def test_label_health_is_summed_over_the_recordings():
    odd = recording([(600_000, -900, 0, 60, 60, 0, 1), (600_000, 10, 10, 60, 60, 5, 2), (700_000, 0, 0, 500, 9, 1, 2)])
    health = card([odd, replace(odd, name="again")]).health
    assert health["boxes"] == 6 and health["frames"] == 4
    assert (health["outside"], health["unknown_class"], health["too_large"]) == (2, 2, 2)
    assert health["per_class"] == {"car": 2, "pedestrian": 2}


def test_a_changed_or_foreign_card_is_refused():
    good = card().as_dict()
    with pytest.raises(SnnPerceptionError, match="a.json: expected a protocol card of format 1, got None"):
        ProtocolCard.from_dict({}, "a.json")
    with pytest.raises(SnnPerceptionError, match="got 'list'"):
        ProtocolCard.from_dict([])
    with pytest.raises(SnnPerceptionError, match="lacks split"):
        ProtocolCard.from_dict({name: value for name, value in good.items() if name != "split"})
    with pytest.raises(SnnPerceptionError, match="states the hash .* changed by hand"):
        ProtocolCard.from_dict({**good, "split": "val"})
    for damage in ({"protocol": {"name": "x", "unknown": 1}}, {"protocol": None}, {"classes": 3}):
        with pytest.raises(SnnPerceptionError, match="damaged"):
            ProtocolCard.from_dict({**good, **damage})


def test_markdown_tells_it_to_people():
    text = card(provenance="synthetic-gen1/1").markdown()
    for words in (
        "never comparable with figures on recorded data",
        "| smallest side in px | 10.0 |",
        "| split | test |",
        "| a side too short |",
        "| of class pedestrian |",
        "pycocotools",
    ):
        assert words in text
    assert all(line.count("|") == 3 for line in text.splitlines() if line.startswith("|"))
    assert "never comparable" not in card().markdown()


def test_an_evaluation_of_nothing_has_a_card():
    empty = card([])
    assert empty.recordings == 0 and np.sum(list(empty.ignored.values())) == 0
    assert "Protocol card" in empty.markdown()
