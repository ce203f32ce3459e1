"""The help of ``influence store``; a test runs each example."""

STORE = """The results that are kept: what there is, whether it is whole, what it takes, and removing it.

A result is named by all that it depends on: the study, the estimator with its settings and version, and the question.
Whoever asks the same again finds it. Beyond 20 GiB what was not used for longest is removed.

\b
Examples:
  influence store ls
  influence store du
"""

STORE_LS = """List what is stored, what was used last first: key, state, size, time in UTC, title and study.

\b
Examples:
  influence store ls
  influence store ls --json
"""

STORE_RM = """Remove results and fitted estimators. What is computed or read just now stays.

\b
Examples:
  influence store rm --all
"""

STORE_VERIFY = """Compare every file with its hash; the exit code is 1 where one is damaged, and each is named.

\b
Examples:
  influence store verify
"""

STORE_DU = """Say what the store takes, by study; with --budget, make it smaller.

\b
Examples:
  influence store du
  influence store du --budget 20G
"""
