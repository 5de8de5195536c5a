//! The cases, by topic.

mod basics;

use crate::support::Case;

pub(crate) const ALL: &[Case] = &[
    ("basics::runs_to_its_exit_code", basics::runs_to_its_exit_code),
    ("basics::looks_like_a_container", basics::looks_like_a_container),
    ("basics::overlay_root", basics::overlay_root),
];
