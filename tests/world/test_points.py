import numpy as np
import pytest
from scipy.spatial import cKDTree

from xmodal.world import textures as tx
from xmodal.world.meshes import panel, sphere
from xmodal.world.models import Part
from xmodal.world.points import sample_parts, thin
from xmodal.world.sensor import noisy_depth


def test_thinning_leaves_no_close_pair_and_no_gap():
    random = np.random.default_rng(0)
    xyz = random.random((3000, 3))
    keep = thin(xyz, 0.1, random)
    distance = cKDTree(xyz[keep]).query(xyz[keep], k=2)[0][:, 1]
    assert distance.min() > 0.1
    assert cKDTree(xyz[keep]).query(xyz[~keep])[0].max() <= 0.1


def test_thinning_nothing_and_one_point():
    random = np.random.default_rng(0)
    assert thin(np.zeros((0, 3)), 0.1, random).shape == (0,)
    assert thin(np.zeros((1, 3)), 0.1, random).tolist() == [True]


def test_samples_lie_on_the_surface_and_cover_it():
    part = Part(mesh=sphere(0.1), texture=tx.plain((0, 0, 0)))
    xyz, normals = sample_parts([part], spacing_m=0.01, random=np.random.default_rng(1))
    radius = np.linalg.norm(xyz, axis=1)
    assert radius.max() <= 0.1 + 1e-9
    assert radius.min() > 0.0997
    assert np.einsum("ij,ij->i", normals, xyz / radius[:, None]).min() > 0.99
    # A disc of radius s / 2 around each point: what falls at random without
    # overlap covers at most 0.547 of the area (random sequential adsorption).
    packed = len(xyz) * np.pi * 0.005**2 / (4 * np.pi * 0.1**2)
    assert 0.4 < packed < 0.6


def test_samples_of_two_parts_are_thinned_together():
    one = Part(
        mesh=panel((0, 0, 0), (0.2, 0, 0), (0, 0.2, 0), step_m=0.1), texture=tx.plain((0,) * 3)
    )
    alone = sample_parts([one], spacing_m=0.01, random=np.random.default_rng(2))[0]
    twice = sample_parts([one, one], spacing_m=0.01, random=np.random.default_rng(2))[0]
    assert len(twice) == pytest.approx(len(alone), rel=0.25)


def test_sensor_noise_grows_with_distance_and_keeps_missing_readings():
    random = np.random.default_rng(3)
    depth_m = np.full((80, 80), 1.0)
    depth_m[:, 40:] = 3.0
    depth_m[:5] = 0
    noisy = noisy_depth(depth_m, 500.0, random)
    near, far = noisy[10:, :35] - 1, noisy[10:, 45:] - 3
    assert near.std() == pytest.approx(0.0012 + 0.0019 * 0.6**2, rel=0.1)
    assert far.std() == pytest.approx(0.0012 + 0.0019 * 2.6**2, rel=0.1)
    assert (noisy[:4] == 0).all()
    assert (noisy[10:, 39:41] == 0).mean() > 0.2


def test_grazing_surfaces_give_no_reading():
    rows = np.repeat(np.linspace(1, 9, 60)[:, None], 60, axis=1)
    assert (noisy_depth(rows, 600.0, np.random.default_rng(4)) == 0).mean() > 0.9
