"""The help of every command, as ``influence COMMAND --help`` prints it; a test runs each example."""

# a line of a backspace alone tells the printer to keep the lines of the paragraph after it

INFLUENCE = """Which training images made an image classifier fail, which are mislabelled, and what mending them gives.

A STUDY is a trained model with its training and test images, in a folder that `influence new` or Study.save wrote;
`demo` is the bundled one, handwritten digits of which a tenth has a wrong label.

\b
From a folder of pictures to the gain, one command a step:
  influence new my_study --data pictures --epochs 20 --size 16
  influence doctor my_study
  influence relabel my_study --estimator confidentlearning --out relabel.csv
  influence apply my_study relabel.csv --out mended --accept flagged
  influence retrain my_study mended --out my_study_mended

\b
Without pictures of your own:
  influence doctor demo
  influence relabel demo --out digits.csv
  influence app demo

Results go to stdout (--json for programs), progress and refusals to stderr. Exit codes: 0 done, 1 refused, 2 written
wrongly, 3 and 4 the doctor's warnings and errors, 130 stopped by Ctrl-C."""

NEW = """Make a study of pictures and a trained network.

Pictures lie in a folder for each class (pictures/cat/1.png), or for each part and class (pictures/train/cat/1.png),
or a CSV or Parquet file names or holds them. With --weights the study has your network; without, a small one is
trained on them and its checkpoints are kept. What is not given and cannot be known is asked in a terminal, and
refused elsewhere.

\b
Examples:
  influence new my_study --data pictures --epochs 20 --size 16
  influence new tabled --data labels.csv --file file --label label --size 16 --epochs 2
  influence new mine --data pictures --weights weights.pt --size 16 --mean 0.5,0.5,0.5 --std 0.2,0.2,0.2

\b
Real human label noise, from cifar10n_train.parquet and cifar10_test.parquet, or from CIFAR-10 and CIFAR-10N's own
CIFAR-10_human.pt; some minutes on two cores:
  influence new cifar10n --data cifar --images 10000
"""

DOCTOR = """Look at a study before anything long runs: what does not fit, why it matters, and what mends it.

Labels off by one or in another order, inputs scaled otherwise than in training, copies within the training set and
of test images in it, dead layers, weights without gradients, a recipe that does not fit the weights, and what every
estimator would cost here in processor seconds, memory and disk. Nothing of the study is changed. The exit code is 0
with nothing or notes, 3 with a warning, 4 with an error; a study that does not open is one.

\b
Examples:
  influence doctor demo
  influence doctor my_study --json
  influence doctor my_study --sample 0 --memory 2000
"""

ESTIMATORS = """List the estimators and what each is good for; with a study, which can run there, at what cost.

\b
Examples:
  influence estimators
  influence estimators demo
"""

SCORE = """Ask an estimator for scores of all training images.

A row for each training image: train_id, then score, or a column for each test image or label. Positive influence is
helpful; large mislabel scores are suspicious. A Parquet file says in its metadata where the numbers come from.

\b
Examples:
  influence score demo lastlayer --out suspects.csv
  influence score demo ekfac --what influence --test 475 --out influence.parquet
  influence score demo trak --what influence --test wrong --set dim=64

\b
With --job a process of its own computes them, which goes on when the terminal is closed; influence jobs finds it:
  influence score demo tracin --what influence --test 475 --job
  influence score demo tracin --what influence --test 475 --job --wait --out influence.csv
"""

JOBS = """Work that other processes do: what there is, how far it is, ending it and going on with it.

A job is named by its question: whoever asks the same again finds it. When its process is killed, `resume` goes on, and
what was finished is not computed again. One job runs at a time, on more than four cores one for every four;
INFLUENCE_WORKERS is another number. What somebody looks at in the app comes first: another job makes room, and goes on
afterwards.

\b
Examples:
  influence jobs ls
  influence jobs wait last --out scores.csv
"""

JOBS_LS = """List jobs, the oldest first: id, state, title.

queued, running, done, failed, cancelled, or lost: its process ended before the work was through.

\b
Examples:
  influence jobs ls
  influence jobs ls --json
"""

JOBS_LOG = """Print what a job's worker has said; after a failure, where it failed.

\b
Examples:
  influence jobs log last --lines 20
"""

JOBS_CANCEL = """End a job within two seconds; what is finished stays.

\b
Examples:
  influence jobs cancel last
"""

JOBS_RESUME = """Go on with a job that was cancelled, lost or failed; what is finished is not computed again.

\b
Examples:
  influence jobs resume last
"""

JOBS_WAIT = """Wait for a job, and print its scores as `influence score` does. Ctrl-C ends the waiting alone.

\b
Examples:
  influence jobs wait last
  influence jobs wait last --timeout 600 --out scores.parquet
"""

JOBS_CLEAN = """Forget all jobs that have ended, and their logs; results stay.

\b
Examples:
  influence jobs clean
"""

COMPARE = """Compare estimators on one study: what they cost, whether they agree, and whether they are right.

A row for each estimator, and what the rows mean in sentences; an empty cell has its reason below. Where true labels are
known, how well each finds the wrong ones. What trains models anew is off until it is asked for: --subsets trains on
random halves (linear datamodelling score), --left-out without single images, --removal without the share of the images
that each estimator ranks first.

\b
Examples:
  influence compare demo lastlayer,datainf,random --test 475
  influence compare my_study lastlayer,loss --subsets 4 --out comparison.csv

What is trained anew is kept: ask the same again to go on with it. With --job a process of its own trains, which goes on
when the terminal is closed.
"""

RELABEL = """Suggest a label for every training image, the most suspicious first, as a CSV to review.

In the column decision write relabel, keep, exclude or unsure; final_label is the label to take where it is not the
suggested one. label_quality is the probability that the given label is right, from 0 (bad) to 1, and quality_source
how it is known: from planted flips with --estimator calibrated, which says suggestion_quality as well, and else a
guess from the scores. score is the estimator's own number, large for bad labels, and rank its order.

\b
Examples:
  influence relabel my_study --estimator confidentlearning --out relabel.csv
  influence relabel demo --estimator lastlayer --flag 90 --only-flagged
"""

APPLY = """Put the decisions of a reviewed CSV into a copy of the study's pictures: its folder, CSV or Parquet file.

A picture with a new label goes into the folder of its class, or gets it in its row; excluded ones are left out. All
else stays. The original is not touched without --in-place.

\b
Examples:
  influence apply my_study relabel.csv --out mended
  influence apply my_study relabel.csv --out mended_flagged --accept flagged
  influence apply my_study relabel.csv --in-place
"""

RETRAIN = """Train again on the mended labels, with the study's own recipe, and print what it gives on the test images.

The labels as they were are trained on again too, from the same new weights: the gain is that of the labels alone.

\b
Examples:
  influence retrain my_study mended --out my_study_mended
  influence retrain my_study relabel.csv --seeds 1
"""

APP = """Open the app in a browser: overview, explanations, suspects and relabelling of a study.

The server listens on this machine alone, and ends with Ctrl-C.

\b
Examples:
  influence app
  influence app my_study --port 8600
  influence app my_study --background
"""
