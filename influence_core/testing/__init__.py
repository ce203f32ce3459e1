"""Does an estimator keep the contract? Generated checks that anybody can run on an estimator of their own.

In a test file of your own::

    @pytest.mark.parametrize(("name", "check"), ic.testing.estimator_checks(MyEstimator))
    def test_my_estimator(name, check):
        check()
"""

from influence_core.batches import batches_of
from influence_core.testing import contract, numbers, threads, truth  # noqa: F401  (they register their checks)
from influence_core.testing.checks import CHECKS, Check, CheckFailed, check_estimator, estimator_checks

__all__ = ["CHECKS", "Check", "CheckFailed", "batches_of", "check_estimator", "estimator_checks"]
