//! Real supervisors with real containers: a busybox, a private run directory, private cgroups. Needs root.

#[cfg(test)]
mod support;

#[cfg(test)]
mod daemon;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod health;
#[cfg(test)]
mod life;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod stdio;
