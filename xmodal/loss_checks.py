"""What settings of losses may be; without torch, so that a graph is checked before it loads."""

from __future__ import annotations


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not above 0, or not finite.

    Raises:
        ValueError: If it is not.
    """
    if not 0 < temperature < float("inf"):
        msg = f"temperature must be above 0, not {temperature}"
        raise ValueError(msg)


def check_contrast(temperature: float, ignore_above: float, *, soft: bool = False) -> None:
    """Refuse settings that no contrast can have.

    Raises:
        ValueError: If the temperature is not above 0, `ignore_above` lies outside [-1, 1], or both
            kinds of care for alike rows are asked for.
    """
    check_temperature(temperature)
    if not -1 <= ignore_above <= 1:
        msg = f"ignore_above is a cosine in [-1, 1], not {ignore_above}"
        raise ValueError(msg)
    if soft and ignore_above < 1:
        msg = "soft counts alike rows as positives and ignore_above leaves them out; choose one"
        raise ValueError(msg)


def check_counts(**counts: int) -> None:
    """Refuse numbers below 1.

    Raises:
        ValueError: Naming the first that is.
    """
    for name, count in counts.items():
        if count < 1:
            msg = f"{name} must be at least 1, not {count}"
            raise ValueError(msg)


def check_sinkhorn(epsilon: float, iterations: int) -> None:
    """Refuse settings that no Sinkhorn iteration can have.

    Raises:
        ValueError: If epsilon is not above 0 or there is no iteration.
    """
    if not 0 < epsilon < float("inf"):
        msg = f"epsilon must be above 0, not {epsilon}"
        raise ValueError(msg)
    check_counts(iterations=iterations)


def check_backward(backward: float, gamma: float) -> None:
    """Refuse settings of backward distillation that mean nothing.

    Raises:
        ValueError: If `backward` lies outside [0, 1] or gamma is not above 0.
    """
    if not 0 <= backward <= 1:
        msg = f"backward is a share in [0, 1], not {backward}"
        raise ValueError(msg)
    if not 0 < gamma < float("inf"):
        msg = f"gamma must be above 0, not {gamma}"
        raise ValueError(msg)


def check_decoupled(temperature: float, target: float, others: float) -> None:
    """Refuse settings that no decoupled contrast can have.

    Raises:
        ValueError: If the temperature is not above 0, a factor is negative, or both are 0.
    """
    check_temperature(temperature)
    if not (0 <= target < float("inf") and 0 <= others < float("inf") and target + others > 0):
        msg = f"target and others must be 0 or more and not both 0: {target}, {others}"
        raise ValueError(msg)


def check_correlation(temperature: float, inter: float, intra: float) -> None:
    """Refuse settings that no correlation can have.

    Raises:
        ValueError: If the temperature is not above 0, a factor is negative, or both are 0.
    """
    check_temperature(temperature)
    if not (0 <= inter < float("inf") and 0 <= intra < float("inf") and inter + intra > 0):
        msg = f"inter and intra must be 0 or more and not both 0: {inter}, {intra}"
        raise ValueError(msg)


def check_routing(top: int, drop: float, balance: float) -> None:
    """Refuse settings that no router of teachers can have.

    Raises:
        ValueError: If it takes less than one teacher, hides all of them, or unbalances them.
    """
    check_counts(top=top)
    if not (0 <= drop < 1 and 0 <= balance < float("inf")):
        msg = f"drop must be in [0, 1) and balance 0 or more: {drop}, {balance}"
        raise ValueError(msg)
