"""What is seen between two sightings, and how a track moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hh_train.metrics.faces.track import FaceTrack, NoFaceError, require_face, track_from_sightings

BOX = (0.2, 0.2, 0.6, 0.6)


def test_short_gaps_are_bridged_and_long_ones_are_not() -> None:
    track = track_from_sightings({0: BOX, 10: BOX, 40: BOX}, num_frames=60)
    seen = track.is_seen.nonzero()[:, 0].tolist()
    assert seen == [*range(11), *range(40, 47)]
    assert track.coverage == pytest.approx(18 / 60)


def test_a_sighting_is_seen_for_a_moment_before_and_after() -> None:
    track = track_from_sightings({20: BOX}, num_frames=60)
    assert track.is_seen.nonzero()[:, 0].tolist() == list(range(14, 27))
    assert torch.allclose(track.boxes, torch.tensor(BOX).repeat(60, 1))


def test_boxes_move_with_the_sightings_and_outliers_are_dropped() -> None:
    moving = {frame: (0.01 * frame, 0.2, 0.01 * frame + 0.4, 0.6) for frame in range(0, 41, 4)}
    straight = track_from_sightings(moving, num_frames=41)
    assert torch.allclose(straight.boxes[8:33, 0], 0.01 * torch.arange(8, 33), atol=1e-4)
    outlier = {**moving, 20: (0.9, 0.9, 1.0, 1.0)}
    assert float((track_from_sightings(outlier, num_frames=41).boxes - straight.boxes).abs().max()) < 0.05


def test_landmarks_are_interpolated() -> None:
    points = {frame: np.full((468, 2), frame / 10, np.float32) for frame in (0, 4)}
    track = track_from_sightings({0: BOX, 4: BOX}, num_frames=5, landmarks=points)
    assert track.landmarks is not None and track.landmarks.shape == (5, 468, 2)
    assert torch.allclose(track.landmarks[:, 7, 1], torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]))


def test_a_measure_needs_half_of_the_clip() -> None:
    def seen_in(count: int) -> FaceTrack:
        return FaceTrack(boxes=torch.tensor(BOX).repeat(10, 1), is_seen=torch.arange(10) < count)

    assert require_face(seen_in(5)).coverage == 0.5
    with pytest.raises(NoFaceError, match="a face was found in 40% of the frames"):
        require_face(seen_in(4))
    with pytest.raises(NoFaceError, match="no face was found"):
        require_face(None)
    with pytest.raises(ValueError, match="got no sighting"):
        track_from_sightings({}, num_frames=3)
