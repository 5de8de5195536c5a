//! The cases, by topic.

mod basics;
mod cli;
mod exec;

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
];
