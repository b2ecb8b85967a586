import numpy as np
import pytest

from xmodal.world.meshes import (
    box,
    join,
    lathe,
    panel,
    rotation_about,
    signed_volume,
    sphere,
    spline,
    torus,
    tube,
    two_sided,
)


def test_cylinder_has_the_volume_of_its_polygon():
    mesh = lathe([(1e-9, 0), (2, 0), (2, 3), (1e-9, 3)], sides=64)
    assert signed_volume(mesh) == pytest.approx(64 / 2 * 4 * np.sin(2 * np.pi / 64) * 3, rel=1e-6)


def test_sphere_torus_tube_and_box_are_the_right_way_out():
    path = spline([(0, 0, 0), (0, 0, 1)], 30)
    assert signed_volume(sphere(1.0)) == pytest.approx(4 / 3 * np.pi, rel=0.01)
    assert signed_volume(torus(1.0, 0.25)) == pytest.approx(2 * np.pi**2 * 0.25**2, rel=0.02)
    assert signed_volume(tube(path, 0.1, sides=64)) == pytest.approx(2 / 3 * np.pi * 0.01, rel=0.01)
    assert signed_volume(box((1, 2, 3), centre=(5, 6, 7))) == pytest.approx(6)


def test_box_faces_point_away_from_its_centre():
    mesh = box((1, 2, 3), centre=(5, 6, 7), step_m=0.5)
    assert (np.einsum("ij,ij->i", mesh.normals, mesh.xyz - [5, 6, 7]) > 0).all()
    assert mesh.xyz.min(0) == pytest.approx([4.5, 5, 5.5])
    assert mesh.xyz.max(0) == pytest.approx([5.5, 7, 8.5])


def test_sphere_normals_point_outward_even_at_seam_and_poles():
    mesh = sphere(2.0, rows=24, columns=48)
    used = np.unique(mesh.faces)
    assert np.linalg.norm(mesh.normals[used], axis=1) == pytest.approx(np.ones(len(used)))
    assert (np.einsum("ij,ij->i", mesh.normals, mesh.xyz / 2)[used] > 0.99).all()


def test_panel_normal_is_along_cross_across_and_texture_repeats_by_metre():
    mesh = panel((0, 0, 1), (2, 0, 0), (0, 3, 0), step_m=0.5, tile_m=0.5)
    assert mesh.normals == pytest.approx(np.tile([0.0, 0.0, 1.0], (len(mesh.xyz), 1)))
    assert mesh.uv.max(0) == pytest.approx([4, 6])


def test_flat_edges_stay_sharp():
    prism = lathe([(1e-9, 0), (1, 0), (1, 1), (1e-9, 1)], sides=6, flat=True)
    corners = prism.xyz[prism.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    assert prism.normals[prism.faces[:, 0]] == pytest.approx(normal)


def test_spline_keeps_its_ends_and_is_even():
    curve = spline([(0, 0), (1, 0), (1, 1)], 50)
    assert curve[0] == pytest.approx([0, 0])
    assert curve[-1] == pytest.approx([1, 1])
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    assert steps.max() < 1.5 * steps.mean()


def test_join_and_two_sided_keep_every_triangle():
    mesh = sphere(1.0, rows=8, columns=8)
    both = join([mesh, mesh.moved(offset=(3, 0, 0))])
    assert signed_volume(both) == pytest.approx(2 * signed_volume(mesh))
    assert signed_volume(two_sided(mesh)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("axis", "before", "after"),
    [("x", (0, 1, 0), (0, 0, 1)), ("y", (0, 0, 1), (1, 0, 0)), ("z", (1, 0, 0), (0, 1, 0))],
)
def test_rotation_is_right_handed(axis, before, after):
    assert rotation_about(axis, np.pi / 2) @ before == pytest.approx(np.array(after, float))


def test_an_unknown_axis_is_refused():
    with pytest.raises(KeyError):
        rotation_about("w", 1.0)
