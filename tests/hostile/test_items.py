"""The table of hostile inputs and their tests. Every name in it must be an existing test."""

import ast
from functools import cache

import pytest

from tests.conftest import ROOT

ITEMS: dict[str, list[str]] = {
    # The manifest
    "YAML aliases that explode": [
        "hostile/test_manifests.py::test_exploding_aliases_are_refused_in_little_memory",
        "hostile/test_manifests.py::test_a_value_that_contains_itself_is_refused",
    ],
    "nesting without end": ["hostile/test_manifests.py::test_a_manifest_nested_too_deeply_is_refused"],
    "manifests of 100 MB": [
        "hostile/test_manifests.py::test_a_manifest_that_is_too_large_is_refused_unread",
        "hostile/test_manifests.py::test_the_number_of_jobs_is_bounded",
        "hostile/test_manifests.py::test_equal_rows_and_long_values_take_linear_time",
        "hostile/test_manifests.py::test_a_long_value_is_accepted",
        "hostile/test_manifests.py::test_a_manifest_full_of_mistakes_is_not_read_to_its_end",
    ],
    "ids that are no file names: ../../x, CON, 300 characters, not normal": [
        "hostile/test_manifests.py::test_an_id_that_is_not_a_safe_file_name_is_refused",
        "hostile/test_manifests.py::test_ids_derived_from_unsafe_names_are_safe",
    ],
    "twins that differ only in case": ["hostile/test_manifests.py::test_ids_that_differ_only_in_case_are_refused"],
    "data URIs that are not media": [
        "hostile/test_manifests.py::test_a_data_uri_that_is_not_a_video_is_refused_and_quoted_in_part",
        "hostile/test_fuzz.py::test_a_data_uri_is_media_or_a_problem",
    ],
    "terminal codes in a manifest": ["hostile/test_manifests.py::test_terminal_codes_in_a_manifest_are_escaped"],
    # Inputs
    "local paths that are devices, pipes, sockets, folders, the kernel's files": [
        "hostile/test_files.py::test_an_input_that_is_not_a_regular_file_is_refused_without_waiting",
        "hostile/test_files.py::test_a_kernel_file_is_refused_as_input",
        "hostile/test_files.py::test_a_file_that_becomes_a_pipe_after_the_check_is_not_waited_for",
        "hostile/test_manifests.py::test_a_local_path_that_is_not_a_file_is_refused",
        "media/test_probe.py::test_only_regular_files_are_opened",
    ],
    "inputs that grow or shrink": [
        "hostile/test_files.py::test_an_input_that_changes_size_while_it_is_read_is_refused_in_bounded_work",
        "media/test_probe.py::test_a_file_that_changes_while_it_is_sent_never_gives_a_complete_body",
        "providers/aimlapi/test_client.py::test_an_input_that_changed_never_gives_a_complete_body",
    ],
    "symbolic links out of the tree, allowed as inputs only": [
        "hostile/test_files.py::test_an_input_may_be_a_link_to_another_tree",
    ],
    "damaged media, pictures of absurd size": ["media/test_probe.py::test_damaged_media_give_a_problem_or_a_medium"],
    # The run directory
    "links and devices planted in the tool's room": [
        "hostile/test_files.py::test_a_planted_link_or_device_in_the_private_folder_stops_the_run",
        "hostile/test_files.py::test_the_disk_opens_regular_files_only",
        "hostile/test_files.py::test_a_planted_partial_file_is_removed_and_its_target_is_untouched",
        "hostile/test_files.py::test_a_planted_link_to_a_file_is_not_followed",
    ],
    "final names and reports that are links": [
        "hostile/test_files.py::test_a_clips_name_that_is_a_link_is_moved_and_its_target_is_untouched",
        "hostile/test_files.py::test_a_clips_name_that_is_a_pipe_is_moved",
        "hostile/test_files.py::test_a_report_replaces_a_planted_link_and_does_not_follow_it",
        "hostile/test_files.py::test_a_planted_link_with_a_temporary_reports_name_is_not_followed",
        "hostile/test_files.py::test_verify_reports_planted_objects_without_waiting",
    ],
    # Secrets
    "URLs with credentials": [
        "hostile/test_manifests.py::test_a_url_with_credentials_is_refused_and_they_are_not_repeated",
        "hostile/test_replies.py::test_secrets_of_urls_in_the_services_text_are_removed",
        "hostile/test_secrets.py::test_a_run_leaves_no_secret_and_no_control_code",
        "hostile/test_fuzz.py::test_queries_and_users_are_removed_from_urls",
        "manifest/test_loader.py::test_urls_are_sent_unchanged_and_shown_without_secrets",
    ],
    "the key: to the service alone, and in no file": [
        "hostile/test_links.py::test_a_redirects_target_gets_neither_the_key_nor_the_links_credentials",
        "hostile/test_replies.py::test_a_key_that_the_service_quotes_is_removed",
        "hostile/test_secrets.py::test_only_the_service_received_the_key",
        "providers/aimlapi/test_client.py::test_a_redirect_is_not_followed",
        "transfer/test_downloader.py::test_no_request_ever_has_a_credential",
        "test_cli.py::test_the_key_is_in_no_file_and_no_output",
    ],
    "secrets of the environment, behind any escape, in any fault": [
        "hostile/test_secrets_table.py::test_no_place_contains_a_secret",
        "hostile/test_secrets_table.py::test_a_short_key_gives_a_warning_and_is_redacted_as_a_whole_word",
        "hostile/test_secrets_table.py::test_an_invalid_setting_is_reported_without_the_secret_in_it",
        "test_redaction.py::test_nested_escapes_do_not_hide_a_secret",
        "test_redaction.py::test_the_secrets_of_an_environment_are_collected",
    ],
    "a stranger's manifest that reads the environment, names a webhook or a file elsewhere": [
        "manifest/test_variables.py::test_an_environment_variable_is_read_only_if_the_user_allows_it",
        "manifest/test_variables.py::test_a_variable_with_a_secret_name_is_never_read",
        "manifest/test_variables.py::test_a_secret_value_is_never_inserted",
        "manifest/test_variables.py::test_keys_that_a_manifest_cannot_set_are_ignored_with_a_warning",
        "manifest/tables/test_tables.py::test_files_outside_the_manifests_folder_are_not_quoted",
        "test_cli.py::test_plan_lists_the_data_that_leaves_the_machine",
    ],
    # Downloads
    "redirects to file: and to private addresses": [
        "hostile/test_links.py::test_a_redirect_to_a_private_address_is_refused_before_connecting",
        "hostile/test_links.py::test_private_addresses_are_refused_as_literals_and_behind_a_name",
        "hostile/test_links.py::test_addresses_in_unusual_notation_are_refused",
        "hostile/test_links.py::test_only_private_services_may_link_to_private_addresses",
        "hostile/test_links.py::test_only_the_public_addresses_of_a_mixed_name_are_used",
        "hostile/test_links.py::test_a_name_that_resolves_differently_later_is_connected_to_the_checked_address",
        "hostile/test_links.py::test_links_that_are_not_web_addresses_are_refused",
        "transfer/test_downloader.py::test_redirects_are_limited",
    ],
    "https downgraded to http": ["hostile/test_links.py::test_https_is_never_redirected_to_http"],
    "endless bodies": [
        "transfer/test_downloader.py::test_an_endless_body_ends_at_the_limit",
        "providers/aimlapi/test_client.py::test_an_endless_reply_is_read_up_to_the_limit",
        "hostile/test_replies.py::test_reading_an_endless_log_ends",
    ],
    "one byte every 50 s": [
        "hostile/test_links.py::test_an_endless_slow_stream_ends_at_the_total_time_limit",
        "hostile/test_replies.py::test_an_endless_slow_reply_ends_at_the_total_time_limit",
    ],
    "endless and huge headers, chunked garbage, lengths that lie": [
        "hostile/test_links.py::test_contradictory_or_malformed_replies_are_refused",
        "hostile/test_links.py::test_an_etag_that_no_header_can_carry_does_not_block_the_clip",
        "providers/aimlapi/test_client.py::test_an_uninformative_reply_leaves_the_submission_in_doubt",
    ],
    "a Content-Length of 10 GB": [
        "hostile/test_links.py::test_an_absurd_announced_size_is_refused_before_a_byte_is_stored",
    ],
    "gzip bombs": [
        "hostile/test_replies.py::test_a_compressed_bomb_is_unpacked_only_to_the_reply_limit",
        "hostile/test_links.py::test_contradictory_or_malformed_replies_are_refused",
        "transfer/test_downloader.py::test_a_small_file_that_expands_beyond_the_limit_ends_at_the_limit",
    ],
    "clips that are none, or broken on purpose": [
        "hostile/test_fuzz.py::test_a_mutated_clip_passes_or_fails_at_the_cost_of_about_one_reading",
        "transfer/test_downloader.py::test_an_incomplete_or_foreign_file_is_refused_and_not_continued",
        "media/test_mp4_structure.py::test_a_playlist_in_disguise_opens_no_other_file",
        "media/test_mp4_structure.py::test_work_on_pictures_is_bounded",
    ],
    # Replies
    "JSON nested 100,000 deep": [
        "providers/aimlapi/test_responses.py::test_deep_nesting_is_survived",
        "providers/aimlapi/test_responses.py::test_a_log_that_cannot_be_read_is_a_service_fault",
        "hostile/test_fuzz.py::test_nearly_valid_json_of_any_depth_gives_a_reply_or_a_call_error",
    ],
    "huge numbers, 1e400": [
        "hostile/test_replies.py::test_an_unusable_id_leaves_the_submission_in_doubt_and_a_poll_unharmed",
        "hostile/test_replies.py::test_credits_are_finite_numbers_or_none",
    ],
    "lone surrogates and NULs in ids and messages": [
        "hostile/test_replies.py::test_text_from_the_service_can_be_stored",
        "hostile/test_replies.py::test_an_unusual_id_is_kept_and_polled_unchanged",
        "hostile/test_fuzz.py::test_any_failure_reason_gives_a_reply",
    ],
    "an id of 1 MB": [
        "hostile/test_replies.py::test_an_unusable_id_leaves_the_submission_in_doubt_and_a_poll_unharmed",
        "hostile/test_replies.py::test_an_unusable_id_in_the_log_adopts_nothing",
    ],
    "one id for two jobs": [
        "providers/test_generation_owners.py::test_an_id_that_belongs_to_another_job_leaves_the_submission_in_doubt",
        "providers/test_generation_owners.py::test_an_id_of_an_earlier_run_leaves_the_submission_in_doubt",
        "providers/test_generation_owners.py::test_the_log_adopts_no_id_of_another_job_and_each_id_once",
    ],
    "an absurd Retry-After": [
        "hostile/test_replies.py::test_an_absurd_retry_after_is_limited_to_minutes",
        "hostile/test_fuzz.py::test_retry_after_is_a_duration_or_none",
    ],
    "a status that is no word": [
        "hostile/test_replies.py::test_an_unknown_status_is_pending_and_shortened",
    ],
    "any bytes at all": [
        "hostile/test_fuzz.py::test_any_bytes_give_a_reply_or_a_call_error",
        "hostile/test_fuzz.py::test_any_json_gives_a_reply_or_a_call_error",
        "providers/aimlapi/test_responses.py::test_wrong_types_are_survived_everywhere",
    ],
    # Output
    "terminal codes and right-to-left overrides in terminal, log and status": [
        "hostile/test_secrets.py::test_a_run_leaves_no_secret_and_no_control_code",
        "hostile/test_fuzz.py::test_printable_text_is_one_line_that_can_be_encoded",
        "progress/test_progress.py::test_hostile_text_is_escaped_in_lines",
    ],
    "HTML and script in every string of the report": ["report/test_report.py::test_hostile_text_is_inert_on_the_page"],
}


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text("utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("item", ITEMS)
def test_every_item_names_existing_tests(item: str) -> None:
    assert ITEMS[item]
    for name in ITEMS[item]:
        path, _, test = name.partition("::")
        assert test in names_in(path), name


def test_every_hostile_test_is_in_the_table() -> None:
    listed = {name for names in ITEMS.values() for name in names}
    modules = sorted((ROOT / "tests" / "hostile").glob("test_*.py"))
    here = {f"hostile/{module.name}::{test}" for module in modules for test in names_in(f"hostile/{module.name}")}
    plain = {
        "test_every_item_names_existing_tests", "test_every_hostile_test_is_in_the_table",
        # Tests that legitimate input is still accepted, and helpers of the fuzzers.
        "test_public_addresses_are_allowed", "test_an_unrequested_compressed_reply_is_read",
        "test_truncated_or_false_compression_is_a_service_fault", "test_unresolvable_names_are_a_network_fault",
        "test_the_run_directory_may_be_a_link", "test_the_expiry_of_a_link_is_a_time_or_none",
        "test_reading_a_files_header_never_fails",
    }  # fmt: skip
    left = {name for name in here - listed if name.partition("::")[2] not in plain and "::test_" in name}
    assert left == set()
