"""Quality of service of every topic, and a word in the log whenever two ends do not fit together."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSPolicyKind, QoSProfile, QoSReliabilityPolicy

SENSORS = QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)
"""For subscribing to sensors: matches reliable and best-effort drivers alike."""

TRANSFORMS = QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=100, reliability=QoSReliabilityPolicy.RELIABLE)
"""/tf, as tf2 has it."""

STATIC_TRANSFORMS = QoSProfile(
    history=QoSHistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)
"""/tf_static: sent once, kept for those who come later."""

OUTPUTS = QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
"""What we publish: the newest is all that counts."""


def _policy_name(kind: int) -> str:
    try:
        return QoSPolicyKind(kind).name.lower()
    except ValueError:
        return f"policy {kind}"


def subscription_events(topic: str, report: Callable[[str], None]) -> SubscriptionEventCallbacks:
    """Callbacks that tell when a publisher's QoS does not fit our subscription, or its message type."""
    return SubscriptionEventCallbacks(
        incompatible_qos=lambda event: report(
            f"{topic}: a publisher does not offer the {_policy_name(event.last_policy_kind)} that is asked for "
            f"({event.total_count} so far); nothing is received from it"
        ),
        incompatible_type=lambda event: report(f"{topic}: a publisher has another message type"),
    )


def publisher_events(topic: str, report: Callable[[str], None]) -> PublisherEventCallbacks:
    """Callbacks that tell when a subscriber asks for more than we offer, or for another message type."""
    return PublisherEventCallbacks(
        incompatible_qos=lambda event: report(
            f"{topic}: a subscriber asks for another {_policy_name(event.last_policy_kind)} than is offered "
            f"({event.total_count} so far); it receives nothing"
        ),
        incompatible_type=lambda event: report(f"{topic}: a subscriber has another message type"),
    )
