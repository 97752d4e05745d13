"""What counts as hostile, and where it is tested: the one table. Every name in it must be a test that exists."""

import ast
from functools import cache

import pytest

from tests.conftest import ROOT

ITEMS: dict[str, list[str]] = {
    # The manifest
    "YAML aliases that explode": [
        "hostile/test_manifests.py::test_aliases_that_explode_are_refused_in_little_memory",
        "hostile/test_manifests.py::test_a_value_that_holds_itself_is_refused",
    ],
    "nesting without end": ["hostile/test_manifests.py::test_a_manifest_nested_without_end_is_refused"],
    "manifests of 100 MB": [
        "hostile/test_manifests.py::test_a_manifest_larger_than_any_is_refused_unread",
        "hostile/test_manifests.py::test_the_number_of_jobs_is_bounded",
        "hostile/test_manifests.py::test_equal_rows_and_long_values_take_time_in_step_with_their_number",
        "hostile/test_manifests.py::test_a_long_value_is_no_trouble",
        "hostile/test_manifests.py::test_a_manifest_of_nothing_but_mistakes_is_not_read_to_its_end",
    ],
    "ids that are no file names: ../../x, CON, 300 characters, not normal": [
        "hostile/test_manifests.py::test_an_id_that_is_no_safe_file_name_is_refused",
        "hostile/test_manifests.py::test_ids_derived_from_wild_names_are_safe",
    ],
    "twins that differ only in case": ["hostile/test_manifests.py::test_twins_that_differ_only_in_case_are_refused"],
    "data URIs that are not media": [
        "hostile/test_manifests.py::test_a_data_uri_that_is_no_video_is_refused_and_not_repeated_at_length",
        "hostile/test_fuzz.py::test_a_data_uri_is_media_or_a_problem",
    ],
    "terminal codes in a manifest": ["hostile/test_manifests.py::test_terminal_codes_in_a_manifest_are_told_as_text"],
    # Inputs
    "local paths that are devices, pipes, sockets, folders, the kernel's files": [
        "hostile/test_files.py::test_an_input_that_is_no_file_is_refused_and_never_waited_for",
        "hostile/test_files.py::test_a_file_of_the_kernels_is_no_input",
        "hostile/test_files.py::test_a_file_that_becomes_a_pipe_after_the_look_is_not_waited_for",
        "hostile/test_manifests.py::test_a_local_path_that_is_no_file_is_refused",
        "media/test_probe.py::test_what_is_no_regular_file_is_never_opened",
    ],
    "inputs that grow or shrink": [
        "hostile/test_files.py::test_an_input_that_grows_or_shrinks_while_it_is_read_is_refused_in_bounded_work",
        "media/test_probe.py::test_a_file_that_changes_under_way_never_makes_a_whole_body",
        "providers/aimlapi/test_client.py::test_an_input_that_changed_never_makes_a_whole_body",
    ],
    "symbolic links out of the tree, allowed as inputs only": [
        "hostile/test_files.py::test_an_input_may_lie_behind_links_outside_of_the_tree",
    ],
    "damaged media, pictures of absurd size": ["media/test_probe.py::test_damaged_media_give_a_problem_or_a_medium"],
    # The run directory
    "links and devices planted in the tool's room": [
        "hostile/test_files.py::test_a_planted_link_or_device_in_the_tools_room_stops_the_run",
        "hostile/test_files.py::test_the_disk_opens_plain_files_only",
        "hostile/test_files.py::test_a_planted_part_is_removed_and_what_it_leads_to_is_untouched",
        "hostile/test_files.py::test_a_planted_link_to_a_file_is_not_written_through",
    ],
    "final names and reports that are links": [
        "hostile/test_files.py::test_a_final_name_that_is_a_link_is_moved_aside_and_never_written_through",
        "hostile/test_files.py::test_a_final_name_that_is_a_pipe_is_moved_aside",
        "hostile/test_files.py::test_a_report_replaces_a_planted_link_and_does_not_follow_it",
        "hostile/test_files.py::test_a_planted_temporary_report_is_not_written_through",
        "hostile/test_files.py::test_verify_says_so_and_waits_for_nothing",
    ],
    # Secrets
    "URLs with credentials": [
        "hostile/test_manifests.py::test_a_url_with_credentials_is_refused_and_they_are_not_repeated",
        "hostile/test_replies.py::test_secrets_of_urls_in_the_services_words_are_not_kept",
        "hostile/test_secrets.py::test_no_secret_and_no_control_code_is_left_by_a_run",
        "hostile/test_fuzz.py::test_no_query_and_no_user_survives",
        "manifest/test_loader.py::test_urls_are_sent_unchanged_and_shown_without_secrets",
    ],
    "the key: to the service alone, and in no file": [
        "hostile/test_links.py::test_neither_the_key_nor_the_links_own_credentials_travel_to_a_redirects_target",
        "hostile/test_replies.py::test_a_key_that_the_service_quotes_is_in_none_of_our_words",
        "hostile/test_secrets.py::test_the_key_went_to_the_service_alone",
        "providers/aimlapi/test_client.py::test_a_redirect_is_not_followed",
        "transfer/test_downloader.py::test_no_request_ever_carries_a_credential",
        "test_cli.py::test_the_key_is_in_no_file_and_no_output",
    ],
    "secrets of the environment, behind any escape, in any fault": [
        "hostile/test_secrets_table.py::test_no_place_holds_a_secret",
        "hostile/test_secrets_table.py::test_a_short_key_is_a_warning_and_is_left_out_where_it_is_a_word",
        "hostile/test_secrets_table.py::test_a_mistaken_setting_is_told_without_the_secret_in_it",
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
        "hostile/test_links.py::test_a_redirect_inwards_is_refused_before_anything_connects_there",
        "hostile/test_links.py::test_private_addresses_are_refused_written_out_and_behind_a_name",
        "hostile/test_links.py::test_addresses_in_odd_spellings_are_refused",
        "hostile/test_links.py::test_private_downloads_are_for_services_that_are_private",
        "hostile/test_links.py::test_of_a_name_with_both_kinds_only_the_public_addresses_are_used",
        "hostile/test_links.py::test_a_name_that_changes_its_mind_is_connected_to_where_it_was_checked",
        "hostile/test_links.py::test_links_that_are_no_web_addresses_are_refused",
        "transfer/test_downloader.py::test_redirects_end",
    ],
    "https downgraded to http": ["hostile/test_links.py::test_https_is_never_redirected_down_to_http"],
    "endless bodies": [
        "transfer/test_downloader.py::test_an_endless_body_ends_at_the_limit",
        "providers/aimlapi/test_client.py::test_a_reply_of_no_end_is_read_up_to_the_limit",
        "hostile/test_replies.py::test_the_walk_through_an_endless_log_ends",
    ],
    "one byte every 50 s": [
        "hostile/test_links.py::test_what_drips_for_ever_ends_by_a_total_bound",
        "hostile/test_replies.py::test_a_reply_that_drips_for_ever_ends_by_a_total_bound",
    ],
    "endless and huge headers, chunked garbage, lengths that lie": [
        "hostile/test_links.py::test_replies_that_lie_or_make_no_sense",
        "hostile/test_links.py::test_an_etag_that_no_header_carries_back_does_not_block_the_clip",
        "providers/aimlapi/test_client.py::test_a_reply_that_says_nothing_leaves_the_submission_in_doubt",
    ],
    "a Content-Length of 10 GB": [
        "hostile/test_links.py::test_an_announced_size_that_no_clip_has_is_refused_before_a_byte_is_stored",
    ],
    "gzip bombs": [
        "hostile/test_replies.py::test_a_compressed_bomb_is_unpacked_no_further_than_a_reply_may_be_long",
        "hostile/test_links.py::test_replies_that_lie_or_make_no_sense",
        "transfer/test_downloader.py::test_a_small_file_that_unpacks_to_more_than_a_clip_ends_at_the_limit",
    ],
    "clips that are none, or broken on purpose": [
        "hostile/test_fuzz.py::test_a_mutated_clip_is_whole_or_not_and_costs_about_one_reading",
        "transfer/test_downloader.py::test_what_is_no_whole_clip_is_refused_and_not_continued",
        "media/test_mp4_structure.py::test_a_list_in_disguise_opens_no_other_file",
        "media/test_mp4_structure.py::test_work_on_pictures_is_bounded",
    ],
    # Replies
    "JSON nested 100,000 deep": [
        "providers/aimlapi/test_responses.py::test_deep_nesting",
        "providers/aimlapi/test_responses.py::test_a_log_that_cannot_be_read",
        "hostile/test_fuzz.py::test_near_json_at_any_depth_is_read",
    ],
    "huge numbers, 1e400": [
        "hostile/test_replies.py::test_an_id_that_cannot_be_kept_leaves_the_submission_in_doubt_and_a_poll_unharmed",
        "hostile/test_replies.py::test_credits_are_numbers_that_can_be_added_or_nothing",
    ],
    "lone surrogates and NULs in ids and messages": [
        "hostile/test_replies.py::test_what_the_service_says_can_be_stored",
        "hostile/test_replies.py::test_an_odd_id_is_the_services_own_business_and_is_asked_for_as_it_is",
        "hostile/test_fuzz.py::test_any_reason_of_a_failure_is_read",
    ],
    "an id of 1 MB": [
        "hostile/test_replies.py::test_an_id_that_cannot_be_kept_leaves_the_submission_in_doubt_and_a_poll_unharmed",
        "hostile/test_replies.py::test_an_unusable_id_in_the_log_adopts_nothing",
    ],
    "one id for two jobs": [
        "providers/test_generation_owners.py::test_an_id_that_is_another_jobs_leaves_the_submission_in_doubt",
        "providers/test_generation_owners.py::test_so_does_one_of_an_earlier_run_whatever_became_of_it",
        "providers/test_generation_owners.py::test_the_log_adopts_no_id_of_another_job_and_each_once",
    ],
    "an absurd Retry-After": [
        "hostile/test_replies.py::test_an_absurd_retry_after_is_a_wait_of_minutes_at_most",
        "hostile/test_fuzz.py::test_retry_after_is_a_length_of_time_or_nothing",
    ],
    "a status that is no word": [
        "hostile/test_replies.py::test_a_status_that_is_no_known_word_is_pending_and_short",
    ],
    "any bytes at all": [
        "hostile/test_fuzz.py::test_any_bytes_are_read",
        "hostile/test_fuzz.py::test_any_json_is_read",
        "providers/aimlapi/test_responses.py::test_wrong_types_everywhere",
    ],
    # What is shown
    "terminal codes and right-to-left overrides in terminal, log and status": [
        "hostile/test_secrets.py::test_no_secret_and_no_control_code_is_left_by_a_run",
        "hostile/test_fuzz.py::test_printable_text_is_one_line_that_encodes",
        "progress/test_progress.py::test_hostile_words_cannot_act",
    ],
    "HTML and script in every string of the report": ["report/test_report.py::test_hostile_text_is_inert_on_the_page"],
}


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text("utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("item", ITEMS)
def test_every_item_has_tests_that_exist(item: str) -> None:
    assert ITEMS[item]
    for name in ITEMS[item]:
        path, _, test = name.partition("::")
        assert test in names_in(path), name


def test_every_hostile_test_has_its_place_in_the_table() -> None:
    listed = {name for names in ITEMS.values() for name in names}
    modules = sorted((ROOT / "tests" / "hostile").glob("test_*.py"))
    here = {f"hostile/{module.name}::{test}" for module in modules for test in names_in(f"hostile/{module.name}")}
    plain = {
        "test_every_item_has_tests_that_exist", "test_every_hostile_test_has_its_place_in_the_table",
        # The good that must stay possible beside each refusal, and helpers of the fuzzers.
        "test_public_addresses_are_admitted", "test_a_reply_that_is_compressed_unasked_is_read",
        "test_a_cut_or_false_compression_is_no_reply", "test_names_that_no_resolver_takes_are_a_network_fault",
        "test_the_run_directory_itself_may_be_a_link", "test_when_a_link_ends_is_a_moment",
        "test_the_look_at_a_files_head_never_fails",
    }  # fmt: skip
    left = {name for name in here - listed if name.partition("::")[2] not in plain and "::test_" in name}
    assert left == set()
