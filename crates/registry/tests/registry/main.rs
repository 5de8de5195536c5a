//! Pulls and logins against a registry in this process, regular and hostile.

mod access;
mod debian;
mod fixture;
mod hostile;
mod mirrors;
mod pull;
mod sharing;
