//! The cases, by topic.

mod basics;
mod cgroups;
mod checkpoint;
mod cli;
mod events;
mod exec;
mod hardening;
mod hooks;
mod kernel;
mod manage;
mod namespaces;
mod seccomp;
mod update;

use crate::support::Case;

/// Each case with its name.
macro_rules! cases {
    ($($topic:ident :: $name:ident),* $(,)?) => {
        &[$((concat!(stringify!($topic), "::", stringify!($name)), $topic::$name)),*]
    };
}

pub(crate) const ALL: &[Case] = cases![
    basics::runs_to_its_exit_code,
    basics::looks_like_a_container,
    basics::overlay_root,
    basics::read_only_root,
    basics::users,
    basics::programs_that_cannot_run,
    basics::working_directory,
    basics::terminal,
    basics::only_its_own_descriptors,
    basics::rlimits,
    basics::init_reaps_and_forwards,
    basics::nothing_is_left_after_failures,
    exec::joins_everything,
    exec::users_and_directories,
    exec::missing_programs,
    exec::ended_container,
    exec::terminal,
    cli::same_results_as_runc,
    cli::errors_are_runcs,
    cli::the_life_of_a_container,
    cli::unsupported_is_said,
    cli::spec_makes_a_bundle_that_runs,
    cli::hooks_surround_the_life,
    cli::without_a_mount_namespace_nothing_stays,
    cli::a_terminal_in_the_foreground,
    cli::somebody_who_is_not_root_runs_containers,
    hardening::system_directories_that_are_symlinks,
    hardening::destinations_stay_inside,
    hardening::working_directories_stay_inside,
    hardening::masks_hold,
    hardening::proc_is_proc,
    hardening::console_is_the_terminal,
    hardening::the_runtime_is_out_of_reach,
    hardening::entering_processes_leak_nothing,
    hardening::capabilities_and_privileges,
    hardening::seccomp_filters,
    hardening::read_only_binds_and_propagation,
    hardening::sysctls_belong_to_namespaces,
    hardening::nothing_is_silently_ignored,
    hardening::races_on_a_shared_volume,
    hardening::init_under_the_default_filter,
    namespaces::root_is_nobody_on_the_host,
    namespaces::users_and_terminals_in_a_user_namespace,
    namespaces::sources_of_binds_need_no_rights_of_the_mapped_root,
    namespaces::id_mapped_mounts,
    namespaces::processes_enter_a_user_namespace,
    namespaces::another_containers_namespaces_can_be_joined,
    namespaces::contradictory_mappings_are_refused,
    namespaces::clocks_have_their_offsets,
    namespaces::a_terminal_in_a_user_namespace,
    namespaces::a_shared_root_is_shared,
    namespaces::an_empty_home_is_the_users,
    hardening::a_filter_that_knows_few_calls,
    hardening::a_waiting_process_holds_nothing_of_the_host,
    hooks::each_runs_at_its_time_and_place,
    hooks::a_failing_hook_ends_the_container,
    hooks::the_image_has_no_say_in_a_hooks_environment,
    hooks::hooks_work_with_a_user_namespace,
    kernel::scheduling_is_set,
    kernel::processes_run_on_their_cpus,
    kernel::the_execution_domain_is_set,
    kernel::memory_comes_from_its_nodes,
    kernel::a_tmpfs_starts_with_what_it_covers,
    kernel::an_interface_of_the_host_moves_in,
    kernel::unknown_capabilities_are_told_and_left_out,
    seccomp::an_agent_answers,
    seccomp::an_agent_is_asked_about_everything,
    seccomp::agents_that_are_not_there,
    seccomp::agents_by_command_line,
    seccomp::profiles_that_allow_little,
    seccomp::programs_of_32_bits,
    checkpoint::memory_survives,
    checkpoint::without_a_cgroup_namespace,
    checkpoint::leaves_running,
    checkpoint::pipes_are_replaced,
    checkpoint::terminals_are_passed_on,
    checkpoint::a_pre_dump_saves_work,
    checkpoint::memory_is_fetched_lazily,
    checkpoint::network_namespaces_of_others,
    checkpoint::nested_binds,
    checkpoint::binds_on_symlinks,
    checkpoint::mount_points_stay_inside,
    checkpoint::another_cgroup,
    checkpoint::executed_processes_survive,
    checkpoint::options_of_one_container,
    checkpoint::a_refused_container_goes_on,
    checkpoint::cgroups_are_managed,
    checkpoint::paused_containers,
    checkpoint::the_exit_code_is_passed_on,
    checkpoint::failed_restores_leave_nothing,
    checkpoint::refusals_say_why,
    cgroups::memory_limit_kills,
    cgroups::process_limit_holds,
    cgroups::processors_and_counters,
    cgroups::freezing_stops_everything,
    cgroups::devices_are_denied,
    cgroups::paths_are_checked,
    cgroups::groups_that_exist,
    cgroups::relative_paths_are_runcs,
    cgroups::a_cgroup_is_given_away,
    cgroups::limits_that_this_host_has_not,
    manage::tables_are_runcs,
    manage::pausing_before_the_start,
    manage::leftovers_are_killed,
    events::same_statistics_as_runc,
    events::events_end_with_the_container,
    events::the_last_event_is_what_killed_it,
    update::same_limits_as_runc,
    update::update_remembers,
    update::idle_and_bursts,
    update::devices_change_without_a_gap,
    update::only_what_runs_is_updated,
];
