"""What is stored: answers and fitted estimators, how large they are, and what can be let go."""

import pandas as pd
import streamlit as st

import influence_core as ic
from parts import errors

GIB = 2**30
TOLD = "store_told"
"""Where a tab keeps what it has to tell after a click."""


def draw(store: ic.store.Store) -> None:
    """The store: a table, and ways to make room and to check it.

    Args:
        store: that answers are written to.
    """
    entries = store.entries()
    used = sum(one.bytes for one in entries)
    st.subheader("Stored results", anchor=False)
    limit = "" if store.budget is None else f" of {store.budget / GIB:.0f} GiB, beyond which the oldest are let go"
    st.caption(errors.as_text(f"{_size(used)}{limit} · {store.path}"))
    if told := st.session_state.pop(TOLD, None):
        words, well = told
        (st.success if well else st.warning)(errors.as_text(words), icon=":material/check:" if well else None)
    if not entries:
        st.info("Nothing is stored yet. Every answer that a page shows is kept here.", icon=":material/inventory_2:")
        return
    table = pd.DataFrame(
        {
            "what": [one.title for one in entries],
            "study": [errors.plain(one.study) for one in entries],
            "kind": ["result" if one.kind == "answer" else "fitted estimator" for one in entries],
            "state": [{"parts": "unfinished"}.get(one.state, one.state) for one in entries],
            "size": [one.bytes for one in entries],
            "used": [one.used for one in entries],
        }
    )
    picked = st.dataframe(
        table,
        hide_index=True,
        key="store_table",
        on_select="rerun",
        selection_mode="multi-row",
        height=min(38 + 35 * len(entries), 320),
        column_config={
            "what": st.column_config.TextColumn("what", width="large"),
            "size": st.column_config.NumberColumn("size", format="bytes"),
            "used": st.column_config.DatetimeColumn("last used", format="distance"),
        },
    )
    keys = [entries[i].key for i in picked["selection"]["rows"] if i < len(entries)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button(
            f"Remove {len(keys)} chosen" if keys else "Remove chosen",
            key="remove_results",
            icon=":material/delete:",
            disabled=not keys,
            on_click=_remove,
            args=(store, keys),
            help="What is asked for again is computed again.",
        )
        st.button("Verify", key="verify_store", icon=":material/verified:", on_click=_verify, args=(store,))
        with st.popover("Make room", icon=":material/compress:"):
            most = st.number_input("Keep at most, GiB", 0.0, value=round(used / GIB / 2, 2), step=0.1, key="store_most")
            st.caption("Removes what nobody has used for longest until the rest fits.")
            st.button("Remove the oldest", key="evict_results", type="primary", on_click=_evict, args=(store, most))


def _remove(store: ic.store.Store, keys: list[str]) -> None:
    try:
        removed = store.remove(*keys)
        st.session_state[TOLD] = (f"Removed {len(removed):,}: {_size(sum(one.bytes for one in removed))}.", True)
    except ic.InfluenceError as error:
        st.session_state[TOLD] = (str(error), False)


def _verify(store: ic.store.Store) -> None:
    found = store.verify()
    if found:
        st.session_state[TOLD] = (f"{len(found):,} files are damaged: {found[0].error}", False)
    else:
        st.session_state[TOLD] = ("Every file is as it was written.", True)


def _evict(store: ic.store.Store, most: float) -> None:
    removed = ic.store.Store(store.path, budget=max(1.0, most * GIB)).evict()
    st.session_state[TOLD] = (f"Removed {len(removed):,}: {_size(sum(one.bytes for one in removed))}.", True)


def _size(count: int) -> str:
    for unit, size in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
