//! eBPF device programs of cgroup v2.
