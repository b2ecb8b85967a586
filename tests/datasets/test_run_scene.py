"""Scenes as run files name them: label sets, and clouds without pictures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from xmodal.config.runfile import load_run
from xmodal.datasets import open_scene
from xmodal.errors import ConfigError, DataError
from xmodal.ply import write_points
from xmodal.runs.settings import open_run_scene
from xmodal.values import Points

LABELS_ONLY = """
name: from_labels
graph:
  name: from_labels
  nodes:
    cloud:   {kind: points}
    labels:  {kind: labels}
    truth:   {kind: points, channels: 2, on: cloud}
    student: {kind: points, channels: 2, on: cloud}
  encode:
    cloud -> student: {op: sparse_unet, size: tiny, voxel_m: 0.1, inputs: [rgb]}
  lift:
    labels, cloud -> truth: {op: one_hot, names: [chair, sofa]}
  distill:
    truth -> student: {op: kl}
data: {scene: SCENE, label_set: scannet20}
"""


@pytest.fixture
def cloud(tmp_path):
    """Points with the names of another data set, and no picture."""
    root = tmp_path / "cloud"
    root.mkdir()
    xyz = torch.rand(20, 3)
    points = Points(xyz=xyz, offsets=torch.tensor([0, 20]), rgb=torch.rand(20, 3))
    write_points(root / "points.ply", points)
    np.save(root / "labels.npy", np.arange(20) % 4 - 1)
    (root / "classes.json").write_text(json.dumps(["chair", "unicorn", "sofa"]))
    return root


@pytest.fixture
def run_file(tmp_path, cloud):
    path = tmp_path / "run.yaml"
    path.write_text(LABELS_ONLY.replace("SCENE", str(cloud)))
    return path


def test_a_run_without_views_takes_a_cloud_with_its_label_set(run_file):
    scene = open_run_scene(load_run(run_file))
    assert len(scene.images) == 0
    labels = scene.labels()
    assert len(labels.classes) == 20
    assert labels.ids.tolist() == [-1, 4, -1, 5] * 5


def test_the_label_set_is_part_of_the_run_file_and_of_the_fingerprint(run_file, tmp_path):
    spec = load_run(run_file)
    again = tmp_path / "again.yaml"
    again.write_text(spec.to_yaml())
    assert load_run(again).data.label_set == "scannet20"
    other = replace(spec, data=replace(spec.data, label_set=None))
    assert open_run_scene(other).fingerprint != open_run_scene(spec).fingerprint
    assert open_run_scene(other).labels().classes == ("chair", "unicorn", "sofa")


def test_an_unknown_label_set_is_a_config_error(run_file, four_parts):
    run_file.write_text(run_file.read_text().replace("scannet20", "scannet21"))
    with pytest.raises(ConfigError, match="label_set") as caught:
        load_run(run_file)
    four_parts(caught.value, 4)


def test_instances_beside_own_points(cloud):
    np.save(cloud / "instances.npy", np.arange(20) - 2)
    found = open_scene(cloud, need=["points"]).instances()
    assert found.tolist() == [-1, -1, *range(18)]


def test_instances_of_another_cloud_are_refused(cloud, four_parts):
    np.save(cloud / "instances.npy", np.arange(19))
    with pytest.raises(DataError, match="20 labels, one per point") as caught:
        open_scene(cloud, need=["points"]).instances()
    four_parts(caught.value)


def test_an_empty_cloud_without_pictures_is_refused(cloud, four_parts):
    none = Points(xyz=torch.zeros(0, 3), offsets=torch.tensor([0, 0]))
    write_points(cloud / "points.ply", none)
    with pytest.raises(DataError, match="at least one finite point") as caught:
        open_scene(cloud, need=["points"]).cloud()
    four_parts(caught.value)


def test_neither_pictures_nor_points_is_no_scene(tmp_path, four_parts):
    with pytest.raises(DataError, match="an empty folder") as caught:
        open_scene(tmp_path, need=["points"])
    four_parts(caught.value)


def test_pictures_are_made_smaller_as_the_run_file_says(scene_folder, run_file):
    spec = load_run(run_file)
    data = replace(spec.data, scene=str(scene_folder), max_side_px=32, label_set=None)
    image = open_run_scene(replace(spec, data=data)).images[0]
    assert image.rgb.shape == (3, 24, 32)
    assert image.camera.hw == (24, 32)
