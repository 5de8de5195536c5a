//! Pulls and logins against a registry in this process, regular and hostile.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod access;
mod debian;
mod fixture;
mod hostile;
mod hostile_push;
mod hosts;
mod mirrors;
mod pull;
mod push;
mod referrers;
mod sharing;
