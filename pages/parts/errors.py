"""Errors as a person reads them."""

import logging
import re
import traceback
from collections.abc import Callable

import streamlit as st

import influence_core as ic

log = logging.getLogger("influence")

_REFUSED = "refused_click"
"""In the session: why the last click was refused."""

_SIGNS = re.compile(r"(?<!\S)(--|->|<-|<->|>=|<=|~=)(?!\S)")
"""What Streamlit makes other signs of where it stands alone: a dash, an arrow."""


def unexpected(error: Exception) -> bool:
    """Say that something broke, without a traceback; the server's log has it.

    Args:
        error: what a page did not catch.

    Returns:
        True: Streamlit shows nothing of its own.
    """
    if isinstance(error, ic.InfluenceError):
        show(error)
        return True
    log.error("%s", "".join(traceback.format_exception(error)))
    st.error(
        "Something went wrong that should not have. The server's log has the details; the page works again after "
        f"a reload. ({type(error).__name__})",
        icon=":material/error:",
    )
    return True


def show(error: ic.InfluenceError) -> None:
    """One clear sentence: what is wrong and how to mend it.

    Args:
        error: raised by the library on purpose.
    """
    text = as_text(str(error))
    if isinstance(error, ic.NotSupported):
        st.info(text, icon=":material/info:")
    else:
        st.error(text, icon=":material/error:")


def refused(act: Callable[[], object]) -> None:
    """Act on a click: what is refused is told once the page is drawn, instead of it.

    Args:
        act: what a callback does.
    """
    try:
        act()
    except ic.InfluenceError as error:
        st.session_state[_REFUSED] = str(error)


def show_refused() -> None:
    """Say what a click was refused for, if it was."""
    if words := st.session_state.pop(_REFUSED, ""):
        st.warning(as_text(words), icon=":material/block:")


def as_text(words: str) -> str:
    """Markdown that shows words as they are."""
    words = _SIGNS.sub(lambda found: f"\u2060{found[0]}", words)
    for sign in "\\[]$*_~`<>:#|!":
        words = words.replace(sign, f"\\{sign}")
    return " ".join(words.split())


def sentence(words: str) -> str:
    """What a job says of its end, as Markdown that begins with a capital."""
    return as_text(words[:1].upper() + words[1:])


def name(words: str, most: int = 60) -> str:
    """A name as Markdown that shows it as it is: cut where it is long, and in its own direction of writing."""
    return f"\u2068{as_text(words if len(words) <= most else words[: most - 1] + '…')}\u2069"


def plain(words: str, most: int = 60) -> str:
    """A name where no Markdown is read: cut where it is long, and in its own direction of writing."""
    words = " ".join(words.split())
    return f"\u2068{words if len(words) <= most else words[: most - 1] + '…'}\u2069"
