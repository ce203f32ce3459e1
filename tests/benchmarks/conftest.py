from __future__ import annotations

collect_ignore = ["app_probe.py"]  # to import it changes the app: it is for a server's --plugin alone
