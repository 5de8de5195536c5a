//! Says hello from inside of a container and tells what it sees there.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

fn main() {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    println!("Hello from Palan!");
    println!("This is process {} in the container {}.", std::process::id(), hostname.trim());
}
