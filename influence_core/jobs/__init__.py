"""Jobs: work that outlives the browser, the notebook and the connection it was asked from.

``submit`` gives a request to a process of its own and returns at once; ``Job`` looks at it, waits for it, ends it and
goes on with it. A worker may be killed at any time: finished shards are files of the store, and the job is found to be
lost at the next look. ``table`` says who does what, ``worker`` does it, ``watching`` ends it.
"""

from influence_core.jobs.asking import clean, get, jobs, rows, submit, submit_task
from influence_core.jobs.job import Job
from influence_core.jobs.row import Row
from influence_core.jobs.stability import Stability, stability

__all__ = ["Job", "Row", "Stability", "clean", "get", "jobs", "rows", "stability", "submit", "submit_task"]
