//! The cases, by topic.

mod basics;
mod cgroups;
mod cli;
mod events;
mod exec;
mod hardening;
mod manage;
mod systemd;
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
    cgroups::limits_of_rare_controllers,
    systemd::scopes_of_a_stand_in,
    systemd::units_that_do_not_start,
    systemd::scopes_of_systemd,
    systemd::scopes_of_a_user,
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
