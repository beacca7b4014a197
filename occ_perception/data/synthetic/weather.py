"""Light and air: day, overcast, dusk, night, fog and rain."""

from __future__ import annotations

import numpy as np

from occ_perception.data.synthetic.scene import Weather

KINDS = ("day", "overcast", "dusk", "night", "fog", "rain")
_SHARES = (0.6, 0.08, 0.07, 0.15, 0.05, 0.05)

Triple = tuple[float, float, float]


def make_weather(rng: np.random.Generator) -> tuple[str, Weather]:
    """A kind of `KINDS` drawn by its share, and its weather."""
    kind = KINDS[int(rng.choice(len(KINDS), p=_SHARES))]
    return kind, weather_of(kind, rng)


def weather_of(kind: str, rng: np.random.Generator) -> Weather:
    """A random weather of one kind."""
    makers = {"day": _day, "overcast": _overcast, "dusk": _dusk, "night": _night, "fog": _fog, "rain": _rain}
    return makers[kind](rng)


def _triple(color: np.ndarray | tuple[float, ...], strength: float = 1.0) -> Triple:
    red, green, blue = (float(value) * strength for value in color)
    return red, green, blue


def _direction(rng: np.random.Generator, low_degrees: float, high_degrees: float) -> Triple:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(low_degrees, high_degrees))
    return _triple((np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)))


def _day(rng: np.random.Generator) -> Weather:
    return Weather(
        sun_direction=_direction(rng, 20, 70),
        sun_color=_triple((1.0, rng.uniform(0.88, 0.97), rng.uniform(0.75, 0.92)), rng.uniform(1.2, 2.4)),
        ambient_color=_triple((0.75, 0.88, 1.05), rng.uniform(0.3, 0.6)),
        sky_color=_triple((0.22, 0.42, 0.85), rng.uniform(0.6, 1.1)),
        horizon_color=_triple((0.7, 0.82, 0.95), rng.uniform(0.8, 1.2)),
        cloudiness=rng.uniform(0, 0.8),
        exposure=rng.uniform(0.6, 1.0),
        noise=rng.uniform(0.003, 0.015),
    )


def _overcast(rng: np.random.Generator) -> Weather:
    grey = rng.uniform(0.6, 0.95)
    return Weather(
        sun_direction=_direction(rng, 40, 80),
        sun_color=_triple((1, 1, 1), rng.uniform(0.05, 0.3)),
        ambient_color=_triple((0.95, 1.0, 1.05), rng.uniform(0.6, 1.0)),
        sky_color=_triple((0.95, 1.0, 1.05), grey),
        horizon_color=_triple((1.0, 1.0, 1.0), grey * rng.uniform(0.9, 1.2)),
        cloudiness=rng.uniform(0.3, 1.0),
        exposure=rng.uniform(0.7, 1.1),
        noise=rng.uniform(0.005, 0.02),
        wetness=rng.uniform(0, 0.3),
    )


def _dusk(rng: np.random.Generator) -> Weather:
    return Weather(
        sun_direction=_direction(rng, 3, 15),
        sun_color=_triple((1.0, rng.uniform(0.5, 0.75), rng.uniform(0.25, 0.5)), rng.uniform(0.5, 1.4)),
        ambient_color=_triple((0.7, 0.75, 1.0), rng.uniform(0.15, 0.35)),
        sky_color=_triple((0.2, 0.3, 0.6), rng.uniform(0.4, 0.9)),
        horizon_color=_triple((1.0, rng.uniform(0.5, 0.8), rng.uniform(0.3, 0.6)), rng.uniform(0.5, 1.0)),
        cloudiness=rng.uniform(0, 0.8),
        exposure=rng.uniform(0.9, 1.4),
        noise=rng.uniform(0.008, 0.025),
    )


def _night(rng: np.random.Generator) -> Weather:
    glow = rng.uniform(0.01, 0.05)
    return Weather(
        sun_direction=_direction(rng, 30, 80),
        sun_color=_triple((0.8, 0.9, 1.0), rng.uniform(0.005, 0.04)),
        ambient_color=_triple((1.0, 0.85, 0.65), rng.uniform(0.06, 0.16)),
        sky_color=_triple((0.5, 0.6, 1.0), glow * 0.4),
        horizon_color=_triple((1.0, 0.8, 0.6), glow),
        cloudiness=rng.uniform(0, 0.5),
        headlights=True,
        exposure=rng.uniform(1.2, 2.5),
        noise=rng.uniform(0.015, 0.04),
        wetness=rng.uniform(0, 0.9) if rng.random() < 0.2 else 0.0,
    )


def _fog(rng: np.random.Generator) -> Weather:
    grey = rng.uniform(0.5, 0.9)
    return Weather(
        sun_direction=_direction(rng, 20, 70),
        sun_color=_triple((1, 1, 1), rng.uniform(0.0, 0.15)),
        ambient_color=_triple((1, 1, 1), rng.uniform(0.5, 0.9)),
        sky_color=_triple((1, 1, 1), grey),
        horizon_color=_triple((1, 1, 1), grey),
        cloudiness=0.1,
        fog_density=rng.uniform(0.008, 0.03),
        exposure=rng.uniform(0.7, 1.1),
        noise=rng.uniform(0.005, 0.02),
        wetness=rng.uniform(0.1, 0.5),
    )


def _rain(rng: np.random.Generator) -> Weather:
    grey = rng.uniform(0.35, 0.7)
    return Weather(
        sun_direction=_direction(rng, 40, 80),
        sun_color=_triple((1, 1, 1), rng.uniform(0.0, 0.1)),
        ambient_color=_triple((0.92, 1.0, 1.08), rng.uniform(0.4, 0.7)),
        sky_color=_triple((0.9, 1.0, 1.1), grey),
        horizon_color=_triple((0.95, 1.0, 1.05), grey),
        cloudiness=rng.uniform(0.4, 1.0),
        fog_density=rng.uniform(0.002, 0.008),
        exposure=rng.uniform(0.8, 1.3),
        noise=rng.uniform(0.01, 0.03),
        wetness=rng.uniform(0.6, 1.0),
    )
