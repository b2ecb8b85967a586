import numpy as np
import pytest
from scipy.spatial import ConvexHull

from xmodal.world.meshes import signed_volume
from xmodal.world.models import Ball, Capsule, Hull
from xmodal.world.objects import (
    DEFAULT_OBJECTS,
    OBJECT_NAMES,
    SEEN_OBJECTS,
    UNSEEN_OBJECTS,
    make_object,
)


def inside(solid, point) -> bool:
    match solid:
        case Ball():
            return bool(np.linalg.norm(np.subtract(point, solid.centre)) < solid.radius_m)
        case Capsule():
            start, along = np.array(solid.start), np.subtract(solid.end, solid.start)
            t = np.clip((point - start) @ along / (along @ along), 0, 1)
            return bool(np.linalg.norm(point - start - t * along) < solid.radius_m)
        case Hull():
            hull = ConvexHull(solid.xyz)
            return bool((hull.equations[:, :3] @ point + hull.equations[:, 3] < 0).all())


def hits(model, point) -> bool:
    return any(inside(solid, np.array(point)) for solid in model.solids)


@pytest.mark.parametrize("name", OBJECT_NAMES)
def test_every_object_is_a_sound_textured_shape(name):
    model = make_object(name)
    assert model.name == name
    size = np.ptp(model.xyz(), axis=0)
    assert (size > 0.015).all()
    assert (size < 0.4).all()
    for part in model.parts:
        assert part.texture.dtype == np.uint8
        assert np.isfinite(part.mesh.xyz).all()
        assert part.mesh.faces.max() < len(part.mesh.xyz)
        # Sheets have no inside; everything else must not be inside out.
        assert signed_volume(part.mesh) > -1e-9
    assert signed_volume(model.parts[0].mesh) > 1e-6


@pytest.mark.parametrize("name", OBJECT_NAMES)
def test_solids_stand_where_the_surface_stands(name):
    model = make_object(name)
    corners = []
    for solid in model.solids:
        match solid:
            case Ball():
                corners += [np.array(solid.centre) + s * solid.radius_m for s in (-1, 1)]
            case Capsule():
                ends = (solid.start, solid.end)
                corners += [np.array(e) + s * solid.radius_m for e in ends for s in (-1, 1)]
            case Hull():
                corners += list(solid.xyz)
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    seen = model.xyz()
    # The foot must agree closely, or things float over the table or sink into it.
    assert low[2] == pytest.approx(seen[:, 2].min(), abs=0.004)
    assert (np.abs(low - seen.min(0)) < 0.03).all()
    assert (np.abs(high - seen.max(0)) < 0.045).all()


@pytest.mark.parametrize(
    ("name", "hole", "matter"),
    [
        ("bagel", (0, 0, 0), (0.034, 0, 0)),
        ("coffee mug", (0.062, 0, 0.06), (0.078, 0, 0.058)),
        ("coffee mug", (0, 0, 0.066), (0.0425, 0.0114, 0.066)),
        ("teapot", (-0.085, 0, 0.058), (-0.097, 0, 0.06)),
        ("bucket", (0, 0, 0.08), (0.056, 0.015, 0.08)),
        ("bucket", (0, -0.01, 0.16), (0, -0.024, 0.196)),
    ],
)
def test_holes_and_handles_stay_open_to_collision(name, hole, matter):
    model = make_object(name)
    assert not hits(model, hole)
    assert hits(model, matter)


@pytest.mark.parametrize("name", ["soccer ball", "coffee mug", "table lamp"])
def test_variants_change_paint_and_not_shape(name):
    first, second = make_object(name, 0), make_object(name, 1)
    assert np.array_equal(first.xyz(), second.xyz())
    assert any(
        not np.array_equal(a.texture, b.texture)
        for a, b in zip(first.parts, second.parts, strict=True)
    )


def test_scaling_scales_parts_solids_and_mass():
    model = make_object("coffee mug")
    double = model.scaled(2.0)
    assert double.xyz() == pytest.approx(2 * model.xyz())
    assert double.mass_kg == pytest.approx(8 * model.mass_kg)
    assert hits(double, (0.157, 0, 0.116))
    assert not hits(double, (0.066, 0, 0.12))


def test_splits_are_disjoint_and_cover_everything():
    assert not set(SEEN_OBJECTS) & set(UNSEEN_OBJECTS)
    assert set(SEEN_OBJECTS) | set(UNSEEN_OBJECTS) == set(OBJECT_NAMES)
    assert len(OBJECT_NAMES) == len(set(OBJECT_NAMES)) >= 16
    assert len(DEFAULT_OBJECTS) == 12


def test_an_object_nobody_makes_is_refused():
    with pytest.raises(KeyError, match="unicorn"):
        make_object("unicorn")
