"""The contract of runtimes/base.py, as far as it can be kept without token ids.

The tests are those of tests/runtimes/test_contract.py; behind the upstream works the scripted
runtime, so that what it is told is what it does.
"""

import pytest

from runtimes.base import Runtime
from tests.runtimes import test_contract as contract
from tests.runtimes.openai.behind_upstream import BehindUpstream

test_a_runtime_that_is_not_served_is_unavailable = (
    contract.test_a_runtime_that_is_not_served_is_unavailable
)
test_the_same_request_has_the_same_answer = contract.test_the_same_request_has_the_same_answer
test_text_that_only_looks_like_a_stop_string_comes_out = (
    contract.test_text_that_only_looks_like_a_stop_string_comes_out
)
test_leaving_early_frees_the_slot = contract.test_leaving_early_frees_the_slot
test_a_cancelled_consumer_frees_the_slot = contract.test_a_cancelled_consumer_frees_the_slot
test_the_queue_is_bounded_and_in_order = contract.test_the_queue_is_bounded_and_in_order
test_a_cancelled_wait_leaves_the_queue = contract.test_a_cancelled_wait_leaves_the_queue
test_nonsense_is_refused_and_costs_nothing = contract.test_nonsense_is_refused_and_costs_nothing
test_a_model_that_does_not_see_is_shown_no_images = (
    contract.test_a_model_that_does_not_see_is_shown_no_images
)
test_a_prompt_beyond_the_context_is_too_long = contract.test_a_prompt_beyond_the_context_is_too_long
test_without_max_tokens_the_context_is_the_limit = (
    contract.test_without_max_tokens_the_context_is_the_limit
)
test_strange_text_passes = contract.test_strange_text_passes


@pytest.fixture
def runtime() -> Runtime:
    """One fresh runtime behind an upstream, not served yet."""
    return BehindUpstream()
