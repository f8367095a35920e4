"""All cases, in the order of their files."""

from tests.mistakes import (
    cases_benchmark,
    cases_calls,
    cases_channels,
    cases_custom,
    cases_data,
    cases_environment,
    cases_evaluate,
    cases_export,
    cases_fit,
    cases_groups,
    cases_jobs,
    cases_keys,
    cases_multilabel,
    cases_options,
    cases_predict,
    cases_share,
    cases_sources,
    cases_values,
)

CASES = [
    case
    for module in (
        cases_groups,
        cases_keys,
        cases_options,
        cases_values,
        cases_data,
        cases_sources,
        cases_multilabel,
        cases_channels,
        cases_fit,
        cases_custom,
        cases_jobs,
        cases_benchmark,
        cases_evaluate,
        cases_export,
        cases_predict,
        cases_share,
        cases_calls,
        cases_environment,
    )
    for case in module.CASES
]
