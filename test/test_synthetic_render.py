"""Pictures of the synthetic world against closed forms and a ray caster of a few lines."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from small_scenes import (
    CAR,
    CLEAR,
    GREY,
    HEIGHT,
    LAMP,
    MANMADE,
    ROAD,
    box,
    camera,
    car,
    first_hits,
    ground,
    materials,
    pixel_of,
    pixel_rays,
    quads,
    scene,
    standing,
    triangles,
)

from occ_perception.data.synthetic.lidar import SceneLidar
from occ_perception.data.synthetic.renderer import SceneRenderer
from occ_perception.data.synthetic.scene import Pattern, Trajectory
from occ_perception.errors import ConfigurationError, InvalidInputError
from occ_perception.geometry import rigid_from_rotation

pytest.importorskip("warp", reason="needs the extra `world`")

HERE = np.eye(4)


def picture(meshes=(), actors=(), view=None, time_s=0.0, pose=HERE, weather=CLEAR, **options):
    return SceneRenderer(scene(meshes, actors, weather), **options).render(view or camera(), pose, time_s)


def ground_depth(view):
    """Closed form for the plane z = 0 under the vehicle; inf at and above the horizon."""
    rays = pixel_rays(view)
    with np.errstate(divide="ignore"):
        return np.where(rays[..., 2] < 0, -HEIGHT / rays[..., 2], np.inf)


@pytest.mark.parametrize("tile", [None, 20.0, 2.0], ids=["two huge triangles", "tiles", "small tiles"])
def test_ground_has_closed_form_depth_up_to_the_borders(tile):
    """Two huge triangles pass under and behind the camera: what crosses the near plane neither vanishes nor bends."""
    image = picture([ground(100.0, tile)])
    expected = ground_depth(camera())
    within = expected < 99  # not beyond the ground's edge
    np.testing.assert_allclose(image.depth[within], expected[within], rtol=1e-4)
    assert (image.class_ids[within] == ROAD).all()
    above = np.isinf(expected)
    assert np.isinf(image.depth[above]).all()
    assert (image.class_ids[above] == 255).all()
    assert (image.instances == 0).all()
    assert within[-1].all()
    assert above[0].all()


def test_wall_passing_the_camera():
    """From 5 m behind to 40 m ahead, 2 m to the left: crosses the near plane and two image borders."""
    image = picture([quads([[[-5, 2, -50], [40, 2, -50], [40, 2, 50], [-5, 2, 50]]], MANMADE)])
    rays = pixel_rays(camera())
    with np.errstate(divide="ignore"):
        expected = np.where(rays[..., 1] > 0, 2 / rays[..., 1], np.inf)
    expected[expected > 40] = np.inf
    np.testing.assert_allclose(image.depth, expected, rtol=1e-4)
    assert 0 < np.isinf(expected).mean() < 1


def test_nothing_nearer_than_five_centimetres_is_drawn():
    """A plate 1 cm below the camera: steep pixels look through its near part."""
    image = picture([quads([[[-1, -1, 1.49], [1, -1, 1.49], [1, 1, 1.49], [-1, 1, 1.49]]], MANMADE)])
    slope = -pixel_rays(camera())[..., 2]
    with np.errstate(divide="ignore"):
        expected = np.where(slope > 0, 0.01 / slope, np.inf)
    hidden = expected < 0.05
    assert hidden.any()
    assert np.isinf(image.depth[hidden]).all()
    shown = (expected > 0.0501) & (expected < 0.5)
    np.testing.assert_allclose(image.depth[shown], expected[shown], rtol=1e-3)


def test_box_covers_exactly_the_pixels_whose_middles_it_covers():
    image = picture([box((12, 0.3, 1.4), (4, 3, 2), MANMADE)])
    rays = pixel_rays(camera())
    at_front = rays * 10  # the front face is 10 m ahead
    inside = (np.abs(at_front[..., 1] - 0.3) < 1.5) & (np.abs(at_front[..., 2] + HEIGHT - 1.4) < 1)
    np.testing.assert_array_equal(image.class_ids == MANMADE, inside)
    np.testing.assert_allclose(image.depth[inside], 10, rtol=1e-5)


def test_nearer_surfaces_hide_farther_ones_in_any_order():
    near, far = box((10, 0, 1), (1, 1, 1), CAR), box((20, 0, 1), (1, 8, 8), MANMADE)
    first, second = picture([near, far, ground()]), picture([ground(), far, near])
    np.testing.assert_array_equal(first.depth, second.depth)
    np.testing.assert_array_equal(first.class_ids, second.class_ids)
    row, column = pixel_of(camera(), (9.5, 0, 1))
    assert first.class_ids[row, column] == CAR
    row, column = pixel_of(camera(), (19.5, 2, 1))
    assert first.class_ids[row, column] == MANMADE


def test_random_triangles_as_a_ray_caster_sees_them():
    """Many cross the near plane or lie behind the camera."""
    rng = np.random.default_rng(1)
    middles = rng.uniform((-10, -15, -6), (40, 15, 8), (300, 1, 3))
    corners = (middles + rng.normal(0, 2.5, (300, 3, 3))).astype(np.float32)
    view = camera()
    image = picture([triangles(corners, CAR)], view=view)
    rays = pixel_rays(view).reshape(-1, 3)[::3]
    depth, _ = first_hits(np.tile([0.0, 0.0, HEIGHT], (len(rays), 1)), rays, corners)
    drawn = image.depth.reshape(-1)[::3]
    with np.errstate(invalid="ignore"):
        agree = (np.abs(drawn / depth - 1) < 1e-3) | (np.isinf(drawn) & np.isinf(depth))
    assert agree.mean() > 0.998  # rounding decides at the triangles' edges
    assert 0.3 < np.isfinite(depth).mean() < 1


def test_a_tessellated_wall_has_no_cracks():
    rng = np.random.default_rng(2)
    steps = np.arange(-30, 31) * 0.4
    y, z = np.meshgrid(steps, steps, indexing="ij")
    points = np.stack([np.full_like(y, 8.0), y, z], -1) + rng.uniform(-0.15, 0.15, (*y.shape, 3))
    cells = np.stack([points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]], 2).reshape(-1, 4, 3)
    image = picture([quads(cells, MANMADE)], view=camera(704, 256))
    assert (image.class_ids == MANMADE).all()
    assert image.depth.max() < 8.5


def test_large_and_small_images_agree():
    """Triangles of more than 4096 pixels are shared between threads; the same scene at 1/4 has none of these."""
    static = [ground(), box((12, 2, 2), (3, 3, 4)), box((9, -2, 1), (2, 1, 2), CAR)]
    large = picture(static, view=camera(880, 320))
    small = picture(static, view=camera(176, 64))
    np.testing.assert_array_equal(large.class_ids[2::5, 2::5], small.class_ids)
    known = np.isfinite(small.depth)
    np.testing.assert_allclose(large.depth[2::5, 2::5][known], small.depth[known], rtol=1e-4)


def test_every_camera_sees_an_actor_where_it_is_at_the_cameras_time():
    path = Trajectory(np.array([0.0, 1.0]), np.array([[15.0, -6.0, 0.0], [15.0, 6.0, 0.0]]), np.full(2, np.pi / 2))
    renderer = SceneRenderer(scene([ground()], [car(300, path), car(301, standing(18, 0))]))
    times = {"early": 0.2, "middle": 0.5, "late": 0.75}
    view = camera()
    images = renderer.render_rig(dict.fromkeys(times, view), dict.fromkeys(times, HERE), times)
    for name, time_s in times.items():
        seen = images[name].instances == 300
        assert (images[name].class_ids[seen] == CAR).all()
        _, columns = np.nonzero(seen & (images[name].depth < 14.01))  # the side towards us, 14 m away
        left, right = (view.width / 2 - view.intrinsics[0, 0] * (12 * time_s - 6 + half) / 14 for half in (2, -2))
        assert abs(columns.min() - left) <= 1
        assert abs(columns.max() + 1 - right) <= 1
    assert (images["early"].instances == 301).any()


def test_the_vehicles_pose_and_the_cameras_mounting_count():
    pose = rigid_from_rotation(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), [100, 50, 0])  # looks along +y
    image = picture([box((100, 62, 1), (2, 2, 2)), box((90, 50, 1), (2, 2, 2), CAR)], pose=pose)
    row, column = pixel_of(camera(), (11, 0, 1))
    assert image.class_ids[row, column] == MANMADE
    np.testing.assert_allclose(image.depth[row, column], 11, rtol=1e-4)
    left = picture(
        [box((100, 62, 1), (2, 2, 2)), box((90, 50, 1), (2, 2, 2), CAR)], pose=pose, view=camera(yaw=np.pi / 2)
    )
    assert left.class_ids[row, left.depth.shape[1] // 2] == CAR


def test_cameras_of_different_sizes_in_one_rig():
    views = {"large": camera(176, 64), "small": camera(88, 40), "back": camera(120, 50, yaw=np.pi)}
    renderer = SceneRenderer(scene([ground(), box((12, 2, 2), (3, 3, 4)), box((-9, 0, 1), (1, 1, 1), CAR)]))
    images = renderer.render_rig(views, dict.fromkeys(views, HERE), dict.fromkeys(views, 0.0))
    for name, view in views.items():
        alone = renderer.render(view, HERE, 0.0)
        for field in ("rgb", "depth", "class_ids", "instances"):
            np.testing.assert_array_equal(getattr(images[name], field), getattr(alone, field))
        assert alone.rgb.shape == (view.height, view.width, 3)
    assert (images["back"].class_ids == CAR).any()


def test_a_shadow_lies_where_the_sun_casts_it():
    """A 2 m plate 6 m up, the sun at 45 degrees from behind: its shadow is 6 m further ahead."""
    sun = (-np.sqrt(0.5), 0.0, np.sqrt(0.5))
    weather = dataclasses.replace(CLEAR, sun_direction=sun)
    plate = quads([[[7, -1, 6], [9, -1, 6], [9, 1, 6], [7, 1, 6]]], MANMADE)
    with_plate, without = picture([ground(), plate], weather=weather), picture([ground()], weather=weather)
    dark, light = pixel_of(camera(), (14, 0, 0)), pixel_of(camera(), (14, 2.5, 0))
    assert with_plate.rgb[dark].mean() < 0.75 * without.rgb[dark].mean()
    np.testing.assert_array_equal(with_plate.rgb[light], without.rgb[light])
    overcast = dataclasses.replace(weather, sun_color=(0, 0, 0))
    cloudy, bare = picture([ground(), plate], weather=overcast), picture([ground()], weather=overcast)
    np.testing.assert_array_equal(cloudy.rgb[dark], bare.rgb[dark])
    below, beside = pixel_of(camera(), (8, 0, 0)), pixel_of(camera(), (8, 2.2, 0))
    assert cloudy.rgb[below].mean() < 0.95 * bare.rgb[below].mean()
    np.testing.assert_array_equal(cloudy.rgb[beside], bare.rgb[beside])


def test_a_surface_does_not_shade_itself():
    weather = dataclasses.replace(CLEAR, sun_direction=(-0.5, 0.3, 0.4))
    wall = box((20, 0, 5), (1, 30, 10))
    image = picture([ground(), wall], weather=weather)
    sunlit = image.rgb[image.class_ids == MANMADE].astype(float).mean(1)
    assert sunlit.std() < 6  # ambient light falls off a little towards the ground
    assert sunlit.min() > 0.85 * sunlit.max()


def test_fog_whitens_with_distance():
    fog = dataclasses.replace(CLEAR, fog_density=0.03)
    static = [ground(), *(box((x, y, 1), (1, 1.5, 2)) for x, y in ((8, 2), (20, 0), (45, -6)))]
    foggy, clear = picture(static, weather=fog), picture(static)
    pixels = [pixel_of(camera(), point) for point in ((7.5, 2, 1), (19.5, 0, 1), (44.5, -6, 1))]
    differences = [abs(float(foggy.rgb[p].mean()) - float(clear.rgb[p].mean())) for p in pixels]
    assert differences[0] < differences[1] < differences[2]
    sky = foggy.rgb[0].mean()
    left = [abs(float(foggy.rgb[p].mean()) - sky) for p in pixels]
    assert left[0] > left[1] > left[2]


def test_night_is_dark_but_for_lamps_and_headlights():
    night = dataclasses.replace(
        CLEAR, sun_color=(0.01,) * 3, ambient_color=(0.02,) * 3, sky_color=(0.0,) * 3, horizon_color=(0.01,) * 3
    )
    static = [ground(), box((15, -3, 3), (0.5, 0.5, 0.5), material=LAMP), box((15, 3, 3), (0.5, 0.5, 0.5))]
    day, dark = picture(static), picture(static, weather=night)
    assert dark.rgb.mean() < 0.35 * day.rgb.mean()
    lamp, same_without_light = pixel_of(camera(), (14.75, -3, 3)), pixel_of(camera(), (14.75, 3, 3))
    assert dark.rgb[lamp].min() > 200
    assert dark.rgb[same_without_light].max() < 80
    lit = picture(static, weather=dataclasses.replace(night, headlights=True))
    ahead, aside = pixel_of(camera(), (12, 0, 0)), pixel_of(camera(), (12, 7, 0))
    assert lit.rgb[ahead].mean() > 1.5 * dark.rgb[ahead].mean()
    assert lit.rgb[ahead].mean() > 1.5 * lit.rgb[aside].mean()


def test_wet_ground_is_darker_than_dry():
    below = {"view": camera()}
    dry, wet = (picture([ground()], weather=dataclasses.replace(CLEAR, wetness=w), **below) for w in (0.0, 1.0))
    assert wet.rgb[-8:].mean() < 0.95 * dry.rgb[-8:].mean()


@pytest.mark.parametrize("pattern", [p for p in Pattern if p is not Pattern.PLAIN])
def test_patterns_show_both_colours_near_and_their_mean_far_away(pattern):
    table = materials()
    table.pattern[GREY], table.scale[GREY] = pattern, 0.5
    table.second_color[GREY] = (0.05, 0.05, 0.4)
    near, far = box((6, 0, 1.5), (1, 20, 20)), box((1000, 0, 1.5), (1, 5000, 5000))
    pictures = []
    for static in (near, far):
        # STRIPES run along x: seen on a face that contains x.
        mesh = ground(5000.0) if pattern is Pattern.STRIPES else static
        world = dataclasses.replace(scene([mesh]), materials=table)
        pictures.append(SceneRenderer(world).render(camera(), HERE, 0.0))
    rows = slice(-10, None) if pattern is Pattern.STRIPES else slice(None)
    blueness = pictures[0].rgb[rows].astype(float)[..., 2] - pictures[0].rgb[rows].astype(float)[..., 0]
    assert np.ptp(blueness) > 25
    distant = pictures[1].rgb[33:34] if pattern is Pattern.STRIPES else pictures[1].rgb
    assert distant.astype(float).std(axis=1).max() < 4  # along a row; vignetting alone makes 3


def test_equal_scenes_give_equal_bytes_and_noise_is_new_at_every_time():
    noisy = dataclasses.replace(CLEAR, noise=0.03, cloudiness=0.6, wetness=0.5)
    static, actors = [ground(), box((12, 2, 2), (3, 3, 4))], [car(5, standing(9, -2))]
    first, again = (picture(static, actors, weather=noisy, time_s=0.5) for _ in range(2))
    assert first.rgb.tobytes() == again.rgb.tobytes()
    assert first.depth.tobytes() == again.depth.tobytes()
    later = picture(static, actors, weather=noisy, time_s=0.6)
    difference = later.rgb.astype(float) - first.rgb
    assert 0.02 * 255 < difference.std() < 0.06 * 255  # two independent noises of 0.03
    assert abs(difference.mean()) < 0.5


def test_supersampling_smooths_colours_and_leaves_the_truth():
    static = [ground(), box((12, 2, 2), (3, 3, 4), CAR, LAMP)]
    plain, fine = picture(static), picture(static, supersampling=2)
    np.testing.assert_array_equal(plain.depth, fine.depth)
    np.testing.assert_array_equal(plain.class_ids, fine.class_ids)
    edge = np.zeros_like(plain.class_ids, bool)
    edge[:, 1:] = np.diff(plain.class_ids.astype(int), axis=1) != 0
    difference = np.abs(plain.rgb.astype(int) - fine.rgb).max(-1)
    assert difference[edge].max() > 20
    interior = (plain.class_ids == ROAD) & (ground_depth(camera()) < 8)
    assert difference[interior].max() <= 1


def test_an_empty_scene_is_sky():
    image = picture(weather=dataclasses.replace(CLEAR, cloudiness=1.0))
    assert (image.class_ids == 255).all()
    assert np.isinf(image.depth).all()
    assert image.rgb.std() > 1  # brighter at the horizon
    assert SceneRenderer(scene()).render_rig({}, {}, {}) == {}


def test_bad_input_is_named():
    with pytest.raises(ConfigurationError, match="supersampling"):
        SceneRenderer(scene(), supersampling=0)
    with pytest.raises(ConfigurationError, match="device 'tpu'"):
        SceneRenderer(scene(), device="tpu")
    with pytest.raises(InvalidInputError, match="material 9"):
        SceneRenderer(scene([box((0, 0, 0), (1, 1, 1), material=9)]))
    with pytest.raises(InvalidInputError, match="direction to the sun"):
        SceneRenderer(scene(weather=dataclasses.replace(CLEAR, sun_direction=(0.0, 0.0, 0.0))))
    renderer = SceneRenderer(scene())
    with pytest.raises(InvalidInputError, match="front"):
        renderer.render_rig({"front": camera()}, {}, {"front": 0.0})
    with pytest.raises(InvalidInputError, match="finite times"):
        renderer.render(camera(), HERE, np.nan)
    with pytest.raises(InvalidInputError, match="world_from_ego"):
        renderer.render(camera(), np.eye(3), 0.0)


def test_without_warp_the_modules_import_and_the_classes_say_what_to_install(monkeypatch):
    script = (
        "import sys; from occ_perception.data.synthetic import lidar, renderer, shading, rasteriser; "
        "assert 'warp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    monkeypatch.setitem(sys.modules, "warp", None)
    for build in (lambda: SceneRenderer(scene()), lambda: SceneLidar(scene(), np.eye(4))):
        with pytest.raises(ConfigurationError, match=r"pip install occ_perception\[world\]"):
            build()
