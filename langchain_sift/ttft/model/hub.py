"""Find out early whether the Hugging Face hub can be reached: its client would retry for long."""

from __future__ import annotations

from huggingface_hub import constants, get_session

_SECONDS = 5.0  # to connect; a slow answer is an answer


def why_unreachable() -> str | None:
    """Return the reason that no connection to the hub can be opened, and the cure; None if one can.

    This opens a connection as the hub's client does, with its proxies. In offline mode
    (`HF_HUB_OFFLINE`) it asks nothing, and returns None.
    """
    if constants.HF_HUB_OFFLINE:
        return None
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception as error:  # noqa: BLE001 - the hub's HTTP client differs between its versions
        name = type(error).__name__
        if "Timeout" in name and name != "ConnectTimeout":  # it is slow, but it is there
            return None
        reason = str(error).strip().partition("\n")[0] or name
        return (
            f"the hub {constants.ENDPOINT} cannot be reached ({reason}): check the spelling, if "
            "this is a folder or a file; or load the model once with a network"
        )
    return None
