//! End-to-end tests: a real daemon, real images, what a user sees. Each test has a daemon of its own and leaves nothing.
//!
//! In reading order: [`images`] makes what the others run; [`run`] with its [`flags`], namespaces that are [`shared`] and devices of
//! [`cdi`], [`lifecycle`], [`logs`], [`log_drivers`], [`exec`], [`tty`], [`cp`] are the daily commands, [`command_line`] what shapes them; [`pull`] and
//! [`archives`] bring images in, [`push`] out (and [what was built](push_built)), [`commit`], [`build`], [`build_cache`], [`build_cli`] with its [shell](build_shell) and its [outputs](build_outputs), [`build_git`], [`buildkit`] and [`save`] make and
//! hand out, [`layers`] stacks what is
//! hard to stack, [`storage`] keeps them, [`durability`] keeps them whatever happens, [`manifest`] has lists; [`volumes`] and what is
//! [mounted](mounts); [`network`] is the default bridge, [`networks`] and [`names`] are others, [`relay`] is
//! what the kernel can't translate, [`kernels`] what it may lack; [`restart`] kills the daemon, [`replace`] puts another in its place;
//! [`restart_policy`] starts containers again, [`health`] looks after them, [`update`] gives them other limits, [`checkpoint`] saves them, [`metrics`] counts them;
//! [`runtimes`] are other OCI runtimes; [`tls`] and [`attach_ws`] are other ways to the API; [`docker_cli`], [`docker_py`], [bollard](bollard_client) and other [`clients`] are outside witnesses, [`seeds`] is what
//! courses show; [`bad_input`], [`bad_registry`], [`daemon_start`] and
//! [`api_garbage`], [`api_table`] are everything that must fail well, [`api_operations`] everything that must not. Published attacks are replayed in `tests/security`.

#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod api_garbage;
mod api_operations;
mod api_table;
mod archives;
mod attach_ws;
mod bad_input;
mod bad_registry;
mod bollard_client;
mod build;
mod build_cache;
mod build_cli;
mod build_git;
mod build_outputs;
mod build_sent;
mod build_shell;
mod buildkit;
mod cdi;
mod checkpoint;
mod clients;
mod command_line;
mod commit;
mod cp;
mod daemon_start;
mod disk;
mod docker_cli;
mod docker_daemon;
mod docker_py;
mod durability;
mod exec;
mod flags;
mod health;
mod kernels;
mod layers;
mod lifecycle;
mod log_drivers;
mod logs;
mod manifest;
mod metrics;
mod mounts;
mod names;
mod network;
mod networks;
mod pull;
mod push;
mod push_built;
mod relay;
mod replace;
mod restart;
mod restart_policy;
mod run;
mod runtimes;
mod save;
mod seeds;
mod shared;
mod small_disk;
mod storage;
mod tls;
mod tty;
mod update;
mod volumes;

use palan_tests::images;
