"""Errors as a person reads them."""

import logging
import traceback

import streamlit as st

import influence_core as ic

log = logging.getLogger("influence")


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


def as_text(words: str) -> str:
    """Markdown that shows words as they are."""
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
