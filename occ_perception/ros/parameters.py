"""ROS parameters from the one dataclass: declared with their defaults, refused by name and type, fixed once running."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterAlreadyDeclaredException
from rclpy.node import Node
from rclpy.parameter import Parameter

from occ_perception.parameters import Parameters

logger = logging.getLogger(__name__)

_OF_ROS = ("use_sim_time", "start_type_description_service")
_OF_ROS_PREFIX = "qos_overrides."


def read_parameters(node: Node) -> Parameters:
    """The node's parameters, checked; those not set are declared with their defaults, so that they can be looked up.

    Args:
        node: made with ``automatically_declare_parameters_from_overrides=True``.

    Raises:
        ConfigurationError: unknown name (the message lists the valid ones), wrong type or value.
    """
    given = {
        name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items() if not _of_ros(name)
    }
    parameters = Parameters.from_mapping(given)
    for name, value in _as_ros(parameters).items():
        try:
            node.declare_parameter(name, value, ParameterDescriptor(dynamic_typing=True, description=_doc(name)))
        except ParameterAlreadyDeclaredException:
            logger.debug("%s was given", name)
    node.add_on_set_parameters_callback(_refuse_changes)
    return parameters


def _as_ros(parameters: Parameters) -> dict[str, Any]:
    """Values by ROS name; ROS has no typed empty list, so an empty one is the empty string list [""]."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(parameters):
        value = getattr(parameters, field.name)
        if field.name == "offsets":
            values |= {f"offsets.{sensor}": offset for sensor, offset in value.items()}
        else:
            values[field.name] = list(value) or [""] if isinstance(value, tuple) else value
    return values


def _doc(name: str) -> str:
    """The parameter's line in the dataclass's docstring."""
    lines = (line.strip() for line in (Parameters.__doc__ or "").splitlines())
    return next((line.split(": ", 1)[1] for line in lines if line.startswith(f"{name}: ")), "")


def _of_ros(name: str) -> bool:
    return name in _OF_ROS or name.startswith(_OF_ROS_PREFIX)


def _refuse_changes(changes: list[Parameter]) -> SetParametersResult:
    ours = [change.name for change in changes if not _of_ros(change.name)]
    if not ours:
        return SetParametersResult(successful=True)
    return SetParametersResult(successful=False, reason=f"{ours}: read at the start only; restart the node to change")
