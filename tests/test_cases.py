"""What people handed in and what went wrong with it, by kind, and the tests that show that it is right now.

``pytest -k cases`` runs them, and the others of their files that are named so. Of each kind at least one test fails
before the commit that mended it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent

PICTURES = {
    "dark lines where windows of a canvas meet": (
        "runtime/test_canvas.py::test_the_mixture_is_eq_8_at_any_size_and_stride",
        "training/test_edge_autoencoder.py::test_a_border_is_like_the_inside_where_padding_repeats_it",
    ),
    "seams where pictures are painted on": (
        "runtime/test_inpainting.py::test_the_fill_continues_what_is_known_and_does_not_see_what_is_not",
        "runtime/test_inpainting.py::test_what_lies_under_a_mask_changes_nothing",
        "runtime/test_inpainting.py::test_a_shade_that_the_decoder_misses_leaves_no_seam",
        "runtime/test_inpainting.py::test_a_feather_fades_within_its_reach_and_leaves_the_rest",
        "runtime/test_inpainting.py::test_outpainting_is_repainting_a_larger_image",
    ),
    "canvases that do not suit a label": (
        "runtime/test_resolutions.py::test_a_canvas_that_does_not_suit_a_label_is_told",
    ),
    "pictures with an orientation": (
        "runtime/test_pictures.py::test_cases_orientation_is_applied_to_open_and_to_read_files",
        "runtime/test_pictures.py::test_cases_orientation_is_applied_in_every_mode",
    ),
    "16 bits, floats, and other kinds of numbers": (
        "runtime/test_pictures.py::test_cases_every_kind_is_the_picture_that_is_meant",
        "runtime/test_pictures.py::test_cases_what_means_nothing_is_refused",
    ),
    "colour profiles": (
        "runtime/test_pictures.py::test_cases_a_profile_is_converted_to_srgb",
        "runtime/test_pictures.py::test_cases_a_damaged_profile_is_ignored_and_told",
        "runtime/test_masks.py::test_cases_untouched_pixels_are_those_of_the_converted_picture",
    ),
    "transparency and frames that are lost silently": (
        "runtime/test_pictures.py::test_cases_transparency_is_laid_over_white_and_told",
        "runtime/test_pictures.py::test_cases_of_several_frames_the_first_is_read_and_that_is_told",
    ),
    "training reads pictures otherwise": (
        "training/data/test_reader.py::test_cases_training_and_runtime_see_the_same_pixels",
        "training/data/test_reader.py::test_cases_training_reads_what_it_clipped_before",
    ),
    "masks of every kind": (
        "runtime/test_masks.py::test_cases_masks_of_every_kind_repaint_the_same",
        "runtime/test_masks.py::test_cases_a_palette_with_clear_entries_is_a_brush_layer",
        "runtime/test_masks.py::test_cases_a_brush_layer_leaves_what_it_does_not_cover",
        "runtime/test_masks.py::test_cases_masks_that_may_mean_two_things_are_refused",
    ),
    "sizes that do not fit": (
        "runtime/test_masks.py::test_cases_any_size_can_be_fitted",
        "runtime/test_masks.py::test_cases_sizes_that_do_not_fit_are_refused_with_the_ways_out",
        "runtime/test_masks.py::test_cases_the_commands_fit",
    ),
    "margins that do not fit": (
        "runtime/test_cases_calls.py::test_cases_of_margins_that_do_not_fit_leave_the_picture_whole",
    ),
    "closed files, tensors and other arrays": (
        "runtime/test_cases_calls.py::test_cases_of_pictures_whose_file_was_closed",
        "runtime/test_cases_calls.py::test_cases_of_arrays_of_other_kinds_are_pictures",
        "runtime/test_cases_calls.py::test_cases_of_what_is_no_picture_say_what_helps",
    ),
    "files that Pillow cannot read, whatever it raises": (
        "runtime/test_images.py::test_cases_of_errors_of_pillow_are_told",
    ),
    "features that change with scale": ("runtime/test_masks.py::test_cases_embedding_hardly_depends_on_scale",),
}
PROCESSES = {
    "forks that hang or crash": (
        "runtime/test_processes.py::test_cases_of_a_forked_child_neither_hang_nor_crash",
        "runtime/test_processes.py::test_cases_of_a_fork_while_another_thread_is_busy",
        "runtime/test_processes.py::test_cases_of_pools_draw_the_same_pictures",
        "runtime/test_processes.py::test_cases_of_devices_do_not_survive_a_fork",
    ),
    "pickles and copies": (
        "runtime/test_processes.py::test_cases_of_copies_draw_the_same_and_keep_how_they_were_loaded",
        "runtime/test_processes.py::test_cases_of_loading_survive_a_pickle",
        "runtime/test_processes.py::test_cases_of_backends_that_cannot_be_pickled_say_so",
    ),
    "too many threads, and quotas of cores": (
        "runtime/test_limits.py::test_cases_of_threads_that_no_machine_should_start",
        "runtime/test_limits.py::test_cases_of_quotas_of_both_versions_of_control_groups",
        "runtime/test_limits.py::test_cases_of_the_environment_variable_choose_the_threads",
        "runtime/test_limits.py::test_cases_of_a_wrong_environment_variable",
    ),
    "numbers and sizes that no machine can draw": (
        "runtime/test_limits.py::test_cases_beyond_a_limit_are_refused_before_work",
        "runtime/test_limits.py::test_cases_of_too_much_memory_are_refused_before_work",
    ),
    "a lack of memory": (
        "runtime/test_limits.py::test_cases_of_a_lack_of_memory_are_typed",
        "runtime/test_limits.py::test_cases_of_a_real_lack_of_memory_end_in_an_error_of_smalti",
    ),
    "an end that waits for a native call": (
        "runtime/test_ending.py::test_a_native_call_does_not_hold_up_the_end",
        "runtime/test_ending.py::test_it_ends_within_two_seconds_and_leaves_nothing",
    ),
    "several event loops": ("runtime/test_cases_calls.py::test_cases_of_several_event_loops_share_a_generator",),
    "an interrupt while the command starts": (
        "runtime/test_cases_streams.py::test_cases_of_an_interrupt_while_the_command_starts",
    ),
    "memory that grows with the image": (
        "runtime/test_resolutions.py::test_a_large_image_encodes_tile_by_tile_to_the_same_tokens",
    ),
    "arrays whose header lies": ("runtime/test_limits.py::test_cases_of_arrays_whose_header_lies_are_refused",),
}
FILES = {
    "bundles behind links": (
        "runtime/test_cases_files.py::test_cases_of_bundles_behind_links_load",
        "runtime/test_cases_files.py::test_cases_of_a_damaged_file_behind_a_link_are_refused",
        "runtime/test_cases_files.py::test_cases_of_an_installation_by_links",
    ),
    "folders that are written at the very end": (
        "runtime/test_folder.py::test_cases_of_folders_keep_what_is_ready_at_an_interrupt",
        "runtime/test_folder.py::test_cases_of_folders_that_are_complete_are_not_drawn_again",
    ),
    "long and empty names": (
        "runtime/test_cases_files.py::test_cases_of_long_names",
        "runtime/test_cases_files.py::test_cases_of_names_too_long_are_refused_before_the_work",
        "runtime/test_cases_files.py::test_cases_of_empty_arguments",
    ),
    "the home folder": (
        "runtime/test_cases_files.py::test_cases_of_home_on_the_command_line",
        "runtime/test_cases_files.py::test_cases_of_home_in_the_api",
        "runtime/test_cases_files.py::test_cases_of_home_in_variables",
        "training/data/test_cases_folders.py::test_cases_of_a_cache_folder_that_no_shell_read",
    ),
    "recipes behind the pixels": (
        "runtime/test_cases_files.py::test_cases_of_recipes_anywhere",
        "runtime/test_cases_files.py::test_cases_of_edited_pictures_replay_the_same",
    ),
    "repainted pictures without a recipe": (
        "runtime/test_replay.py::test_cases_of_every_call_are_replayed_from_its_file",
        "runtime/test_replay.py::test_cases_of_streamed_repaintings_carry_their_recipe",
    ),
    "open files and other formats": (
        "runtime/test_saving.py::test_cases_of_open_files_and_formats",
        "runtime/test_saving.py::test_cases_of_open_files_say_their_format_by_their_name",
    ),
    "consoles that know few characters": (
        "runtime/test_consoles.py::test_pictures_are_drawn_into_such_a_folder",
        "runtime/test_consoles.py::test_characters_that_a_stream_lacks_are_escaped",
    ),
    "texts that an editor marked": (
        "training/importers/test_cases_texts.py::test_cases_of_label_files",
        "training/importers/test_cases_texts.py::test_cases_of_configuration_files",
        "training/importers/test_cases_texts.py::test_cases_of_marks_in_arguments",
    ),
    "folders of images that are links": (
        "training/data/test_cases_folders.py::test_cases_of_links_are_followed",
        "training/data/test_cases_folders.py::test_cases_of_circles_are_left_out_with_a_warning",
    ),
    "images that were moved": ("training/test_cases_moved.py::test_cases_of_moved_images_continue",),
    "checkpoints with more than weights": (
        "training/importers/test_cases_checkpoints.py::test_cases_of_harmless_objects_beside_the_weights",
        "training/importers/test_cases_checkpoints.py::test_cases_of_attacks_run_nothing",
    ),
    "weights under the names of a wrapper": (
        "training/importers/test_cases_checkpoints.py::test_cases_of_wrapped_parts",
    ),
    "hourglasses with learned positions": (
        "training/importers/test_cases_positions.py::"
        "test_cases_of_learned_positions_compute_what_the_published_code_does",
    ),
    "places that are no plain files": (
        "runtime/test_cases_places.py::test_cases_of_named_pipes_take_the_bytes_and_stay",
        "runtime/test_cases_places.py::test_cases_of_sockets_and_folders_are_refused_and_stay",
        "runtime/test_cases_places.py::test_cases_of_links_are_followed",
        "runtime/test_cases_places.py::test_cases_of_pipes_in_a_folder_neither_hang_nor_vanish",
    ),
    "modes that become wider": ("runtime/test_cases_places.py::test_cases_of_replaced_files_keep_their_mode",),
    "half files that count as drawn": ("runtime/test_cases_places.py::test_cases_of_half_files_are_drawn_again",),
    "recipes of unfinished pictures": (
        "runtime/test_cases_calls.py::test_cases_of_unfinished_steps_are_replayed_as_they_were",
    ),
    "apps in one folder": (
        "test_cases_freezing.py::test_cases_of_hooks_are_found_and_name_what_is_there",
        "test_cases_freezing.py::test_cases_of_an_app_in_one_folder_draws_as_the_package_does",
    ),
}
ARGUMENTS = {
    "wrong values of every argument": (
        "runtime/test_arguments.py::test_cases_of_wrong_arguments_are_refused_by_name",
        "runtime/test_arguments.py::test_cases_of_any_value_of_any_option_are_drawn_or_refused",
        "runtime/test_arguments.py::test_cases_of_any_value_of_load_are_refused",
    ),
    "steps that are written to, and errors of on_step": (
        "runtime/test_cases_calls.py::test_cases_of_steps_that_are_written_to_change_no_draw",
        "runtime/test_cases_calls.py::test_cases_of_errors_of_on_step_arrive_as_they_are",
    ),
    "messages that mislead": ("runtime/test_cases_calls.py::test_cases_of_messages_say_what_is_wrong",),
    "seeds beside a seed": ("runtime/test_arguments.py::test_cases_of_seeds_beside_a_seed_ask_which_one_is_meant",),
    "red lines of a graph": ("runtime/test_arguments.py::test_cases_of_wrong_inputs_of_the_prior_print_nothing",),
}
COMMANDS = {
    "help that needs extras": ("runtime/test_cli_help.py::test_cases_of_help_print_without_extras",),
    "hints that do not work where they are read": (
        "runtime/test_hints.py::test_cases_of_a_package_from_an_index",
        "runtime/test_hints.py::test_cases_of_a_checkout",
    ),
    "type names that nobody reads": ("runtime/test_cli_help.py::test_every_option_says_what_is_typed",),
    "verbs without JSON": (
        "runtime/test_cli_help.py::test_cases_of_json_on_every_verb_that_reports",
        "runtime/test_cases_command.py::test_cases_of_json_and_folders_on_all_that_draws",
        "runtime/test_cases_command.py::test_cases_of_json_on_encode_decode_and_embed",
    ),
    "folders and pipes as an output": (
        "runtime/test_cases_command.py::test_cases_of_a_folder_that_is_continued",
        "runtime/test_cases_command.py::test_cases_of_a_picture_on_stdout",
        "runtime/test_cases_command.py::test_cases_of_stdin",
    ),
    "labels by index, and labels that are left over": (
        "runtime/test_cases_command.py::test_cases_of_labels_by_index_that_take_turns",
        "runtime/test_cases_command.py::test_cases_of_outputs_and_labels_that_are_refused",
    ),
    "no completion": ("runtime/test_cli_completion.py::test_bash_completes_verbs_options_and_names",),
    "no list of labels or bundles": (
        "runtime/test_cases_command.py::test_cases_of_labels_listed_without_loading",
        "runtime/test_cases_command.py::test_cases_of_bundles_listed",
    ),
    "output that is lost": (
        "runtime/test_cases_streams.py::test_cases_of_a_closed_stdout_are_no_success",
        "runtime/test_cases_streams.py::test_cases_of_a_full_stdout_are_named",
        "runtime/test_cases_streams.py::test_cases_of_wrong_words_end_with_2_whatever_stderr_is",
    ),
    "options that are ignored": (
        "runtime/test_cases_command.py::test_cases_of_outputs_and_labels_that_are_refused",
        "runtime/test_cases_command.py::test_cases_of_a_replay_from_stdin",
    ),
    "a long verification that says nothing": (
        "runtime/test_cases_command.py::test_cases_of_verify_say_what_they_measure",
    ),
}
APPS = {
    "calls that cannot be cancelled or watched": (
        "runtime/test_control.py::test_every_call_that_takes_time_can_be_cancelled",
        "runtime/test_control.py::test_each_step_is_told_and_the_last_is_the_result",
    ),
    "no way to asyncio": ("runtime/test_control.py::test_calls_are_awaited_and_give_the_same",),
    "no warm-up and no budget": (
        "runtime/test_control.py::test_warming_up_leaves_nothing_but_what_is_open",
        "runtime/test_control.py::test_a_budget_chooses_the_steps",
    ),
    "no previews of a repainting": ("runtime/test_control.py::test_an_inpainting_is_shown_with_the_image_around_it",),
    "streams whose result cannot be saved": (
        "runtime/test_control.py::test_a_streams_result_is_saved_with_its_recipe",
    ),
    "no file for each picture": ("runtime/test_folder.py::test_cases_of_folders_hold_each_picture_with_its_recipe",),
    "no variations": ("runtime/test_control.py::test_a_variation_draws_its_share_of_the_tokens_anew",),
    "labels without a model": (
        "runtime/test_encode_decode.py::test_cases_of_labels_are_known_before_anything_is_loaded",
    ),
    "a part of a canvas": (
        "runtime/test_encode_decode.py::test_cases_of_a_part_of_a_canvas_are_the_pixels_of_the_whole",
        "runtime/test_tiles.py::test_cases_of_a_part_are_decoded_from_the_tokens_around_it",
    ),
}
KEPT = {
    "threads at once": ("runtime/test_cases_together.py::test_cases_of_many_threads_get_what_one_gets",),
    "memory over many calls": ("runtime/test_cases_together.py::test_cases_of_a_thousand_generations_keep_no_memory",),
    "kills while writing": (
        "runtime/test_folder.py::test_cases_of_folders_hold_only_whole_pictures_after_a_hundred_kills",
    ),
}
"""What was right from the beginning, and stays so."""
EARLIER = {
    "dark lines where windows of a canvas meet",
    "seams where pictures are painted on",
    "canvases that do not suit a label",
    "memory that grows with the image",
    "consoles that know few characters",
}
"""What was mended before these tests were gathered."""
CASES = {**PICTURES, **PROCESSES, **FILES, **ARGUMENTS, **COMMANDS, **APPS, **KEPT}


def test_every_case_has_tests_that_the_keyword_selects() -> None:
    named = {test for tests in CASES.values() for test in tests}
    files = sorted({test.partition("::")[0] for test in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-k", "cases"]
    command += ["-o", "addopts=--import-mode=importlib", *files]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    selected = {line.partition("[")[0].removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line}
    assert named - selected == set()


def test_each_case_stands_once() -> None:
    groups = (PICTURES, PROCESSES, FILES, ARGUMENTS, COMMANDS, APPS, KEPT)
    assert sum(map(len, groups)) == len(CASES)
    assert set(CASES) >= EARLIER
    assert all(CASES.values())
