"""The few named exceptions of the project.

Every message says what was expected, what came, and where.  Nodes turn these into diagnostics and keep
running; anything else that escapes is a bug.
"""


class OccPerceptionError(Exception):
    """Base of every error that bad input can cause."""


class InvalidInputError(OccPerceptionError, ValueError):
    """An array, image, point cloud or calibration has the wrong shape, type or values."""


class ConfigurationError(OccPerceptionError, ValueError):
    """A parameter name or value is not valid; the message lists what is."""


class WeightsError(OccPerceptionError):
    """A checkpoint cannot be loaded into this model; the message lists the keys that differ."""


class DatasetError(OccPerceptionError):
    """A dataset or bag is missing, incomplete or damaged."""


class NumericsError(OccPerceptionError, ArithmeticError):
    """A network stage produced NaN or infinity; the message names the stage."""


class OutOfResourcesError(OccPerceptionError):
    """Memory or disk space ran out; the message says which setting to lower."""


class TransformError(OccPerceptionError, LookupError):
    """A transform cannot be given; see the subclasses for why."""


class UnknownFrameError(TransformError):
    """A frame name was never seen in the tree."""


class NoPathError(TransformError):
    """Both frames exist but no chain of edges joins them."""


class BeforeFirstError(TransformError):
    """The stamp is older than the first transform kept on an edge."""


class AfterLastError(TransformError):
    """The stamp is newer than the last transform received on an edge."""


class TransformGapError(TransformError):
    """Transforms on an edge are too far apart around the stamp to interpolate between them."""
