"""Where the files beside the Python code are (config/, launch/, msg/): in the checkout or an installation's share/."""

from __future__ import annotations

from pathlib import Path

from occ_perception.errors import ConfigurationError

_PACKAGE = Path(__file__).absolute().parent


def share_path(relative: str) -> Path:
    """A file or folder of this package, for example ``config/fastdds.xml``.

    Raises:
        ConfigurationError: it is in none of the places, which the message lists.
    """
    checkout = _PACKAGE.parent
    # An installation has <prefix>/lib/python3.X/site-packages/occ_perception and <prefix>/share/occ_perception.
    places = [parent / "share" / _PACKAGE.name / relative for parent in _PACKAGE.parents]
    if (checkout / "package.xml").is_file():
        places = [checkout / relative]
    for place in places:
        if place.exists():
            return place
    raise ConfigurationError(f"'{relative}' of {_PACKAGE.name} is in none of {[str(p) for p in places]}")
