//! The cases, by topic.

mod basics;
mod cgroups;
mod checkpoint;
mod cli;
mod exec;
mod hardening;

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
];
